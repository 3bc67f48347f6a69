"""Laws of boxes: frames, moves, clipping and overlap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import nibabel.orientations as orientations
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scripts import box_frames
from scripts import boxes as bx
from scripts.boxes import Affine
from scripts.data.scans.scan import Scan
from support.drawn_values import boxes
from support.fake_scans import scan_of

FACTOR = st.sampled_from([-3.0, -1.0, -0.5, 0.25, 0.8, 1.0, 2.0, 7.0])
SHIFT = st.integers(-200, 200).map(float)
AFFINES = st.builds(Affine, FACTOR, FACTOR, SHIFT, SHIFT)
KINDS = st.sampled_from([np.asarray, torch.as_tensor])
FRAMES = [
    (box_frames.from_deeplesion, box_frames.to_deeplesion),
    (bx.from_coco, bx.to_coco),
    (bx.swap_axes, bx.swap_axes),
]


def same(found: Any, wanted: Any) -> None:
    assert type(found) is type(wanted)
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), atol=1e-9)


@given(boxes(), boxes(), st.sampled_from([0.0, 1.0]))
def test_overlap_is_symmetric_and_a_share(first: np.ndarray, second: np.ndarray, extra: float) -> None:
    found = bx.pairwise_iou(first, second, extra)
    assert found.shape == (len(first), len(second))
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_array_equal(found, bx.pairwise_iou(second, first, extra).T)
    np.testing.assert_array_equal(np.diag(bx.pairwise_iou(first, first, extra)), 1)


@given(boxes(), boxes(), AFFINES)
def test_overlap_does_not_change_when_both_are_moved(first: np.ndarray, second: np.ndarray, by: Affine) -> None:
    moved = bx.pairwise_iou(bx.move(first, by), bx.move(second, by))
    np.testing.assert_allclose(moved, bx.pairwise_iou(first, second), atol=1e-9)


@given(boxes(), boxes())
def test_overlap_is_full_for_the_same_box_alone(first: np.ndarray, second: np.ndarray) -> None:
    equal = (first[:, None] == second[None]).all(axis=2)
    np.testing.assert_array_equal(bx.pairwise_iou(first, second) == 1, equal)


@pytest.mark.parametrize(("there", "back"), FRAMES)
@given(given_boxes=boxes(), make=KINDS)
def test_frames_lead_back(there: Callable, back: Callable, given_boxes: np.ndarray, make: Callable) -> None:
    given_boxes = make(given_boxes)
    kept = given_boxes + 0
    same(back(there(given_boxes)), given_boxes)
    same(there(back(given_boxes)), given_boxes)
    same(given_boxes, kept)


@given(boxes(), AFFINES, AFFINES, KINDS)
def test_moves_follow_one_another_and_lead_back(
    given_boxes: np.ndarray, first: Affine, second: Affine, make: Callable
) -> None:
    given_boxes = make(given_boxes)
    moved = bx.move(given_boxes, first)
    bx.check_boxes(moved)
    both = Affine(
        first.scale_x * second.scale_x,
        first.scale_y * second.scale_y,
        first.shift_x * second.scale_x + second.shift_x,
        first.shift_y * second.scale_y + second.shift_y,
    )
    same(bx.move(moved, second), bx.move(given_boxes, both))
    back = Affine(1 / first.scale_x, 1 / first.scale_y, -first.shift_x / first.scale_x, -first.shift_y / first.scale_y)
    same(bx.move(moved, back), given_boxes)
    same(bx.area(moved), bx.area(given_boxes) * abs(first.scale_x * first.scale_y))


@given(boxes(), st.integers(1, 60), st.integers(1, 60), KINDS)
def test_clipping_twice_is_clipping_once(given_boxes: np.ndarray, height: int, width: int, make: Callable) -> None:
    given_boxes = make(given_boxes)
    once = bx.clip(given_boxes, height, width)
    same(bx.clip(once, height, width), once)
    values = np.asarray(once)
    assert values.shape == (len(given_boxes), 4)
    assert ((values >= 0) & (values <= [width, height, width, height])).all()
    assert (np.asarray(bx.area(once)) <= np.asarray(bx.area(given_boxes))).all()
    inside = (np.asarray(given_boxes) >= 0).all(axis=1) & (np.asarray(given_boxes)[:, 2:] <= [width, height]).all(
        axis=1
    )
    np.testing.assert_array_equal(values[inside], np.asarray(given_boxes)[inside])


@st.composite
def turned_scans(draw: st.DrawFn) -> Scan:
    """Scans of three different sides, stored along any axes in any directions, on even or uneven places."""
    z, height, width = draw(st.permutations([3, 5, 8]))
    scan = scan_of(np.zeros((z, height, width), dtype=np.int16), (0.7, 0.9, 2.5))
    axes, signs = draw(st.permutations([0.0, 1.0, 2.0])), draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    turn = np.column_stack([axes, signs])
    stored = tuple(np.array([width, height, z])[np.argsort(axes)].tolist())
    matrix = np.linalg.inv(orientations.inv_ornt_aff(turn, (width, height, z)))
    places = None
    if draw(st.booleans()):
        gaps = draw(st.lists(st.integers(1, 3), min_size=stored[2] - 1, max_size=stored[2] - 1))
        places = np.concatenate([[0.0], np.cumsum(gaps)])
    return replace(scan, stored_from_canonical=matrix, stored_shape=stored, places=places)


@given(turned_scans(), boxes())
def test_boxes_of_a_scan_lead_to_its_file_and_back(scan: Scan, flat: np.ndarray) -> None:
    solid = np.column_stack([flat[:, :2], flat[:, 0], flat[:, 2:], flat[:, 0] + 1.5])
    stored = scan.boxes_to_stored(solid)
    np.testing.assert_allclose(scan.boxes_from_stored(stored), solid, atol=1e-9)
    assert (stored[:, 3:] > stored[:, :3]).all()


@given(turned_scans(), boxes(), st.tuples(*[st.floats(-0.8, 0.8)] * 2))
def test_boxes_of_a_tilted_scan_come_back_by_their_sizes(
    scan: Scan, flat: np.ndarray, shift: tuple[float, float]
) -> None:
    lean = np.eye(4)
    lean[:2, 2] = shift
    scan = replace(scan, stored_from_canonical=scan.stored_from_canonical @ lean)
    solid = np.column_stack([flat[:, :2], flat[:, 0], flat[:, 2:], flat[:, 0] + 1.5])
    stored, sizes = scan.boxes_to_stored(solid), (solid[:, 3:] - solid[:, :3]) * scan.spacing
    np.testing.assert_allclose(scan.boxes_from_stored(stored, sizes), solid, atol=1e-9)
    # Bounds of bounds enclose them; so do those of a box that is another one by now, or that says no size.
    around = scan.boxes_from_stored(stored)
    assert (around[:, :3] <= solid[:, :3] + 1e-9).all()
    assert (around[:, 3:] >= solid[:, 3:] - 1e-9).all()
    for other in (sizes + 1.0, np.full(sizes.shape, np.nan)):
        np.testing.assert_array_equal(scan.boxes_from_stored(stored, other), around)


@given(turned_scans())
def test_the_whole_scan_is_the_whole_file(scan: Scan) -> None:
    z, height, width = scan.hu.shape
    whole = np.array([[0, 0, 0, width, height, z]], dtype=float)
    if scan.places is None:
        np.testing.assert_allclose(scan.boxes_to_stored(whole), [[0, 0, 0, *scan.stored_shape]], atol=1e-9)
