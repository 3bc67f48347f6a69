"""Boxes that another program found: of a scan six numbers each, corners in their order; in their scan or image."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...metrics.cases import Case
from ...storage.printable import shown, shown_name

logger = logging.getLogger(__name__)

# Detectors cut boxes at the edges of their image: largest share of others that is expected, and rounding in pixels.
_SUSPICIOUS, _ROUNDED = 0.1, 2.0


def six_numbers(boxes: Any) -> np.ndarray:
    """A table of boxes.

    Raises:
        TypeError, ValueError: If it is not rows of six numbers.
    """
    table: np.ndarray = np.array(boxes, dtype=np.float64)
    if table.size == 0:
        return table.reshape(0, 6)
    if table.ndim != 2 or table.shape[1] != 6:
        raise ValueError(f"expected six numbers for each box, got a table of shape {table.shape}")
    return table


def check_corners(low: np.ndarray, high: np.ndarray) -> None:
    """Reject boxes that end before they begin.

    Raises:
        ValueError: If there is one.
    """
    for row in np.flatnonzero((high < low).any(axis=1)):
        corners = f"{low[row].tolist()} to {high[row].tolist()}"
        raise ValueError(f"expected boxes that end after they begin, got {corners} as box {row}")


def check_result(boxes: np.ndarray, scores: np.ndarray, shape: Sequence[int], path: Path) -> None:
    """Reject what cannot be the detections of a scan.

    Args:
        boxes: ``(N, 6)`` edges ``i1 j1 k1 i2 j2 k2`` of the voxels of its file.
        scores: ``(N,)``.
        shape: Voxels of the file along i, j, k.
        path: Of the result, for messages.

    Raises:
        ValueError: If a number is not finite, a box ends before it begins, or is next to the scan or far outside of it.
    """
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError(f"Expected finite numbers as boxes and scores, got NaN or infinity in {path}.")
    low, high, size = boxes[:, :3], boxes[:, 3:], np.array(shape, dtype=np.float64)
    try:
        check_corners(low, high)
    except ValueError as error:
        raise ValueError(f"Expected boxes with low and high corners in {path}: {error}.") from error
    outside = (high <= 0) | (low >= size) | (low < -size) | (high > 2 * size)
    for row in np.flatnonzero(outside.any(axis=1)):
        voxels = " x ".join(f"{side:g}" for side in size)
        raise ValueError(
            f"Expected boxes in the scan of {voxels} voxels, got {shown(boxes[row].round(2).tolist())} as box {row} of "
            f"{path}."
        )


def check_in_images(cases: Iterable[Case], path: Path) -> None:
    """Reject detections that are next to their image or far outside of it, such as those of a resized one.

    A line in the log says if many reach beyond their images, such as corners read as x, y, width and height.

    Args:
        cases: Images with their detections.
        path: Of the detections, for messages.

    Raises:
        ValueError: If there is one.
    """
    beyond = count = 0
    for case in cases:
        size = np.array([case["width"], case["height"]], dtype=np.float64)
        low, high = case["boxes"][:, :2], case["boxes"][:, 2:]
        count += len(high)
        beyond += int(((low < -_ROUNDED) | (high > size + _ROUNDED)).any(axis=1).sum())
        outside = ((high < 0) | (low > size) | (low < -size) | (high > 2 * size)).any(axis=1)
        if outside.any():
            box = shown(case["boxes"][outside][0].round(2).tolist())
            raise ValueError(
                f"Expected detections in pixels of their image, got {box} (x1, y1, x2, y2) in {shown_name(case['id'])} "
                f"of {size[0]:g} x {size[1]:g} pixels, {path}: boxes of an image of another size?"
            )
    if beyond > _SUSPICIOUS * count:
        logger.warning(
            "%s: %d of %d boxes reach beyond their images: are they in pixels of these, and as COCO results "
            "x, y, width, height?",
            *(path, beyond, count),
        )
