"""Everything that is reported about a list of cases, as one dictionary.

`evaluate` only counts; `scripts.metrics.image.image_report` writes what it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..average_precision import average_precision
from ..bootstrap import Bootstrap, interval, resample_ap50, resample_found
from ..cases import check_cases, check_patients
from ..free_response.afroc import FigureOfMerit, afroc
from ..froc import curve_from_matches, threshold_at
from ..froc_numbers import PER_IMAGE, Counts, FrocNumbers, Group, Interval, Resampling, counts_at, finite
from ..matching import RELEASED, FrocRule, Matches, match_detections
from ..subgroups import lesion_groups
from .class_figures import ClassNumbers, class_figures


class _Pooled(FrocNumbers):
    """Figures of all lesions together."""

    rule: str
    counts: dict[str, int]
    sensitivity_strict: dict[str, float | None]
    sensitivity_strict_interval: dict[str, Interval]
    mean_sensitivity_strict: float | None
    mean_sensitivity_strict_interval: Interval
    ap50: float | None
    ap50_interval: Interval
    ap75: float | None
    ap50_95: float | None
    afroc: dict[str, FigureOfMerit]
    thresholds: dict[str, float | None]
    operating_points: dict[str, Counts]
    subgroups: dict[str, dict[str, Group]]
    bootstrap: Resampling


class ImageMetrics(_Pooled, total=False):
    """Content of an evaluation, see `evaluate`."""

    classes: dict[str, ClassNumbers]


def _lesion_splits(
    cases: Sequence[Mapping[str, Any]], matches: Matches, thresholds: np.ndarray, weights: np.ndarray
) -> dict[str, dict[str, Group]]:
    # NaN (never found) is below every threshold.
    with np.errstate(invalid="ignore"):
        found = matches.found_scores[:, None] >= thresholds[None, :]
    return {
        split: {
            name: {
                "lesions": int(mask.sum()),
                "sensitivity": PER_IMAGE.by_name(found[mask].mean(axis=0)),
                "sensitivity_interval": PER_IMAGE.intervals(
                    resample_found(found[mask], matches.lesion_image[mask], weights)
                ),
            }
            for name, mask in groups.items()
        }
        for split, groups in lesion_groups(cases, matches).items()
    }


def evaluate(
    cases: Sequence[Mapping[str, Any]], *, rule: FrocRule = RELEASED, bootstrap: Bootstrap | None = None
) -> ImageMetrics:
    """Score the detections of a test set.

    Args:
        cases: See `scripts.metrics.cases`; every case names its patient.
        rule: Matching of the FROC; its strict form is reported as well.
        bootstrap: How to resample patients for the intervals; 1,000 resamples by default.

    Returns:
        A dictionary that JSON can hold (None for what is not defined). Sensitivities are keyed by false
        positives per image, ``"0.5"`` .. ``"16"``; intervals are ``[low, high]``. Keys: ``rule``,
        ``counts``, ``sensitivity``, ``mean_sensitivity`` (over 0.5, 1, 2 and 4), ``ap50``, ``ap75``,
        ``ap50_95``, their ``..._interval``, ``afroc`` (see `scripts.metrics.free_response.afroc`),
        ``sensitivity_strict`` and ``mean_sensitivity_strict`` with intervals, ``thresholds`` and
        ``operating_points`` (see `counts_at`), ``subgroups`` and ``bootstrap``; ``classes`` (see `class_figures`)
        where the cases tell classes, which count as one in all other figures.

    Raises:
        ValueError: If there is no case, a case is malformed or names no patient.
    """
    checked = check_cases(cases)
    patients = check_patients(checked)
    bootstrap = bootstrap if bootstrap is not None else Bootstrap()
    weights = bootstrap.weights(patients)
    matches = match_detections(checked, rule)
    # The same matching, counted otherwise.
    strict = PER_IMAGE.numbers(replace(matches, rule=rule.strict()), weights)
    thresholds = threshold_at(curve_from_matches(matches))
    precision = average_precision(checked)
    metrics: ImageMetrics = {
        "rule": rule.name,
        "counts": {
            "images": len(checked),
            "images_without_lesions": sum(len(case["true_boxes"]) == 0 for case in checked),
            "patients": len(set(patients)),
            "lesions": len(matches.lesion),
            "lesions_left_out": matches.num_dropped,
            "detections": len(matches.scores),
        },
        **PER_IMAGE.numbers(matches, weights),
        "sensitivity_strict": strict["sensitivity"],
        "sensitivity_strict_interval": strict["sensitivity_interval"],
        "mean_sensitivity_strict": strict["mean_sensitivity"],
        "mean_sensitivity_strict_interval": strict["mean_sensitivity_interval"],
        "ap50": finite(precision.ap50),
        "ap50_interval": interval(resample_ap50(precision, weights)),
        "ap75": finite(precision.ap75),
        "ap50_95": finite(precision.ap50_95),
        "afroc": afroc(matches, weights),
        "thresholds": PER_IMAGE.by_name(thresholds),
        "operating_points": {
            name: counts_at(matches, threshold) for name, threshold in zip(PER_IMAGE.names, thresholds, strict=True)
        },
        "subgroups": {
            "slice_interval": PER_IMAGE.by_slice_interval(checked, matches, weights),
            **_lesion_splits(checked, matches, thresholds, weights),
        },
        "bootstrap": PER_IMAGE.resampling(bootstrap, weights),
    }
    if figures := class_figures(checked, rule, weights):
        metrics["classes"] = figures
    return metrics
