"""Laws of flips and resizing: image and every field of its instances move together."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from scripts.data.records import Sample
from scripts.data.transforms import AXES, flip_slab, resize_slab
from support.drawn_values import samples

AXIS = st.sampled_from(AXES)


def check_same(found: Sample, wanted: Sample, atol: float = 0.0) -> None:
    torch.testing.assert_close(found["image"], wanted["image"], rtol=0, atol=atol)
    assert found["instances"].keys() == wanted["instances"].keys()
    for name, values in wanted["instances"].items():
        torch.testing.assert_close(
            found["instances"][name], values, rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )


@given(samples(), AXIS)
def test_two_flips_are_none(sample: Sample, axis: str) -> None:
    check_same(flip_slab(flip_slab(sample, axis), axis), sample)


@given(samples(), AXIS, AXIS)
def test_flips_may_be_made_in_any_order(sample: Sample, first: str, second: str) -> None:
    check_same(flip_slab(flip_slab(sample, first), second), flip_slab(flip_slab(sample, second), first))


@given(samples(), AXIS)
def test_a_flip_moves_places_with_the_pixels_and_keeps_sizes(sample: Sample, axis: str) -> None:
    flipped, height, width = flip_slab(sample, axis)["instances"], *sample["image"].shape[1:]
    old = sample["instances"]
    column, size = {"horizontal": (0, width), "vertical": (1, height), "z": (None, 0)}[axis]
    points = old["recist"].clone()
    if column is not None:
        points[..., column] = size - points[..., column]
    torch.testing.assert_close(flipped["recist"], points)
    masks = old["masks"].flip({0: 2, 1: 1}[column]) if column is not None else old["masks"]
    torch.testing.assert_close(flipped["masks"], masks, rtol=0, atol=0)
    for name in ("diameters", "labels", "noisy", "row", "malignancy"):
        assert torch.equal(flipped[name], old[name]), name
    sides = [boxes[:, 2:] - boxes[:, :2] for boxes in (flipped["boxes"], old["boxes"])]
    torch.testing.assert_close(*sides)


@given(samples(), st.integers(1, 90))
def test_a_resize_keeps_every_field_in_step_with_the_image(sample: Sample, scale: int) -> None:
    resized = resize_slab(sample, scale)
    depth, height, width = sample["image"].shape
    new_height, new_width = resized["image"].shape[1:]
    assert resized["image"].shape[0] == depth
    assert max(new_height, new_width) == scale
    factors = torch.tensor([new_width / width, new_height / height], dtype=torch.float64)
    torch.testing.assert_close(resized["scale_factor"].double(), factors, rtol=1e-6, atol=0)
    old, new = sample["instances"], resized["instances"]
    torch.testing.assert_close(new["boxes"] / factors.repeat(2), old["boxes"])
    torch.testing.assert_close(new["recist"] / factors, old["recist"])
    torch.testing.assert_close(new["diameters"] / factors.prod().sqrt(), old["diameters"])
    for name in ("masks", "labels", "noisy", "row", "malignancy"):
        assert torch.equal(new[name], old[name]), name


@given(samples(), st.integers(1, 4))
def test_boxes_and_scale_come_back_from_a_resize(sample: Sample, factor: int) -> None:
    longer = max(sample["image"].shape[1:])
    back = resize_slab(resize_slab(sample, longer * factor), longer)
    assert back["image"].shape == sample["image"].shape
    torch.testing.assert_close(back["scale_factor"], torch.ones(2))
    for name, values in sample["instances"].items():
        torch.testing.assert_close(back["instances"][name], values)


@given(samples(), st.integers(1, 90))
def test_a_resize_neither_adds_values_nor_repeats_itself(sample: Sample, scale: int) -> None:
    resized = resize_slab(sample, scale)
    assert resized["image"].min() >= sample["image"].min() - 1e-6
    assert resized["image"].max() <= sample["image"].max() + 1e-6
    check_same(resize_slab(resized, scale), resized)


@given(samples(), AXIS, st.integers(1, 90))
def test_flip_and_resize_may_change_places(sample: Sample, axis: str, scale: int) -> None:
    check_same(resize_slab(flip_slab(sample, axis), scale), flip_slab(resize_slab(sample, scale), axis), atol=1e-4)


@given(samples(), AXIS)
def test_the_argument_stays_as_it_was(sample: Sample, axis: str) -> None:
    kept = {name: values.clone() for name, values in sample["instances"].items()}
    image = sample["image"].clone()
    resize_slab(flip_slab(sample, axis), 17)
    assert torch.equal(sample["image"], image)
    for name, values in kept.items():
        np.testing.assert_array_equal(sample["instances"][name], values)
