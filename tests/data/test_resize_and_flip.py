"""Image and boxes move together."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch

from scripts.data.transforms import AXES, Sample, flip_slab, resize_slab


def painted(height: int, width: int, box: tuple[int, int, int, int], depth: int = 3) -> Sample:
    """A sample in which ``box`` (whole pixels) is 1 on a ground of 0."""
    image = torch.zeros(depth, height, width)
    x1, y1, x2, y2 = box
    image[:, y1:y2, x1:x2] = 1
    return {
        "image": image,
        "instances": {"boxes": torch.tensor([box], dtype=torch.float32), "labels": torch.ones(1, dtype=torch.int64)},
        "scale_factor": torch.ones(2),
        "file_name": "a.png",
        "record": {},
    }


def found(image: torch.Tensor) -> list[int]:
    """The half-open extent of the pixels above one half."""
    rows, columns = torch.nonzero(image[0] > 0.5, as_tuple=True)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


BOXES = [(5, 8, 20, 14), (0, 0, 7, 9), (40, 20, 50, 30), (49, 29, 50, 30)]


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("axis", AXES)
def test_box_follows_the_pixels_in_a_flip(axis: str, box: tuple[int, int, int, int]) -> None:
    flipped = flip_slab(painted(30, 50, box), axis)
    assert found(flipped["image"]) == flipped["instances"]["boxes"][0].tolist()


@pytest.mark.parametrize("box", [(5, 8, 20, 14), (0, 0, 7, 9), (40, 20, 50, 30)])
@pytest.mark.parametrize("scale", [50, 75, 100, 123, 41])
@pytest.mark.parametrize("size", [(30, 50), (50, 53)])
def test_box_follows_the_pixels_in_a_resize(size: tuple[int, int], scale: int, box: tuple[int, int, int, int]) -> None:
    resized = resize_slab(painted(*size, box), scale)
    np.testing.assert_allclose(found(resized["image"]), resized["instances"]["boxes"][0].numpy(), atol=0.75)
    assert max(resized["image"].shape[1:]) == scale


@pytest.mark.parametrize("axis", AXES)
def test_flip_twice_is_the_identity(axis: str) -> None:
    generator = torch.Generator().manual_seed(0)
    sample = painted(31, 50, (5, 8, 20, 14), depth=5)
    sample["image"] = torch.rand(5, 31, 50, generator=generator)
    sample["instances"]["boxes"] = torch.tensor([[-3.25, 8.5, 20.75, 33.5], [5.5, 8.25, 20.125, 14.5]])
    once = flip_slab(sample, axis)
    assert not torch.equal(once["image"], sample["image"])
    twice = flip_slab(once, axis)
    torch.testing.assert_close(twice["image"], sample["image"], rtol=0, atol=0)
    torch.testing.assert_close(twice["instances"]["boxes"], sample["instances"]["boxes"], rtol=0, atol=0)


def test_z_flip_reverses_slices_and_keeps_the_key_slice_and_boxes() -> None:
    sample = painted(4, 6, (1, 1, 3, 3), depth=5)
    sample["image"] = torch.arange(5.0)[:, None, None].expand(5, 4, 6)
    flipped = flip_slab(sample, "z")
    assert flipped["image"][:, 0, 0].tolist() == [4, 3, 2, 1, 0]
    assert torch.equal(flipped["instances"]["boxes"], sample["instances"]["boxes"])


def test_z_flip_of_an_even_slab_is_rejected() -> None:
    with pytest.raises(ValueError, match="got 4"):
        flip_slab(painted(4, 6, (1, 1, 3, 3), depth=4), "z")


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((512, 512), 448, (448, 448)),
        ((768, 768), 512, (512, 512)),
        ((1024, 1024), 576, (576, 576)),
        ((300, 512), 448, (263, 448)),  # 262.5 rounds up
        ((512, 301), 576, (576, 339)),
        ((1, 1000), 100, (1, 100)),
    ],
)
def test_sides_after_a_resize(size: tuple[int, int], scale: int, expected: tuple[int, int]) -> None:
    sample = resize_slab(painted(*size, (0, 0, 1, 1)), scale)
    assert tuple(sample["image"].shape[1:]) == expected
    factors = [expected[1] / size[1], expected[0] / size[0]]
    np.testing.assert_allclose(sample["scale_factor"].numpy(), factors, rtol=1e-6)
    np.testing.assert_allclose(sample["instances"]["boxes"][0, 2:].numpy(), factors, rtol=1e-6)


def test_resize_interpolates_like_opencv() -> None:
    image = np.random.default_rng(0).normal(size=(9, 61, 97)).astype(np.float32)
    for scale in (80, 97, 150):
        sample = painted(61, 97, (0, 0, 1, 1))
        sample["image"] = torch.from_numpy(image)
        resized = resize_slab(sample, scale)["image"].numpy()
        expected = cv2.resize(image.transpose(1, 2, 0), resized.shape[:0:-1]).transpose(2, 0, 1)
        np.testing.assert_allclose(resized, expected, rtol=0, atol=1e-4)


def test_scale_factors_of_two_resizes_multiply_and_lead_back() -> None:
    sample = painted(30, 50, (5, 8, 20, 14))
    twice = resize_slab(resize_slab(sample, 77), 120)
    factor = twice["scale_factor"]
    torch.testing.assert_close(
        twice["instances"]["boxes"] / factor.repeat(2), sample["instances"]["boxes"], rtol=1e-6, atol=1e-5
    )
    assert factor.tolist() == pytest.approx([120 / 50, 72 / 30])


@pytest.mark.parametrize("transform", [lambda s: resize_slab(s, 20), *(lambda s, a=a: flip_slab(s, a) for a in AXES)])
def test_no_boxes_and_untouched_argument(transform: Callable[[Sample], Sample]) -> None:
    sample = painted(30, 50, (5, 8, 20, 14))
    image, box = sample["image"].clone(), sample["instances"]["boxes"].clone()
    transform(sample)
    assert torch.equal(sample["image"], image)
    assert torch.equal(sample["instances"]["boxes"], box)
    empty = transform({**sample, "instances": {"boxes": torch.zeros(0, 4)}})
    assert empty["instances"]["boxes"].shape == (0, 4)
    assert empty["instances"]["boxes"].dtype == torch.float32


def test_integer_slabs_are_not_resized() -> None:
    with pytest.raises(ValueError, match="int16"):
        resize_slab({**painted(4, 6, (1, 1, 2, 2)), "image": torch.zeros(1, 4, 6, dtype=torch.int16)}, 8)
