"""Everything that is reported about the detections of whole volumes, as one dictionary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from ..bootstrap import Bootstrap
from ..cases import check_patients
from ..free_response.afroc import FigureOfMerit, afroc
from ..free_response.class_cases import classes_told, of_class
from ..froc import FrocCurve, curve_from_matches, threshold_at
from ..froc_numbers import FrocNumbers, Group, Resampling, counts_at, finite
from ..matching import Matches
from .volume_matching import (
    FPS_PER_VOLUME,
    INCLUSIVE,
    PER_VOLUME,
    PROTOCOLS,
    Protocol,
    check_volumes,
    has_truth,
    match_volumes,
    pairwise_overlap,
)


class ProtocolNumbers(FrocNumbers, total=False):
    """What is reported of one protocol; ``found`` in 3D only."""

    dimension: str
    overlap: str
    threshold: float
    labels: str
    lesions: int
    volumes_without_lesions: int
    end_of_curve: dict[str, float | None]
    thresholds: dict[str, float | None]
    operating_points: dict[str, dict[str, float | None]]
    found: dict[str, float | None]
    afroc: dict[str, FigureOfMerit]


class ClassVolumes(TypedDict):
    """Figures of one class: its lesions and detections, and its FROC by protocol."""

    lesions: int
    detections: int
    protocols: dict[str, FrocNumbers]


class _Pooled(TypedDict):
    """Figures of all lesions together."""

    main: str
    counts: dict[str, int]
    protocols: dict[str, ProtocolNumbers]
    subgroups: dict[str, dict[str, Group]]
    bootstrap: Resampling


class VolumeMetrics(_Pooled, total=False):
    """Content of an evaluation, see `evaluate_volumes`."""

    classes: dict[str, ClassVolumes]


def applicable(cases: Sequence[Mapping[str, Any]], protocols: Sequence[Protocol] = PROTOCOLS) -> list[Protocol]:
    """The protocols for which the cases hold labels; the first one is the main one.

    Raises:
        ValueError: If the cases hold no labels.
    """
    chosen = [protocol for protocol in protocols if has_truth(cases, protocol)]
    if not chosen:
        raise ValueError("Expected volumes with true_boxes or key_boxes, got neither.")
    return chosen


def _end(curve: FrocCurve) -> dict[str, float | None]:
    """Where a curve ends: all detections counted."""
    if len(curve.scores) == 0:
        return {"fps_per_volume": 0.0, "sensitivity": None if curve.num_lesions == 0 else 0.0}
    return {"fps_per_volume": float(curve.fps_per_image[-1]), "sensitivity": finite(curve.sensitivity[-1])}


def found_overlaps(cases: Sequence[Mapping[str, Any]], matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """How well the boxes fit that found the lesions of `Protocol.truth` ``true_boxes``.

    Args:
        cases: The checked cases.
        matches: Their matches under a protocol in 3D.

    Returns:
        ``(L,)`` IoU in 3D of each lesion with the detection that found it, and ``(L,)`` volume of that detection
        as a multiple of the lesion's; NaN where the lesion was not found.
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


def _point(matches: Matches, threshold: float) -> dict[str, float | None]:
    point: dict[str, Any] = {**counts_at(matches, threshold)}
    point["fps_per_volume"] = point.pop("fps_per_image")
    return point


def _protocol_numbers(
    cases: Sequence[Mapping[str, Any]], protocol: Protocol, matches: Matches, weights: np.ndarray
) -> ProtocolNumbers:
    curve = curve_from_matches(matches)
    thresholds = threshold_at(curve, FPS_PER_VOLUME)
    points = zip(PER_VOLUME.names, thresholds, strict=True)
    numbers: ProtocolNumbers = {
        "dimension": protocol.dimension,
        "overlap": protocol.overlap,
        "threshold": protocol.threshold,
        "labels": "3D boxes" if protocol.truth == "true_boxes" else "boxes on key slices",
        "lesions": len(matches.lesion),
        "volumes_without_lesions": int(matches.num_images - len(np.unique(matches.lesion_image))),
        **PER_VOLUME.numbers(matches, weights),
        "afroc": afroc(matches, weights),
        "end_of_curve": _end(curve),
        "thresholds": PER_VOLUME.by_name(thresholds),
        "operating_points": {name: _point(matches, threshold) for name, threshold in points},
    }
    if protocol.dimension == "3D":
        fit, ratio = found_overlaps(cases, matches)
        found = ~np.isnan(fit)
        numbers["found"] = {
            "lesions": int(found.sum()),
            "median_iou": float(np.median(fit[found])) if found.any() else None,
            "median_volume_ratio": float(np.median(ratio[found])) if found.any() else None,
        }
    return numbers


def _class_volumes(cases: Sequence[Mapping[str, Any]], weights: np.ndarray) -> ClassVolumes:
    """The figures of one class under the protocols in 3D."""
    matches = {protocol.name: match_volumes(cases, protocol) for protocol in applicable(cases)}
    first = next(iter(matches.values()))
    return {
        "lesions": len(first.lesion),
        "detections": len(first.scores),
        "protocols": {name: PER_VOLUME.numbers(one, weights) for name, one in matches.items()},
    }


def evaluate_volumes(
    cases: Sequence[Mapping[str, Any]], *, bootstrap: Bootstrap | None = None
) -> tuple[VolumeMetrics, dict[str, Matches]]:
    """Score the detections of volumes under every protocol for which they hold labels.

    Args:
        cases: See `scripts.metrics.volume.volume_matching`; every case names its patient.
        bootstrap: How to resample patients for the intervals; 1,000 resamples by default.

    Returns:
        A dictionary that JSON can hold (None for what is not defined), with ``main`` (name of the protocol that
        the labels are for), ``counts``, ``protocols`` by name (``sensitivity`` by false positives per volume,
        ``"0.125"`` .. ``"16"``; ``mean_sensitivity`` over 0.125 to 8; their ``..._interval``; ``afroc``;
        ``end_of_curve``; ``thresholds``; ``operating_points``; in 3D ``found``, the fit of the boxes that found a
        lesion), ``subgroups`` by slice interval under the main protocol, ``bootstrap``, and ``classes`` by name where
        the cases tell classes, which count as one in all other figures; and the matches by protocol.

    Raises:
        ValueError: If there is no case, a case is malformed or names no patient, or there are no labels.
    """
    checked = check_volumes(cases)
    patients = check_patients(checked)
    bootstrap = bootstrap if bootstrap is not None else Bootstrap()
    weights = bootstrap.weights(patients)
    protocols = applicable(checked)
    matches = {protocol.name: match_volumes(checked, protocol) for protocol in protocols}
    metrics: VolumeMetrics = {
        "main": protocols[0].name,
        "counts": {
            "volumes": len(checked),
            "patients": len(set(patients)),
            "detections": sum(len(case["scores"]) for case in checked),
        },
        "protocols": {
            protocol.name: _protocol_numbers(checked, protocol, matches[protocol.name], weights)
            for protocol in protocols
        },
        "subgroups": {
            "slice_interval": PER_VOLUME.by_slice_interval(checked, matches[protocols[0].name], weights),
        },
        "bootstrap": PER_VOLUME.resampling(bootstrap, weights),
    }
    if names := classes_told(checked):
        metrics["classes"] = {name: _class_volumes(of_class(checked, name), weights) for name in names}
    return metrics, matches
