"""Results after a person's review: the accepted lesions alone, of exactly the scan that was reviewed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...data.importing.truth.reviews import DECISIONS, Review, read_review
from ...inference.detections import Lesion
from ...inference.scan_protocol import ScanLike
from ...storage.atomic_files import sha256
from ...storage.result_files import file_names
from .review_origin import ReviewOrigin, differing_result, read_origin
from .review_remarks import read_remarks

logger = logging.getLogger(__name__)

# Engines and machines agree far better than to this part of a voxel.
_SAME_BOX = 0.5
# What results have in JSON next to the outputs of a scan.
_RECORDS = ("finished.json", "batch.json")
# Reviews that a message names.
_NAMED = 5


class Reviews:
    """Reviews of one or several scans, found by the hash of the scan.

    Args:
        path: File that the report page saved, or a folder of such files (``*.json``), also of result folders in which
            they were saved (``lesions_reviewed*.json`` at any depth).

    Raises:
        OSError: If a file cannot be read.
        ValueError: If one is not a review, or two are of the same scan.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        files = _reviews_in(path) if path.is_dir() else [path]
        if not files:
            raise FileNotFoundError(f"Expected reviews (*.json) in {path}, got none.")
        self.of_scan: dict[str, Review] = {}
        self._origins: dict[str, ReviewOrigin] = {}
        for file in files:
            review = read_review(file)
            other = self.of_scan.setdefault(review.sha256, review)
            if other is not review:
                raise ValueError(f"Expected one review of each scan, got two of one: {other.path} and {file}.")
            self._origins[review.sha256] = read_origin(file)

    def of(self, digest: str) -> Review:
        """The review of the scan whose files have this SHA-256.

        Raises:
            ValueError: If there is none: it is never applied to another scan.
        """
        if digest not in self.of_scan:
            known = ", ".join(f"{one.path.name} of {key[:12]}" for key, one in list(self.of_scan.items())[:_NAMED])
            more = len(self.of_scan) - _NAMED
            known += f" and {more} more" if more > 0 else ""
            raise ValueError(f"Expected the review of this scan (SHA-256 {digest[:12]}), got {known}.")
        return self.of_scan[digest]

    def describe(self, digest: str) -> str:
        """The review of a scan in one line, for the settings of its results.

        Raises:
            ValueError: As `of`.
        """
        review = self.of(digest)
        accepted = review.decisions.count("accepted")
        return f"{accepted} of {len(review.decisions)} lesions accepted, review SHA-256 {sha256(review.path)}"

    def first_result(self, digest: str) -> str:
        """SHA-256 of the result in which the lesions of a scan got the numbers that they keep.

        Raises:
            ValueError: As `of`.
        """
        return self._origins[self.of(digest).sha256].first

    def compare(self, digest: str, folder: Path) -> None:
        """Log a warning if the folder of the results, or that of the review, holds another result of the scan.

        Raises:
            ValueError: As `of`.
        """
        review, origin = self.of(digest), self._origins[digest]
        for place in dict.fromkeys([review.path.parent.resolve(), folder.resolve()]):
            other = differing_result(origin, digest, place)
            if other is not None:
                logger.warning(
                    "%s is the review of another result than the one in %s: SHA-256 %s, not %s.",
                    *(review.path, place, origin.result[:12], other[:12]),
                )

    def accepted(self, scan: ScanLike, digest: str, lesions: Sequence[Lesion]) -> list[Lesion]:
        """The lesions that were accepted, by their numbers in the review, with what the reader said of them.

        Args:
            scan: The scan.
            digest: SHA-256 of its files.
            lesions: All that were found in it again.

        Raises:
            ValueError: If the scan was not reviewed, a remark is invalid, or an accepted lesion was not found again.
        """
        review = self.of(digest)
        labels = np.array([lesion.label or 0 for lesion in lesions])
        found = scan.boxes_to_stored(np.array([lesion.box for lesion in lesions]).reshape(-1, 6))
        kept: dict[int, Lesion] = {}
        numbers = self._origins[digest].numbers
        remarks = read_remarks(review.path, numbers)
        rows = zip(numbers, review.boxes, review.labels, review.decisions, strict=True)
        for number, box, label, decision in rows:
            if decision != "accepted":
                continue
            of_class = labels == (label or 0)
            near = np.flatnonzero((np.abs(found - box) <= _SAME_BOX).all(axis=1) & of_class)
            same = [int(at) for at in near if at not in kept]
            if not same:
                raise ValueError(
                    f"Expected lesion {number} of {review.path} to be found again, got none at {box.tolist()}: use the "
                    "weights and settings of the result that was reviewed."
                )
            # Of two lesions in one place the one that has its number.
            at = min(same, key=lambda at: abs(at + 1 - number))
            kept[at] = replace(lesions[at], number=number, review={"decision": decision, **remarks[number]})
        counts = Counter(review.decisions)
        told = ", ".join(f"{counts[decision]} {decision}" for decision in DECISIONS)
        logger.info("%s: %s. Only the accepted ones are written.", review.path, told)
        return list(kept.values())


def _reviews_in(folder: Path) -> list[Path]:
    """The reviews in a folder, whether results are there as well or not."""
    return sorted({
        *folder.rglob("lesions_reviewed*.json"),
        *(path for path in folder.glob("*.json") if path.name not in (*_RECORDS, *file_names())),
    })  # fmt: skip
