"""What inference finds, as plain data in the scan's canonical frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..instances import Instances
from .scan_protocol import ScanLike


@dataclass(frozen=True)
class SliceBoxes:
    """The boxes of all lattice slices of one scan.

    Attributes:
        boxes: ``(N, 4)`` float64 ``x1, y1, x2, y2``, half-open pixel edges of the scan's own slices.
        scores: ``(N,)`` float64.
        slices: ``(N,)`` int64, lattice slice of each box, rising.
        positions: ``(P,)`` float64, where each lattice slice lies, as a fractional slice index of the scan
            (slice centres at whole numbers).
        thickness: Lattice spacing in slices of the scan.
        examined: ``(P,)`` bool, False for slices that were skipped because they show no body.
        shape: ``(Z, H, W)`` of the scan.
        scale: Network pixels per scan pixel, (x, y).
        fields: What else the network says of each box, arrays of N rows by name, in pixels of the scan.
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
        """The scan's slice nearest to a lattice slice, from 0; of two equally near ones the upper.

        Everything that shows or names a slice asks here: a lattice slice often lies halfway between two stored ones.
        """
        return int(np.clip(np.floor(self.positions[lattice_slice] + 0.5), 0, self.shape[0] - 1))


@dataclass(frozen=True)
class Lesion:
    """Slice boxes that were linked along z.

    Attributes:
        box: ``(6,)`` float64 ``x1, y1, z1, x2, y2, z2`` canonical edges: in the plane its best box,
            along z from the first to the last of its boxes.
        score: The best score of them.
        key: Lattice slice of the best score.
        key_box: ``(4,)`` float64, the best-scored slice box.
        members: Rows in the `SliceBoxes`, rising.
        fields: What else the network says of the best box, by name.
    """

    box: np.ndarray
    score: float
    key: int
    key_box: np.ndarray
    members: tuple[int, ...]
    fields: Instances[np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class ScanResult:
    """All that is known about a scan when its results are written: the one thing that makers of files are given.

    Attributes:
        scan: The scan.
        found: Its slice boxes.
        lesions: Its lesions, best first.
        document: The content of ``lesions.json``: facts of the run, and under ``lesions`` an entry for each lesion.
    """

    scan: ScanLike
    found: SliceBoxes
    lesions: Sequence[Lesion]
    document: Mapping[str, Any]

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The entries of the lesions, in their order."""
        return self.document["lesions"]

    @property
    def notices(self) -> list[str]:
        """What every output must say."""
        return self.document["notices"]
