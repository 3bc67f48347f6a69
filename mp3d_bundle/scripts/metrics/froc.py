"""FROC: lesions found against false positives per image (paper section 3.1; the released code's numbers).

`froc_curve` gives one point per detection, from the highest score down; `sensitivity_at` reads it at
numbers of false positives per image; `threshold_at` says which score gives that many. `released_points`
repeats the list that the released code prints, for comparison with it.

Where the released code has no answer this one does: detections without any false positive reach their
sensitivity at every target, no detection at all gives 0, a target beyond the last false positive gives
the last sensitivity, and one before the first false positive, when even the best score is wrong, gives 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .matching import RELEASED, FrocRule, Matches, match_detections

# Operating points: the paper reports the first four and their mean; the field also reports 8 and 16.
FPS_PER_IMAGE = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
MEAN_FPS_PER_IMAGE = (0.5, 1.0, 2.0, 4.0)


def target_name(target: float) -> str:
    """Name of an operating point in reports: ``0.5``, ``1``, ``16``."""
    return f"{target:g}"


@dataclass(frozen=True)
class FrocCurve:
    """A FROC curve; point ``i`` counts the ``i + 1`` highest scores.

    Attributes:
        fps_per_image: ``(M,)`` float64, false positives / images (images without lesions included).
        sensitivity: ``(M,)`` float64 in [0, 1], lesions found / lesions; NaN when there is no lesion.
        scores: ``(M,)`` float64, descending.
        num_images: Images, those without lesions included.
        num_lesions: Lesions that count under the rule.
        rule: The rule of the matching.
    """

    fps_per_image: np.ndarray
    sensitivity: np.ndarray
    scores: np.ndarray
    num_images: int
    num_lesions: int
    rule: FrocRule


def curve_from_matches(matches: Matches) -> FrocCurve:
    """Build the FROC curve of matched detections."""
    num_lesions = len(matches.lesion)
    # A detection in a region to ignore adds no point to the curve.
    counts = slice(None) if matches.neutral is None else ~matches.neutral
    with np.errstate(invalid="ignore"):
        sensitivity = np.cumsum(matches.hits[counts]) / np.float64(num_lesions)
    return FrocCurve(
        fps_per_image=np.cumsum(matches.false_positives[counts]) / matches.num_images,
        sensitivity=sensitivity,
        scores=matches.scores[counts],
        num_images=matches.num_images,
        num_lesions=num_lesions,
        rule=matches.rule,
    )


def froc_curve(cases: Sequence[Mapping[str, Any]], rule: FrocRule = RELEASED) -> FrocCurve:
    """Compute the FROC curve of a list of cases.

    Args:
        cases: See `scripts.metrics.cases`.
        rule: The details of the matching.

    Returns:
        The curve, one point per detection.

    Raises:
        ValueError: If there is no case or a case is malformed.
    """
    return curve_from_matches(match_detections(cases, rule))


def _on_segment(x: np.ndarray, y: np.ndarray, value: float) -> float:
    """Interpolate linearly on ascending x; among equal x the first counts; outside the ends the line is extended.

    A curve that starts with a vertical stretch has no slope to extend: its first point is the answer.
    """
    if len(x) == 1:
        return float(y[0])
    high = int(np.clip(np.searchsorted(x, value), 1, len(x) - 1))
    low = high - 1
    if x[high] == x[low]:
        return float(y[low])
    slope = (y[high] - y[low]) / (x[high] - x[low])
    return float(slope * (value - x[low]) + y[low])


def interpolate_curve(fps: np.ndarray, sensitivity: np.ndarray, targets: Sequence[float], rule: FrocRule) -> np.ndarray:
    """Read a curve at numbers of false positives per image.

    Args:
        fps: ``(M,)`` ascending false positives per image.
        sensitivity: ``(M,)`` ascending sensitivities; ``M = 0`` is legal.
        targets: False positives per image, not negative.
        rule: Its ``shared_fps`` says which of several points with the same ``fps`` counts, its ``beyond`` what is after
            the last.

    Returns:
        ``(T,)`` float64: linear between points, 0 before the first, by the rule after the last.
    """
    if len(fps) == 0:
        return np.zeros(len(targets))
    values = _between(fps, sensitivity, targets, rule)
    after = np.asarray(targets) > fps[-1]
    if rule.beyond == "nothing":
        return np.where(after, np.nan, values)
    return np.where(after, _beyond(fps, sensitivity, targets), values) if rule.beyond == "line" else values


def _beyond(fps: np.ndarray, sensitivity: np.ndarray, targets: Sequence[float]) -> np.ndarray:
    """A line through the last two points of a curve, level where they have the same false positives."""
    run = fps[-1] - fps[-2] if len(fps) > 1 else 0.0
    slope = (sensitivity[-1] - sensitivity[-2]) / run if run > 0 else 0.0
    return np.minimum(sensitivity[-1] + slope * (np.asarray(targets) - fps[-1]), 1.0)


def _between(fps: np.ndarray, sensitivity: np.ndarray, targets: Sequence[float], rule: FrocRule) -> np.ndarray:
    """Read a curve of at least one point; after the last one its sensitivity."""
    if rule.shared_fps == "last":
        return np.interp(targets, fps, sensitivity, left=0.0)
    values = np.empty(len(targets))
    for index, target in enumerate(targets):
        if target < fps[0]:
            values[index] = 0.0
        elif target > fps[-1]:
            values[index] = sensitivity[-1]
        elif target == fps[0]:
            values[index] = sensitivity[0]
        else:
            values[index] = _on_segment(fps, sensitivity, target)
    return values


def _check_targets(targets: Sequence[float]) -> None:
    if any(not (np.isfinite(target) and target >= 0) for target in targets):
        raise ValueError(f"Expected false positives per image of at least 0, got {list(targets)}.")


def sensitivity_at(curve: FrocCurve, targets: Sequence[float] = FPS_PER_IMAGE) -> np.ndarray:
    """Sensitivity at numbers of false positives per image.

    Args:
        curve: A FROC curve.
        targets: False positives per image.

    Returns:
        ``(T,)`` float64 in [0, 1]; NaN when the cases have no lesion.

    Raises:
        ValueError: If a target is negative or not finite.
    """
    _check_targets(targets)
    if curve.num_lesions == 0:
        return np.full(len(targets), np.nan)
    return interpolate_curve(curve.fps_per_image, curve.sensitivity, targets, curve.rule)


def threshold_at(curve: FrocCurve, targets: Sequence[float] = FPS_PER_IMAGE) -> np.ndarray:
    """Lowest score threshold that stays within numbers of false positives per image.

    Keeping the detections with ``score >= threshold`` gives at most the target. Equal scores stay together.

    Args:
        curve: A FROC curve.
        targets: False positives per image.

    Returns:
        ``(T,)`` float64; ``inf`` where even the highest score gives too many (or nothing was detected).

    Raises:
        ValueError: If a target is negative or not finite.
    """
    _check_targets(targets)
    if len(curve.scores) == 0:
        return np.full(len(targets), np.inf)
    last_of_ties = np.append(curve.scores[1:] != curve.scores[:-1], True)
    fps = curve.fps_per_image[last_of_ties]
    scores = np.append(np.inf, curve.scores[last_of_ties])
    return scores[np.searchsorted(fps, targets, side="right")]


def released_points(
    curve: FrocCurve, targets: Sequence[float] = MEAN_FPS_PER_IMAGE
) -> list[tuple[float, float, float]]:
    """The list that the released code prints: targets on the curve, then the curve's end.

    Targets beyond the last false positive are dropped and the last point is appended; a target before the
    first one extrapolates the first two points. The score is read off the curve of score against
    sensitivity, so that it is the one at which the sensitivity is reached first, not `threshold_at`.

    Args:
        curve: A FROC curve of the rule `RELEASED`.
        targets: False positives per image.

    Returns:
        ``(false positives per image, sensitivity, score)`` of each point. Where the released code gives NaN
        or raises: without false positives the curve's end, without detections ``(0, 0, inf)``, and at a
        vertical start of either curve its first point.
    """
    _check_targets(targets)
    if len(curve.scores) == 0:
        return [(0.0, 0.0, np.inf)]
    last = float(curve.fps_per_image[-1])
    if last == 0.0:
        # No false positive at all: the whole curve is one vertical line.
        return [(0.0, float(curve.sensitivity[-1]), float(curve.scores[-1]))]
    points = []
    for target in [*(target for target in targets if target <= last), last]:
        sensitivity = _on_segment(curve.fps_per_image, curve.sensitivity, target)
        score = _on_segment(curve.sensitivity, curve.scores, sensitivity)
        points.append((float(target), sensitivity, score))
    return points
