"""Splits of a test set: by slice interval, by lesion size and by lesion type.

Slice interval belongs to the image, so each of its groups has a FROC of its own, with false positives per
image *of the group*. Size and type belong to the lesion, and a false positive has neither; their groups
report the share of lesions found at the score thresholds of the whole set's operating points.

The names are DeepLesion's; lesion size is estimated from the box, see `short_diameter_mm`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..boxes import RECIST_PADDING
from .matching import Matches

# Coarse lesion types of DL_info.csv.
LESION_TYPES = {
    1: "bone",
    2: "abdomen",
    3: "mediastinum",
    4: "liver",
    5: "lung",
    6: "kidney",
    7: "soft tissue",
    8: "pelvis",
}
# Limits in mm of DeepLesion's size groups (of the short diameter).
SIZE_LIMITS_MM = (10.0, 30.0)
# COCO's limits of small, medium and large objects: square root of the box area in pixels.
SIZE_LIMITS_PX = (32.0, 96.0)
UNKNOWN = "unknown"
_INTERVALS_MM = (1.0, 5.0)
# DeepLesion's intervals carry noise such as 0.59998.
_INTERVAL_TOLERANCE_MM = 0.01


def interval_group(case: Mapping[str, Any]) -> str:
    """Name of the slice-interval group of a case: ``"1 mm"``, ``"5 mm"``, ``"other"`` or ``"unknown"``."""
    interval = case.get("slice_interval")
    if interval is None:
        return UNKNOWN
    for standard in _INTERVALS_MM:
        if abs(float(interval) - standard) <= _INTERVAL_TOLERANCE_MM:
            return f"{standard:g} mm"
    return "other"


def short_diameter_mm(case: Mapping[str, Any]) -> np.ndarray:
    """Estimate the short diameter of a case's lesions from their boxes.

    DeepLesion's boxes are the end points of the two measured diameters padded by 5 pixels, so the shorter
    side less 10 pixels estimates the short diameter (0 where a box is smaller than its padding). On 1,349
    rows of DL_info.csv this puts 92 % of the lesions in the same size group as the measured diameter. Boxes of other
    sets may have no padding, as their ``box_padding`` says; then it is the shorter side.

    Args:
        case: A checked case.

    Returns:
        ``(N,)`` float64 millimetres; NaN without ``spacing``.
    """
    boxes = case["true_boxes"]
    if case.get("spacing") is None:
        return np.full(len(boxes), np.nan)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2] - 2 * case.get("box_padding", RECIST_PADDING), 0.0)
    return (sides * np.asarray(case["spacing"], dtype=np.float64)[:2]).min(axis=1)


def _size_name(value: float, limits: tuple[float, float], unit: str) -> str:
    if np.isnan(value):
        return UNKNOWN
    low, high = limits
    if value < low:
        return f"< {low:g} {unit}"
    return f"{low:g}-{high:g} {unit}" if value <= high else f"> {high:g} {unit}"


def size_groups_mm(case: Mapping[str, Any]) -> list[str]:
    """Size group of every lesion of a case by `short_diameter_mm`: < 10, 10-30 or > 30 mm."""
    return [_size_name(value, SIZE_LIMITS_MM, "mm") for value in short_diameter_mm(case)]


def size_groups_px(case: Mapping[str, Any]) -> list[str]:
    """Size group of every lesion of a case by the square root of its box area: < 32, 32-96 or > 96 px."""
    sides = np.maximum(case["true_boxes"][:, 2:] - case["true_boxes"][:, :2], 0.0)
    return [_size_name(value, SIZE_LIMITS_PX, "px") for value in np.sqrt(sides.prod(axis=1))]


def type_groups(case: Mapping[str, Any]) -> list[str]:
    """Name of the type of every lesion of a case (`LESION_TYPES`), ``"unknown"`` for any other number."""
    types = case.get("lesion_type")
    if types is None:
        return [UNKNOWN] * len(case["true_boxes"])
    return [LESION_TYPES.get(int(number), UNKNOWN) for number in types]


_ORDER = [
    *(f"{value:g} mm" for value in _INTERVALS_MM),
    "other",
    *(_size_name(value, SIZE_LIMITS_MM, "mm") for value in (0.0, 20.0, 40.0)),
    *(_size_name(value, SIZE_LIMITS_PX, "px") for value in (0.0, 64.0, 128.0)),
    *LESION_TYPES.values(),
    UNKNOWN,
]


def group_members(names: Sequence[str]) -> dict[str, np.ndarray]:
    """Turn group names into masks.

    Args:
        names: Group of each image or lesion, ``K`` names.

    Returns:
        Mapping of each name that occurs to its ``(K,)`` bool mask, in the order of a report; empty where
        nothing but ``"unknown"`` occurs.
    """
    values = np.asarray(names, dtype=str)
    present = sorted(set(names), key=_ORDER.index)
    return {} if present == [UNKNOWN] else {name: values == name for name in present}


def lesion_groups(cases: Sequence[Mapping[str, Any]], matches: Matches) -> dict[str, dict[str, np.ndarray]]:
    """Group the lesions of matched cases by size and type.

    Args:
        cases: The checked cases that were matched.
        matches: Their matches.

    Returns:
        ``{"size_mm": {group: mask}, "size_px": ..., "lesion_type": ...}``, each mask ``(L,)`` bool over the
        lesions of ``matches``; a split about which nothing is known is empty.
    """
    splits = {"size_mm": size_groups_mm, "size_px": size_groups_px, "lesion_type": type_groups}
    groups = {}
    for split, name_lesions in splits.items():
        names = [name_lesions(case) for case in cases]
        groups[split] = group_members(
            [names[image][lesion] for image, lesion in zip(matches.lesion_image, matches.lesion, strict=True)]
        )
    return groups
