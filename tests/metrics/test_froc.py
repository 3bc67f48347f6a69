"""Laws of the FROC, and the numbers of the released codes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.metrics.froc import (
    FPS_PER_IMAGE,
    FrocCurve,
    froc_curve,
    interpolate_curve,
    released_points,
    sensitivity_at,
    threshold_at,
)
from scripts.metrics.matching import MULAN, RELEASED, STRICT, FrocRule

LESION = [100.0, 100.0, 140.0, 130.0]
ELSEWHERE = [300.0, 300.0, 330.0, 340.0]


def case(name: str, boxes: Any, scores: Any, true_boxes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "patient": name,
        "boxes": boxes,
        "scores": scores,
        "true_boxes": true_boxes,
        "width": 640,
        "height": 512,
    }


def random_cases(seed: int, images: int = 30) -> list[dict[str, Any]]:
    """Lesions with noisy detections around them and elsewhere; no two scores are equal."""
    generator = np.random.default_rng(seed)
    cases = []
    for number in range(images):
        corners = generator.uniform(0, 420, (8, 2))
        boxes = np.concatenate([corners, corners + generator.uniform(15, 60, (8, 2))], axis=1)
        truth = boxes[: number % 3] + generator.normal(0, 3, (number % 3, 4))
        cases.append(case(f"{number:03d}", boxes, generator.uniform(size=8), truth))
    return cases


@pytest.fixture(params=["mixed", "iou_boundary", "perfect"])
def golden(request: pytest.FixtureRequest, shared: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A detection list and what the released codes make of it."""
    content = json.loads((shared / "reference/golden/froc_ap.json").read_text())
    cases = []
    for number, problem in enumerate(content["problems"][request.param]):
        detections = np.array(problem["det"], dtype=np.float64).reshape(-1, 5)
        cases.append(case(f"{number:03d}", detections[:, :4], detections[:, 4], problem["gt"]))
        cases[-1].update(width=problem["width"], height=problem["height"])
    return cases, {"targets": content["targets"], **content["results"][request.param]}


@pytest.mark.parametrize("ties", ["earlier", "later"])
def test_golden_curve_is_exact(golden: tuple[list[dict[str, Any]], dict[str, Any]], ties: Any) -> None:
    cases, expected = golden
    curve = froc_curve(cases, replace(RELEASED, ties=ties))
    assert len(curve.scores) == expected["curve"]["n"]
    assert (curve.sensitivity * curve.num_lesions).round().astype(int)[::10].tolist() == expected["curve"][
        "tps_every_10"
    ]
    assert (curve.fps_per_image * curve.num_images).round().astype(int)[::10].tolist() == expected["curve"][
        "fps_every_10"
    ]
    assert curve.sensitivity[-1] == expected["curve"]["final_sens"]
    assert curve.fps_per_image[-1] == expected["curve"]["max_fp"]
    assert curve.num_lesions == expected["n_gt_used_by_froc"]


@pytest.mark.parametrize(
    ("key", "targets"),
    [("authors_default_0.5_1_2_4", (0.5, 1, 2, 4)), ("extended_0.5_to_16", (0.5, 1, 2, 4, 8, 16))],
)
def test_golden_released_points_are_exact(
    golden: tuple[list[dict[str, Any]], dict[str, Any]], key: str, targets: tuple[float, ...]
) -> None:
    cases, expected = golden
    points = released_points(froc_curve(cases), targets)
    if "nan" in expected[key][0]:
        # Perfect detections: the released code prints NaN.
        assert points == [(0.0, 1.0, pytest.approx(min(min(one["scores"], default=1.0) for one in cases)))]
    else:
        assert points == [tuple(point) for point in expected[key]]


@pytest.mark.parametrize("ties", ["earlier", "later"])
def test_golden_ties(golden: tuple[list[dict[str, Any]], dict[str, Any]], ties: Any) -> None:
    cases, expected = golden
    if f"ties_{ties}_first" not in expected:
        assert expected["n_tied"] == 0
        return
    points = released_points(froc_curve(cases, replace(RELEASED, ties=ties)), FPS_PER_IMAGE)
    reference = np.array(expected[f"ties_{ties}_first"])
    # The reference pulled equal scores apart by up to 3e-6.
    np.testing.assert_array_equal(np.array(points)[:, :2], reference[:, :2])
    np.testing.assert_allclose(np.array(points)[:, 2], reference[:, 2], atol=3e-6)


def test_golden_mulan_is_exact(golden: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
    cases, expected = golden
    values = sensitivity_at(froc_curve(cases, MULAN), expected["targets"])
    assert [[target, value] for target, value in zip(expected["targets"], values, strict=True)] == expected[
        "MULAN_plus1"
    ]


@pytest.mark.parametrize("rule", [RELEASED, MULAN, STRICT])
def test_perfect_detections_score_one(rule: FrocRule) -> None:
    cases = [case(str(number), [LESION], [0.5 + number / 100], [LESION]) for number in range(5)]
    curve = froc_curve([*cases, case("empty", [], [], [])], rule)
    np.testing.assert_array_equal(sensitivity_at(curve), np.ones(6))
    np.testing.assert_array_equal(threshold_at(curve), np.full(6, 0.5))
    assert released_points(curve) == [(0.0, 1.0, 0.5)]


@pytest.mark.parametrize("rule", [RELEASED, MULAN, STRICT])
def test_no_detection_scores_zero(rule: FrocRule) -> None:
    curve = froc_curve([case("a", [], [], [LESION]), case("b", [], [], [])], rule)
    np.testing.assert_array_equal(sensitivity_at(curve), np.zeros(6))
    np.testing.assert_array_equal(threshold_at(curve), np.full(6, np.inf))
    assert released_points(curve) == [(0.0, 0.0, np.inf)]


def test_without_any_lesion_sensitivity_is_not_defined() -> None:
    curve = froc_curve([case("a", [LESION], [0.5], [])])
    assert np.isnan(sensitivity_at(curve)).all()
    assert curve.fps_per_image.tolist() == [1.0]


def test_an_image_without_lesions_counts_in_the_denominator() -> None:
    one = [case("a", [ELSEWHERE, LESION], [0.9, 0.8], [LESION])]
    assert froc_curve(one).fps_per_image.tolist() == [1.0, 1.0]
    assert froc_curve([*one, case("b", [], [], [])]).fps_per_image.tolist() == [0.5, 0.5]
    assert froc_curve([*one, case("b", [LESION], [0.95], [])]).fps_per_image.tolist() == [0.5, 1.0, 1.0]


def test_beyond_the_last_false_positive_the_last_sensitivity_holds() -> None:
    curve = froc_curve([case("a", [ELSEWHERE, LESION], [0.8, 0.9], [LESION, [1.0, 1.0, 20.0, 30.0]])])
    assert sensitivity_at(curve, [1.0, 2.0, 16.0]).tolist() == [0.5, 0.5, 0.5]


def test_beyond_the_last_false_positive_a_rule_may_draw_a_line_or_say_nothing() -> None:
    fps, sensitivity = np.array([0.5, 1.0, 2.0]), np.array([0.4, 0.6, 0.7])
    targets = (1.0, 2.0, 4.0, 16.0)

    def read(beyond: Any, fps: np.ndarray = fps) -> list[float]:
        return interpolate_curve(fps, sensitivity, targets, replace(MULAN, beyond=beyond)).tolist()

    assert read("last") == pytest.approx([0.6, 0.7, 0.7, 0.7])
    assert read("line") == pytest.approx([0.6, 0.7, 0.9, 1.0])
    assert read("nothing")[:2] == pytest.approx([0.6, 0.7])
    assert np.isnan(read("nothing")[2:]).all()
    # Without a slope the line is level; and nothing found stays nothing.
    assert read("line", np.array([0.5, 1.0, 1.0]))[2:] == pytest.approx([0.7, 0.7])
    assert interpolate_curve(np.zeros(0), np.zeros(0), targets, replace(MULAN, beyond="line")).tolist() == [0.0] * 4


def test_before_the_first_false_positive_a_wrong_best_score_finds_nothing() -> None:
    curve = froc_curve([case("a", [ELSEWHERE, LESION], [0.9, 0.8], [LESION])])
    assert sensitivity_at(curve, [0.5, 0.99]).tolist() == [0.0, 0.0]
    assert threshold_at(curve, [0.5]).tolist() == [np.inf]


def test_points_that_share_a_false_positive_rate() -> None:
    cases = [case("a", [ELSEWHERE, LESION], [0.9, 0.8], [LESION])]
    assert sensitivity_at(froc_curve(cases, RELEASED), [1.0]).tolist() == [0.0]  # the first of them
    assert sensitivity_at(froc_curve(cases, MULAN), [1.0]).tolist() == [1.0]  # the last of them


def test_targets_between_points_are_interpolated() -> None:
    curve = FrocCurve(np.array([0.0, 1.0, 3.0]), np.array([0.2, 0.4, 0.8]), np.array([0.9, 0.8, 0.7]), 1, 5, RELEASED)
    np.testing.assert_allclose(sensitivity_at(curve, [0.5, 1.0, 2.0, 3.0]), [0.3, 0.4, 0.6, 0.8])


@pytest.mark.parametrize("rule", [RELEASED, MULAN, STRICT])
def test_the_order_of_images_and_detections_does_not_matter_without_ties(rule: FrocRule) -> None:
    cases = random_cases(0)
    generator = np.random.default_rng(1)
    shuffled = []
    for index in generator.permutation(len(cases)):
        rows = generator.permutation(8)
        one = cases[index]
        shuffled.append(case(one["id"], one["boxes"][rows], one["scores"][rows], one["true_boxes"]))
    first, second = froc_curve(cases, rule), froc_curve(shuffled, rule)
    np.testing.assert_array_equal(first.sensitivity, second.sensitivity)
    np.testing.assert_array_equal(first.fps_per_image, second.fps_per_image)


@pytest.mark.parametrize("rule", [RELEASED, MULAN, STRICT])
def test_a_false_positive_below_all_scores_changes_nothing_above_it(rule: FrocRule) -> None:
    cases = random_cases(2)
    before = froc_curve(cases, rule)
    cases[3]["boxes"] = np.append(cases[3]["boxes"], [[600.0, 480.0, 630.0, 510.0]], axis=0)
    cases[3]["scores"] = np.append(cases[3]["scores"], -1.0)
    after = froc_curve(cases, rule)
    np.testing.assert_array_equal(after.sensitivity[:-1], before.sensitivity)
    assert after.sensitivity[-1] == before.sensitivity[-1]
    assert after.fps_per_image[-1] > before.fps_per_image[-1]
    assert (sensitivity_at(after) >= sensitivity_at(before)).all()


def test_only_the_order_of_scores_matters() -> None:
    cases = random_cases(4)
    squared = [{**one, "scores": one["scores"] ** 2} for one in cases]
    np.testing.assert_array_equal(sensitivity_at(froc_curve(cases)), sensitivity_at(froc_curve(squared)))


def test_duplicates_are_free_except_in_the_strict_rule() -> None:
    cases = [case("a", [LESION, LESION, LESION, ELSEWHERE], [0.9, 0.8, 0.7, 0.6], [LESION])]
    assert froc_curve(cases, RELEASED).fps_per_image.tolist() == [0, 0, 0, 1]
    assert froc_curve(cases, STRICT).fps_per_image.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("target", [0.25, 0.5, 1.0, 2.0, 5.0])
def test_keeping_scores_above_the_threshold_stays_within_the_target(target: float) -> None:
    cases = random_cases(5)
    for one in cases:
        one["scores"] = one["scores"].round(1)  # many ties
    curve = froc_curve(cases)
    (threshold,) = threshold_at(curve, [target])
    kept = [
        {**one, "boxes": one["boxes"][keep], "scores": one["scores"][keep]}
        for one in cases
        for keep in [one["scores"] >= threshold]
    ]
    reached = froc_curve(kept).fps_per_image
    assert len(reached) == 0 or reached[-1] <= target
    lower = [
        {**one, "boxes": one["boxes"][keep], "scores": one["scores"][keep]}
        for one in cases
        for keep in [one["scores"] >= min(threshold, 1.1) - 0.1 - 1e-9]
    ]
    assert froc_curve(lower).fps_per_image[-1] > target


@pytest.mark.parametrize("bad", [-0.5, float("nan"), float("inf")])
def test_an_invalid_target_is_rejected(bad: float) -> None:
    curve = froc_curve(random_cases(6, images=3))
    for read in (sensitivity_at, threshold_at, released_points):
        with pytest.raises(ValueError, match="false positives per image of at least 0"):
            read(curve, [bad])


def test_no_image_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one case"):
        froc_curve([])
