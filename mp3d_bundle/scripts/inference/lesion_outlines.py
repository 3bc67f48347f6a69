"""Outlines and axes of lesions in their slices: from masks, or as a detector gives them.

A mask is a grid of probabilities laid over a box (the field ``masks``). Its outline runs where the probability is one
half, between the centres of the cells; the longest stretch of it is taken, holes are not. The long axis is the longest
line between two points of the outline in millimetres, the short axis the longest one at a right angle to it, as RECIST
measures (Eisenhauer et al., European Journal of Cancer 45, 2009).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from contourpy import LineType, contour_generator

from ..instances import select
from .detections import SliceBoxes

# Where a mask ends.
LEVEL = 0.5
# The fields of a box with position and size of its lesion; outputs write the results, not the fields.
MASKS, AXES, LENGTHS = "masks", "axes", ("long_axis_mm", "short_axis_mm")
MEASURED = (MASKS, AXES, *LENGTHS)
# An outline has at least three corners.
_CORNERS = 3


@dataclass(frozen=True)
class Outline:
    """Place and size of a lesion in one slice, in pixel edges of the scan's own slice (the frame of boxes).

    Attributes:
        source: ``"mask"``, or ``"axes"`` where the detector gives these without a mask.
        lengths_mm: Length of the long and of the short axis.
        axes: ``(4, 2)`` float64 ``x, y``, the ends of the long axis, then those of the short one; None where the
            detector gives lengths alone.
        polygon: ``(P, 2)`` float64 ``x, y``, not closed (the first point is not repeated); None without a mask.
    """

    source: str
    lengths_mm: tuple[float, float]
    axes: np.ndarray | None = None
    polygon: np.ndarray | None = None


def fits(name: str, value: np.ndarray) -> bool:
    """Whether a field of one box has the form expected here; another head may use the name for something else."""
    shape = np.shape(value)
    return {MASKS: len(shape) == 2 and min(shape, default=0) > 0, AXES: shape == (4, 2)}.get(name, shape == ())


def outline_of(found: SliceBoxes, row: int, spacing: Sequence[float]) -> Outline | None:
    """The outline of a slice box, see `measure`.

    Args:
        found: Slice boxes.
        row: Which of them.
        spacing: mm of a pixel along x and y, then anything.
    """
    return measure(select(found.fields, row), found.boxes[row], spacing)


def measure(fields: Mapping[str, np.ndarray], box: np.ndarray, spacing: Sequence[float]) -> Outline | None:
    """The outline of a box with its further fields.

    Args:
        fields: Of these count ``masks`` ``(h, w)``, ``axes`` ``(4, 2)`` ends in pixels, and ``long_axis_mm`` and
            ``short_axis_mm``, one number each; what is not given is measured on what is.
        box: ``(4,)`` in pixels.
        spacing: mm of a pixel along x and y, then anything.

    Returns:
        None if the detector does not give it, or its mask is empty: then only the box is known.
    """
    fields = {name: fields[name] for name in MEASURED if name in fields and fits(name, fields[name])}
    polygon = mask_polygon(fields[MASKS], box, spacing) if MASKS in fields else None
    if MASKS in fields and polygon is None:
        return None
    axes = np.asarray(fields[AXES], dtype=np.float64).reshape(4, 2) if AXES in fields else None
    if axes is None and polygon is not None:
        axes = longest_axes(polygon, spacing)
    if all(name in fields for name in LENGTHS):
        long, short = (float(fields[name]) for name in LENGTHS)
    elif axes is not None:
        ends = axes * spacing[:2]
        long, short = np.linalg.norm(ends[[1, 3]] - ends[[0, 2]], axis=1).tolist()
    else:
        return None
    if not long > 0 or not short > 0:
        return None
    return Outline("axes" if polygon is None else "mask", (long, short), axes, polygon)


def mask_polygon(mask: np.ndarray, box: np.ndarray, spacing: Sequence[float] = (1.0, 1.0)) -> np.ndarray | None:
    """The outline of a mask: the part of it that encloses the largest area.

    Args:
        mask: ``(h, w)`` probabilities, or 0 and 1; cells as large as the box allows.
        box: ``(4,)`` ``x1, y1, x2, y2``, the box that the mask is laid over.
        spacing: mm of a pixel along x and y.

    Returns:
        ``(P, 2)`` float64 ``x, y`` in the frame of the box, not closed; None where no cell reaches `LEVEL`.
    """
    # A ring of zeros closes outlines at the edge of the box.
    grid = np.pad(np.asarray(mask, dtype=np.float64), 1)
    lines = contour_generator(z=grid, line_type=LineType.Separate).lines(LEVEL)
    closed = [line[:-1] for line in map(np.asarray, lines) if len(line) > _CORNERS]
    if not closed:
        return None
    sides = (box[2:] - box[:2]) / np.array(np.shape(mask))[::-1]
    # The centre of cell 0 is at 1 of the grid, and half a cell inside the box.
    placed = [box[:2] + (line - 0.5) * sides for line in closed]
    return max(placed, key=lambda polygon: polygon_area(polygon * spacing[:2]))


def polygon_area(polygon: np.ndarray) -> float:
    """The area inside a polygon ``(P, 2)``, in the square of its unit."""
    # Near the origin, for the sake of OpenCV's float32.
    return float(cv2.contourArea((polygon - polygon[0]).astype(np.float32)))


def longest_axes(polygon: np.ndarray, spacing: Sequence[float] = (1.0, 1.0)) -> np.ndarray:
    """The long and the short axis of an outline.

    Args:
        polygon: ``(P, 2)`` ``x, y`` in pixels.
        spacing: mm of a pixel along x and y: what is longest, and what a right angle is, depends on it.

    Returns:
        ``(4, 2)`` ends in pixels: two of the long axis, two of the short one.
    """
    points = polygon * spacing[:2]
    hull = cv2.convexHull(points.astype(np.float32), returnPoints=False).ravel().astype(np.int64)
    apart = np.linalg.norm(points[hull, None] - points[None, hull], axis=2)
    first, second = np.unravel_index(np.argmax(apart), apart.shape)
    start, end = points[hull[first]], points[hull[second]]
    along = (end - start) / max(float(apart[first, second]), 1e-9)
    across = np.array([-along[1], along[0]])
    ends = np.stack([start, end, *_widest(points, along, across)])
    return ends / spacing[:2]


def _widest(points: np.ndarray, along: np.ndarray, across: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the longest line across: its width changes evenly between corners, so one goes through a corner."""
    far, side = points @ along, points @ across
    next_far, next_side = np.roll(far, -1), np.roll(side, -1)
    step = next_far - far
    level = np.abs(step) < 1e-12
    share = (far[:, None] - far[None]) / np.where(level, 1.0, step)[None]
    met = ~level[None] & (share >= 0) & (share <= 1)
    crossing = np.where(met, side[None] + share * (next_side - side)[None], side[:, None])
    low, high = crossing.min(axis=1), crossing.max(axis=1)
    best = int(np.argmax(high - low))
    return far[best] * along + low[best] * across, far[best] * along + high[best] * across
