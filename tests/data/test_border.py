"""The border around the body is cut off, and boxes follow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose
from scipy.ndimage import binary_opening

from scripts.data.border import CropBorderd, RandCropBorderd, body_box
from scripts.data.transforms import resize_slab
from scripts.workflows.to_cases import to_case


def scan_slice(height: int = 60, width: int = 80, body: tuple[int, int, int, int] = (12, 9, 70, 50)) -> np.ndarray:
    image = np.full((height, width), -1000.0, np.float32)
    x1, y1, x2, y2 = body
    image[y1:y2, x1:x2] = 40.0
    return image


def sample_of(image: np.ndarray, box: list[float]) -> Any:
    boxes = torch.tensor([box])
    return {
        "image": torch.from_numpy(np.stack([image * 0 - 1000, image, image * 0 + 40])),
        "instances": {"boxes": boxes, "labels": torch.ones(1, dtype=torch.int64)},
        "scale_factor": torch.ones(2),
        "image_size": image.shape,
        "file_name": "a.png",
        "spacing": (0.8, 0.8),
        "record": {"file_name": "a.png", "instances": {"boxes": boxes.numpy(), "labels": np.ones(1)}},
    }


def test_the_box_is_that_of_the_body_without_thin_things() -> None:
    image = scan_slice()
    image[55:58] = 100.0  # a table, three pixels high
    image[:, :3] = 100.0  # and something thin at the edge
    assert body_box(image) == (12, 9, 70, 50)
    assert body_box(np.full((30, 40), -1000.0, np.float32)) == (0, 0, 40, 30)
    assert body_box(np.full((30, 40), -768.0, np.float32)) == (0, 0, 40, 30)


def test_the_opening_is_that_of_the_authors_code() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        noise = generator.normal(size=(8, 10)).repeat(6, axis=0).repeat(6, axis=1)[:45, :57]
        image = np.where(noise > 0.8, 40.0, -1000.0).astype(np.float32)
        opened = binary_opening(image > -768, structure=np.ones((7, 7)))
        rows, columns = np.nonzero(opened) if opened.any() else (np.arange(45), np.arange(57))
        assert body_box(image) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_the_middle_slice_decides_and_boxes_follow() -> None:
    sample = sample_of(scan_slice(), [20.0, 15.0, 30.0, 22.0])
    cut = CropBorderd()(sample)
    assert cut["image"].shape == (3, 41, 58)
    assert torch.equal(cut["image"], sample["image"][:, 9:50, 12:70])
    assert cut["instances"]["boxes"].tolist() == [[8.0, 6.0, 18.0, 13.0]]
    assert sample["image"].shape == (3, 60, 80)


@pytest.mark.parametrize("scale", [58, 87, 29])
def test_detections_find_back_to_the_pixels_of_the_file(scale: int) -> None:
    sample = resize_slab(CropBorderd()(sample_of(scan_slice(), [20.0, 15.0, 30.0, 22.0])), scale)
    found = {"boxes": sample["instances"]["boxes"], "scores": torch.ones(1), "labels": torch.ones(1)}
    case = to_case({**sample, "pred": found})["case"]
    np.testing.assert_allclose(case["boxes"], case["true_boxes"], atol=1e-4)
    assert (case["height"], case["width"]) == (60, 80)


def test_the_corner_moves_within_its_bounds_and_by_the_seed() -> None:
    crop = RandCropBorderd(8)
    sample = sample_of(scan_slice(body=(4, 30, 70, 50)), [20.0, 35.0, 30.0, 42.0])
    Compose([crop]).set_random_state(seed=3)
    corners = set()
    cut: Any = None
    for _ in range(300):
        cut = crop(sample)
        x, y = cut["origin"].tolist()
        assert cut["image"].shape[1:] == (50 - y, 70 - x)
        assert (cut["instances"]["boxes"][0, :2] + torch.tensor([x, y])).tolist() == [20.0, 35.0]
        corners.add((x, y))
    assert {x for x, _ in corners} == set(range(12))  # -8 to 7 from 4 on, not outside of the image
    assert {y for _, y in corners} == set(range(22, 38))
    assert torch.equal(crop(sample, randomize=False)["image"], cut["image"])


def test_a_shift_is_at_least_a_pixel() -> None:
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
        RandCropBorderd(0)
