"""The order of the training samples, entered anywhere, and the share of those without a lesion."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from monai.data import Dataset, DistributedSampler

from ...instances import true_rows

logger = logging.getLogger(__name__)


class ResumableSampler(DistributedSampler):
    """MONAI's sampler, whose next pass can begin anywhere: a run that was interrupted within an epoch resumes there.

    What is left out is neither read nor decoded. Order and length are those of the sampler without it.

    Args:
        dataset: Data set; with ``background_fraction`` its ``data`` are records.
        background_fraction: Share, from 0 to below 1, of an epoch's samples that have no lesion. An epoch then has
            every sample with lesions once and the number of others that makes the share: the next ones of a row that
            begins again at its end. None takes all samples as they are.
        kwargs: Those of MONAI's sampler.

    Raises:
        ValueError: If the share is not from 0 to below 1, or there is nothing to take it from.
    """

    _first = 0

    def __init__(self, dataset: Dataset, *, background_fraction: float | None = None, **kwargs: Any) -> None:
        self._pools = None if background_fraction is None else _Pools.split(dataset.data, background_fraction)
        # The sampler beneath shuffles and shares out places; `_Pools.epoch` says which sample is at each.
        places: Any = dataset if self._pools is None else range(len(self._pools))
        super().__init__(places, **kwargs)

    def start_at(self, index: int) -> None:
        """Leave out the first ``index`` samples of this process in the next pass, and in no other."""
        self._first = index

    def __iter__(self) -> Iterator[int]:
        first, self._first = self._first, 0
        places = itertools.islice(super().__iter__(), first, None)
        if self._pools is None:
            return places
        chosen = self._pools.epoch(self.epoch, self.seed)
        return (int(chosen[place]) for place in places)


class _Pools:
    """Samples with lesions, and those without one that an epoch takes some of.

    Attributes:
        lesions: Indices of the former.
        background: Indices of the latter.
        count: How many of the latter an epoch has.
    """

    def __init__(self, lesions: np.ndarray, background: np.ndarray, count: int) -> None:
        self.lesions, self.background, self.count = lesions, background, count

    @classmethod
    def split(cls, records: Sequence[Any], fraction: float) -> _Pools:
        """Tell them apart."""
        if isinstance(fraction, bool) or not 0 <= fraction < 1:
            raise ValueError(f"Expected a share of slices without a lesion from 0 to below 1, got {fraction!r}.")
        has = np.array([bool(true_rows(record["instances"]).any()) for record in records], dtype=bool)
        lesions, background = np.flatnonzero(has), np.flatnonzero(~has)
        count = int(len(lesions) * fraction / (1 - fraction) + 0.5)
        if not len(lesions) or (count and not len(background)):
            missing = "with" if not len(lesions) else "without"
            raise ValueError(
                f"Expected slices {missing} a lesion for a background_fraction of {fraction:g}, got none in the "
                f"{len(records)} of the training split."
            )
        logger.info(
            "An epoch has all %d slices with lesions and %d of the %d without one (background_fraction %g).",
            *(len(lesions), count, len(background), fraction),
        )
        return cls(lesions, background, count)

    def __len__(self) -> int:
        return len(self.lesions) + self.count

    def epoch(self, number: int, seed: int) -> np.ndarray:
        """The samples of an epoch, unordered; it depends on the number and the seed alone."""
        row = np.random.default_rng(seed).permutation(self.background)
        places = (np.arange(self.count) + self.count * number) % max(len(row), 1)
        return np.concatenate([self.lesions, row[places]])
