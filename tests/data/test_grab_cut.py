"""Masks by GrabCut: a bright lesion is cut out along its edge, whatever its measurement leaves open."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scripts.data.grab_cut import GrabCutMasksd
from scripts.instances import Affine, move

CENTRE, HALF = np.array([50.0, 42.0]), np.array([16.0, 9.0])
BOX = np.array([*(CENTRE - HALF - 5), *(CENTRE + HALF + 5)])
ENDS = CENTRE + np.array([[-16.0, 0], [16, 0], [0, -9], [0, 9]])


def slab() -> np.ndarray:
    """Three slices with a bright ellipse in grainy tissue."""
    y, x = np.mgrid[:90, :110] + 0.5
    inside = (((x - CENTRE[0]) / HALF[0]) ** 2 + ((y - CENTRE[1]) / HALF[1]) ** 2) <= 1
    grain = np.random.default_rng(0).normal(0, 10, (3, 90, 110))
    return (np.where(inside, 900, 0) + grain).astype(np.float32)


def sample(**changes: np.ndarray) -> dict:
    return {"image": torch.from_numpy(slab()), "instances": {"boxes": BOX[None], "recist": ENDS[None], **changes}}


def ellipse_over_box() -> np.ndarray:
    """The ellipse on the grid of the mask."""
    x, y = (BOX[axis] + (np.arange(28) + 0.5) / 28 * (BOX[axis + 2] - BOX[axis]) for axis in (0, 1))
    return (((x[None] - CENTRE[0]) / HALF[0]) ** 2 + ((y[:, None] - CENTRE[1]) / HALF[1]) ** 2) <= 1


def overlap(mask: np.ndarray) -> float:
    wanted = ellipse_over_box()
    return float((mask * wanted).sum() / np.maximum(mask, wanted).sum())


def test_lesion_is_cut_out_along_its_edge() -> None:
    mask = GrabCutMasksd()(sample())["instances"]["masks"]
    assert mask.shape == (1, 28, 28)
    assert overlap(mask[0]) > 0.9


def test_lesion_without_measurement_is_cut_out_too() -> None:
    mask = GrabCutMasksd()(sample(recist=np.full((1, 4, 2), np.nan)))["instances"]["masks"]
    assert overlap(mask[0]) > 0.75


def test_same_sample_gives_the_same_mask() -> None:
    first, second = (GrabCutMasksd()(sample())["instances"]["masks"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_flipped_sample_gives_the_flipped_mask() -> None:
    data = sample()
    mask = GrabCutMasksd()(data)["instances"]["masks"]
    flipped = {"image": data["image"].flip(-1), "instances": move(data["instances"], Affine(-1, 1, 110, 0))}
    again = GrabCutMasksd()(flipped)["instances"]["masks"][:, :, ::-1]
    assert (mask != again).mean() < 0.03


def test_slice_without_lesion_has_no_mask() -> None:
    empty = {"boxes": np.zeros((0, 4)), "recist": np.zeros((0, 4, 2))}
    data = {"image": torch.from_numpy(slab()), "instances": empty}
    assert GrabCutMasksd()(data)["instances"]["masks"].shape == (0, 28, 28)


def test_lesions_without_measurements_are_rejected() -> None:
    data = {"image": torch.from_numpy(slab()), "instances": {"boxes": BOX[None]}}
    with pytest.raises(ValueError, match=r"^Expected measurements \(recist\) to make masks of, got \['boxes'\]\.$"):
        GrabCutMasksd()(data)
