"""Everything that is reported about detections of volumes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from scripts.metrics.bootstrap import Bootstrap
from scripts.metrics.volume.volume_evaluation import applicable, evaluate_volumes, found_overlaps
from scripts.metrics.volume.volume_matching import KEY_SLICE, KEY_SLICE_TRACK, OFFICIAL, match_volumes

LESION = [100.0, 50.0, 7.0, 109.0, 69.0, 11.0]
ELSEWHERE = [300.0, 300.0, 7.0, 309.0, 309.0, 9.0]
KEY = [100.0, 50.0, 9.0, 109.0, 69.0, 9.0]
TARGETS = ["0.125", "0.25", "0.5", "1", "2", "4", "8", "16"]


def case(name: str, found: list, lesions: list | None = None, **more: Any) -> dict[str, Any]:
    boxes, scores = [box for box, _ in found], [score for _, score in found]
    return {"id": name, "patient": name[:1], "boxes": boxes, "scores": scores, "true_boxes": lesions, **more}


def mixed() -> list[dict[str, Any]]:
    """Three patients: one lesion found, one missed, one volume without a lesion."""
    return [
        case("a1", [(LESION, 0.9), (ELSEWHERE, 0.4)], [LESION], slice_interval=1.0),
        case("b1", [(ELSEWHERE, 0.8)], [LESION], slice_interval=5.0),
        case("c1", [], [], slice_interval=5.0),
    ]


def test_perfect_boxes_score_one_everywhere() -> None:
    cases = [case(name, [(LESION, 0.5), (ELSEWHERE, 0.7)], [LESION, ELSEWHERE], key_boxes=[KEY]) for name in "ab"]
    metrics, _ = evaluate_volumes(cases)
    assert list(metrics["protocols"]) == ["3D IoBB 0.3", "3D IoU 0.3", "3D IoU 0.5", "P3D IoU 0.5"]
    for figures in list(metrics["protocols"].values())[:3]:
        assert figures["sensitivity"] == dict.fromkeys(TARGETS, 1.0)
        assert figures["mean_sensitivity"] == 1.0
        assert figures["sensitivity_interval"] == {target: [1.0, 1.0] for target in TARGETS}
        assert figures["end_of_curve"] == {"fps_per_volume": 0.0, "sensitivity": 1.0}
        assert figures["found"] == {"lesions": 4, "median_iou": 1.0, "median_volume_ratio": 1.0}


def test_figures_of_a_mixed_set() -> None:
    metrics, matches = evaluate_volumes(mixed(), bootstrap=Bootstrap(50, seed=1))
    assert metrics["main"] == OFFICIAL.name
    assert metrics["counts"] == {"volumes": 3, "patients": 3, "detections": 3}
    figures = metrics["protocols"][OFFICIAL.name]
    assert (figures["lesions"], figures["volumes_without_lesions"]) == (2, 1)
    # The best score is a hit, so the curve begins at no false positive.
    assert figures["sensitivity"] == dict.fromkeys(TARGETS, 0.5)
    assert figures["mean_sensitivity"] == 0.5
    assert figures["end_of_curve"] == {"fps_per_volume": 2 / 3, "sensitivity": 0.5}
    low, high = figures["sensitivity_interval"]["1"]
    assert 0.0 <= low < 0.5 < high <= 1.0
    # 1/3 of a false positive per volume is the first of two: above it half a false positive allows just one.
    assert figures["thresholds"]["0.5"] == 0.8
    assert figures["operating_points"]["0.5"]["fps_per_volume"] == 1 / 3
    assert figures["thresholds"]["1"] == 0.4
    assert matches[OFFICIAL.name].outcomes.tolist() == ["hit", "false positive", "false positive"]


def test_the_mean_leaves_out_the_last_target() -> None:
    # 10 false positives per volume come before the hit: found at 16, nowhere before.
    found = [(ELSEWHERE, 0.9)] * 10 + [(LESION, 0.1)]
    metrics, _ = evaluate_volumes([case("a", found, [LESION]), case("b", found, [LESION])])
    figures = metrics["protocols"][OFFICIAL.name]
    assert figures["sensitivity"]["8"] == 0.0
    assert figures["sensitivity"]["16"] == 1.0
    assert figures["mean_sensitivity"] == 0.0


def test_groups_by_slice_interval_have_their_own_false_positives() -> None:
    metrics, _ = evaluate_volumes(mixed())
    groups = metrics["subgroups"]["slice_interval"]
    assert {name: (group["volumes"], group["lesions"]) for name, group in groups.items()} == {
        "1 mm": (1, 1),
        "5 mm": (2, 1),
    }
    assert groups["1 mm"]["mean_sensitivity"] == 1.0
    assert groups["5 mm"]["mean_sensitivity"] == 0.0
    unknown = [{**one, "slice_interval": None} for one in mixed()]
    assert evaluate_volumes(unknown)[0]["subgroups"]["slice_interval"] == {}


def test_labels_on_slices_alone_are_scored_on_slices() -> None:
    tracks = [[0.0, 9.0, 100.0, 50.0, 109.0, 69.0]]
    cases = [case("a", [(LESION, 0.9)], None, key_boxes=[KEY], tracks=tracks)]
    assert applicable(cases) == [KEY_SLICE, KEY_SLICE_TRACK]
    metrics, _ = evaluate_volumes(cases)
    assert metrics["main"] == KEY_SLICE.name
    assert metrics["protocols"][KEY_SLICE_TRACK.name]["mean_sensitivity"] == 1.0
    assert "found" not in metrics["protocols"][KEY_SLICE.name]
    # One patient says nothing of the spread between patients.
    assert metrics["protocols"][KEY_SLICE.name]["mean_sensitivity_interval"] is None


def test_volumes_without_any_lesion_have_no_sensitivity() -> None:
    metrics, _ = evaluate_volumes([case("a", [(ELSEWHERE, 0.5)], []), case("b", [], [])])
    figures = metrics["protocols"][OFFICIAL.name]
    assert figures["sensitivity"] == dict.fromkeys(TARGETS, None)
    assert figures["end_of_curve"] == {"fps_per_volume": 0.5, "sensitivity": None}
    json.dumps(metrics, allow_nan=False)


def test_no_detection_finds_nothing() -> None:
    metrics, _ = evaluate_volumes([case("a", [], [LESION])])
    figures = metrics["protocols"][OFFICIAL.name]
    assert figures["mean_sensitivity"] == 0.0
    assert figures["end_of_curve"] == {"fps_per_volume": 0.0, "sensitivity": 0.0}
    assert figures["thresholds"]["1"] is None
    assert figures["found"] == {"lesions": 0, "median_iou": None, "median_volume_ratio": None}


def test_tiny_boxes_show_in_the_fit() -> None:
    tiny = [104.0, 59.0, 9.0, 104.0, 59.0, 9.0]
    cases = [case("a", [(tiny, 0.9)], [LESION, ELSEWHERE])]
    metrics, matches = evaluate_volumes(cases)
    assert metrics["protocols"]["3D IoBB 0.3"]["mean_sensitivity"] == 0.5
    assert metrics["protocols"]["3D IoU 0.3"]["mean_sensitivity"] == 0.0
    assert metrics["protocols"]["3D IoBB 0.3"]["found"]["median_volume_ratio"] == pytest.approx(1 / 1000)
    checked = [{**cases[0], "boxes": np.array([tiny]), "true_boxes": np.array([LESION, ELSEWHERE])}]
    fit, ratio = found_overlaps(checked, matches[OFFICIAL.name])
    np.testing.assert_allclose(fit, [1 / 1000, np.nan])
    np.testing.assert_allclose(ratio, [1 / 1000, np.nan])


def test_intervals_do_not_depend_on_the_order_of_the_volumes() -> None:
    forward, _ = evaluate_volumes(mixed(), bootstrap=Bootstrap(100, seed=3))
    backward, _ = evaluate_volumes(mixed()[::-1], bootstrap=Bootstrap(100, seed=3))
    assert forward["protocols"] == backward["protocols"]


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ([case("a", [], None)], "true_boxes or key_boxes, got neither"),
        ([{**case("a", [], []), "patient": None}], "Expected a patient in every case"),
        ([case("a", [], []), case("b", [], None)], "true_boxes in every volume for 3D IoBB 0.3, got none in b"),
    ],
)
def test_cases_that_cannot_be_scored(cases: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_volumes(cases)


def test_matching_agrees_with_the_reported_counts() -> None:
    metrics, _ = evaluate_volumes(mixed())
    again = match_volumes(mixed(), OFFICIAL)
    point = metrics["protocols"][OFFICIAL.name]["operating_points"]["16"]
    assert point["false_positives"] == int(again.false_positives.sum())
    assert point["lesions_found"] == int(again.hits.sum())


def classed(*, swapped: bool = False, names: tuple[str, ...] = ("node", "cyst")) -> list[dict[str, Any]]:
    """Two volumes with a lesion of each class, both found, under the right class or the other one."""
    first, second = LESION, ELSEWHERE
    said = names[::-1] if swapped else names
    return [
        {
            "id": f"00000{number}_01_01_001-020",
            "patient": f"00000{number}",
            "boxes": [first, second],
            "scores": [0.9, 0.8],
            "true_boxes": [first, second],
            "class_names": names,
            "classes": list(said),
            "true_classes": list(names),
        }
        for number in (1, 2)
    ]


def test_each_class_has_its_figures_and_a_swap_finds_none_but_changes_nothing_pooled() -> None:
    right, swapped = (evaluate_volumes(classed(swapped=each))[0] for each in (False, True))
    assert {**right, "classes": None} == {**swapped, "classes": None}
    for name in ("node", "cyst"):
        assert (right["classes"][name]["lesions"], right["classes"][name]["detections"]) == (2, 2)
        for found, wanted in ((right, 1), (swapped, 0)):
            numbers = found["classes"][name]["protocols"]
            assert set(numbers) == set(found["protocols"])
            assert all(one["mean_sensitivity"] == wanted for one in numbers.values())


def test_one_class_has_no_figures_of_its_own() -> None:
    one = [{**case, "class_names": ("node",)} for case in classed()]
    assert "classes" not in evaluate_volumes(one)[0]
    with pytest.raises(ValueError, match="Expected classes of 2 boxes, got 1"):
        evaluate_volumes([{**classed()[0], "classes": ["node"]}])
