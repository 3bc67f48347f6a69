"""Detections in COCO's results format: boxes, or masks of which the box is taken."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...storage.printable import shown
from ...storage.safe_json import finite_numbers

logger = logging.getLogger(__name__)

# Image, category, corners (pixels from 0, half-open) and score of a detection, and its place in the file.
FlatDetection = tuple[str, Any, list[float], float, int]


def place_in(path: Path, place: int) -> str:
    """Where a detection is, for messages: a line of a table, an entry of a list."""
    return f"{'line' if path.suffix.lower() == '.csv' else 'entry'} {place} of {path}"


def coco_detections(content: Any, sizes: Mapping[str, tuple[float, float]], path: Path) -> list[FlatDetection]:
    """Read what a results file holds.

    Args:
        content: Its JSON: a list of entries with ``image_id``, ``score`` and ``bbox``, or ``segmentation`` without it.
        sizes: Height and width of each image by its ids and names.
        path: The file, for messages.

    Returns:
        Every detection; its place is the number of its entry, from 0.

    Raises:
        ValueError: If an entry is not one; it is named.
    """
    if not isinstance(content, list):
        raise ValueError(f"Expected a list of COCO results, got {type(content).__name__} in {path}.")
    found: list[FlatDetection] = []
    masks = 0
    for number, entry in enumerate(content):
        where = place_in(path, number)
        try:
            image, score = str(entry["image_id"]), finite_numbers([entry["score"]], 1, "score", where)[0]
            if entry.get("bbox") or not entry.get("segmentation"):
                x, y, width, height = finite_numbers(entry["bbox"], 4, "bbox", where)
                box = [x, y, x + width, y + height]
            else:
                masks += 1
                box = _mask_box(entry["segmentation"], sizes.get(image), where)
            found.append((image, entry.get("category_id"), box, score, number))
        except (AttributeError, KeyError, TypeError):
            raise ValueError(
                f"Expected image_id, score and a bbox of four numbers (or a segmentation), got {shown(entry)} in "
                f"{where}."
            ) from None
    if masks:
        logger.info("%s: %d detections have a mask and no bbox, the box around the mask was taken.", path, masks)
    return found


def _mask_box(mask: Any, size: tuple[float, float] | None, where: str) -> list[float]:
    """Corners of the box around a mask: polygons, or run lengths."""
    if isinstance(mask, Mapping):
        return _run_box(mask, size, where)
    polygons = mask if isinstance(mask, list) else [mask]
    if not all(isinstance(one, list) and len(one) >= 6 and len(one) % 2 == 0 for one in polygons):
        raise ValueError(f"Expected polygons of at least three points (x, y), got {shown(mask)} as mask in {where}.")
    values = [value for one in polygons for value in finite_numbers(one, len(one), "polygon", where)]
    points = np.array(values).reshape(-1, 2)
    return [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]


def _run_box(mask: Mapping[str, Any], size: tuple[float, float] | None, where: str) -> list[float]:
    """The same of run lengths: of background and mask in turn, down the columns."""
    counts = mask.get("counts")
    if isinstance(counts, str):
        counts = _run_lengths(counts, where)
    height, width = finite_numbers(mask.get("size"), 2, "size of a mask", where)
    if size is not None and (height, width) != tuple(size):
        raise ValueError(
            f"Expected a mask of the {size[0]:g} x {size[1]:g} pixels (height, width) of its image, got one of "
            f"{height:g} x {width:g} in {where}."
        )
    runs = finite_numbers(counts, len(counts) if isinstance(counts, list) else 0, "counts of a mask", where)
    if min(runs, default=0) < 0 or any(run != int(run) for run in runs) or sum(runs) != height * width:
        raise ValueError(f"Expected run lengths that add up to {height:g} x {width:g}, got {shown(counts)} in {where}.")
    ends = np.cumsum(np.array(runs, dtype=np.int64))
    first, last = ends[:-1:2], ends[1::2] - 1
    first, last = first[last >= first], last[last >= first]
    if not len(first):
        raise ValueError(f"Expected a mask with a pixel, or a bbox, got an empty mask in {where}.")
    rows = int(height)
    # A run that reaches the next column has the bottom of one and the top of the other.
    across = bool((first // rows < last // rows).any())
    top, bottom = (0, rows) if across else (int((first % rows).min()), int((last % rows).max()) + 1)
    return [float((first // rows).min()), float(top), float((last // rows).max() + 1), float(bottom)]


def _run_lengths(text: str, where: str) -> list[int]:
    """The run lengths of COCO's compressed text, which pycocotools reads past its end where it is damaged.

    Each letter holds five bits, the lowest first, and whether more follow; from the fourth on a number is what a run
    is longer than the last but one.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"Expected run lengths in COCO's compressed text, got {shown(text)} in {where}.")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError(f"Expected run lengths in COCO's compressed text, got a cut one, {shown(text)}, in {where}.")
    return runs
