"""The order of the training samples, entered anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from monai.data import DistributedSampler


class ResumableSampler(DistributedSampler):
    """MONAI's sampler, whose next pass can begin anywhere: a run that was interrupted within an epoch resumes there.

    What is left out is neither read nor decoded. Order and length are those of the sampler without it.
    """

    _first = 0

    def start_at(self, index: int) -> None:
        """Leave out the first ``index`` samples of this process in the next pass, and in no other."""
        self._first = index

    def __iter__(self) -> Iterator[int]:
        first, self._first = self._first, 0
        return itertools.islice(super().__iter__(), first, None)
