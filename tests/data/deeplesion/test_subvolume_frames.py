"""Frames of 3D boxes: every way there has a way back, and sizes are kept."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.data.deeplesion.subvolume_frames import (
    from_edges,
    from_harvester,
    from_slab,
    to_edges,
    to_harvester,
    to_slab,
    whole_slices,
)

# Whole slices 103 to 115, off the diagonal so that swapped axes show.
BOXES = np.array([[220.0, 88.0, 108.0, 246.0, 116.0, 110.0], [0.25, 500.5, 103.0, 0.75, 511.0, 115.0]])
FIRST, COUNT = 103, 13


def test_slab_there_and_back() -> None:
    plane, low, high = to_slab(BOXES)
    np.testing.assert_array_equal(from_slab(plane, low, high), BOXES)
    # 220 to 246 inclusive is 27 pixels.
    assert (plane[0, 2] - plane[0, 0], plane[0, 3] - plane[0, 1]) == (27, 29)


def test_harvester_there_and_back() -> None:
    stored = to_harvester(BOXES, FIRST)
    np.testing.assert_array_equal(from_harvester(stored, FIRST), BOXES)
    # x1, y1, x2, y2 count pixels from 1 and end at an edge, z1, z2 count slices from the first one.
    assert stored[0].tolist() == [221, 89, 248, 118, 5, 7]


def test_edges_there_and_back() -> None:
    edges = to_edges(BOXES, FIRST)
    np.testing.assert_array_equal(from_edges(edges, FIRST, COUNT), BOXES)
    assert edges[0].tolist() == [220, 88, 5, 247, 117, 8]


def test_no_box_is_legal_in_every_frame() -> None:
    none = np.zeros((0, 6))
    for boxes in (
        from_slab(np.zeros((0, 4)), np.zeros(0), np.zeros(0)),
        from_harvester(none, FIRST),
        to_harvester(none, FIRST),
        from_edges(none, FIRST, COUNT),
        to_edges(none, FIRST),
    ):
        assert boxes.shape == (0, 6)


@pytest.mark.parametrize(
    ("low", "high", "slices"),
    [
        # 5 mm slices, lattice steps of half a slice, each a quarter of a slice to both sides of its place.
        (1.25, 1.75, (104, 104)),  # a lattice slice on slice 1
        (1.75, 2.25, (104, 104)),  # halfway between 1 and 2: the lower one
        (1.25, 2.75, (104, 105)),
        # 1 mm slices: 2.5 slices thick; the centres of slices 2 and 3 are inside.
        (1.75, 4.25, (105, 106)),
        (0.0, 13.0, (103, 115)),
        # Ends of the sub-volume.
        (0.0, 0.25, (103, 103)),
        (12.75, 13.0, (115, 115)),
        # Rounding of the arithmetic does not cost a slice.
        (1.5 + 1e-9, 3.5 - 1e-9, (104, 106)),
    ],
)
def test_a_box_gets_the_slices_whose_centres_it_covers(low: float, high: float, slices: tuple[int, int]) -> None:
    box = from_edges(np.array([[1.0, 2.0, low, 5.0, 9.0, high]]), FIRST, COUNT)[0]
    assert (box[2], box[5]) == slices
    assert box[[0, 1, 3, 4]].tolist() == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("low", "high", "slices"),
    [
        *((5.0, 6.0, (5, 6)), (4.5, 6.5, (5, 6)), (-0.5, 0.5, (0, 0)), (-0.5, 1.5, (0, 1)), (11.5, 12.5, (12, 12))),
        *((5.5, 5.5, (5, 5)), (5.2, 5.4, (5, 5)), (5.6, 5.9, (6, 6)), (4.9999999, 6.0000001, (5, 6)), (3, 3, (3, 3))),
    ],
)
def test_half_slices_of_lesion_harvester_are_ends_of_a_box(low: float, high: float, slices: tuple[int, int]) -> None:
    box = from_harvester(np.array([[11.0, 21, 31, 41, low, high]]), 103)
    np.testing.assert_array_equal(box, [[10, 20, slices[0] + 103, 29, 39, slices[1] + 103]])


def test_positions_that_are_none_stay_what_they_are() -> None:
    low, high = whole_slices(np.array([np.nan, 7.5, np.inf]), np.array([1.0, 2.5, np.inf]))
    np.testing.assert_array_equal(low, [np.nan, 7.5, np.inf])
    np.testing.assert_array_equal(high, [1.0, 2.5, np.inf])
