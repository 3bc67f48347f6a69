"""From records on disk to batches: the seeded data set and what engines make of its samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from monai.transforms import Randomizable

from ..data.records import Sample
from ..instances import Instances, to

Batch = Sequence[Sample]


class SampleDataset(Dataset):
    """Records and their transforms, with random numbers that depend on (seed, epoch, index) alone.

    So the same epoch gives the same samples whatever the number of workers, and a run that was
    interrupted goes on with exactly the samples it would have had. Each sample carries its untouched
    record under ``record``.

    Args:
        data: Records.
        transform: Transform, or sequence of transforms, of one record.
        seed: Seed of the run.
    """

    def __init__(
        self, data: Sequence[Any], transform: Sequence[Callable] | Callable | None = None, *, seed: int = 0
    ) -> None:
        super().__init__(data, transform)
        self.seed = seed
        # Shared memory: workers that outlive an epoch see the new number too.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the random numbers of ``epoch`` (1-based) for the samples read from now on."""
        self._epoch[0] = epoch

    def _transform(self, index: int) -> Any:
        if isinstance(self.transform, Randomizable):
            sequence = np.random.SeedSequence((self.seed, int(self._epoch[0]), index))
            self.transform.set_random_state(seed=int(sequence.generate_state(1)[0]))
        try:
            sample: Any = super()._transform(index)
        except RuntimeError as error:
            # MONAI hides the reader's own message, which names the file, behind the transform's name.
            if error.__cause__ is None:
                raise
            raise error.__cause__ from None
        return {**sample, "record": self.data[index]}


def _slabs(samples: Batch, device: torch.device | str | None, non_blocking: bool) -> list[torch.Tensor]:
    images: list[Any] = [sample["image"] for sample in samples]
    plain = [image.as_tensor() if hasattr(image, "as_tensor") else torch.as_tensor(image) for image in images]
    return [image.to(device, non_blocking=non_blocking) for image in plain]


def prepare_slabs(
    samples: Batch, device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[list[torch.Tensor], None]:
    """What an evaluation step hands to the network: the slabs alone.

    Args:
        samples: Samples with ``image`` of shape (D, H, W).
        device: Device to copy to.
        non_blocking: Whether copies may overlap with computation.
        kwargs: Unused; MONAI's engines pass their ``to_kwargs``.

    Returns:
        The slabs, and None in place of targets.
    """
    return _slabs(samples, device, non_blocking), None


def prepare_targets(
    samples: Batch, device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[list[torch.Tensor], list[Instances[torch.Tensor]], tuple[list[Instances[torch.Tensor]]], dict]:
    """What a training step hands to the network: slabs and their instances, every field of them.

    Args:
        samples: Samples with ``image`` (D, H, W) and ``instances``, whose ``boxes`` (N, 4) are in pixels of it.
        device: Device to copy to.
        non_blocking: Whether copies may overlap with computation.
        kwargs: Unused; MONAI's engines pass their ``to_kwargs``.

    Returns:
        Slabs, targets (``boxes`` float32, ``labels`` int64, further fields as they are), and the targets once more as
        the positional arguments of the network, with no keyword arguments.
    """
    targets = []
    for sample in samples:
        instances = to(sample["instances"], device)
        boxes, labels = instances["boxes"].float().reshape(-1, 4), instances["labels"].long()
        targets.append({**instances, "boxes": boxes, "labels": labels})
    return _slabs(samples, device, non_blocking), targets, (targets,), {}
