"""The figures of each class of an evaluation of images, next to those of all lesions together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..average_precision import average_precision
from ..bootstrap import interval, resample_ap50
from ..cases import Case
from ..free_response.class_cases import classes_told, of_class
from ..froc_numbers import PER_IMAGE, FrocNumbers, Interval, finite
from ..matching import FrocRule, match_detections
from ..tables import TextTable, percent

# Letters of a name in the table of plain text.
_NAME = 14


class ClassNumbers(FrocNumbers):
    """FROC and average precision of one class; None where it has no lesion."""

    lesions: int
    detections: int
    ap50: float | None
    ap50_interval: Interval
    ap75: float | None
    ap50_95: float | None


def class_figures(cases: Sequence[Case], rule: FrocRule, weights: np.ndarray) -> dict[str, ClassNumbers]:
    """The figures of each class by its name; none where the cases do not tell classes.

    Args:
        cases: Checked cases.
        rule: Matching of the FROC.
        weights: ``(R, images)`` from `Bootstrap.weights`.
    """
    return {name: _numbers(of_class(cases, name), rule, weights) for name in classes_told(cases)}


def _numbers(cases: Sequence[Mapping[str, Any]], rule: FrocRule, weights: np.ndarray) -> ClassNumbers:
    matches = match_detections(cases, rule)
    precision = average_precision(cases)
    return {
        "lesions": len(matches.lesion),
        "detections": len(matches.scores),
        **PER_IMAGE.numbers(matches, weights),
        "ap50": finite(precision.ap50),
        "ap50_interval": interval(resample_ap50(precision, weights)),
        "ap75": finite(precision.ap75),
        "ap50_95": finite(precision.ap50_95),
    }


def class_lines(metrics: Mapping[str, Any], text: TextTable) -> list[str]:
    """Lines of plain text: of each class its sensitivities, their intervals and its average precision."""
    lines = ["", "  by class (only its own lesions and detections)"] if "classes" in metrics else []
    for name, numbers in metrics.get("classes", {}).items():
        span = "" if numbers["ap50_interval"] is None else f" ({text.span(numbers['ap50_interval'])})"
        lines.append(text.values(f"  {name[:_NAME]} ({numbers['lesions']})", numbers))
        lines += [] if (spans := text.spans("    95 % interval", numbers)) is None else [spans]
        lines.append(
            f"      MAP@0.5 {percent(numbers['ap50'])}{span}, at IoU 0.75 {percent(numbers['ap75'])},"
            f" mean of 0.5-0.95 {percent(numbers['ap50_95'])}"
        )
    return lines


def class_groups(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The groups of the classes for ``sensitivity.csv``, each with its name there."""
    for name, numbers in metrics.get("classes", {}).items():
        yield f"class: {name}", {**numbers, "images": metrics["counts"]["images"]}
