"""Cases of several classes, one class at a time: only its lesions, and only the detections that name it.

Every image or volume stays in the cases of every class, so false positives are counted per image of the whole set, and
so do regions to ignore. Which classes there are is the ``class_names`` of the first case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# What has a row for each detection and for each lesion of a case.
_FOUND = ("boxes", "scores", "classes")
_TRUE = ("true_boxes", "true_classes", "lesion_type", "noisy")
_FIELDS = {"fields": "classes", "true_fields": "true_classes"}
# Lesions on key slices have no class, and tracks serve them alone.
_WITHOUT_CLASS = ("key_boxes", "tracks")


def classes_told(cases: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The classes by which cases can be scored, in their order.

    Returns:
        At least two names; none where the set has one class, or a case does not tell the class of its lesions and
        detections.
    """
    names = tuple(cases[0].get("class_names") or ())
    told = all(case.get(key) is not None for case in cases for key in ("classes", "true_classes"))
    return names if told and len(names) > 1 else ()


def of_class(cases: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """Checked cases with the lesions and detections of one class alone; a detection of another finds nothing."""
    return [_one(case, name) for case in cases]


def _one(case: Mapping[str, Any], name: str) -> dict[str, Any]:
    rows = {key: case[key] == name for key in _FIELDS.values()}
    kept: dict[str, Any] = {key: value for key, value in case.items() if key not in _WITHOUT_CLASS}
    for keys, of in ((_FOUND, "classes"), (_TRUE, "true_classes")):
        kept |= {key: case[key][rows[of]] for key in keys if case.get(key) is not None}
    for key, of in _FIELDS.items():
        if key in case:
            kept[key] = {field: values[rows[of]] for field, values in case[key].items()}
    return kept


def names_in_set(own: Sequence[str], known: Sequence[str]) -> tuple[str, ...] | None:
    """What the classes of a network are called in a data set.

    Args:
        own: Their names in the network, in the order of its labels.
        known: The names of the data set.

    Returns:
        Their own names if the data set has one of them; otherwise the names of the data set, in their order, if they
        are as many; else None, as where one of the two does not distinguish classes.
    """
    if len(own) < 2 or len(known) < 2:
        return None
    if set(own) & set(known):
        return tuple(own)
    return tuple(known) if len(own) == len(known) else None


def named(labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The names of labels ``(N,)``, which count from 1; "" for one that has none."""
    by_label = dict(enumerate(names, start=1))
    return np.array([by_label.get(label, "") for label in labels.tolist()], dtype=str)
