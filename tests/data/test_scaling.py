"""Scales, shifts and turns: every field of the instances follows its image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose

from scripts.data.scaling import RandAffineSlabd, RandScalePixelsd, ScalePixelsd, scale_sample, warp_sample
from scripts.data.transforms import RandResizeSlabd, ResizeSlabd


def painted(height: int = 60, width: int = 80, box: tuple[int, int, int, int] = (20, 15, 44, 33)) -> Any:
    """A sample in which ``box`` is 1 on a ground of 0, with a field of every rule."""
    x1, y1, x2, y2 = box
    image = torch.zeros(3, height, width)
    image[:, y1:y2, x1:x2] = 1
    mask = torch.zeros(1, 18, 24)
    mask[:, :9, :12] = 1
    points = torch.tensor([[[x1, y1], [x2, y2], [x1, y2], [x2, y1]]], dtype=torch.float64)
    return {
        "image": image,
        "instances": {
            "boxes": torch.tensor([box], dtype=torch.float64),
            "labels": torch.ones(1, dtype=torch.int64),
            "masks": mask,
            "recist": points,
            "diameters": torch.tensor([[30.0, 18.0]]),
        },
        "scale_factor": torch.ones(2),
        "spacing": (0.6, 0.6),
        "file_name": "a.png",
        "record": {},
    }


def extent(image: torch.Tensor) -> list[int]:
    rows, columns = torch.nonzero(image[1] > 0.5, as_tuple=True)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


@pytest.mark.parametrize("factor", [0.75, 1.3, 2.0, 0.8125])
def test_boxes_follow_the_factor_exactly_and_the_pixels_closely(factor: float) -> None:
    sample = painted()
    scaled = scale_sample(sample, factor)
    torch.testing.assert_close(scaled["instances"]["boxes"], sample["instances"]["boxes"] * factor)
    np.testing.assert_allclose(extent(scaled["image"]), scaled["instances"]["boxes"][0], atol=0.8)
    assert scaled["image"].shape[1:] == (round(60 * factor), round(80 * factor))
    assert scaled["scale_factor"].tolist() == pytest.approx([factor, factor])


def test_pixels_get_one_size_up_to_the_longest_side() -> None:
    assert ScalePixelsd(0.8).factor(painted()) == pytest.approx(0.75)
    assert ScalePixelsd(0.3, None).factor(painted()) == pytest.approx(2.0)
    assert ScalePixelsd(0.3, 96).factor(painted()) == pytest.approx(1.2)
    same = painted()
    same["spacing"] = (0.8, 0.8)
    assert torch.equal(ScalePixelsd(0.8)(same)["image"], same["image"])


def test_drawn_factors_stay_in_their_bounds_and_come_from_the_seed() -> None:
    scale = RandScalePixelsd(0.6, None)
    Compose([scale]).set_random_state(seed=0)
    factors = [float(scale(painted())["scale_factor"][0]) for _ in range(60)]
    assert min(factors) >= 0.8 - 1e-6
    assert max(factors) <= 1.2 + 1e-6
    assert max(factors) - min(factors) > 0.3
    assert float(scale(painted(), randomize=False)["scale_factor"][0]) == factors[-1]
    Compose([scale]).set_random_state(seed=0)
    assert [float(scale(painted())["scale_factor"][0]) for _ in range(60)] == factors
    capped = RandScalePixelsd(0.6, 80, factors=(1.1, 1.2))
    assert max(capped(painted())["image"].shape[1:]) == 80


@pytest.mark.parametrize("shift", [(5, 0), (0, -7), (-3, 4)])
def test_a_shift_moves_pixels_and_fields_alike(shift: tuple[int, int]) -> None:
    sample = painted()
    moved = warp_sample(sample, np.array([[1.0, 0.0, shift[0]], [0.0, 1.0, shift[1]]]))
    by = torch.tensor(shift, dtype=torch.float64)
    assert extent(moved["image"]) == moved["instances"]["boxes"][0].tolist()
    torch.testing.assert_close(moved["instances"]["boxes"], sample["instances"]["boxes"] + by.repeat(2))
    torch.testing.assert_close(moved["instances"]["recist"], sample["instances"]["recist"] + by)
    torch.testing.assert_close(moved["instances"]["masks"], sample["instances"]["masks"])
    inside = (slice(None), slice(10, 50), slice(10, 70))
    torch.testing.assert_close(
        moved["image"][inside], sample["image"].roll((shift[1], shift[0]), (1, 2))[inside], atol=1e-4, rtol=0
    )


def test_a_quarter_turn_is_that_of_torch() -> None:
    sample = painted(60, 60)
    quarter = warp_sample(sample, np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 60.0]]))
    torch.testing.assert_close(quarter["image"], sample["image"].rot90(1, (1, 2)), atol=1e-4, rtol=0)
    torch.testing.assert_close(quarter["instances"]["boxes"][0].tolist(), [15.0, 16.0, 33.0, 40.0])
    # A grid of 18 x 24 over the box, turned: its corner that was at the upper left is at the lower left.
    mask = quarter["instances"]["masks"][0]
    assert mask.shape == (18, 24)
    assert mask[9:, :12].min() > 0.5
    assert mask[:9].max() < 0.5
    assert mask[:, 12:].max() < 0.5


@pytest.mark.parametrize("seed", range(4))
def test_a_drawn_movement_keeps_all_fields_with_the_pixels(seed: int) -> None:
    move = RandAffineSlabd(prob=1.0)
    move.set_random_state(seed=seed)
    sample = painted()
    moved = move(sample)
    matrix = move.matrix(60, 80)
    factor = math.sqrt(np.linalg.det(matrix[:, :2]))
    assert 0.8 <= factor <= 1.2
    assert abs(math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))) <= 15
    np.testing.assert_allclose(extent(moved["image"]), moved["instances"]["boxes"][0], atol=1.1)
    points = moved["instances"]["recist"]
    wanted = torch.cat([points[0].amin(0), points[0].amax(0)])
    torch.testing.assert_close(moved["instances"]["boxes"][0], wanted)
    torch.testing.assert_close(moved["instances"]["diameters"], sample["instances"]["diameters"] * factor)
    # The mask covers a quarter of the lesion before and after.
    box = moved["instances"]["boxes"][0]
    share = moved["instances"]["masks"].mean() * (box[2:] - box[:2]).prod()
    assert float(share) == pytest.approx(24 * 18 / 4 * factor**2, rel=0.06)
    assert torch.equal(move(sample, randomize=False)["image"], moved["image"])


def test_a_probability_of_zero_leaves_samples_alone_and_limits_are_checked() -> None:
    still = RandAffineSlabd(prob=0.0)
    assert torch.equal(still(painted())["image"], painted()["image"])
    for options in ({"prob": 2.0}, {"scale": 1.0}, {"shift": -1.0}, {"rotate": -1.0}):
        with pytest.raises(ValueError, match="Expected limits from 0 on"):
            RandAffineSlabd(**options)
    with pytest.raises(ValueError, match="pixel_spacing above zero, got 0"):
        ScalePixelsd(0)
    with pytest.raises(ValueError, match="least and the largest factor"):
        RandScalePixelsd(factors=(1.2, 0.8))


@pytest.mark.parametrize(
    "transform", [ScalePixelsd(), RandScalePixelsd(), ResizeSlabd(64, 0.8), RandResizeSlabd([64], 0.8)]
)
@pytest.mark.parametrize("none", [{}, {"spacing": None}])
def test_a_photograph_cannot_be_brought_to_a_size_of_pixels(transform: Any, none: dict[str, Any]) -> None:
    sample = painted()
    del sample["spacing"]
    with pytest.raises(ValueError, match=r"size in mm .*got none in a\.png: photographs.*--pixel_spacing None"):
        transform({**sample, **none})
