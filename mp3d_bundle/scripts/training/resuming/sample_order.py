"""The order of the training samples, entered anywhere, and the share of those without a lesion."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from monai.data import Dataset, DistributedSampler

from ...data.deeplesion.mined_lesions import read_detections
from ...instances import IGNORED, true_rows

logger = logging.getLogger(__name__)

# From this score on a box in a slice without a lesion makes it a hard one: what a reader would be shown by default.
HARD_SCORE = 0.5


class ResumableSampler(DistributedSampler):
    """MONAI's sampler, whose next pass can begin anywhere: a run that was interrupted within an epoch resumes there.

    What is left out is neither read nor decoded. Order and length are those of the sampler without it.

    Args:
        dataset: Data set; with ``background_fraction`` its ``data`` are records.
        background_fraction: Share, from 0 to below 1, of an epoch's samples that have no lesion. An epoch then has
            every sample with lesions once and the number of others that makes the share: the next ones of a row that
            begins again at its end. None takes all samples as they are.
        hard_negatives: The ``detections.csv`` of an evaluation on these records. Half of the samples without a lesion
            are then taken from those in which it has a box of at least `HARD_SCORE`, each at most once in an epoch,
            the rest from the others.
        kwargs: Those of MONAI's sampler.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the share is not from 0 to below 1, there is nothing to take it from, or the file is another one.
    """

    _first = 0

    def __init__(
        self,
        dataset: Dataset,
        *,
        background_fraction: float | None = None,
        hard_negatives: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        if hard_negatives is not None and background_fraction is None:
            raise ValueError("Expected a background_fraction, of which hard_negatives are a half, got none.")
        self._pools = None
        if background_fraction is not None:
            self._pools = _Pools.split(dataset.data, background_fraction)
        if self._pools is not None and hard_negatives is not None:
            self._pools.prefer(dataset.data, Path(hard_negatives))
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


def training_data(loader: Any) -> dict[str, str]:
    """What a training learns from, as a setting that must be the same when it resumes.

    Names, boxes, labels and regions to ignore of the images count, and their order; not where they lie, nor their
    pixels.

    Args:
        loader: Of the training; one whose data set has no records gives nothing.

    Raises:
        ValueError: If the processes of the run have different data.
    """
    records = getattr(getattr(loader, "dataset", None), "data", None) or ()
    if not all(isinstance(record, Mapping) and {"file_name", "instances"} <= set(record) for record in records):
        return {}
    digest = hashlib.sha256()
    for record in records:
        instances = record["instances"]
        digest.update(repr(record["file_name"]).encode())
        digest.update(np.asarray(instances["boxes"], np.float32).tobytes())
        digest.update(np.asarray(instances["labels"], np.int64).tobytes())
        if IGNORED in instances:
            digest.update(np.asarray(instances[IGNORED], bool).tobytes())
    own = f"{len(records)} images, {digest.hexdigest()[:12]}"
    every: Any = idist.all_gather(own) if idist.get_world_size() > 1 else [own]
    if len(set(every)) > 1:
        raise ValueError(
            f"Expected the same training images and labels in every process, got {'; '.join(every)} by process: does "
            "every machine see the same data set?"
        )
    return {"training_data": own} if records else {}


class _Pools:
    """Samples with lesions, and those without one that an epoch takes some of.

    Attributes:
        lesions: Indices of the former.
        background: Indices of the latter.
        count: How many of the latter an epoch has.
        hard: Those of the latter of which half of the count is taken.
    """

    def __init__(self, lesions: np.ndarray, background: np.ndarray, count: int) -> None:
        self.lesions, self.background, self.count = lesions, background, count
        self.hard = background[:0]

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
        if count > len(background):
            logger.warning("Slices without a lesion come more than once in an epoch: there are fewer than its share.")
        return cls(lesions, background, count)

    def prefer(self, records: Sequence[Any], path: Path) -> None:
        """Take half of the samples without a lesion from those in which an evaluation marks something."""
        marked = read_detections(path, HARD_SCORE, records)
        hard = [index for index in self.background.tolist() if records[index]["file_name"] in marked]
        self.hard = np.array(hard, dtype=np.intp)
        self.background = np.setdiff1d(self.background, self.hard)
        logger.info(
            "%s: boxes that score at least %g are in %d of the %d slices without a lesion: an epoch has %d of these.",
            *(path, HARD_SCORE, len(self.hard), len(self.hard) + len(self.background), self._hard_count()),
        )

    def _hard_count(self) -> int:
        return min(self.count // 2, len(self.hard)) if len(self.background) else self.count

    def __len__(self) -> int:
        return len(self.lesions) + self.count

    def epoch(self, number: int, seed: int) -> np.ndarray:
        """The samples of an epoch, unordered; it depends on the number and the seed alone."""
        draw, hard = np.random.default_rng(seed), self._hard_count()
        parts = [
            _part(draw.permutation(indices), count, number)
            for indices, count in ((self.background, self.count - hard), (self.hard, hard))
        ]
        return np.concatenate([self.lesions, *parts])


def _part(row: np.ndarray, count: int, number: int) -> np.ndarray:
    """The part of a row, which begins again at its end, that belongs to an epoch."""
    return row[(np.arange(count) + count * number) % max(len(row), 1)]
