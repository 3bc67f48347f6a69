"""Tags and diameters of the lesions that are found, by numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scripts.metrics.cases import check_cases
from scripts.metrics.evaluation_files import Evaluated
from scripts.metrics.image.image_report import write_report
from scripts.metrics.image.lesion_details import detail_lines, lesion_details, tag_table
from scripts.metrics.matching import match_detections

NAMES = ("lung", "nodule", "liver")
# x1, y1, x2, y2 of a lesion of 20 x 10 pixels with 5 pixels around, and the ends of its diameters.
BOX = [10.0, 10.0, 40.0, 30.0]
ENDS = [[15.0, 20.0], [35.0, 20.0], [25.0, 15.0], [25.0, 25.0]]


def case(name: str, scores: list[float], **fields: Any) -> dict[str, Any]:
    """An image whose lesion the best of the detections finds; the others lie elsewhere."""
    elsewhere = [[100.0, 100.0, 120.0, 120.0]] * (len(scores) - 1)
    found = {key: np.asarray(value) for key, value in fields.pop("found", {}).items()}
    true = {"recist": np.array([ENDS]), **{key: np.asarray(value) for key, value in fields.items()}}
    return {
        "id": name, "patient": name, "boxes": np.array([BOX, *elsewhere]), "scores": np.array(scores),
        "true_boxes": np.array([BOX]), "width": 200, "height": 200, "spacing": (0.5, 0.5),
        "fields": found, "true_fields": true,
    }  # fmt: skip


def details(cases: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    checked = check_cases(cases)
    return lesion_details(checked, match_detections(checked), **settings)


def test_errors_are_of_the_detection_that_finds_the_lesion() -> None:
    lengths = [
        {"long_axis_mm": [11.0, 90.0], "short_axis_mm": [4.0, 90.0]},
        {"long_axis_mm": [9.5, 90.0], "short_axis_mm": [5.5, 90.0]},
    ]
    cases = [case(str(number), [0.9, 0.8], found=found) for number, found in enumerate(lengths)]
    found = details(cases)["diameters"]
    # True are 10 and 5 mm.
    assert (found["source"], found["lesions"]) == ("mask", 2)
    assert found["long_axis_mm"] == pytest.approx({"mean_error": 0.25, "mean_absolute_error": 0.75, "sd": 0.75})
    assert found["short_axis_mm"] == pytest.approx({"mean_error": -0.25, "mean_absolute_error": 0.75, "sd": 0.75})
    assert found["mean_absolute_error"] == pytest.approx(0.75)


def test_boxes_are_estimates_where_the_detector_measures_nothing() -> None:
    found = details([case("a", [0.9])])["diameters"]
    # 30 x 20 pixels of 0.5 mm.
    assert (found["source"], found["long_axis_mm"]["mean_error"], found["short_axis_mm"]["mean_error"]) == ("box", 5, 5)


def test_unknown_lengths_and_missed_lesions_are_left_out() -> None:
    empty = case("a", [0.9], found={"long_axis_mm": [np.nan], "short_axis_mm": [np.nan]})
    missed = case("b", [0.9], found={"long_axis_mm": [1.0], "short_axis_mm": [1.0]})
    missed["boxes"] = missed["boxes"] + 90
    unmeasured = case("c", [0.9], recist=np.full((1, 4, 2), np.nan))
    assert "diameters" not in details([empty, missed])
    assert "diameters" not in details([unmeasured])
    by_length = case("d", [0.9], recist=np.full((1, 4, 2), np.nan), diameters=[[20.0, 10.0]])
    assert details([unmeasured, by_length])["diameters"]["lesions"] == 1


def tagged() -> list[dict[str, Any]]:
    scores = [[0.9, 0.2, 0.6], [0.6, 0.7, 0.1], [0.7, 0.8, 0.1], [0.2, 0.1, 0.1]]
    tags = [[1, 0, -1], [0, 1, 0], [1, 1, 0], [-1, -1, -1]]
    return [
        case(str(number), [0.9], found={"tag_scores": [row]}, tags=[told])
        for number, (row, told) in enumerate(zip(scores, tags, strict=True))
    ]


def test_tags_are_scored_one_by_one_where_they_are_known() -> None:
    found = details(tagged(), tag_names=NAMES)["tags"]
    # The last lesion has no tags at all.
    assert found["lesions"] == 3
    lung, nodule, liver = (found["per_tag"][name] for name in NAMES)
    # Lung: 0.9 and 0.7 against 0.6; all are named from 0.5, so one of three is wrong.
    assert lung == pytest.approx({"positives": 2, "negatives": 1, "auc": 1.0, "f1": 0.8, "best_threshold": 0.7})
    assert nodule == {"positives": 2, "negatives": 1, "auc": 1.0, "f1": 1.0, "best_threshold": 0.7}
    assert liver == {"positives": 0, "negatives": 2, "auc": None, "f1": None, "best_threshold": None}
    assert (found["mean_auc"], found["mean_f1"]) == pytest.approx((1.0, 0.9))
    # Four tags that are there are named, and one that is not.
    assert found["overall_f1"] == pytest.approx(8 / 9)
    own = details(tagged(), tag_names=NAMES, tag_threshold=[0.65, 0.75, 0.5])["tags"]
    assert own["per_tag"]["lung"]["f1"] == 1.0
    assert own["per_tag"]["nodule"]["f1"] == pytest.approx(2 / 3)


def test_a_tag_weighs_as_much_as_lesions_have_it() -> None:
    # The first tag is at one lesion and told perfectly, the second at three and told by chance.
    scores, tags = [[0.9, 0.5], [0.1, 0.5], [0.2, 0.5], [0.3, 0.5]], [[1, 1], [0, 1], [0, 1], [0, 0]]
    cases = [
        case(str(number), [0.9], found={"tag_scores": [row]}, tags=[told])
        for number, (row, told) in enumerate(zip(scores, tags, strict=True))
    ]
    found = details(cases)["tags"]
    assert (found["mean_auc"], found["weighted_auc"]) == pytest.approx((0.75, (1 * 1.0 + 3 * 0.5) / 4))
    alone = details([case("a", [0.9], found={"tag_scores": [[0.9]]}, tags=[[0]])])["tags"]
    assert (alone["weighted_auc"], alone["overall_f1"]) == (None, None)


@pytest.mark.parametrize(("scores", "wanted"), [([0.1, 0.05, 0.15], 0.2), ([0.99, 0.97, 0.98], 0.95)])
def test_best_thresholds_stay_within_sensible_bounds(scores: list[float], wanted: float) -> None:
    tags = ([1], [0], [1])
    cases = [
        case(str(number), [0.9], found={"tag_scores": [[score]]}, tags=[told])
        for number, (score, told) in enumerate(zip(scores, tags, strict=True))
    ]
    assert details(cases)["tags"]["per_tag"]["tag 1"]["best_threshold"] == wanted


def test_numbers_of_tags_that_differ_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"^Expected 3 names of tags, as many as the network scores, got 2\.$"):
        details(tagged(), tag_names=NAMES[:2])
    with pytest.raises(ValueError, match=r"^Expected 3 thresholds of tags, as many as the network scores, got 2\.$"):
        details(tagged(), tag_threshold=[0.5, 0.5])
    other = [case("a", [0.9], found={"tag_scores": [[0.5, 0.5]]}, tags=[[1, 0, 0]])]
    with pytest.raises(ValueError, match=r"^Expected 2 tags of each lesion, as many as the network scores, got 3\.$"):
        details(other)


def test_report_holds_both(tmp_path: Any) -> None:
    metrics = write_report(tagged(), tmp_path, Evaluated("test", tag_names=NAMES))
    assert metrics["tags"]["mean_f1"] == pytest.approx(0.9)
    assert metrics["diameters"]["source"] == "box"
    assert (tmp_path / "tags.csv").read_text().splitlines()[:2] == [
        "tag,positives,negatives,auc,f1,best_threshold",
        "lung,2,1,1.0,0.8,0.7",
    ]
    text = "\n".join(detail_lines(metrics))
    assert "mean absolute error in mm of 4 found lesions, sides of boxes: long axis 5.00 (mean error +5.00" in text
    assert "tags of 3 found lesions, mean over tags: AUC 1.000, F1 0.900" in text


def test_other_sets_have_neither() -> None:
    plain = case("a", [0.9])
    plain["true_fields"] = {}
    assert details([plain]) == {}
    assert detail_lines({}) == []
    assert tag_table({}) == {}
