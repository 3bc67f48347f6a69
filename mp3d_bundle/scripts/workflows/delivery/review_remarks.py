"""What a reader adds to lesions in a review: comments, and sizes and densities measured on the report page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...storage.printable import shown
from ...storage.safe_json import read_json

# Of each tool of the page the number of points, and of its results those that are lengths between them in their order.
_POINTS = {"ruler": 2, "diameters": 4, "roi": 2}
_LENGTHS = {"ruler": ("length_mm",), "diameters": ("long_axis_mm", "short_axis_mm"), "roi": ()}
_NUMBERS = {**_LENGTHS, "roi": ("mean_hu", "sd_hu", "area_mm2", "pixels")}
_PLANES = ("axial", "coronal", "sagittal")
# The page rounds to hundredths of a millimetre.
_SAME_MM = 0.1
_LONGEST_COMMENT = 10_000


def read_remarks(path: Path, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Read the remarks of a review, after `scripts.data.importing.truth.reviews.read_review` has accepted it.

    Args:
        path: ``lesions_reviewed.json``.
        numbers: Those of its lesions.

    Returns:
        Of each lesion, by its number, ``comment`` and ``measurements``: each with ``tool``, ``plane``,
        ``points_lps_mm``, the numbers of the tool, and of axial ones ``slice`` and ``instance_number``. Measurements
        of no lesion are left out.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If a comment is not a text, or a measurement is not one of the page, or contradicts its points.
    """
    content: Any = read_json(path, "a review (lesions_reviewed.json)")
    remarks: dict[int, dict[str, Any]] = {
        number: {"comment": _comment(lesion["review"], f"lesion {number} of {path}"), "measurements": []}
        for number, lesion in zip(numbers, content["lesions"], strict=True)
    }
    measurements = content.get("measurements", [])
    if not isinstance(measurements, list):
        raise ValueError(f"Expected a list of measurements, got {shown(measurements)} in {path}.")
    for at, saved in enumerate(measurements, start=1):
        where = f"measurement {at} of {path}"
        lesion = saved.get("lesion") if isinstance(saved, Mapping) else -1
        if lesion is not None and not (type(lesion) is int and lesion in remarks):
            raise ValueError(f"Expected the number of a lesion of the review or null, got {shown(lesion)} in {where}.")
        measured = _measurement(saved, where)
        if lesion is not None:
            remarks[lesion]["measurements"].append(measured)
    return remarks


def _comment(review: Any, where: str) -> str:
    comment = review.get("comment", "") if isinstance(review, Mapping) else ""
    if not isinstance(comment, str) or len(comment) > _LONGEST_COMMENT:
        raise ValueError(
            f"Expected a text of at most {_LONGEST_COMMENT} characters as comment, got {shown(comment)} in {where}."
        )
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in comment).strip()


def _measurement(saved: Mapping[str, Any], where: str) -> dict[str, Any]:
    tool, plane = saved.get("tool"), saved.get("plane")
    if not isinstance(tool, str) or tool not in _POINTS or plane not in _PLANES:
        raise ValueError(
            f"Expected {', '.join(_POINTS)} in {', '.join(_PLANES)}, got {shown(tool)} in {shown(plane)} in {where}."
        )
    points = _points(saved.get("points_lps_mm"), _POINTS[tool], where)
    numbers = {name: _number(saved.get(name), name, where) for name in _NUMBERS[tool]}
    # Diameters are saved with the longer one first, points in the order in which they were set.
    lengths = sorted((math.dist(*pair) for pair in list(pairwise(points))[::2]), reverse=True)
    for name, length in zip(_LENGTHS[tool], lengths, strict=False):
        if abs(numbers[name] - length) > _SAME_MM:
            raise ValueError(f"Expected {name} {length:.2f} as its points give, got {numbers[name]} in {where}.")
    image = {name: saved[name] for name in ("slice", "instance_number") if type(saved.get(name)) is int}
    return {"tool": tool, "plane": plane, **image, "points_lps_mm": points, **numbers}


def _points(saved: Any, count: int, where: str) -> list[list[float]]:
    try:
        points: np.ndarray = np.array(saved, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        points = np.zeros(0)
    if points.shape != (count, 3) or not np.isfinite(points).all():
        raise ValueError(f"Expected {count} points of three finite numbers, got {shown(saved)} in {where}.")
    return points.tolist()


def _number(saved: Any, name: str, where: str) -> float:
    if type(saved) not in (int, float) or not math.isfinite(saved) or (saved < 0 and name != "mean_hu"):
        raise ValueError(f"Expected a finite number as {name}, got {shown(saved)} in {where}.")
    return float(saved)
