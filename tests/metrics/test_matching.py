"""Which detection hits which lesion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigParser

from scripts.metrics.matching import MULAN, RELEASED, RULES, STRICT, FrocRule, match_detections, select_images

OVERLAYS = Path(__file__).resolve().parents[2] / "mp3d_bundle" / "configs" / "variants"
LESION = [100.0, 100.0, 140.0, 130.0]
ELSEWHERE = [300.0, 300.0, 330.0, 340.0]


def case(
    name: str, boxes: list[list[float]], scores: list[float], true_boxes: list[list[float]], **more: Any
) -> dict[str, Any]:
    return {
        "id": name,
        "patient": name,
        "boxes": boxes,
        "scores": scores,
        "true_boxes": true_boxes,
        "width": 640,
        "height": 512,
        **more,
    }


def test_hit_false_positive_and_duplicate() -> None:
    matches = match_detections([case("a", [LESION, ELSEWHERE, LESION], [0.3, 0.5, 0.9], [LESION])])
    assert matches.scores.tolist() == [0.9, 0.5, 0.3]
    assert matches.detection.tolist() == [2, 1, 0]
    assert matches.outcomes.tolist() == ["hit", "false positive", "duplicate"]
    assert matches.false_positives.tolist() == [False, True, False]
    assert matches.found_by.tolist() == [0]
    assert matches.found_scores.tolist() == [0.9]


def test_strict_counts_duplicates_as_false_positives() -> None:
    matches = match_detections([case("a", [LESION, LESION], [0.9, 0.3], [LESION])], STRICT)
    assert matches.outcomes.tolist() == ["hit", "duplicate"]
    assert matches.false_positives.tolist() == [False, True]


def test_one_box_may_hit_two_lesions() -> None:
    upper, lower = [100.0, 100.0, 200.0, 160.0], [100.0, 105.0, 200.0, 165.0]
    matches = match_detections([case("a", [upper], [0.7], [upper, lower, ELSEWHERE])])
    assert matches.hits.tolist() == [2]
    assert matches.found_by.tolist() == [0, 0, -1]
    assert np.isnan(matches.found_scores[2])


def test_a_box_on_a_found_and_a_new_lesion_hits_the_new_one() -> None:
    # Rows 90..150 and 130..180 are lesions; the second detection has IoU 1/2 with the first, 4/7 with the second.
    lesions = [[100.0, 90.0, 200.0, 150.0], [100.0, 130.0, 200.0, 180.0]]
    detections = [[100.0, 100.0, 200.0, 160.0], [100.0, 110.0, 200.0, 170.0]]
    matches = match_detections([case("a", detections, [0.9, 0.8], lesions)])
    assert matches.hits.tolist() == [1, 1]
    assert matches.found_by.tolist() == [0, 1]


def test_iou_of_exactly_one_half_hits() -> None:
    half = [100.0, 100.0, 140.0, 115.0]
    assert match_detections([case("a", [half], [0.5], [LESION])]).hits.tolist() == [1]
    less = [100.0, 100.0, 140.0, 114.99]
    assert match_detections([case("a", [less], [0.5], [LESION])]).hits.tolist() == [0]


def test_mulan_adds_a_pixel() -> None:
    # 8 x 8 against 8 x 3.6: IoU 0.45, with one more pixel on each side 9 x 9 against 9 x 4.6: 0.511.
    small, flat = [10.0, 10.0, 18.0, 18.0], [10.0, 10.0, 18.0, 13.6]
    cases = [case("a", [flat], [0.5], [small])]
    assert match_detections(cases, RELEASED).hits.tolist() == [0]
    assert match_detections(cases, MULAN).hits.tolist() == [1]


def test_detections_only_meet_lesions_of_their_own_image() -> None:
    matches = match_detections([case("a", [LESION], [0.9], []), case("b", [], [], [LESION])])
    assert matches.outcomes.tolist() == ["false positive"]
    assert matches.found_by.tolist() == [-1]


@pytest.mark.parametrize(
    "lesion",
    [
        [100.0, 100.0, 100.9, 130.0],  # under a pixel wide
        [100.0, 100.0, 130.0, 100.5],
        [100.0, 100.0, 100.0, 130.0],
        [640.0, 100.0, 700.0, 130.0],  # outside on the right of a 640 x 512 image
        [100.0, 512.0, 140.0, 560.0],
        [-40.0, 100.0, 0.0, 130.0],
    ],
)
def test_the_released_rule_leaves_out_unusable_lesions(lesion: list[float]) -> None:
    matches = match_detections([case("a", [], [], [LESION, lesion])])
    assert matches.lesion.tolist() == [0]
    assert matches.num_dropped == 1
    assert len(match_detections([case("a", [], [], [LESION, lesion])], MULAN).lesion) == 2


def test_a_lesion_that_sticks_out_of_the_image_counts_whole() -> None:
    border = [600.0, 100.0, 680.0, 140.0]
    matches = match_detections([case("a", [[600.0, 100.0, 640.0, 140.0]], [0.5], [border])])
    assert matches.num_dropped == 0
    assert matches.hits.tolist() == [1]  # 40 of 80 pixels: the truth is not clipped


def test_mulan_leaves_out_noisy_lesions_and_keeps_their_image() -> None:
    noisy = [case("a", [LESION], [0.9], [LESION], noisy=[True])]
    assert match_detections(noisy, RELEASED).outcomes.tolist() == ["hit"]
    matches = match_detections(noisy, MULAN)
    assert matches.outcomes.tolist() == ["false positive"]
    assert matches.num_images == 1
    assert matches.num_dropped == 1


def test_equal_scores_keep_the_order_of_images_and_detections() -> None:
    cases = [case("a", [ELSEWHERE, LESION], [0.5, 0.5], [LESION]), case("b", [LESION], [0.5], [LESION])]
    earlier = match_detections(cases)
    assert list(zip(earlier.image.tolist(), earlier.detection.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 0)]
    later = match_detections(cases, FrocRule("later", ties="later"))
    assert list(zip(later.image.tolist(), later.detection.tolist(), strict=True)) == [(1, 0), (0, 1), (0, 0)]


def test_selecting_images_is_matching_them_alone() -> None:
    generator = np.random.default_rng(3)
    cases = []
    for number in range(12):
        corners = generator.uniform(0, 400, (6, 2))
        boxes = np.concatenate([corners, corners + generator.uniform(20, 60, (6, 2))], axis=1)
        truth = boxes[: number % 3] + generator.normal(0, 4, (number % 3, 4))
        cases.append(case(str(number), boxes.tolist(), generator.uniform(size=6).tolist(), truth.tolist()))
    keep = np.arange(12) % 3 != 1
    part = select_images(match_detections(cases), keep)
    alone = match_detections([one for one, kept in zip(cases, keep, strict=True) if kept])
    for name in ("image", "detection", "scores", "hits", "overlaps", "lesion_image", "lesion", "found_by"):
        np.testing.assert_array_equal(getattr(part, name), getattr(alone, name), err_msg=name)
    assert part.num_images == alone.num_images == 8


@pytest.mark.parametrize(("name", "overlay"), [("MULAN", "mulan"), ("3DCE", "3dce"), ("MVP-Net", "mvpnet")])
def test_a_rule_is_that_of_its_overlay(name: str, overlay: str) -> None:
    parser = ConfigParser(ConfigParser.load_config_file(str(OVERLAYS / f"froc_{overlay}.yaml")))
    assert parser.get_parsed_content("froc_rule") == RULES[name]
