"""AP50 through pycocotools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.metrics.average_precision import average_precision

LESION = [100.0, 100.0, 140.0, 130.0]
ELSEWHERE = [300.0, 300.0, 330.0, 340.0]


def case(name: str, boxes: Any, scores: Any, true_boxes: Any) -> dict[str, Any]:
    return {"id": name, "boxes": boxes, "scores": scores, "true_boxes": true_boxes, "width": 640, "height": 512}


@pytest.fixture(params=["mixed", "iou_boundary", "perfect"])
def golden(request: pytest.FixtureRequest, shared: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    content = json.loads((shared / "reference/golden/froc_ap.json").read_text())
    cases = []
    for number, problem in enumerate(content["problems"][request.param]):
        detections = np.array(problem["det"], dtype=np.float64).reshape(-1, 5)
        cases.append(case(f"{number:03d}", detections[:, :4], detections[:, 4], problem["gt"]))
    return cases, content["results"][request.param]


@pytest.mark.parametrize(("key", "limit"), [("coco_maxdets_1_10_100", 100), ("coco_maxdets_100_300_1000", 1000)])
def test_golden_is_exact(golden: tuple[list[dict[str, Any]], dict[str, Any]], key: str, limit: int) -> None:
    cases, results = golden
    result = average_precision(cases, max_detections=limit)
    assert result.ap50 == results[key]["AP50"]
    assert result.ap75 == results[key]["AP75"]
    assert result.ap50_95 == results[key]["AP50_95"]
    assert result.lesions_per_image.sum() == results["n_gt_json"]


@pytest.mark.parametrize(
    ("key", "area_range"), [("s", (0.0, 32.0**2)), ("m", (32.0**2, 96.0**2)), ("l", (96.0**2, 1e10))]
)
def test_golden_by_area(
    golden: tuple[list[dict[str, Any]], dict[str, Any]], key: str, area_range: tuple[float, float]
) -> None:
    cases, results = golden
    expected = results["evaluate_logged"][f"bbox_mAP_{key}"]
    value = average_precision(cases, area_range=area_range).ap50_95
    # COCO writes -1 where there is no lesion; the log has three decimals.
    assert np.isnan(value) if expected == -1 else round(value, 3) == expected


def test_a_thousand_detections_count_as_in_the_released_code() -> None:
    boxes = [[*ELSEWHERE]] * 999 + [LESION]
    scores = np.linspace(0.9, 0.1, 1000)
    assert average_precision([case("a", boxes, scores, [LESION])]).ap50 == pytest.approx(1 / 1000)
    assert average_precision([case("a", [ELSEWHERE, *boxes], [0.95, *scores], [LESION])]).ap50 == 0.0


def test_perfect_detections_score_one() -> None:
    result = average_precision([case("a", [LESION], [0.3], [LESION]), case("b", [], [], [])])
    # COCO adds 2e-16 to its denominators.
    assert (result.ap50, result.ap75, result.ap50_95) == pytest.approx((1.0, 1.0, 1.0), abs=1e-12)


def test_no_detection_scores_zero() -> None:
    result = average_precision([case("a", [], [], [LESION]), case("b", [], [], [])])
    assert (result.ap50, result.ap75, result.ap50_95) == (0.0, 0.0, 0.0)
    assert len(result.scores) == 0


@pytest.mark.parametrize("boxes", [[], [LESION]])
def test_without_any_lesion_it_is_not_defined(boxes: list[list[float]]) -> None:
    result = average_precision([case("a", boxes, [0.5] * len(boxes), [])])
    assert np.isnan([result.ap50, result.ap75, result.ap50_95]).all()


def test_duplicates_are_false_positives() -> None:
    twice = average_precision([case("a", [LESION, LESION, ELSEWHERE], [0.9, 0.8, 0.7], [LESION, ELSEWHERE])])
    # Recall 1 is reached with 2 of 3 right: 51 of the 101 recall points have precision 1, 50 have 2/3.
    assert twice.ap50 == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert twice.true_positive.tolist() == [True, False, True]


def test_lesions_too_thin_for_the_froc_still_count() -> None:
    thin = [100.0, 100.0, 100.5, 130.0]
    assert average_precision([case("a", [LESION], [0.9], [LESION, thin])]).ap50 == pytest.approx(51 / 101)


def test_only_the_best_detections_of_an_image_count() -> None:
    cases = [case("a", [ELSEWHERE, LESION], [0.9, 0.8], [LESION])]
    assert average_precision(cases, max_detections=1).ap50 == 0.0
    assert average_precision(cases, max_detections=2).ap50 == pytest.approx(0.5)


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    average_precision([case("a", [LESION], [0.3], [LESION])])
    assert capsys.readouterr() == ("", "")


def test_the_matching_belongs_to_the_detections() -> None:
    cases = [case("a", [ELSEWHERE], [0.4], []), case("b", [], [], []), case("c", [LESION], [0.6], [LESION])]
    result = average_precision(cases)
    assert result.image.tolist() == [2, 0]
    assert result.scores.tolist() == [0.6, 0.4]
    assert result.true_positive.tolist() == [True, False]
    assert result.lesions_per_image.tolist() == [0, 0, 1]
