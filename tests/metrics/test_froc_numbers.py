"""Operating points by name, their means and intervals, and counts at a threshold."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.metrics.bootstrap import Bootstrap
from scripts.metrics.froc import curve_from_matches, sensitivity_at, threshold_at
from scripts.metrics.froc_numbers import PER_IMAGE, OperatingPoints, counts_at, finite
from scripts.metrics.matching import RELEASED, STRICT, match_detections
from support.fake_evaluations import image_cases


def test_counts_at_a_threshold() -> None:
    lesion, elsewhere = [10.0, 10.0, 40.0, 40.0], [80.0, 80.0, 99.0, 99.0]
    case = {
        "id": "a",
        "boxes": [lesion, lesion, elsewhere],
        "scores": [0.9, 0.6, 0.5],
        "true_boxes": [lesion, [60.0, 10.0, 99.0, 40.0]],
        "width": 100,
        "height": 100,
    }
    matches = match_detections([case], RELEASED)
    assert counts_at(matches, 0.6) == {
        "threshold": 0.6,
        "lesions_found": 1,
        "lesions_missed": 1,
        "false_positives": 0,
        "duplicates": 1,
        "fps_per_image": 0.0,
        "sensitivity": 0.5,
    }
    assert counts_at(matches, 0.5)["false_positives"] == 1
    assert counts_at(match_detections([case], STRICT), 0.5)["false_positives"] == 2
    assert counts_at(matches, float("inf"))["lesions_found"] == 0


def test_json_gets_none_for_nan() -> None:
    assert finite(0.5) == 0.5
    assert finite(float("nan")) is None
    assert finite(float("inf")) is None


@pytest.mark.parametrize("points", [PER_IMAGE, OperatingPoints("volume", (0.125, 3.0), (3.0,))])
def test_numbers_are_those_of_the_curve_at_the_points(points: OperatingPoints) -> None:
    matches = match_detections(image_cases())
    weights = Bootstrap(resamples=30).weights([str(number // 2) for number in range(24)])
    numbers = points.numbers(matches, weights)
    values = sensitivity_at(curve_from_matches(matches), points.targets)
    assert list(numbers["sensitivity"].values()) == values.tolist()
    averaged = [value for target, value in zip(points.targets, values, strict=True) if target in points.mean_over]
    assert numbers["mean_sensitivity"] == pytest.approx(np.mean(averaged))
    assert list(numbers["sensitivity_interval"]) == list(numbers["sensitivity"]) == points.names
    low, high = numbers["mean_sensitivity_interval"] or (np.nan, np.nan)
    assert 0 <= low < high <= 1
    assert points.resampling(Bootstrap(resamples=30, seed=4), weights)["seed"] == 4


def test_groups_by_slice_interval_hold_every_image_and_lesion_once() -> None:
    cases = image_cases()
    matches = match_detections(cases)
    weights = Bootstrap(resamples=5).weights([case["patient"] for case in cases])
    groups = PER_IMAGE.by_slice_interval(cases, matches, weights)
    assert list(groups) == ["1 mm", "5 mm"]
    assert sum(group["images"] for group in groups.values()) == 24
    assert sum(group["lesions"] for group in groups.values()) == len(matches.lesion)
    assert "volumes" in OperatingPoints("volume", (1.0,), (1.0,)).by_slice_interval(cases, matches, weights)["1 mm"]


def test_a_threshold_of_a_point_stays_within_its_false_positives() -> None:
    matches = match_detections(image_cases())
    curve = curve_from_matches(matches)
    for target, threshold in zip(PER_IMAGE.targets, threshold_at(curve, PER_IMAGE.targets), strict=True):
        assert counts_at(matches, threshold)["fps_per_image"] <= target
