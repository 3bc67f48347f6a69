"""Linking boxes along z."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from scripts.inference.detections import SliceBoxes, link_boxes

HERE, THERE = (10, 10, 30, 20), (60, 10, 80, 30)


def found(*entries: tuple[int, tuple[float, ...], float], slices: int = 20, thickness: float = 1.0) -> SliceBoxes:
    """Slice boxes from (lattice slice, box, score), in slice order."""
    return SliceBoxes(
        boxes=np.array([box for _, box, _ in entries], dtype=float).reshape(-1, 4),
        scores=np.array([score for _, _, score in entries], dtype=float),
        slices=np.array([number for number, _, _ in entries], dtype=np.int64),
        positions=np.arange(slices) * thickness,
        thickness=thickness,
        examined=np.ones(slices, dtype=bool),
        shape=(int(slices * thickness), 100, 100),
        scale=(1.0, 1.0),
    )


def test_nothing_found_gives_no_lesion() -> None:
    assert link_boxes(found()) == []


def test_boxes_above_each_other_are_one_lesion() -> None:
    (lesion,) = link_boxes(found((3, HERE, 0.5), (4, HERE, 0.9), (5, (12, 10, 32, 20), 0.7)))
    assert lesion.score == 0.9
    assert lesion.key == 4
    assert lesion.members == (0, 1, 2)
    np.testing.assert_array_equal(lesion.key_box, HERE)
    # In the plane the best box; lattice slices 3 to 5, each one slice thick, around voxel centres.
    np.testing.assert_allclose(lesion.box, (10, 10, 3, 30, 20, 6))


def test_faint_boxes_extend_a_lesion_but_are_none() -> None:
    entries = ((3, HERE, 0.2), (4, HERE, 0.9), (5, HERE, 0.3), (5, THERE, 0.3), (8, HERE, 0.4))
    (lesion,) = link_boxes(found(*entries), score_threshold=0.5)
    assert lesion.score == 0.9
    assert lesion.members == (0, 1, 2)
    assert [one.score for one in link_boxes(found(*entries), score_threshold=0.4)] == [0.9, 0.4]


def test_largest_of_equally_good_boxes_bounds_a_lesion() -> None:
    wide = (9, 9, 31, 21)
    (lesion,) = link_boxes(found((3, HERE, 0.5), (4, wide, 0.5), (5, HERE, 0.5)))
    np.testing.assert_allclose(lesion.box, (9, 9, 3, 31, 21, 6))
    assert lesion.key == 4


def test_boxes_beside_each_other_are_two_lesions_best_first() -> None:
    first, second = link_boxes(found((3, HERE, 0.5), (3, THERE, 0.6), (4, HERE, 0.9), (4, THERE, 0.2)))
    assert (first.score, second.score) == (0.9, 0.6)
    assert (first.members, second.members) == ((0, 2), (1, 3))


def test_best_overlap_is_taken_first() -> None:
    shifted = (14, 10, 34, 20)
    lesions = link_boxes(found((0, HERE, 0.5), (1, shifted, 0.4), (1, HERE, 0.3)))
    assert sorted(lesion.members for lesion in lesions) == [(0, 2), (1,)]


@pytest.mark.parametrize(("gap", "lesions"), [(0, 2), (1, 1), (2, 1)])
def test_gaps_up_to_the_limit_are_bridged(gap: int, lesions: int) -> None:
    assert len(link_boxes(found((3, HERE, 0.5), (5, HERE, 0.5)), max_gap=gap)) == lesions


@pytest.mark.parametrize(("min_iou", "lesions"), [(0.3, 1), (0.5, 1), (0.51, 2)])
def test_overlap_of_exactly_the_limit_counts(min_iou: float, lesions: int) -> None:
    # 20 x 10 and 10 x 10 inside it: overlap one half.
    assert len(link_boxes(found((3, HERE, 0.5), (4, (10, 10, 20, 20), 0.5)), min_iou=min_iou)) == lesions


def test_every_box_is_in_exactly_one_lesion() -> None:
    generator = np.random.default_rng(0)
    entries = []
    for number in range(15):
        for _ in range(generator.integers(0, 5)):
            x, y = generator.integers(0, 20, 2)
            entries.append((number, (x, y, x + 12, y + 12), float(generator.random())))
    detections = found(*entries)
    lesions = link_boxes(detections)
    assert sorted(row for lesion in lesions for row in lesion.members) == list(range(len(entries)))
    for lesion in lesions:
        numbers = detections.slices[list(lesion.members)]
        assert (np.diff(numbers) >= 1).all()
        assert (np.diff(numbers) <= 1).all()
    assert [lesion.score for lesion in lesions] == sorted((lesion.score for lesion in lesions), reverse=True)


def test_box_at_either_end_stays_within_the_scan() -> None:
    detections = found((0, HERE, 0.5), (9, THERE, 0.4), slices=10, thickness=0.5)
    np.testing.assert_allclose(detections.solid()[:, [2, 5]], [[0.25, 0.75], [4.75, 5.0]])


@pytest.mark.parametrize("settings", [{"min_iou": 0.0}, {"min_iou": 1.1}, {"max_gap": -1}])
def test_settings_are_checked(settings: dict) -> None:
    with pytest.raises(ValueError, match="min_iou in"):
        link_boxes(found(), **settings)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_score_threshold_is_checked(threshold: float) -> None:
    with pytest.raises(ValueError, match="score threshold from 0 to 1"):
        link_boxes(found(), score_threshold=threshold)


def test_a_lesion_takes_the_fields_of_its_best_box() -> None:
    boxes = found((3, HERE, 0.5), (3, THERE, 0.6), (4, HERE, 0.9), (4, THERE, 0.2))
    fields = {"age": np.array([1.0, 2.0, 3.0, 4.0]), "tags": np.eye(4)}
    first, second = link_boxes(dataclasses.replace(boxes, fields=fields))
    assert (first.fields["age"], second.fields["age"]) == (3, 2)
    assert first.fields["tags"].tolist() == [0, 0, 1, 0]
    assert link_boxes(boxes)[0].fields == {}


def test_the_enclosing_extent_holds_every_box_of_the_lesion() -> None:
    entries = found((3, HERE, 0.5), (4, (12, 8, 33, 19), 0.9), (5, (6, 10, 30, 24), 0.7), (5, THERE, 0.3))
    first, second = link_boxes(entries, extent="enclosing")
    np.testing.assert_allclose(first.box, (6, 8, 3, 33, 24, 6))
    np.testing.assert_array_equal(first.key_box, (12, 8, 33, 19))
    np.testing.assert_allclose(second.box, (60, 10, 5, 80, 30, 6))
    # Scores, slices and members are those of the best extent.
    best = link_boxes(entries)
    assert [(one.score, one.key, one.members) for one in best] == [
        (one.score, one.key, one.members) for one in (first, second)
    ]
    with pytest.raises(ValueError, match="Expected best or enclosing as extent, got 'all'"):
        link_boxes(entries, extent="all")


def test_boxes_of_different_classes_are_never_of_one_lesion() -> None:
    boxes = found((3, HERE, 0.5), (4, HERE, 0.9), (5, HERE, 0.7), (6, HERE, 0.8))
    (one,) = link_boxes(boxes)
    assert one.label is None
    classed = dataclasses.replace(boxes, fields={"labels": np.array([1, 1, 2, 2])})
    first, second = link_boxes(classed)
    assert (first.label, first.members, first.score) == (1, (0, 1), 0.9)
    assert (second.label, second.members, second.score) == (2, (2, 3), 0.8)
