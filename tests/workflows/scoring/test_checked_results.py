"""Boxes of a scan: rows of six finite numbers with corners in their order, in the scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.workflows.scoring.checked_results import check_corners, check_in_images, check_result, six_numbers

SHAPE = (60, 40, 20)
PATH = Path("r.json")


def test_no_box_is_a_table_and_other_shapes_are_not() -> None:
    assert six_numbers([]).shape == six_numbers(np.zeros((0, 6))).shape == (0, 6)
    assert six_numbers([[1, 2, 3, 4, 5, 6]]).tolist() == [[1, 2, 3, 4, 5, 6]]
    for boxes in (np.ones((6, 2)), np.ones(6), np.ones((1, 1, 6)), np.ones((2, 7))):
        with pytest.raises(ValueError, match="expected six numbers for each box, got a table of shape"):
            six_numbers(boxes)


def test_corners_are_in_their_order() -> None:
    check_corners(np.zeros((2, 3)), np.array([[1, 1, 1], [0, 1, 1]]))
    with pytest.raises(ValueError, match=r"got \[0\.0, 0\.0, 0\.0\] to \[1, -1, 1\] as box 0"):
        check_corners(np.zeros((1, 3)), np.array([[1, -1, 1]]))


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 60, 40, 20), (-3, -2, -1, 5, 5, 5), (59.5, 39.5, 19.5, 70, 50, 25), (5, 5, 5, 5.5, 6, 6)]
)
def test_boxes_in_a_scan_and_over_its_edges_are_taken(box: tuple[float, ...]) -> None:
    check_result(np.array([box]), np.array([0.5]), SHAPE, PATH)


@pytest.mark.parametrize(
    ("box", "what"),
    [
        ((60, 0, 0, 70, 5, 5), r"Expected boxes in the scan of 60 x 40 x 20 voxels, got .* as box 1 of r\.json"),
        ((-9, 0, 0, 0, 5, 5), "Expected boxes in the scan"),
        ((0, 0, -21, 5, 5, 5), "Expected boxes in the scan"),
        ((0, 0, 0, 5, 81, 5), "Expected boxes in the scan"),
        ((9, 0, 0, 5, 5, 5), r"Expected boxes with low and high corners in r\.json: .* as box 1"),
        ((np.inf, 0, 0, 5, 5, 5), r"Expected finite numbers .* in r\.json"),
    ],
)
def test_what_cannot_be_is_named(box: tuple[float, ...], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        check_result(np.array([(0, 0, 0, 5, 5, 5), box], dtype=float), np.array([0.5, 0.4]), SHAPE, PATH)
    with pytest.raises(ValueError, match="Expected finite numbers"):
        check_result(np.array([(0, 0, 0, 5, 5, 5)], dtype=float), np.array([np.nan]), SHAPE, PATH)


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ([0, 0, 100, 80], True),
        ([100, 20, 100, 30], True),
        ([-60, -60, 170, 150], True),
        ([101, 20, 120, 30], False),
        ([10, -20, 20, -1], False),
        ([300, 40, 400, 60], False),
        ([0, 0, 500, 400], False),
    ],
)
def test_detections_lie_in_their_image(box: list[float], inside: bool) -> None:
    boxes = np.array([[1, 1, 2, 2], box], dtype=np.float64)
    case: Any = {"id": "a.png", "width": 100, "height": 80, "boxes": boxes}
    if inside:
        check_in_images([case], PATH)
        return
    with pytest.raises(
        ValueError, match=r"in pixels of their image, got .* in a.png of 100 x 80 pixels, r.json: boxes"
    ):
        check_in_images([case], PATH)


@pytest.mark.parametrize(("beyond", "told"), [(0, False), (2, False), (3, True)])
def test_many_boxes_beyond_their_images_are_told(beyond: int, told: bool, caplog: pytest.LogCaptureFixture) -> None:
    boxes = np.array([[20, 20, 101, 70]] * (20 - beyond) + [[20, 20, 120, 90]] * beyond, dtype=np.float64)
    case: Any = {"id": "a.png", "width": 100, "height": 80, "boxes": boxes}
    check_in_images([case], PATH)
    assert (f"r.json: {beyond} of 20 boxes reach beyond their images" in caplog.text) == told
