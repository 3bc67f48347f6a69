"""Laws of the box frames, on non-square images, for numpy and torch, with and without boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from scripts import boxes

HEIGHT, WIDTH = 60.0, 100.0
ACROSS, DOWN = boxes.Affine(-1, 1, WIDTH, 0), boxes.Affine(1, -1, 0, HEIGHT)
BOXES = [[10.0, 20.0, 30.5, 44.0], [0.0, 0.0, 100.0, 60.0], [99.0, 58.25, 100.0, 60.0]]
KINDS: list[Callable[[list[list[float]]], Any]] = [
    lambda rows: np.array(rows, dtype=np.float32).reshape(-1, 4),
    lambda rows: torch.tensor(rows, dtype=torch.float32).reshape(-1, 4),
]
both = pytest.mark.parametrize("make", KINDS, ids=["numpy", "torch"])
filled = pytest.mark.parametrize("rows", [BOXES, []], ids=["boxes", "empty"])


def same(actual: Any, expected: Any) -> None:
    """Same type, dtype, shape and values."""
    assert type(actual) is type(expected)
    assert actual.dtype == expected.dtype
    assert tuple(actual.shape) == tuple(expected.shape)
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("there", "back"),
    [
        (boxes.to_coco, boxes.from_coco),
        (boxes.swap_axes, boxes.swap_axes),
        (lambda each: boxes.move(each, ACROSS), lambda each: boxes.move(each, ACROSS)),
        (lambda each: boxes.move(each, DOWN), lambda each: boxes.move(each, DOWN)),
        (lambda each: boxes.scale(each, 2.0, 0.5), lambda each: boxes.scale(each, 0.5, 2.0)),
    ],
    ids=["coco", "axes", "horizontal flip", "vertical flip", "scale"],
)
@both
@filled
def test_there_and_back_is_the_identity(make: Any, rows: Any, there: Any, back: Any) -> None:
    given = make(rows)
    same(back(there(given)), given)
    same(given, make(rows))  # the argument is untouched


@both
def test_frames_by_hand(make: Any) -> None:
    given = make([[10.0, 20.0, 30.0, 50.0]])
    same(boxes.to_coco(given), make([[10.0, 20.0, 20.0, 30.0]]))
    same(boxes.swap_axes(given), make([[20.0, 10.0, 50.0, 30.0]]))
    same(boxes.move(given, ACROSS), make([[70.0, 20.0, 90.0, 50.0]]))
    same(boxes.move(given, DOWN), make([[10.0, 10.0, 30.0, 40.0]]))
    same(boxes.scale(given, 2.0, 0.5), make([[20.0, 10.0, 60.0, 25.0]]))
    same(boxes.clip(make([[-5.0, 20.0, 130.0, 70.0]]), HEIGHT, WIDTH), make([[0.0, 20.0, 100.0, 60.0]]))
    np.testing.assert_allclose(np.asarray(boxes.area(given)), [600.0])


def test_a_flip_moves_a_box_with_its_pixels() -> None:
    image = np.zeros((6, 10))
    image[1:3, 2:7] = 1
    for flipped, (x1, y1, x2, y2) in (
        (image[:, ::-1], boxes.move(np.array([[2, 1, 7, 3]]), boxes.Affine(-1, 1, 10, 0))[0]),
        (image[::-1], boxes.move(np.array([[2, 1, 7, 3]]), boxes.Affine(1, -1, 0, 6))[0]),
    ):
        assert flipped[y1:y2, x1:x2].all()
        assert flipped.sum() == (y2 - y1) * (x2 - x1)


@both
@filled
def test_clipping_keeps_the_number_and_is_idempotent(make: Any, rows: Any) -> None:
    outside = boxes.scale(make(rows), 1.5, 1.5)
    clipped = boxes.clip(outside, HEIGHT, WIDTH)
    assert clipped.shape == outside.shape
    same(boxes.clip(clipped, HEIGHT, WIDTH), clipped)


@both
def test_float64_stays_float64(make: Any) -> None:
    given = make(BOXES)
    given = given.double() if isinstance(given, torch.Tensor) else given.astype(np.float64)
    for convert in (boxes.to_coco, boxes.from_coco, boxes.swap_axes):
        assert convert(given).dtype == given.dtype


class TestPairwiseIou:
    def test_agrees_with_torchvision_and_is_symmetric(self) -> None:
        generator = np.random.default_rng(0)
        corners = generator.uniform(0, 50, (2, 20, 2))
        each = [np.concatenate([corner, corner + generator.uniform(1, 60, (20, 2))], axis=1) for corner in corners]
        iou = boxes.pairwise_iou(*each)
        np.testing.assert_allclose(iou, box_iou(*(torch.tensor(one) for one in each)).numpy(), atol=1e-12)
        np.testing.assert_array_equal(iou.T, boxes.pairwise_iou(each[1], each[0]))
        np.testing.assert_allclose(np.diag(boxes.pairwise_iou(each[0], each[0])), 1.0)

    def test_an_extra_pixel_counts_inclusive_coordinates(self) -> None:
        one, other = np.array([[0.0, 0, 9, 9]]), np.array([[5.0, 0, 14, 9]])
        assert boxes.pairwise_iou(one, other)[0, 0] == pytest.approx(4 * 9 / (2 * 81 - 36))
        assert boxes.pairwise_iou(one, other, extra=1)[0, 0] == pytest.approx(5 * 10 / (200 - 50))

    def test_touching_and_empty_boxes_do_not_overlap(self) -> None:
        assert boxes.pairwise_iou(np.array([[0.0, 0, 5, 5]]), np.array([[5.0, 0, 9, 5]])) == 0
        point = np.array([[3.0, 3, 3, 3]])
        assert boxes.pairwise_iou(point, point) == 0

    @pytest.mark.parametrize(("first", "second"), [(0, 3), (3, 0), (0, 0)])
    def test_no_boxes(self, first: int, second: int) -> None:
        full = np.array(BOXES)
        assert boxes.pairwise_iou(full[:first], full[:second]).shape == (first, second)


class TestCheckBoxes:
    @both
    @filled
    def test_legal_boxes_pass(self, make: Any, rows: Any) -> None:
        boxes.check_boxes(make(rows))

    @both
    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            ([3.0, 1.0, 3.0, 5.0], r"x1 < x2.*\[3.0, 1.0, 3.0, 5.0\] as box 1 in a.csv, row 7"),
            ([3.0, 5.0, 4.0, 1.0], "y1 < y2.*box 1 in a.csv, row 7"),
            ([3.0, float("nan"), 4.0, 9.0], "finite.*box 1 in a.csv, row 7"),
            ([3.0, 1.0, float("inf"), 9.0], "finite.*box 1 in a.csv, row 7"),
        ],
    )
    def test_the_first_bad_box_is_named(self, make: Any, bad: list[float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            boxes.check_boxes(make([BOXES[0], bad, BOXES[1]]), "a.csv, row 7")

    @pytest.mark.parametrize("shape", [(4,), (0,), (2, 5), (1, 2, 4)])
    def test_other_shapes_are_rejected(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"shape \(N, 4\)"):
            boxes.check_boxes(np.ones(shape))
