"""The dictionary of everything that is reported."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scripts.metrics.average_precision import average_precision
from scripts.metrics.bootstrap import Bootstrap
from scripts.metrics.froc import froc_curve, sensitivity_at
from scripts.metrics.image.image_evaluation import evaluate
from scripts.metrics.matching import MULAN, STRICT
from support.fake_evaluations import image_cases

FEW = Bootstrap(resamples=50)


def random_cases(seed: int = 0, images: int = 36) -> list[dict[str, Any]]:
    return image_cases(images, boxes=8, seed=seed, intervals=(1.0, 5.0, 2.0, 5.0))


@pytest.fixture(scope="module")
def metrics() -> dict[str, Any]:
    return evaluate(random_cases(), bootstrap=FEW)


def test_json_can_hold_it(metrics: dict[str, Any]) -> None:
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_figures_are_those_of_the_parts(metrics: dict[str, Any]) -> None:
    cases = random_cases()
    names = ["0.5", "1", "2", "4", "8", "16"]
    assert metrics["sensitivity"] == dict(zip(names, sensitivity_at(froc_curve(cases)), strict=True))
    assert metrics["sensitivity_strict"] == dict(zip(names, sensitivity_at(froc_curve(cases, STRICT)), strict=True))
    assert metrics["ap50"] == average_precision(cases).ap50
    assert metrics["mean_sensitivity"] == pytest.approx(sum(metrics["sensitivity"][name] for name in names[:4]) / 4)


def test_counts(metrics: dict[str, Any]) -> None:
    assert metrics["counts"] == {
        "images": 36,
        "images_without_lesions": 12,
        "patients": 18,
        "lesions": 36,
        "lesions_left_out": 0,
        "detections": 324,
    }


def test_every_estimate_lies_in_its_interval(metrics: dict[str, Any]) -> None:
    for key in ("sensitivity", "sensitivity_strict"):
        for target, (low, high) in metrics[f"{key}_interval"].items():
            assert low <= metrics[key][target] <= high
    for key in ("mean_sensitivity", "mean_sensitivity_strict", "ap50"):
        low, high = metrics[f"{key}_interval"]
        assert low < metrics[key] < high


def test_strict_is_never_better(metrics: dict[str, Any]) -> None:
    assert all(metrics["sensitivity_strict"][key] <= value for key, value in metrics["sensitivity"].items())


def test_operating_points_add_up(metrics: dict[str, Any]) -> None:
    for target, point in metrics["operating_points"].items():
        assert point["threshold"] == metrics["thresholds"][target]
        assert point["lesions_found"] + point["lesions_missed"] == 36
        assert point["fps_per_image"] == point["false_positives"] / 36 <= float(target)


@pytest.mark.parametrize("split", ["size_mm", "size_px", "lesion_type"])
def test_lesion_groups_add_up_to_the_operating_point(metrics: dict[str, Any], split: str) -> None:
    groups = metrics["subgroups"][split].values()
    assert sum(group["lesions"] for group in groups) == 36
    for target, point in metrics["operating_points"].items():
        found = sum(group["lesions"] * group["sensitivity"][target] for group in groups)
        assert found == pytest.approx(point["lesions_found"])


def test_an_interval_group_is_its_own_evaluation(metrics: dict[str, Any]) -> None:
    cases = [case for case in random_cases() if case["slice_interval"] == 5.0]
    group = metrics["subgroups"]["slice_interval"]["5 mm"]
    assert group["images"] == len(cases) == 18
    assert list(group["sensitivity"].values()) == sensitivity_at(froc_curve(cases)).tolist()
    assert list(metrics["subgroups"]["slice_interval"]) == ["1 mm", "5 mm", "other"]


def test_the_rule_is_switched_by_an_argument() -> None:
    metrics = evaluate(random_cases(), rule=MULAN, bootstrap=Bootstrap(resamples=0))
    assert metrics["rule"] == "MULAN"
    assert list(metrics["sensitivity"].values()) == sensitivity_at(froc_curve(random_cases(), MULAN)).tolist()
    assert metrics["mean_sensitivity_interval"] is None


def test_what_is_not_defined_is_none() -> None:
    nothing = {"id": "a", "patient": "p", "boxes": [], "scores": [], "true_boxes": [], "width": 64, "height": 64}
    metrics = evaluate([nothing, {**nothing, "id": "b", "patient": "q"}], bootstrap=FEW)
    assert set(metrics["sensitivity"].values()) == {None}
    assert metrics["ap50"] is metrics["mean_sensitivity"] is metrics["ap50_interval"] is None
    assert set(metrics["thresholds"].values()) == {None}
    assert metrics["subgroups"] == {"slice_interval": {}, "size_mm": {}, "size_px": {}, "lesion_type": {}}


def test_a_case_without_a_patient_is_rejected() -> None:
    case = {"id": "a", "boxes": [], "scores": [], "true_boxes": [], "width": 64, "height": 64}
    with pytest.raises(ValueError, match="Expected a patient in every case"):
        evaluate([case])
