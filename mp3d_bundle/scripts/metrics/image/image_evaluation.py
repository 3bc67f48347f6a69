"""Everything that is reported about a list of cases, as one dictionary.

`evaluate` only counts; `scripts.metrics.image.image_report` writes what it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..average_precision import AveragePrecision, average_precision
from ..bootstrap import (
    LEVEL,
    Bootstrap,
    interval,
    mean_sensitivity,
    resample_ap50,
    resample_found,
    resample_sensitivity,
)
from ..cases import check_cases, check_patients
from ..froc import FPS_PER_IMAGE, MEAN_FPS_PER_IMAGE, curve_from_matches, sensitivity_at, threshold_at
from ..matching import RELEASED, FrocRule, Matches, match_detections, select_images
from ..subgroups import group_members, interval_group, lesion_groups


def target_name(target: float) -> str:
    """Name of an operating point in reports: ``0.5``, ``1``, ``16``."""
    return f"{target:g}"


def _value(number: float) -> float | None:
    """A float for JSON, which knows neither NaN nor infinity."""
    return float(number) if np.isfinite(number) else None


def _by_target(values: np.ndarray) -> dict[str, float | None]:
    return {target_name(target): _value(value) for target, value in zip(FPS_PER_IMAGE, values, strict=True)}


def _intervals(samples: np.ndarray) -> dict[str, list[float] | None]:
    return {target_name(target): interval(samples[:, column]) for column, target in enumerate(FPS_PER_IMAGE)}


def _froc(matches: Matches, weights: np.ndarray) -> dict[str, Any]:
    """Sensitivities of matched images with their intervals."""
    values = sensitivity_at(curve_from_matches(matches))
    samples = resample_sensitivity(matches, weights)
    return {
        "sensitivity": _by_target(values),
        "sensitivity_interval": _intervals(samples),
        "mean_sensitivity": _value(float(mean_sensitivity(values, FPS_PER_IMAGE))),
        "mean_sensitivity_interval": interval(mean_sensitivity(samples, FPS_PER_IMAGE)),
    }


def counts_at(matches: Matches, threshold: float) -> dict[str, Any]:
    """Count hits, misses and false positives when only scores of at least ``threshold`` are kept.

    Args:
        matches: Matches of all images.
        threshold: Lowest score kept; ``inf`` keeps nothing.

    Returns:
        ``threshold``, ``lesions_found`` (true positives), ``lesions_missed`` (false negatives),
        ``false_positives`` and ``duplicates`` (both as detections; under a strict rule a duplicate is a
        false positive too), ``fps_per_image`` and ``sensitivity``.
    """
    kept = matches.scores >= threshold
    found = int(matches.hits[kept].sum())
    lesions = len(matches.lesion)
    false_positives = int(matches.false_positives[kept].sum())
    return {
        "threshold": _value(threshold),
        "lesions_found": found,
        "lesions_missed": lesions - found,
        "false_positives": false_positives,
        "duplicates": int((matches.outcomes[kept] == "duplicate").sum()),
        "fps_per_image": false_positives / matches.num_images,
        "sensitivity": found / lesions if lesions else None,
    }


def _lesion_splits(
    cases: Sequence[Mapping[str, Any]], matches: Matches, thresholds: np.ndarray, weights: np.ndarray
) -> dict[str, Any]:
    # NaN (never found) is below every threshold.
    with np.errstate(invalid="ignore"):
        found = matches.found_scores[:, None] >= thresholds[None, :]
    splits: dict[str, Any] = {}
    for split, groups in lesion_groups(cases, matches).items():
        splits[split] = {
            name: {
                "lesions": int(mask.sum()),
                "sensitivity": _by_target(found[mask].mean(axis=0)),
                "sensitivity_interval": _intervals(resample_found(found[mask], matches.lesion_image[mask], weights)),
            }
            for name, mask in groups.items()
        }
    return splits


def _interval_split(cases: Sequence[Mapping[str, Any]], matches: Matches, weights: np.ndarray) -> dict[str, Any]:
    split = {}
    for name, mask in group_members([interval_group(case) for case in cases]).items():
        group = select_images(matches, mask)
        split[name] = {
            "images": group.num_images,
            "lesions": len(group.lesion),
            **_froc(group, weights[:, mask]),
        }
    return split


def _counts(cases: Sequence[Mapping[str, Any]], patients: Sequence[str], matches: Matches) -> dict[str, int]:
    return {
        "images": len(cases),
        "images_without_lesions": sum(len(case["true_boxes"]) == 0 for case in cases),
        "patients": len(set(patients)),
        "lesions": len(matches.lesion),
        "lesions_left_out": matches.num_dropped,
        "detections": len(matches.scores),
    }


def _average_precision(result: AveragePrecision, weights: np.ndarray) -> dict[str, Any]:
    return {
        "ap50": _value(result.ap50),
        "ap50_interval": interval(resample_ap50(result, weights)),
        "ap75": _value(result.ap75),
        "ap50_95": _value(result.ap50_95),
    }


def evaluate(
    cases: Sequence[Mapping[str, Any]], *, rule: FrocRule = RELEASED, bootstrap: Bootstrap | None = None
) -> dict[str, Any]:
    """Score the detections of a test set.

    Args:
        cases: See `scripts.metrics.cases`; every case names its patient.
        rule: Matching of the FROC; its strict form is reported beside it.
        bootstrap: How to resample patients for the intervals; 1,000 resamples by default.

    Returns:
        A dictionary that JSON can hold (None for what is not defined). Sensitivities are keyed by false
        positives per image, ``"0.5"`` .. ``"16"``; intervals are ``[low, high]``. Keys: ``rule``,
        ``counts``, ``sensitivity``, ``mean_sensitivity`` (over 0.5, 1, 2 and 4), ``ap50``, ``ap75``,
        ``ap50_95``, their ``..._interval``, ``sensitivity_strict`` and ``mean_sensitivity_strict`` with
        intervals, ``thresholds`` and ``operating_points`` (see `counts_at`), ``subgroups`` and
        ``bootstrap``.

    Raises:
        ValueError: If there is no case, a case is malformed or names no patient.
    """
    checked = check_cases(cases)
    patients = check_patients(checked)
    bootstrap = bootstrap if bootstrap is not None else Bootstrap()
    weights = bootstrap.weights(patients)
    matches = match_detections(checked, rule)
    strict = replace(matches, rule=rule.strict())  # the same matching, counted otherwise
    thresholds = threshold_at(curve_from_matches(matches))
    return {
        "rule": rule.name,
        "counts": _counts(checked, patients, matches),
        **_froc(matches, weights),
        **{key.replace("sensitivity", "sensitivity_strict"): value for key, value in _froc(strict, weights).items()},
        **_average_precision(average_precision(checked), weights),
        "thresholds": _by_target(thresholds),
        "operating_points": {
            target_name(target): counts_at(matches, threshold)
            for target, threshold in zip(FPS_PER_IMAGE, thresholds, strict=True)
        },
        "subgroups": {
            "slice_interval": _interval_split(checked, matches, weights),
            **_lesion_splits(checked, matches, thresholds, weights),
        },
        "bootstrap": {
            "unit": "patient",
            "level": LEVEL,
            "resamples": len(weights),
            "seed": bootstrap.seed,
            "mean_over": list(MEAN_FPS_PER_IMAGE),
        },
    }
