"""Frames of 3D boxes in DeepLesion's sub-volumes: each conversion in one function, with its inverse.

All of them convert to the *volume frame*, that of the hand-labelled volumes (Yan et al., IEEE TMI 2020):
``x1, y1, z1, x2, y2, z2``, first and last pixel (0-based) and first and last slice (by its number in the series),
all inclusive. Edges of pixels are half-open elsewhere in this bundle: a box that ends at edge ``x2`` ends with
pixel ``x2 - 1``. The hand-labelled set does not say whether it counts pixels from 0 or 1; its largest coordinate is
511 in images of 512 pixels.
"""

from __future__ import annotations

import numpy as np

from ...box_frames import from_deeplesion, to_deeplesion

# Rounding errors of edges up to this size are ignored.
_ROUNDING = 1e-6
_PLANE = [0, 1, 3, 4]


def from_slab(boxes: np.ndarray, first_slices: np.ndarray, last_slices: np.ndarray) -> np.ndarray:
    """Convert slab-frame boxes and the slices they span to the volume frame.

    Args:
        boxes: ``(N, 4)`` ``x1, y1, x2, y2``, 0-based half-open edges.
        first_slices: ``(N,)`` slice numbers.
        last_slices: ``(N,)`` slice numbers, inclusive.

    Returns:
        ``(N, 6)`` float64.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.column_stack([boxes[:, :2], first_slices, boxes[:, 2:] - 1, last_slices])


def to_slab(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The inverse of `from_slab`: boxes ``(N, 4)``, first and last slices ``(N,)``."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 6)
    return boxes[:, _PLANE] + np.array([0, 0, 1, 1]), boxes[:, 2], boxes[:, 5]


def from_harvester(boxes: np.ndarray, first: int) -> np.ndarray:
    """Convert boxes of the Lesion Harvester files (Cai et al., IEEE TMI 2021) to the volume frame.

    Args:
        boxes: ``(N, 6)`` ``x1, y1, x2, y2, z1, z2``: coordinates as in ``DL_info.csv`` (1-based), and first and
            last slice counted from 0 at the first slice of the sub-volume. Some boxes of ``3D-Box.pkl`` begin or end
            half-way between two slices: they get the slices whose centres are inside, see `whole_slices`.
        first: Number of that slice in the series.

    Returns:
        ``(N, 6)`` float64.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 6)
    low, high = whole_slices(boxes[:, 4], boxes[:, 5])
    return from_slab(from_deeplesion(boxes[:, :4]), low + first, high + first)


def whole_slices(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last of the slices whose centres are between two positions, or the nearest slice if there are none.

    Args:
        low: ``(N,)`` positions in slices; a whole number is the centre of a slice.
        high: ``(N,)`` likewise.

    Returns:
        Two ``(N,)`` float64; unchanged if a position is not a number or ``high < low``.
    """
    with np.errstate(invalid="ignore"):
        first, last = np.ceil(low - _ROUNDING), np.floor(high + _ROUNDING)
        # The lower number of two equally near slices.
        nearest = np.ceil((low + high) / 2 - 0.5 - _ROUNDING)
        thin = (last < first) & (low <= high)
        whole = (low <= high) & np.isfinite(low) & np.isfinite(high)
    first, last = (np.where(thin, nearest, edge) for edge in (first, last))
    return np.where(whole, first, low), np.where(whole, last, high)


def to_harvester(boxes: np.ndarray, first: int) -> np.ndarray:
    """The inverse of `from_harvester`, ``(N, 6)``."""
    plane, low, high = to_slab(boxes)
    return np.column_stack([to_deeplesion(plane), low - first, high - first])


def from_edges(boxes: np.ndarray, first: int, num_slices: int) -> np.ndarray:
    """Convert boxes found in a sub-volume to the volume frame, on whole slices.

    A box gets the slices whose centres are inside; if there are none, the one nearest to its middle (the lower
    number of two equally near ones).

    Args:
        boxes: ``(N, 6)`` ``x1, y1, z1, x2, y2, z2`` half-open edges, 0-based in the sub-volume: slice ``k`` covers
            ``[k, k + 1)``.
        first: Number of the sub-volume's first slice in the series.
        num_slices: Slices of the sub-volume.

    Returns:
        ``(N, 6)`` float64.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 6)
    low, high = whole_slices(boxes[:, 2] - 0.5, boxes[:, 5] - 0.5)
    low, high = (np.clip(edge, 0, num_slices - 1) for edge in (low, high))
    return from_slab(boxes[:, _PLANE], low + first, high + first)


def to_edges(boxes: np.ndarray, first: int) -> np.ndarray:
    """The inverse of `from_edges` for boxes on whole slices, ``(N, 6)``."""
    plane, low, high = to_slab(boxes)
    return np.column_stack([plane[:, :2], low - first, plane[:, 2:], high - first + 1])
