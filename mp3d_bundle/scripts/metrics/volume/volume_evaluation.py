"""Everything that is reported about the detections of whole volumes, as one dictionary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..bootstrap import LEVEL, Bootstrap, interval, resample_sensitivity
from ..cases import check_patients
from ..froc import FrocCurve, curve_from_matches, sensitivity_at, threshold_at
from ..image.image_evaluation import counts_at, target_name
from ..matching import Matches, select_images
from ..subgroups import group_members, interval_group
from .volume_matching import (
    FPS_PER_VOLUME,
    INCLUSIVE,
    MEAN_FPS_PER_VOLUME,
    PROTOCOLS,
    Protocol,
    check_volumes,
    has_truth,
    match_volumes,
    pairwise_overlap,
)

_MEAN_COLUMNS = [FPS_PER_VOLUME.index(target) for target in MEAN_FPS_PER_VOLUME]


def applicable(cases: Sequence[Mapping[str, Any]], protocols: Sequence[Protocol] = PROTOCOLS) -> list[Protocol]:
    """The protocols for which the cases hold labels; the first one is the main one.

    Raises:
        ValueError: If there is none.
    """
    chosen = [protocol for protocol in protocols if has_truth(cases, protocol)]
    if not chosen:
        raise ValueError("Expected volumes with true_boxes or key_boxes, got neither.")
    return chosen


def _number(value: float) -> float | None:
    """A float for JSON, which knows neither NaN nor infinity."""
    return float(value) if np.isfinite(value) else None


def _by_target(values: np.ndarray) -> dict[str, float | None]:
    return {target_name(target): _number(value) for target, value in zip(FPS_PER_VOLUME, values, strict=True)}


def froc_figures(matches: Matches, weights: np.ndarray) -> dict[str, Any]:
    """Sensitivities of matched volumes, their mean over 0.125 to 8 false positives per volume, and intervals.

    Args:
        matches: Matches of the volumes.
        weights: ``(R, volumes)`` from `Bootstrap.weights`.
    """
    values = sensitivity_at(curve_from_matches(matches), FPS_PER_VOLUME)
    samples = resample_sensitivity(matches, weights, FPS_PER_VOLUME)
    return {
        "sensitivity": _by_target(values),
        "sensitivity_interval": {
            target_name(target): interval(samples[:, column]) for column, target in enumerate(FPS_PER_VOLUME)
        },
        "mean_sensitivity": _number(values[_MEAN_COLUMNS].mean()),
        "mean_sensitivity_interval": interval(samples[:, _MEAN_COLUMNS].mean(axis=1)),
    }


def _end(curve: FrocCurve) -> dict[str, float | None]:
    """Where the curve ends: all detections counted."""
    if len(curve.scores) == 0:
        return {"fps_per_volume": 0.0, "sensitivity": None if curve.num_lesions == 0 else 0.0}
    return {"fps_per_volume": float(curve.fps_per_image[-1]), "sensitivity": _number(curve.sensitivity[-1])}


def found_overlaps(cases: Sequence[Mapping[str, Any]], matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """How well the boxes fit that found the lesions of `Protocol.truth` ``true_boxes``.

    Args:
        cases: The checked cases.
        matches: Their matches under a protocol in 3D.

    Returns:
        ``(L,)`` IoU in 3D of each lesion with the detection that found it, and ``(L,)`` volume of that detection
        as a multiple of the lesion's; NaN where nothing did.
    """
    fit, ratio = np.full(len(matches.lesion), np.nan), np.full(len(matches.lesion), np.nan)
    for row in np.flatnonzero(matches.found_by >= 0):
        case = cases[matches.lesion_image[row]]
        box = case["boxes"][matches.detection[matches.found_by[row]]]
        lesion = case["true_boxes"][matches.lesion[row]]
        fit[row] = pairwise_overlap(box[None], lesion[None], dimension="3D", overlap="IOU")[0, 0]
        sizes = [np.prod(one[3:] - one[:3] + INCLUSIVE) for one in (box, lesion)]
        ratio[row] = sizes[0] / sizes[1]
    return fit, ratio


def _protocol_figures(
    cases: Sequence[Mapping[str, Any]], protocol: Protocol, matches: Matches, weights: np.ndarray
) -> dict[str, Any]:
    curve = curve_from_matches(matches)
    thresholds = threshold_at(curve, FPS_PER_VOLUME)
    points = {}
    for target, threshold in zip(FPS_PER_VOLUME, thresholds, strict=True):
        point = counts_at(matches, threshold)
        point["fps_per_volume"] = point.pop("fps_per_image")
        points[target_name(target)] = point
    figures = {
        "dimension": protocol.dimension,
        "overlap": protocol.overlap,
        "threshold": protocol.threshold,
        "labels": "3D boxes" if protocol.truth == "true_boxes" else "boxes on key slices",
        "lesions": len(matches.lesion),
        "volumes_without_lesions": int(matches.num_images - len(np.unique(matches.lesion_image))),
        **froc_figures(matches, weights),
        "end_of_curve": _end(curve),
        "thresholds": _by_target(thresholds),
        "operating_points": points,
    }
    if protocol.dimension == "3D":
        fit, ratio = found_overlaps(cases, matches)
        found = ~np.isnan(fit)
        figures["found"] = {
            "lesions": int(found.sum()),
            "median_iou": float(np.median(fit[found])) if found.any() else None,
            "median_volume_ratio": float(np.median(ratio[found])) if found.any() else None,
        }
    return figures


def evaluate_volumes(
    cases: Sequence[Mapping[str, Any]], *, bootstrap: Bootstrap | None = None
) -> tuple[dict[str, Any], dict[str, Matches]]:
    """Score the detections of volumes under every protocol for which they hold labels.

    Args:
        cases: See `scripts.metrics.volume.volume_matching`; every case names its patient.
        bootstrap: How to resample patients for the intervals; 1,000 resamples by default.

    Returns:
        A dictionary that JSON can hold (None for what is not defined), with ``main`` (name of the protocol that
        the labels are for), ``counts``, ``protocols`` by name (``sensitivity`` by false positives per volume,
        ``"0.125"`` .. ``"16"``; ``mean_sensitivity`` over 0.125 to 8; their ``..._interval``; ``end_of_curve``;
        ``thresholds``; ``operating_points``; in 3D ``found``, the fit of the boxes that found a lesion),
        ``subgroups`` by slice interval under the main protocol, and ``bootstrap``; and the matches by protocol.

    Raises:
        ValueError: If there is no case, a case is malformed or names no patient, or there are no labels.
    """
    checked = check_volumes(cases)
    patients = check_patients(checked)
    bootstrap = bootstrap if bootstrap is not None else Bootstrap()
    weights = bootstrap.weights(patients)
    protocols = applicable(checked)
    matches = {protocol.name: match_volumes(checked, protocol) for protocol in protocols}
    main = matches[protocols[0].name]
    groups = group_members([interval_group(case) for case in checked])
    metrics = {
        "main": protocols[0].name,
        "counts": {
            "volumes": len(checked),
            "patients": len(set(patients)),
            "detections": sum(len(case["scores"]) for case in checked),
        },
        "protocols": {
            protocol.name: _protocol_figures(checked, protocol, matches[protocol.name], weights)
            for protocol in protocols
        },
        "subgroups": {"slice_interval": {name: _group(main, mask, weights) for name, mask in groups.items()}},
        "bootstrap": {
            "unit": "patient",
            "level": LEVEL,
            "resamples": len(weights),
            "seed": bootstrap.seed,
            "mean_over": list(MEAN_FPS_PER_VOLUME),
        },
    }
    return metrics, matches


def _group(matches: Matches, mask: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    group = select_images(matches, mask)
    return {"volumes": group.num_images, "lesions": len(group.lesion), **froc_figures(group, weights[:, mask])}
