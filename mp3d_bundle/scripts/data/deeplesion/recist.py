"""RECIST measurements of lesions: the ends of both diameters, and the masks that are made of them.

DeepLesion has no outlines. MULAN (Yan et al., MICCAI 2019) trains its mask head on four quarter ellipses about the
place where the two diameters cross, rasterised as COCO rasterises polygons; this is that construction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from ...box_frames import from_deeplesion
from ...instances import Instances
from ...storage.printable import shown
from ...storage.safe_json import text_number

# Cells of a mask along each side, as MULAN's head gives them.
GRID = 28
MASK_TARGETS = ("ellipses", "grabcut")
COORDINATES, DIAMETERS = "Measurement_coordinates", "Lesion_diameters_Pixel_"
# Radians between the corners of a quarter ellipse.
_STEP = 0.1
# Diameters whose directions are this near to one another do not cross.
_PARALLEL = 1e-6


@dataclass(frozen=True)
class Measurements:
    """Reads what a row of ``DL_info.csv`` measures.

    The fields of a lesion are ``recist`` ``(4, 2)`` float32 ``x, y`` in the slab frame, the ends of the long and then
    of the short diameter, ``diameters`` ``(2,)`` float32, their lengths in pixels, and with ``masks`` ``(28, 28)``
    float32, 0 or 1 over the box. Where a row measures nothing, ends and lengths are NaN.

    Attributes:
        masks: Whether masks are made, of quarter ellipses; then every lesion has to be measured.
    """

    masks: bool = False

    @property
    def empty(self) -> Instances[np.ndarray]:
        """The fields of no lesion."""
        fields = {"recist": np.zeros((0, 4, 2), np.float32), "diameters": np.zeros((0, 2), np.float32)}
        return {**fields, "masks": np.zeros((0, GRID, GRID), np.float32)} if self.masks else fields

    def __call__(self, cells: Mapping[str, str], row: int, box: np.ndarray, source: str) -> Instances[np.ndarray]:
        """The fields of one lesion.

        Args:
            cells: The row by column.
            row: Its number in the file, from 0; not used.
            box: ``(4,)`` its box in the slab frame.
            source: File and row, for messages.

        Raises:
            ValueError: If the row is not measured as it should be.
        """
        ends = _numbers(cells[COORDINATES], 8, COORDINATES, source).reshape(4, 2)
        recist = from_deeplesion(ends)
        lengths = _numbers(cells[DIAMETERS], 2, DIAMETERS, source)
        measured = {"recist": recist.astype(np.float32), "diameters": lengths.astype(np.float32)}
        if not self.masks:
            return measured
        if not np.isfinite(recist).all():
            raise ValueError(f"Expected 8 numbers as {COORDINATES} to make a mask of, got none in {source}.")
        return {**measured, "masks": polygon_mask(quarter_ellipses(recist), box)}


def _numbers(cell: str, count: int, column: str, source: str) -> np.ndarray:
    """The numbers of a list in one cell, NaN where it is empty."""
    if not cell:
        return np.full(count, math.nan)
    try:
        values = np.array([text_number(text) for text in cell.split(",")])
    except ValueError:
        values = np.empty(0)
    if len(values) != count or not np.isfinite(values).all():
        raise ValueError(f"Expected {count} numbers as {column}, got {shown(cell)} in {source}.")
    return values


def quarter_ellipses(recist: np.ndarray) -> np.ndarray:
    """The outline that MULAN makes of a measurement.

    Between one end and the next runs a quarter of an ellipse about the crossing of the diameters: one half axis leads
    to the first end, the other one is as long as the way to the next end, at a right angle and towards it.

    Args:
        recist: ``(4, 2)`` ``x, y``, the ends of the long diameter and those of the short one.

    Returns:
        ``(64, 2)`` float64, from the first end on. Of diameters that do not cross because they are parallel the middle
        of the four ends is taken.
    """
    ends = np.asarray(recist, dtype=np.float64)
    centre = _crossing(ends)
    # The ends in the order in which the outline meets them.
    around = ends[[0, 2, 1, 3]] - centre
    angles = np.arange(0, math.pi / 2, _STEP)
    parts = []
    for first, second in zip(around, np.roll(around, -1, axis=0), strict=True):
        across = np.array([-first[1], first[0]]) / max(float(np.linalg.norm(first)), 1e-9)
        across *= np.linalg.norm(second) * (1.0 if across @ second >= 0 else -1.0)
        parts.append(centre + np.cos(angles)[:, None] * first + np.sin(angles)[:, None] * across)
    return np.concatenate(parts)


def _crossing(ends: np.ndarray) -> np.ndarray:
    """Where the lines through both diameters cross."""
    long, short = ends[1] - ends[0], ends[3] - ends[2]
    directions = np.column_stack([long, -short])
    if abs(np.linalg.det(directions)) <= _PARALLEL * max(float(np.linalg.norm(long) * np.linalg.norm(short)), 1e-9):
        return ends.mean(axis=0)
    return ends[0] + long * np.linalg.solve(directions, ends[2] - ends[0])[0]


def polygon_mask(polygon: np.ndarray, box: np.ndarray, size: int = GRID) -> np.ndarray:
    """Rasterise an outline over a box, as COCO's tools do.

    Args:
        polygon: ``(P, 2)`` ``x, y`` in the frame of the box.
        box: ``(4,)`` ``x1, y1, x2, y2``; a side of less than a pixel counts as one.
        size: Cells along each side.

    Returns:
        ``(size, size)`` float32, 0 or 1.
    """
    corner, sides = np.asarray(box[:2], np.float64), np.maximum(np.asarray(box[2:] - box[:2], np.float64), 1.0)
    cells = (polygon - corner) / sides * size
    (runs,) = coco_mask.frPyObjects([cells.ravel().tolist()], size, size)  # type: ignore[call-overload]
    return coco_mask.decode(runs).astype(np.float32)
