"""Label volumes on the grid of a scan, and the lesions in them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy import ndimage

from ...scans.scan import Scan
from ..true_lesions import ScanTruth, TrueLesion

# Indices of one grid are whole numbers in the other where they are off by less than this share of a voxel.
_ON_GRID = 0.02
# Voxels that touch at a corner belong together.
_NEIGHBOURS = np.ones((3, 3, 3), dtype=np.int8)
# A lesion of fewer voxels may be a slip of the pen.
SPECK = 4
# No truth has as many values: an image, most likely.
_MOST_VALUES = 1000
_KEPT = "lie between the slices or pixels of the scan: each was kept on the nearest slice"
_LOST = "lie outside of the scan: left out"


@dataclass(frozen=True)
class LabelGrid:
    """Labels in any grid.

    Attributes:
        values: ``(I, J, K)`` whole numbers, 0 where there is nothing.
        affine: ``(4, 4)`` voxel-centre index ``(i, j, k)`` to LPS mm.
        source: Where they were read, for messages.
        name_of: What a value is called.
        each_value: Whether every value is a lesion of its own; if not, every connected part of it is one.
    """

    values: np.ndarray
    affine: np.ndarray
    source: str
    name_of: Callable[[int], str] = str
    each_value: bool = False

    def lesions_in(self, scan: Scan) -> ScanTruth:
        """The lesions, on the slices of a scan: each of its voxels has the label that is nearest to its centre.

        Raises:
            ValueError: If there are too many values for labels.
        """
        found = self.values != 0
        if not found.any():
            return ScanTruth()
        values = np.unique(self.values[found]).tolist()
        if len(values) > _MOST_VALUES:
            raise ValueError(
                f"Expected labels, got {len(values)} different values in {self.source}: an image and not a mask?"
            )
        on_scan, offset, seen = self._on_scan(scan, _filled(found))
        shifts = self._shifts(scan)
        notes = []
        if not seen[found].all():
            on_scan, offset, lost = self._keep_thin(scan, on_scan, offset, seen)
            notes += lost
        lesions: list[TrueLesion] = []
        for value in values:
            part = on_scan == value
            if not part.any():
                continue
            groups = part.astype(np.int32)
            if not self.each_value:
                ndimage.label(part, _NEIGHBOURS, output=groups)
            parts = [
                (groups[where] == number, [side.start for side in where])
                for number, where in enumerate(ndimage.find_objects(groups), start=1)
            ]
            lesions += [self._lesion(mask, np.add(start, offset).tolist(), value, shifts) for mask, start in parts]
            specks = sum(int(mask.sum()) < SPECK for mask, _ in parts)
            if specks:
                notes.append(
                    f"{specks} of {len(parts)} parts of label {self.name_of(value)} have fewer than {SPECK} voxels: "
                    f"slips of the pen? ({self.source})"
                )
        return ScanTruth(tuple(lesions), (*self._grid_notes(scan), *self._cut_notes(scan, found), *notes))

    def _on_scan(self, scan: Scan, filled: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int], np.ndarray]:
        """Labels ``(z, h, w)`` of the part of the scan that they reach, where it begins, and which were taken."""
        to_scan = np.linalg.inv(scan.affine) @ self.affine
        corners = np.array(list(itertools.product(*(filled[:, axis] + (-0.5, 0.5) for axis in range(3)))))
        places = corners @ to_scan[:3, :3].T + to_scan[:3, 3]
        extent = np.array(scan.hu.shape[::-1])
        low = np.clip(np.floor(places.min(axis=0)).astype(int), 0, extent)
        high = np.clip(np.ceil(places.max(axis=0)).astype(int) + 1, low, extent)
        out = np.zeros(tuple((high - low)[::-1]), dtype=self.values.dtype)
        seen = np.zeros(self.values.shape, dtype=bool)
        if out.size:
            for z, plane in zip(range(low[2], high[2]), out, strict=True):
                inside, index = self._nearest(np.linalg.inv(to_scan), z, low[:2], high[:2])
                plane[inside] = self.values[index]
                seen[index] = True
        return out, (int(low[2]), int(low[1]), int(low[0])), seen

    def _nearest(
        self, back: np.ndarray, z: float, low: np.ndarray, high: np.ndarray
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Which pixels from columns and rows ``low`` to ``high`` of a plane have labels, and the nearest of each."""
        y, x = np.meshgrid(np.arange(low[1], high[1]), np.arange(low[0], high[0]), indexing="ij")
        at = np.stack([x, y, np.full(x.shape, z)], axis=-1) @ back[:3, :3].T + back[:3, 3]
        # Half-way between two labels the lower one counts, whatever the last digits are.
        index = np.ceil(at - 0.5 - 1e-6).astype(int)
        inside = np.asarray(((index >= 0) & (index < self.values.shape)).all(axis=-1))
        return inside, tuple(index[inside].T)

    def _keep_thin(
        self, scan: Scan, on_scan: np.ndarray, offset: tuple[int, int, int], seen: np.ndarray
    ) -> tuple[np.ndarray, tuple[int, int, int], list[str]]:
        """Put parts of labels that no voxel of the scan is nearest to on the slice nearest to their middle.

        Returns:
            The labels and where they begin, as given, now of the whole scan if there are such parts; and what is to be
            said about them, and about parts outside of the scan.
        """
        to_scan = np.linalg.inv(scan.affine) @ self.affine
        extent = np.array(scan.hu.shape[::-1])
        whole: np.ndarray | None = None
        kept: Counter[int] = Counter()
        lost: Counter[int] = Counter()
        for value, mask, corner in _unseen_parts(self.values, seen):
            places = (np.argwhere(mask) + corner) @ to_scan[:3, :3].T + to_scan[:3, 3]
            nearest = np.floor(places.mean(axis=0) + 0.5 - 1e-6).astype(int)
            if not ((nearest >= 0) & (nearest < extent)).all():
                lost[value] += 1
                continue
            if whole is None:
                whole = np.zeros(scan.hu.shape, dtype=on_scan.dtype)
                whole[tuple(slice(o, o + n) for o, n in zip(offset, on_scan.shape, strict=True))] = on_scan
            low = np.clip(np.floor(places.min(axis=0)).astype(int) - 1, 0, extent)[:2]
            high = np.clip(np.ceil(places.max(axis=0)).astype(int) + 2, 0, extent)[:2]
            # What a plane through its middle cuts.
            part = LabelGrid(mask, self.affine @ _shift(corner), self.source)
            inside, index = part._nearest(np.linalg.inv(to_scan @ _shift(corner)), places[:, 2].mean(), low, high)
            cut = np.zeros(inside.shape, dtype=bool)
            cut[inside] = mask[index]
            if not cut.any():
                cut[nearest[1] - low[1], nearest[0] - low[0]] = True
            plane = whole[nearest[2], low[1] : high[1], low[0] : high[0]]
            plane[cut & (plane == 0)] = value
            kept[value] += 1
        notes = [
            f"{count} part(s) of label {self.name_of(value)} {what} ({self.source})."
            for counts, what in ((kept, _KEPT), (lost, _LOST))
            for value, count in counts.items()
        ]
        return (on_scan, offset, notes) if whole is None else (whole, (0, 0, 0), notes)

    def _shifts(self, scan: Scan) -> np.ndarray:
        """Offset of labels from their pixels, ``(Z, 2)`` x and y in pixels.

        Pixels of one size lie off by the same on all of a slice, as those of a tilted gantry do on the straight stack;
        of other grids nothing is known.
        """
        to_scan = np.linalg.inv(scan.affine) @ self.affine
        back = np.linalg.inv(to_scan)
        plane = np.abs(back[:3, :2])
        shifts = np.zeros((len(scan.hu), 2))
        if (
            np.abs(np.sort(plane, axis=0) - np.array([0.0, 0.0, 1.0])[:, None]).max() * max(scan.hu.shape)
            > _ON_GRID * 10
        ):
            return shifts
        for z in range(len(shifts)):
            at = back[:3, 2] * z + back[:3, 3]
            shifts[z] = (to_scan[:3, :3] @ (np.ceil(at - 0.5 - 1e-6) - at))[:2]
        return shifts

    def _lesion(self, mask: np.ndarray, corner: Sequence[int], value: int, shifts: np.ndarray) -> TrueLesion:
        """The lesion of a mask ``(z, h, w)`` whose first voxel is at slice, row and column ``corner``."""
        z0, y0, x0 = corner
        slices = np.flatnonzero(mask.any(axis=(1, 2)))
        boxes = np.array([plane_bounds(mask[z]) for z in slices], dtype=np.float64)
        boxes += np.array([x0, y0, x0, y0]) + np.tile(shifts[slices + z0], 2)
        lesion = TrueLesion(self.name_of(value), slices + z0, boxes, "outline", self.source)
        lines = outlines_of(mask[lesion.widest - z0], (x0, y0))
        return replace(lesion, outlines={lesion.widest: [line + shifts[lesion.widest] for line in lines]})

    def _cut_notes(self, scan: Scan, found: np.ndarray) -> list[str]:
        """Note that labels, which are where ``(I, J, K)`` bool says, reach a voxel or more beyond the scan."""
        to_scan = np.linalg.inv(scan.affine) @ self.affine
        extent = np.array(scan.hu.shape[::-1])

        def beyond(index: np.ndarray) -> float:
            places = index @ to_scan[:3, :3].T + to_scan[:3, 3]
            return float(np.maximum(-places, places - (extent - 1)).max())

        # Most labels are within a box that is inside of the scan.
        if beyond(np.array(list(itertools.product(*_filled(found).T)))) < 1 - _ON_GRID:
            return []
        far = beyond(np.argwhere(found))
        if far < 1 - _ON_GRID:
            return []
        return [f"Labels reach up to {far:.1f} voxels beyond the scan: left out there ({self.source})."]

    def _grid_notes(self, scan: Scan) -> list[str]:
        """Note that the labels are on another grid than the scan, or partly outside of it."""
        # Of a tilted gantry labels are drawn on the stored slices, or outlines on the straight stack.
        to_labels = np.linalg.inv(self.affine) @ scan.affine
        if any(
            _is_whole(grid, max(scan.hu.shape))
            for grid in (to_labels @ np.linalg.inv(scan.stored_from_canonical), to_labels)
        ):
            return []
        edges = " x ".join(f"{edge:.3g}" for edge in np.linalg.norm(self.affine[:3, :3], axis=0))
        own = " x ".join(f"{edge:.3g}" for edge in scan.spacing)
        return [
            f"The labels have another grid than the scan ({edges} mm and {own} mm): each voxel of the scan took the "
            f"nearest label ({self.source})."
        ]


def _is_whole(across: np.ndarray, size: int) -> bool:
    """Whether a matrix ``(4, 4)`` leads from indices of a grid of up to ``size`` voxels a side to those of another."""
    linear, shift = across[:3, :3], across[:3, 3]
    whole = np.abs(linear - np.rint(linear)).max() * size <= _ON_GRID * 10
    return bool(whole and np.abs(shift - np.rint(shift)).max() <= _ON_GRID and np.abs(np.linalg.det(linear)) < 1.5)


def _unseen_parts(values: np.ndarray, seen: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Connected parts of which no voxel was seen: value, mask of the part, and the index that the mask begins at."""
    known = np.union1d([0], values)
    ranks = np.searchsorted(known, values).astype(np.int32)
    for rank, where in enumerate(ndimage.find_objects(ranks), start=1):
        if where is None or seen[where][ranks[where] == rank].all():
            continue
        groups = np.zeros(ranks[where].shape, dtype=np.int32)
        ndimage.label(ranks[where] == rank, _NEIGHBOURS, output=groups)
        there = set(np.unique(groups[seen[where]]).tolist())
        for number, part in enumerate(ndimage.find_objects(groups), start=1):
            if number not in there:
                corner = [outer.start + inner.start for outer, inner in zip(where, part, strict=True)]
                yield int(known[rank]), groups[part] == number, np.array(corner)


def _shift(corner: np.ndarray) -> np.ndarray:
    """Index from a corner on to index ``(4, 4)``."""
    shift = np.eye(4)
    shift[:3, 3] = corner
    return shift


def _filled(found: np.ndarray) -> np.ndarray:
    """First and last index along each axis, ``(2, 3)``, of what is there."""
    spans = []
    for axis in range(3):
        places = np.flatnonzero(found.any(axis=tuple({0, 1, 2} - {axis})))
        spans.append((places[0], places[-1]))
    return np.array(spans, dtype=np.float64).T


def plane_bounds(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Slab-frame box of the pixels of a plane ``(H, W)`` bool that has some."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def outlines_of(mask: np.ndarray, corner: tuple[int, int]) -> list[np.ndarray]:
    """Outlines of a plane ``(H, W)`` bool and of its holes, each ``(N, 2)`` x and y in pixels.

    Args:
        mask: The plane.
        corner: Column and row of its first pixel in the slice.
    """
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    # Contours run through the centres of pixels.
    return [line.reshape(-1, 2) + np.array(corner) + 0.5 for line in found]


def polygon_mask(lines: Sequence[np.ndarray]) -> tuple[np.ndarray, tuple[int, int]]:
    """Pixels whose centres are within closed lines; where two lines overlap is outside, as DICOM draws holes.

    Args:
        lines: Each ``(N, 2)`` x and y in pixels (edges), at least one of three points.

    Returns:
        ``(h, w)`` bool, and column and row of its first pixel. Lines around no centre at all give the pixel that the
        middle of the first one is in.
    """
    points = np.concatenate(lines)
    low = np.floor(points.min(axis=0)).astype(int)
    width, height = (np.ceil(points.max(axis=0)).astype(int) - low + 1).tolist()
    mask = np.zeros((height, width), dtype=bool)
    y, x = (np.arange(count) + begin + 0.5 for count, begin in ((height, low[1]), (width, low[0])))
    for line in lines:
        mask ^= _within(line, x, y)
    if not mask.any():
        column, row = np.floor(lines[0].mean(axis=0)).astype(int) - low
        mask[row, column] = True
    return mask, (int(low[0]), int(low[1]))


def _within(line: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which centres ``(len(y), len(x))`` are within a closed line, by how often a ray crosses it."""
    inside = np.zeros((len(y), len(x)), dtype=bool)
    for (x1, y1), (x2, y2) in zip(line, np.roll(line, -1, axis=0), strict=True):
        crossed = (y1 > y) != (y2 > y)
        if crossed.any():
            at = x1 + (y[crossed] - y1) * (x2 - x1) / (y2 - y1)
            inside[crossed] ^= x[None, :] < at[:, None]
    return inside
