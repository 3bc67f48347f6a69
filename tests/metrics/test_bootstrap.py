"""Intervals over patients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scripts.metrics.average_precision import average_precision
from scripts.metrics.bootstrap import (
    Bootstrap,
    interval,
    mean_sensitivity,
    resample_ap50,
    resample_found,
    resample_sensitivity,
    weighted_ap50,
)
from scripts.metrics.froc import FPS_PER_IMAGE, curve_from_matches, froc_curve, sensitivity_at
from scripts.metrics.matching import MULAN, RELEASED, STRICT, FrocRule, match_detections


def random_cases(seed: int, images: int = 40) -> list[dict[str, Any]]:
    """Two images per patient, 0 to 2 lesions each, noisy detections with two decimals of score (ties)."""
    generator = np.random.default_rng(seed)
    cases = []
    for number in range(images):
        corners = generator.uniform(0, 420, (8, 2))
        boxes = np.concatenate([corners, corners + generator.uniform(15, 60, (8, 2))], axis=1)
        cases.append(
            {
                "id": f"{number:03d}",
                "patient": f"p{number // 2}",
                "boxes": np.concatenate([boxes, boxes[:1] + 2]),
                "scores": generator.uniform(size=9).round(2),
                "true_boxes": boxes[: number % 3] + generator.normal(0, 3, (number % 3, 4)),
                "width": 512,
                "height": 512,
            }
        )
    return cases


def repeat(cases: list[dict[str, Any]], weight: np.ndarray) -> list[dict[str, Any]]:
    return [
        {**one, "id": f"{one['id']}-{copy}"} for one, times in zip(cases, weight, strict=True) for copy in range(times)
    ]


def test_patients_are_resampled_whole() -> None:
    patients = ["a", "b", "a", "c", "b"]
    weights = Bootstrap(resamples=200, seed=1).weights(patients)
    assert weights.shape == (200, 5)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 1], weights[:, 4])
    np.testing.assert_array_equal(weights[:, 0] + weights[:, 1] + weights[:, 3], np.full(200, 3))
    assert abs(weights[:, 3].mean() - 1) < 0.2


def test_the_seed_decides_and_the_order_of_images_does_not() -> None:
    patients = ["a", "b", "c", "d"]
    first = Bootstrap(resamples=20, seed=5).weights(patients)
    np.testing.assert_array_equal(first, Bootstrap(resamples=20, seed=5).weights(patients))
    assert (first != Bootstrap(resamples=20, seed=6).weights(patients)).any()
    np.testing.assert_array_equal(first[:, ::-1], Bootstrap(resamples=20, seed=5).weights(patients[::-1]))


def test_one_patient_gives_no_interval() -> None:
    assert Bootstrap().weights(["a", "a"]).shape == (0, 2)
    assert interval(np.zeros(0)) is None


@pytest.mark.parametrize("name", ["resamples", "seed"])
def test_negative_numbers_are_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=f"bootstrap {name} of 0 or more, got -1"):
        Bootstrap(**{name: -1}).weights(["a", "b"])


@pytest.mark.parametrize("rule", [RELEASED, MULAN, STRICT])
def test_weights_of_one_give_the_point_estimate(rule: FrocRule) -> None:
    cases = random_cases(0)
    matches = match_detections(cases, rule)
    ones = np.ones((1, len(cases)), dtype=np.int64)
    np.testing.assert_array_equal(resample_sensitivity(matches, ones)[0], sensitivity_at(curve_from_matches(matches)))
    result = average_precision(cases)
    assert weighted_ap50(result, ones[0]) == pytest.approx(result.ap50, abs=1e-12)


@pytest.mark.parametrize("rule", [RELEASED, MULAN, STRICT])
def test_a_weight_is_as_many_copies_of_the_image(rule: FrocRule) -> None:
    cases = random_cases(1)
    weight = np.arange(len(cases)) % 4
    copies = repeat(cases, weight)
    values = resample_sensitivity(match_detections(cases, rule), weight[None])[0]
    np.testing.assert_allclose(values, sensitivity_at(froc_curve(copies, rule)), atol=0.02)
    assert weighted_ap50(average_precision(cases), weight) == pytest.approx(average_precision(copies).ap50, abs=0.02)


def test_a_weight_is_as_many_copies_exactly_where_scores_differ() -> None:
    cases = random_cases(2)
    for number, one in enumerate(cases):
        one["scores"] = one["scores"] + np.linspace(0, 1e-3, 9) + number * 1e-5
    weight = (np.arange(len(cases)) % 2) * 1
    kept = repeat(cases, weight)
    values = resample_sensitivity(match_detections(cases), weight[None])[0]
    np.testing.assert_allclose(values, sensitivity_at(froc_curve(kept)), rtol=1e-12)
    assert weighted_ap50(average_precision(cases), weight) == pytest.approx(average_precision(kept).ap50, abs=1e-12)


def test_a_resample_without_lesions_is_left_out() -> None:
    cases = random_cases(3, images=3)[:2]  # no lesion in the first image, one in the second
    matches = match_detections(cases)
    weights = np.array([[2, 0], [1, 1]])
    values = resample_sensitivity(matches, weights)
    assert np.isnan(values[0]).all()
    assert not np.isnan(values[1]).any()
    assert interval(values[:, 0]) == [values[1, 0], values[1, 0]]
    assert np.isnan(resample_ap50(average_precision(cases), weights)).tolist() == [True, False]


def test_intervals_hold_the_estimate_and_narrow_with_patients() -> None:
    widths = []
    for images in (40, 640):
        cases = random_cases(4, images=images)
        matches = match_detections(cases)
        weights = Bootstrap(resamples=200).weights([one["patient"] for one in cases])
        span = interval(mean_sensitivity(resample_sensitivity(matches, weights), FPS_PER_IMAGE))
        assert span is not None
        estimate = mean_sensitivity(sensitivity_at(curve_from_matches(matches)), FPS_PER_IMAGE)
        assert span[0] < estimate < span[1]
        widths.append(span[1] - span[0])
    assert widths[1] < widths[0] / 2


def test_interval_is_the_central_95_percent() -> None:
    assert interval(np.arange(1001.0)) == pytest.approx([25.0, 975.0])


def test_the_mean_is_the_papers() -> None:
    assert mean_sensitivity(np.array([0.1, 0.2, 0.3, 0.4, 0.9, 0.9]), FPS_PER_IMAGE) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="among the targets"):
        mean_sensitivity(np.array([0.1, 0.2]), (0.5, 1.0))


def test_share_of_lesions_found() -> None:
    found = np.array([[True, True], [False, True], [False, False]])
    values = resample_found(found, np.array([0, 0, 1]), np.array([[1, 1], [0, 2], [3, 0], [0, 0]]))
    np.testing.assert_allclose(values[:3], [[1 / 3, 2 / 3], [0, 0], [0.5, 1]])
    assert np.isnan(values[3]).all()
