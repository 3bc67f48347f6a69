"""What inference finds, as plain data in the scan's canonical frame: boxes in slices, and their linking to lesions.

Going through the lattice slices from the feet up, a box continues the lesion whose latest box it overlaps
most, best overlaps first, if the overlap is at least ``min_iou`` and the lesion was seen at most
``max_gap`` slices before the slice below. Every other box begins a lesion. Boxes of different classes are never of
one lesion.

The score of a lesion is that of its best box (the largest of several), which also gives its further fields and, with
``extent="best"``, bounds it in the plane; with ``"enclosing"`` what encloses all of its boxes does. Along z it spans
from the first to the last of its boxes. Boxes that are linked may score low
(`VolumeDetector.score_threshold`), but a reported lesion must score high (``score_threshold``
here). So the faint ends of a lesion count towards its extent, and isolated faint boxes are dropped.

The rules and numbers were chosen by measurement, see docs/measurements/linking.md and ``benchmarks/linking.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..boxes import pairwise_iou
from ..instances import Instances, select
from .scan_protocol import ScanLike

EXTENTS = ("best", "enclosing")
# The field with the class of each box, from 1; only of a network that distinguishes several.
LABELS = "labels"
# The setting of a reviewed result with the SHA-256 of the result in which its lesions got their numbers.
FIRST_RESULT = "first_result_sha256"


@dataclass(frozen=True)
class SliceBoxes:
    """The boxes of all lattice slices of one scan.

    Attributes:
        boxes: ``(N, 4)`` float64 ``x1, y1, x2, y2``, half-open pixel edges of the scan's own slices.
        scores: ``(N,)`` float64.
        slices: ``(N,)`` int64, lattice slice of each box, rising.
        positions: ``(P,)`` float64, position of each lattice slice as a fractional slice index of the scan
            (slice centres at whole numbers).
        thickness: Lattice spacing in slices of the scan.
        examined: ``(P,)`` bool, False for slices that were skipped because they show no body.
        shape: ``(Z, H, W)`` of the scan.
        scale: Network pixels per scan pixel, (x, y).
        fields: Further outputs of the network for each box, arrays of N rows by name, in pixels of the scan.
    """

    boxes: np.ndarray
    scores: np.ndarray
    slices: np.ndarray
    positions: np.ndarray
    thickness: float
    examined: np.ndarray
    shape: tuple[int, int, int]
    scale: tuple[float, float]
    fields: Instances[np.ndarray] = field(default_factory=dict)

    def solid(self) -> np.ndarray:
        """The boxes as ``(N, 6)`` ``x1, y1, z1, x2, y2, z2`` canonical edges, one lattice slice thick each."""
        # Edges count from the lower face of slice 0, positions from its centre.
        middle = self.positions[self.slices] + 0.5
        low = np.clip(middle - self.thickness / 2, 0, self.shape[0])
        high = np.clip(middle + self.thickness / 2, 0, self.shape[0])
        return np.column_stack([self.boxes[:, :2], low, self.boxes[:, 2:], high])

    def nearest_slice(self, lattice_slice: int) -> int:
        """The scan's slice nearest to a lattice slice, from 0; the upper one of two equally near ones.

        All code that shows or names a slice uses this: a lattice slice is often halfway between two stored ones.
        """
        return int(np.clip(np.floor(self.positions[lattice_slice] + 0.5), 0, self.shape[0] - 1))


@dataclass(frozen=True)
class Lesion:
    """Slice boxes that were linked along z.

    Attributes:
        box: ``(6,)`` float64 ``x1, y1, z1, x2, y2, z2`` canonical edges: in the plane its best box, or what
            encloses all of them (`link_boxes`), along z from the first to the last of its boxes.
        score: The best score of them.
        key: Lattice slice of the best score.
        key_box: ``(4,)`` float64, the best-scored slice box.
        members: Rows in the `SliceBoxes`, rising.
        fields: Further outputs of the network for the best box, by name.
        review: What a reader said of it, as its entry in ``lesions.json`` has it; empty where nobody did.
        number: The number that it had in the result that was reviewed; None for its place among the lesions, from 1.
    """

    box: np.ndarray
    score: float
    key: int
    key_box: np.ndarray
    members: tuple[int, ...]
    fields: Instances[np.ndarray] = field(default_factory=dict)
    review: Mapping[str, Any] = field(default_factory=dict)
    number: int | None = None

    @property
    def label(self) -> int | None:
        """Its class, from 1; None where the network does not distinguish any."""
        return int(self.fields[LABELS]) if LABELS in self.fields else None

    def best(self, found: SliceBoxes) -> int:
        """The row of its best box in the `SliceBoxes` that it was linked from."""
        return next(row for row in self.members if found.slices[row] == self.key)


@dataclass(frozen=True)
class ScanResult:
    """Everything known about a scan when its results are written: the only input of makers of files.

    Attributes:
        scan: The scan.
        found: Its slice boxes.
        lesions: Its lesions, best first.
        document: The content of ``lesions.json``: facts of the run, and under ``lesions`` an entry for each lesion.
        folder: Where the results will be, which may hold earlier ones of the scan.
    """

    scan: ScanLike
    found: SliceBoxes
    lesions: Sequence[Lesion]
    document: Mapping[str, Any]
    folder: Path | None = None

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The entries of the lesions, in their order."""
        return self.document["lesions"]

    @property
    def notices(self) -> list[str]:
        """Notices that every output must show."""
        return self.document["notices"]


def numbered(lesions: Sequence[Lesion]) -> list[tuple[int, Lesion]]:
    """Lesions with their numbers, those of a review or places from 1."""
    return [(lesion.number or place, lesion) for place, lesion in enumerate(lesions, start=1)]


def link_boxes(
    found: SliceBoxes,
    *,
    min_iou: float = 0.2,
    max_gap: int = 0,
    score_threshold: float = 0.0,
    extent: str = "best",
) -> list[Lesion]:
    """Link the boxes of a scan along z.

    Args:
        found: Boxes of all lattice slices.
        min_iou: Smallest overlap in the plane, above 0, of boxes in neighbouring slices that belong together.
        max_gap: Slices without a box that a lesion may bridge.
        score_threshold: Lesions that score lower are left out.
        extent: ``"best"``: the best box bounds a lesion in the plane; ``"enclosing"``: what encloses all of its boxes.

    Returns:
        Lesions, best score first; each box belongs to at most one, without ``score_threshold`` to exactly one.

    Raises:
        ValueError: If ``min_iou`` is not in (0, 1], ``max_gap`` is negative, ``score_threshold`` is not in [0, 1] or
            ``extent`` is unknown.
    """
    if extent not in EXTENTS:
        raise ValueError(f"Expected {' or '.join(EXTENTS)} as extent, got {extent!r}.")
    if not 0 < min_iou <= 1 or max_gap < 0:
        raise ValueError(f"Expected min_iou in (0, 1] and max_gap >= 0, got {min_iou} and {max_gap}.")
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"Expected a score threshold from 0 to 1, got {score_threshold!r}.")
    chains: list[list[int]] = []
    for number in np.unique(found.slices):
        rows = np.flatnonzero(found.slices == number)
        open_chains = [chain for chain in chains if number - found.slices[chain[-1]] <= max_gap + 1]
        overlaps = _overlaps(found, [chain[-1] for chain in open_chains], rows)
        free = set(range(len(rows)))
        for flat in np.argsort(-overlaps, axis=None, kind="stable"):
            chain, row = np.unravel_index(flat, overlaps.shape)
            if overlaps[chain, row] < min_iou:
                break
            # A chain that grew in this slice ends with one of its rows.
            if row in free and found.slices[open_chains[chain][-1]] != number:
                open_chains[chain].append(int(rows[row]))
                free.remove(int(row))
        chains.extend([int(rows[row])] for row in sorted(free))
    solid = found.solid()
    lesions = [_lesion(found, solid, chain, extent) for chain in chains]
    return sorted((one for one in lesions if one.score >= score_threshold), key=lambda lesion: -lesion.score)


def _overlaps(found: SliceBoxes, ends: list[int], rows: np.ndarray) -> np.ndarray:
    """Overlaps of the latest boxes of lesions with the boxes of a slice; 0 of different classes."""
    overlaps = pairwise_iou(found.boxes[ends], found.boxes[rows])
    if LABELS not in found.fields:
        return overlaps
    labels = found.fields[LABELS]
    return np.where(labels[ends][:, None] == labels[rows], overlaps, 0.0)


def _lesion(found: SliceBoxes, solid: np.ndarray, chain: list[int], extent: str) -> Lesion:
    # The largest box among equal scores: a lesion is widest at its middle.
    x1, y1, x2, y2 = found.boxes[chain].T
    best = chain[int(np.lexsort(((x2 - x1) * (y2 - y1), found.scores[chain]))[-1])]
    key = found.boxes[best]
    low, high = solid[chain, :3].min(axis=0), solid[chain, 3:].max(axis=0)
    return Lesion(
        box=np.array([*low, *high] if extent == "enclosing" else [*key[:2], low[2], *key[2:], high[2]]),
        score=float(found.scores[best]),
        key=int(found.slices[best]),
        key_box=key,
        members=tuple(chain),
        fields=select(found.fields, best),
    )
