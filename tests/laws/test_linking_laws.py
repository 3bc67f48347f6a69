"""Laws of linking: no box is lost or used twice, and a lesion is what its boxes say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scripts.boxes import pairwise_iou
from scripts.inference.detections import Lesion, SliceBoxes, link_boxes
from support.drawn_values import SEEDS, random_boxes

MIN_IOU = st.sampled_from([0.1, 0.2, 0.5])
GAP = st.integers(0, 2)
THRESHOLD = st.sampled_from([0.0, 0.3, 0.6, 0.95])


@st.composite
def slice_boxes(draw: st.DrawFn) -> SliceBoxes:
    """Boxes of up to eight slices, near one another; no two scores are equal."""
    generator = np.random.default_rng(draw(SEEDS))
    counts = draw(st.lists(st.integers(0, 5), min_size=1, max_size=8))
    slices = np.repeat(np.arange(len(counts)), counts)
    thickness = draw(st.sampled_from([0.5, 1.0, 2.5]))
    return SliceBoxes(
        boxes=random_boxes(generator, len(slices), (25.0, 20.0)),
        scores=generator.permutation(len(slices)) / max(len(slices), 1),
        slices=slices,
        positions=np.arange(len(counts)) * thickness,
        thickness=thickness,
        examined=np.ones(len(counts), dtype=bool),
        shape=(int(len(counts) * thickness) + 1, 60, 70),
        scale=(1.0, 1.0),
        fields={"row": np.arange(len(slices)), "malignancy": generator.uniform(size=(len(slices), 2))},
    )


def permuted(found: SliceBoxes, seed: int) -> tuple[SliceBoxes, np.ndarray]:
    """The boxes of every slice in another order, and the source of each."""
    order = np.lexsort([np.random.default_rng(seed).permutation(len(found.slices)), found.slices])
    fields = {name: values[order] for name, values in found.fields.items()}
    return replace(found, boxes=found.boxes[order], scores=found.scores[order], fields=fields), order


def facts(lesion: Lesion) -> tuple:
    return (lesion.score, lesion.key, *lesion.box.tolist(), *lesion.key_box.tolist(), int(lesion.fields["row"]))


@given(slice_boxes(), MIN_IOU, GAP)
def test_every_box_belongs_to_one_lesion(found: SliceBoxes, min_iou: float, gap: int) -> None:
    lesions = link_boxes(found, min_iou=min_iou, max_gap=gap)
    members = [row for lesion in lesions for row in lesion.members]
    assert sorted(members) == list(range(len(found.boxes)))
    assert [lesion.score for lesion in lesions] == sorted((lesion.score for lesion in lesions), reverse=True)


@given(slice_boxes(), MIN_IOU, GAP)
def test_a_lesion_is_what_its_best_box_says(found: SliceBoxes, min_iou: float, gap: int) -> None:
    solid = found.solid()
    for lesion in link_boxes(found, min_iou=min_iou, max_gap=gap):
        rows = np.array(lesion.members)
        best = rows[found.scores[rows].argmax()]
        assert lesion.score == found.scores[best] == found.scores[rows].max()
        assert lesion.key == found.slices[best]
        np.testing.assert_array_equal(lesion.key_box, found.boxes[best])
        np.testing.assert_array_equal(lesion.box[[0, 1, 3, 4]], found.boxes[best])
        assert (lesion.box[2], lesion.box[5]) == (solid[rows, 2].min(), solid[rows, 5].max())
        assert lesion.fields["row"] == best
        np.testing.assert_array_equal(lesion.fields["malignancy"], found.fields["malignancy"][best])


@given(slice_boxes(), MIN_IOU, GAP)
def test_a_lesion_has_one_box_a_slice_and_each_continues_the_one_before(
    found: SliceBoxes, min_iou: float, gap: int
) -> None:
    for lesion in link_boxes(found, min_iou=min_iou, max_gap=gap):
        rows = np.array(lesion.members)
        steps = np.diff(found.slices[rows])
        assert ((steps >= 1) & (steps <= gap + 1)).all()
        overlaps = np.diag(pairwise_iou(found.boxes[rows[:-1]], found.boxes[rows[1:]]))
        assert (overlaps >= min_iou).all()


@given(slice_boxes(), MIN_IOU, GAP, SEEDS)
def test_the_order_of_boxes_within_slices_does_not_matter(
    found: SliceBoxes, min_iou: float, gap: int, seed: int
) -> None:
    other, order = permuted(found, seed)
    lesions = link_boxes(found, min_iou=min_iou, max_gap=gap)
    again = link_boxes(other, min_iou=min_iou, max_gap=gap)
    assert [facts(lesion) for lesion in again] == [facts(lesion) for lesion in lesions]
    assert [tuple(order[list(lesion.members)]) for lesion in again] == [lesion.members for lesion in lesions]


@given(slice_boxes(), MIN_IOU, GAP, THRESHOLD)
def test_a_threshold_leaves_lesions_out_and_changes_none(
    found: SliceBoxes, min_iou: float, gap: int, threshold: float
) -> None:
    every = link_boxes(found, min_iou=min_iou, max_gap=gap)
    few = link_boxes(found, min_iou=min_iou, max_gap=gap, score_threshold=threshold)
    assert [facts(lesion) for lesion in few] == [facts(lesion) for lesion in every if lesion.score >= threshold]


@given(slice_boxes(), MIN_IOU, GAP, st.integers(-20, 20))
def test_a_shift_in_the_plane_shifts_the_lesions(found: SliceBoxes, min_iou: float, gap: int, shift: int) -> None:
    moved = replace(found, boxes=found.boxes + 64.0 * shift)
    one, other = (link_boxes(each, min_iou=min_iou, max_gap=gap) for each in (found, moved))
    assert [lesion.members for lesion in one] == [lesion.members for lesion in other]


@given(slice_boxes(), MIN_IOU, GAP, SEEDS)
def test_classes_are_linked_as_if_each_were_alone(found: SliceBoxes, min_iou: float, gap: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(1, 4, len(found.slices))
    classed = replace(found, fields={**found.fields, "labels": labels})
    together = [(*facts(lesion), lesion.label) for lesion in link_boxes(classed, min_iou=min_iou, max_gap=gap)]
    apart = []
    for label in (1, 2, 3):
        rows = labels == label
        own = {name: values[rows] for name, values in found.fields.items()}
        alone = replace(
            found, boxes=found.boxes[rows], scores=found.scores[rows], slices=found.slices[rows], fields=own
        )
        apart += [(*facts(lesion), label) for lesion in link_boxes(alone, min_iou=min_iou, max_gap=gap)]
    assert sorted(together) == sorted(apart)


@given(slice_boxes(), MIN_IOU, GAP)
def test_one_class_for_all_changes_nothing(found: SliceBoxes, min_iou: float, gap: int) -> None:
    same = replace(found, fields={**found.fields, "labels": np.full(len(found.slices), 2)})
    one, other = (link_boxes(each, min_iou=min_iou, max_gap=gap) for each in (found, same))
    assert [facts(lesion) for lesion in one] == [facts(lesion) for lesion in other]
