"""The detector on a whole CT: every slice of the 2.5 mm lattice, boxes back in the scan's own pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from monai.networks.utils import eval_mode
from tqdm import tqdm

from ..boxes import Affine
from ..instances import Instances, cat, clip, further, move, select, to_arrays
from .detections import SliceBoxes
from .scan_protocol import ScanLike
from .slab_cutter import Intensity, ScanSlabs, SlabCutter

Network = Callable[[torch.Tensor], list[Instances[torch.Tensor]]]


@dataclass
class VolumeDetector(Inferer):
    """Run a slab detector over every lattice slice of a scan; a MONAI inferer.

    Each slab is seen alone by the network: ``batch_size`` changes results in their last digits only, because sums of
    floats are taken in another order.

    Attributes:
        cutter: Puts a scan onto the lattice.
        intensity: HU to network input.
        batch_size: Slabs per call of the network.
        score_threshold: Boxes that score lower are not reported.
        amp_dtype: torch.bfloat16 or torch.float16 for automatic mixed precision, on CPU and GPU; torch.float32
            or None computes in full precision.
        progress: Show a progress bar with the time left.
    """

    cutter: SlabCutter
    intensity: Intensity
    batch_size: int = 4
    score_threshold: float = 0.0
    amp_dtype: torch.dtype | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"Expected a batch size of at least 1, got {self.batch_size!r}.")
        if not 0 <= self.score_threshold <= 1:
            raise ValueError(f"Expected a score threshold from 0 to 1, got {self.score_threshold!r}.")

    def __call__(self, inputs: ScanLike, network: Network, *args: Any, **kwargs: Any) -> SliceBoxes:
        """Detect lesions in every slice of a scan that shows a body.

        Args:
            inputs: The scan.
            network: Slabs ``(B, D, h, w)`` to B dicts ``boxes`` ``(M, 4)`` in slab pixels, ``scores`` ``(M,)`` and any
                further fields; put into evaluation mode for the call. A module's parameters tell the device.
            args: Passed on to the network.
            kwargs: Passed on to the network.

        Raises:
            ValueError: If the network reads another number of slices than slabs are cut with.
            FloatingPointError: If a score, a box or a further field is not finite.
        """
        _check_slices(network, self.cutter.num_slices)
        slabs = self.cutter(inputs.hu, inputs.spacing)
        device = _device(network)
        volume = slabs.volume.to(device)
        due = np.flatnonzero(slabs.examined).tolist()
        enabled = self.amp_dtype not in (None, torch.float32)
        precision = torch.autocast(device.type, self.amp_dtype if enabled else None, enabled=enabled)
        modules = [network] if isinstance(network, torch.nn.Module) else []
        found = []
        with eval_mode(*modules), torch.inference_mode(), precision, self._bar(len(due)) as bar:
            for start in range(0, len(due), self.batch_size):
                picked = due[start : start + self.batch_size]
                outputs = network(slabs.batch(picked, volume, self.intensity), *args, **kwargs)
                found.extend(
                    self._in_scan_pixels(output, slabs, at) for output, at in zip(outputs, picked, strict=True)
                )
                bar.update(len(picked))
        return _gather(slabs, due, found)

    def _bar(self, total: int) -> tqdm:
        return tqdm(total=total, desc="slices", unit="slice", disable=not self.progress, leave=True)

    def _in_scan_pixels(self, output: Instances[torch.Tensor], slabs: ScanSlabs, at: int) -> Instances[np.ndarray]:
        """The instances of one slab in pixels of the scan, without their labels."""
        found = to_arrays({name: values for name, values in output.items() if name != "labels"})
        found = {**found, "boxes": found["boxes"].reshape(-1, 4), "scores": found["scores"].reshape(-1)}
        for name, values in found.items():
            if not np.isfinite(values).all():
                raise FloatingPointError(
                    f"Expected finite {name}, the network gave NaN or infinity for lattice slice {at} "
                    "(damaged weights, or values too large for float16?)."
                )
        factor_x, factor_y = slabs.scale
        found = clip(move(found, Affine(1 / factor_x, 1 / factor_y)), slabs.shape[1], slabs.shape[2])
        sides = found["boxes"][:, 2:] - found["boxes"][:, :2]
        return select(found, (found["scores"] >= self.score_threshold) & (sides > 0).all(axis=1))


def _check_slices(network: Any, num_slices: int) -> None:
    reads = getattr(getattr(network, "backbone", None), "num_slices", num_slices)
    if reads != num_slices:
        raise ValueError(f"Expected num_slices {reads}, which the network's weights read, got {num_slices}.")


def _device(network: Any) -> torch.device:
    first = next(network.parameters(), None) if isinstance(network, torch.nn.Module) else None
    return torch.device("cpu") if first is None else first.device


def _gather(slabs: ScanSlabs, due: Sequence[int], found: Sequence[Instances[np.ndarray]]) -> SliceBoxes:
    joined = cat(found or [{"boxes": np.zeros((0, 4)), "scores": np.zeros(0)}])
    return SliceBoxes(
        boxes=joined["boxes"],
        scores=joined["scores"],
        slices=np.repeat(np.asarray(due, dtype=np.int64), [len(one["scores"]) for one in found]),
        positions=slabs.positions,
        thickness=slabs.thickness,
        examined=slabs.examined,
        shape=slabs.shape,
        scale=slabs.scale,
        fields=further(joined),
    )
