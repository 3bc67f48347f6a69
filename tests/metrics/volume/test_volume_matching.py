"""Detections of volumes against lesions in 3D."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.metrics.froc import curve_from_matches, sensitivity_at
from scripts.metrics.volume.volume_matching import (
    FPS_PER_VOLUME,
    IOU_30,
    KEY_SLICE,
    KEY_SLICE_TRACK,
    MEAN_FPS_PER_VOLUME,
    OFFICIAL,
    PROTOCOLS,
    Protocol,
    check_volume_boxes,
    has_truth,
    match_volumes,
    pairwise_overlap,
    track_overlap,
)

# 10 x 20 pixels on 5 slices.
LESION = [100.0, 50.0, 7.0, 109.0, 69.0, 11.0]
ELSEWHERE = [300.0, 300.0, 7.0, 309.0, 309.0, 9.0]


def case(name: str, boxes: list, scores: list[float], true_boxes: list, **more: Any) -> dict[str, Any]:
    return {"id": name, "patient": name, "boxes": boxes, "scores": scores, "true_boxes": true_boxes, **more}


def overlap(box: list[float], other: list[float], dimension: Any = "3D", kind: Any = "IOU") -> float:
    return float(pairwise_overlap(np.array([box]), np.array([other]), dimension=dimension, overlap=kind)[0, 0])


def test_sizes_are_inclusive() -> None:
    half = [100.0, 50.0, 7.0, 104.0, 69.0, 11.0]
    assert overlap(half, LESION) == 0.5
    assert overlap(half, LESION, kind="IOBB") == 1.0
    assert overlap(half, LESION, kind="IOGT") == 0.5
    # One voxel is a box of volume 1: the corner of the lesion, 1 of 1000.
    assert overlap([109.0, 69.0, 11.0, 109.0, 69.0, 11.0], LESION, kind="IOGT") == 1 / 1000
    assert overlap([110.0, 50.0, 7.0, 119.0, 69.0, 11.0], LESION) == 0.0


def test_overlaps_in_the_plane_and_on_one_slice() -> None:
    flat = [100.0, 50.0, 109.0, 69.0]
    assert overlap([100.0, 50.0, 104.0, 69.0], flat, "2D") == 0.5
    key = [100.0, 50.0, 9.0, 109.0, 69.0, 9.0]
    assert overlap(LESION, key, "P3D") == 1.0
    assert overlap([100.0, 50.0, 9.0, 104.0, 69.0, 9.0], key, "P3D") == 0.5
    for low, high, reached in ((10, 12, 0), (9, 12, 1), (5, 9, 1), (5, 8, 0)):
        assert overlap([100.0, 50.0, low, 109.0, 69.0, high], key, "P3D") == reached
    with pytest.raises(ValueError, match=r"single slice \(z1 == z2\)"):
        overlap(LESION, LESION, "P3D")


def test_the_four_overlaps_bound_each_other() -> None:
    draw = np.random.default_rng(0)
    low = draw.integers(0, 20, (40, 3))
    boxes = np.concatenate([low, low + draw.integers(0, 15, (40, 3))], axis=1).astype(float)
    iou, iobb, iogt, loose = (
        pairwise_overlap(boxes, boxes, dimension="3D", overlap=kind) for kind in ("IOU", "IOBB", "IOGT", "IOBBGT")
    )
    np.testing.assert_array_equal(np.diag(iou), 1.0)
    np.testing.assert_array_equal(iobb, iogt.T)
    np.testing.assert_array_equal(loose, np.maximum(iobb, iogt))
    assert (iou <= np.minimum(iobb, iogt)).all()
    assert ((loose >= 0) & (loose <= 1)).all()
    assert (iou > 0).any()
    assert (iou == 0).any()


def test_no_boxes_are_legal_on_both_sides() -> None:
    none, one = np.zeros((0, 6)), np.array([LESION])
    for boxes, others in ((none, one), (one, none), (none, none)):
        for dimension in ("3D", "P3D"):
            got = pairwise_overlap(boxes, others[:, [0, 1, 2, 3, 4, 2]], dimension=dimension, overlap="IOU")
            assert got.shape == (len(boxes), len(others))


@pytest.mark.parametrize("settings", [{"dimension": "4D", "overlap": "IOU"}, {"dimension": "3D", "overlap": "GIOU"}])
def test_unknown_overlaps_are_rejected(settings: Any) -> None:
    with pytest.raises(ValueError, match=r"got '(4D|GIOU)'"):
        pairwise_overlap(np.zeros((0, 6)), np.zeros((0, 6)), **settings)


def test_the_official_code_gives_the_same_numbers(shared: Path) -> None:
    golden = json.loads((shared / "reference/golden/eval3d.json").read_text())
    compared = 0
    for name, volumes in golden["problems"].items():
        cases = []
        for number, volume in enumerate(volumes):
            found = np.array(volume["det"], dtype=float).reshape(-1, 7)
            cases.append(case(str(number), found[:, :6], found[:, 6], volume["gt"]))  # type: ignore[arg-type]
        for setting, expected in golden["results"][name].items():
            if not isinstance(expected, dict):
                continue
            dimension, kind, threshold = setting.split("_")
            matches = match_volumes(cases, Protocol(setting, dimension, kind, float(threshold)))  # type: ignore[arg-type]
            curve = curve_from_matches(matches)
            values = sensitivity_at(curve, golden["fp_values"])
            assert values.tolist() == expected["sens"], setting
            assert values[:7].mean() == expected["mean_first7"]
            assert (curve.sensitivity[-1], curve.fps_per_image[-1]) == (expected["final_sens"], expected["max_fp"])
            compared += 1
    assert compared >= 8


def test_the_truth_itself_scores_one(shared: Path) -> None:
    volumes = json.loads((shared / "data/deeplesion/manual3d/manual_val.json").read_text())
    draw = np.random.default_rng(0)
    cases = [case(name, boxes, draw.random(len(boxes)).tolist(), boxes) for name, boxes in volumes.items()]
    for protocol in PROTOCOLS[:3]:
        curve = curve_from_matches(match_volumes(cases, protocol))
        np.testing.assert_array_equal(sensitivity_at(curve, FPS_PER_VOLUME), 1.0)
        assert curve.fps_per_image.max() == 0.0


def test_hit_false_positive_and_neither() -> None:
    part = [100.0, 50.0, 7.0, 104.0, 69.0, 11.0]
    matches = match_volumes([case("a", [LESION, ELSEWHERE, part], [0.3, 0.5, 0.9], [LESION])])
    assert matches.outcomes.tolist() == ["hit", "false positive", "duplicate"]
    assert matches.false_positives.tolist() == [False, True, False]
    assert matches.found_scores.tolist() == [0.9]


def test_one_detection_finds_several_lesions() -> None:
    around = [100.0, 50.0, 7.0, 109.0, 69.0, 16.0]
    below = [100.0, 50.0, 12.0, 109.0, 69.0, 16.0]
    assert match_volumes([case("a", [around], [0.5], [LESION, below, ELSEWHERE])]).hits.tolist() == [2]


def test_volumes_without_a_lesion_count() -> None:
    cases = [
        case("a", [LESION, ELSEWHERE], [0.9, 0.8], [LESION]),
        case("b", [ELSEWHERE], [0.7], []),
        case("c", [], [], []),
    ]
    curve = curve_from_matches(match_volumes(cases))
    assert curve.fps_per_image.tolist() == [0.0, 1 / 3, 2 / 3]
    assert curve.num_lesions == 1


def test_the_curve_is_read_as_the_official_code_reads_it() -> None:
    # Four volumes, two lesions; a false positive before, between and after the hits.
    cases = [
        case("a", [ELSEWHERE, LESION], [0.9, 0.8], [LESION]),
        case("b", [ELSEWHERE, LESION], [0.7, 0.6], [LESION]),
        case("c", [ELSEWHERE], [0.5], []),
        case("d", [], [], []),
    ]
    curve = curve_from_matches(match_volumes(cases))
    # FPs 0.25, 0.25, 0.5, 0.5, 0.75: left of the curve 0, right of it the last value, the last of equals.
    assert sensitivity_at(curve, (0.125, 0.25, 0.375, 0.5, 0.75, 8.0)).tolist() == [0.0, 0.5, 0.5, 1.0, 1.0, 1.0]
    assert MEAN_FPS_PER_VOLUME == (0.125, 0.25, 0.5, 1, 2, 4, 8)


def test_a_tiny_box_hits_by_iobb_but_not_by_iou() -> None:
    tiny = [104.0, 59.0, 9.0, 104.0, 59.0, 9.0]
    cases = [case("a", [tiny], [0.9], [LESION])]
    assert match_volumes(cases, OFFICIAL).hits.tolist() == [1]
    assert match_volumes(cases, IOU_30).hits.tolist() == [0]


def test_the_threshold_itself_hits() -> None:
    # 3 of 10 columns inside.
    shifted = [107.0, 50.0, 7.0, 116.0, 69.0, 11.0]
    assert overlap(shifted, LESION, kind="IOBB") == 0.3
    assert match_volumes([case("a", [shifted], [0.9], [LESION])]).hits.tolist() == [1]


def test_a_track_is_compared_with_its_own_box_on_the_slice() -> None:
    # A lesion that drifts: its 3D box is twice as wide as its box on slice 9.
    wide = [100.0, 50.0, 8.0, 119.0, 69.0, 9.0]
    key = [100.0, 50.0, 9.0, 109.0, 69.0, 9.0]
    tracks = [[0.0, 8.0, 110.0, 50.0, 119.0, 69.0], [0.0, 9.0, 100.0, 50.0, 109.0, 69.0]]
    one = [{"id": "a", "boxes": [wide], "scores": [0.9], "key_boxes": [key], "tracks": tracks}]
    assert overlap(wide, key, "P3D") == 0.5
    assert track_overlap(np.array(tracks), 1, np.array([key]), "IOU").tolist() == [[1.0]]
    assert track_overlap(np.array(tracks[:1]), 1, np.array([key]), "IOU").tolist() == [[0.0]]
    assert track_overlap(np.zeros((0, 6)), 2, np.array([key]), "IOU").tolist() == [[0.0], [0.0]]
    assert match_volumes(one, KEY_SLICE).hits.tolist() == [1]
    assert match_volumes(one, KEY_SLICE_TRACK).hits.tolist() == [1]
    assert has_truth(one, KEY_SLICE_TRACK)
    assert not has_truth(one, OFFICIAL)
    assert not has_truth([{**one[0], "tracks": None}], KEY_SLICE_TRACK)


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ([], "at least one volume"),
        ([case("a", [], [], [LESION]), case("a", [], [], [])], "one case per volume, got a twice"),
        ([{"id": "a", "boxes": []}], "no scores in a"),
        ([case("a", [LESION], [], [LESION])], r"score for each of 1 boxes, got 0 scores.*in a"),
        ([case("a", [LESION], [float("nan")], [])], "0 of them finite, in a"),
        ([case("a", [[1, 2, 3, 4]], [0.5], [])], r"boxes of 6 numbers, got shape \(1, 4\) as boxes of a"),
        ([case("a", [], [], [[5, 5, 5, 4, 3, 6]])], r"end after they begin, got \[5.0, .* row 0 of true_boxes of a"),
        ([case("a", [], [], [["x"] * 6])], "boxes of 6 numbers, got something else as true_boxes of a"),
        ([case("a", [], [], []), {"id": "b", "boxes": [], "scores": []}], "true_boxes in every volume.*none in b"),
    ],
)
def test_malformed_cases_are_named(cases: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_volumes(cases)


def test_boxes_in_two_dimensions() -> None:
    flat = Protocol("2D IoU 0.5", "2D", "IOU", 0.5)
    one = case("a", [[100, 50, 104, 69]], [0.5], [[100, 50, 109, 69]])
    assert match_volumes([one], flat).hits.tolist() == [1]
    assert check_volume_boxes([], "x", columns=4).shape == (0, 4)
