"""Cases: the detections and the truth of one image each, as every metric takes them.

A case is a mapping with these keys; boxes are slab-frame boxes in pixels of the original image
(``x1, y1, x2, y2``, 0-based, half-open edges):

========================  ==========================================================================
``id``                    name of the image, unique in the list (``"000001_01_01_109.png"``)
``patient``               name of the patient (needed by the bootstrap only)
``boxes``, ``scores``     detections, ``(M, 4)`` and ``(M,)``; ``M = 0`` is legal
``true_boxes``            lesions, ``(N, 4)``; ``N = 0`` is legal
``width``, ``height``     size of the image in pixels
``slice_interval``        optional, mm
``spacing``               optional, ``(x, y)`` mm per pixel
``box_padding``           optional, pixels by which the boxes of lesions are wider on every side; DeepLesion's 5 if not
``lesion_type``           optional, ``(N,)``, 1..8, -1 unknown
``noisy``                 optional, ``(N,)`` bool: DeepLesion's "possibly noisy" annotations
``ignored_boxes``         optional, ``(K, 4)``: regions in which nothing is known; what lies in one is not false
``classes``               optional, ``(M,)``, the class that a detector names for each box
``true_classes``          optional, ``(N,)``, the class of each lesion
``class_names``           optional, all classes of the data set, the same in every case
``image``                 optional, path of the key slice (passed on, not read)
``window``                optional, ``(low, high)`` HU, for pictures (passed on)
``fields``                optional, what else a detector says of each box: arrays of ``M`` rows by name
``true_fields``           optional, what else is known of each lesion: arrays of ``N`` rows by name
========================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import torch

from ..instances import Instances, check_rows, to_arrays

_REQUIRED = ("id", "boxes", "scores", "true_boxes", "width", "height")
_SHOWN = 200
# What the metrics themselves know of lesions; all else travels in ``true_fields``.
PER_LESION = ("lesion_type", "noisy")
_CLASSES = {"classes": "boxes", "true_classes": "true_boxes"}


class _Required(TypedDict):
    id: str
    boxes: np.ndarray
    scores: np.ndarray
    true_boxes: np.ndarray
    width: float
    height: float


class Case(_Required, total=False):
    """The detections and the truth of one image, see the head of this module."""

    patient: str
    slice_interval: float
    spacing: tuple[float, float]
    box_padding: float
    lesion_type: np.ndarray
    noisy: np.ndarray
    ignored_boxes: np.ndarray
    classes: np.ndarray
    true_classes: np.ndarray
    class_names: tuple[str, ...]
    image: str
    window: tuple[float, float]
    fields: Instances[np.ndarray]
    true_fields: Instances[np.ndarray]


def shown_id(name: str) -> str:
    """The name of an image or volume for a message: on one line, and cut if it is long."""
    return name if name.isprintable() and len(name) <= _SHOWN else f"{name[:_SHOWN]!r}"


def _array(value: Any, dtype: type, key: str, where: str) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    try:
        return np.asarray(value, dtype=dtype)
    except (TypeError, ValueError, OverflowError):  # not numbers, lists of different lengths, or numbers too large
        raise ValueError(f"Expected numbers as {key}, got something else in case {where}.") from None


def _boxes(value: Any, key: str, where: str) -> np.ndarray:
    boxes = _array(value, np.float64, key, where)
    if boxes.size == 0:
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"Expected {key} of shape (N, 4), got {boxes.shape} in case {where}.")
    if not np.isfinite(boxes).all():
        row = int(np.flatnonzero(~np.isfinite(boxes).all(axis=1))[0])
        raise ValueError(f"Expected finite {key}, got {boxes[row].tolist()} in row {row} of case {where}.")
    check_upright(boxes, key, where)
    return boxes


def check_upright(boxes: np.ndarray, key: str, where: str) -> None:
    """Reject boxes that end before they begin, as ``x, y, width, height`` taken for corners often do.

    Args:
        boxes: ``(N, 4)`` finite slab-frame boxes; without width or height is legal.
        key: What they are, for the message.
        where: Identifier of their case.

    Raises:
        ValueError: Naming the first such box.
    """
    inverted = (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    if inverted.any():
        row = int(np.flatnonzero(inverted)[0])
        raise ValueError(
            f"Expected {key} as x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, got {boxes[row].tolist()} in row {row} of "
            f"case {where}."
        )


def _per_lesion(value: Any, key: str, count: int, where: str) -> np.ndarray:
    values = _array(value, bool if key == "noisy" else np.int64, key, where).reshape(-1)
    if len(values) != count:
        raise ValueError(f"Expected {count} values of {key}, one per lesion, got {len(values)} in case {where}.")
    return values


def _check_case(case: Mapping[str, Any], row: int) -> Case:
    if not isinstance(case, Mapping):
        raise ValueError(f"Expected a mapping as case, got {type(case).__name__} as case {row}.")
    missing = [key for key in _REQUIRED if key not in case]
    if missing:
        raise ValueError(f"Expected cases with the keys {', '.join(_REQUIRED)}, got no {missing[0]} in case {row}.")
    checked: Any = {**case, "id": str(case["id"])}
    where = shown_id(checked["id"])
    checked["boxes"] = _boxes(case["boxes"], "boxes", where)
    checked["true_boxes"] = _boxes(case["true_boxes"], "true_boxes", where)
    if case.get("ignored_boxes") is not None:
        checked["ignored_boxes"] = _boxes(case["ignored_boxes"], "ignored_boxes", where)
    checked["scores"] = _array(case["scores"], np.float64, "scores", where).reshape(-1)
    if len(checked["scores"]) != len(checked["boxes"]):
        raise ValueError(
            f"Expected one score per box, got {len(checked['scores'])} scores and {len(checked['boxes'])} boxes"
            f" in case {where}."
        )
    if not np.isfinite(checked["scores"]).all():
        raise ValueError(f"Expected finite scores, got {checked['scores'].tolist()} in case {where}.")
    for key in ("width", "height"):
        size = _array(case[key], np.float64, key, where)
        if size.size != 1 or not 0 < size.item() < np.inf:
            raise ValueError(f"Expected a positive image {key}, got {str(case[key])[:60]} in case {where}.")
        checked[key] = size.item()
    for key in PER_LESION:
        if case.get(key) is not None:
            checked[key] = _per_lesion(case[key], key, len(checked["true_boxes"]), where)
    for key, owner in _CLASSES.items():
        if case.get(key) is not None:
            checked[key] = _array(case[key], str, key, where).reshape(-1)
            check_rows({key: checked[key]}, len(checked[owner]), f"case {where}")
    for key, owner in (("fields", "boxes"), ("true_fields", "true_boxes")):
        try:
            checked[key] = to_arrays(case.get(key) or {})
        except (TypeError, ValueError, OverflowError, RuntimeError, AttributeError):
            raise ValueError(f"Expected arrays by name as {key}, got something else in case {where}.") from None
        check_rows(checked[key], len(checked[owner]), f"case {where}")
    return checked


def check_cases(cases: Sequence[Mapping[str, Any]]) -> list[Case]:
    """Check cases and bring their arrays to float64 (boxes, scores), int64 (types) and bool (noisy).

    Args:
        cases: One mapping per image, see the head of this module; arrays, tensors or lists.

    Returns:
        A new list of new dictionaries in the same order.

    Raises:
        ValueError: If there is no case, a key is missing, an identifier appears twice, or an array has
            the wrong shape or a value that is not finite, or a box ends before it begins. The message names the
            case.
    """
    if len(cases) == 0:
        raise ValueError("Expected at least one case (image) to evaluate, got none.")
    checked = [_check_case(case, row) for row, case in enumerate(cases)]
    seen: set[str] = set()
    for case in checked:
        if case["id"] in seen:
            raise ValueError(f"Expected one case per image, got {shown_id(case['id'])} twice.")
        seen.add(case["id"])
    return checked


def check_patients(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the patient of every case.

    Raises:
        ValueError: If a case names no patient.
    """
    for case in cases:
        if case.get("patient") in (None, ""):
            raise ValueError(
                f"Expected a patient in every case (the bootstrap draws patients), got none in {case['id']}."
            )
    return [str(case["patient"]) for case in cases]
