"""Windows at random: lesions follow, are cut and counted by what is visible, and may be anywhere."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose

from scripts.data.random_window import RandWindowd, first_and_last
from scripts.data.transforms import SampleDataset, resize_slab
from scripts.workflows.to_cases import to_case

CONFIGS = Path(__file__).resolve().parents[2] / "mp3d_bundle" / "configs"
CROP = (120, 150)  # rows and columns
LESION = [52.0, 52.0, 98.0, 68.0]


def sample_of(*boxes: list[float], size: tuple[int, int] = CROP, **more: Any) -> Any:
    """A sample whose pixels are numbered, so that a window shows where it is from."""
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32)
    table = torch.tensor(boxes).reshape(-1, 4)
    return {
        "image": torch.from_numpy(np.stack([rows, rows * 1000 + columns, columns])),
        "instances": {"boxes": table, "labels": torch.arange(len(boxes)) + 1},
        "scale_factor": torch.ones(2),
        "image_size": size,
        "file_name": "a.png",
        "spacing": (0.8, 0.8),
        "record": {"file_name": "a.png", "instances": {"boxes": table.numpy(), "labels": np.arange(len(boxes)) + 1}},
        **more,
    }


def windows(sample: Any, pixels: int, count: int = 200, seed: int = 0) -> list[Any]:
    cut = RandWindowd(pixels)
    Compose([cut]).set_random_state(seed=seed)
    return [cut(sample) for _ in range(count)]


def corner_of(window: Any) -> tuple[int, int]:
    """Column and row of the window's first pixel, read off its pixels."""
    return int(window["image"][2, 0, 0]), int(window["image"][0, 0, 0])


def test_pixels_boxes_and_truth_follow_the_window() -> None:
    for window in windows(sample_of(LESION), 64):
        column, row = corner_of(window)
        assert window["image"].shape == (3, 64, 64)
        assert window["image"][1, 5, 7] == (row + 5) * 1000 + column + 7
        assert window["origin"].tolist() == [column, row]
        x1, y1, x2, y2 = LESION
        cut = [max(x1, column), max(y1, row), min(x2, column + 64), min(y2, row + 64)]
        assert window["visible_truth"]["boxes"].tolist() == [cut]
        assert window["instances"]["boxes"].tolist() == [[cut[0] - column, cut[1] - row, cut[2] - column, cut[3] - row]]


def test_half_of_the_lesion_or_of_the_window_is_always_visible() -> None:
    large = [10.0, 30.0, 140.0, 60.0]
    for lesion in (LESION, large, [0.0, 0.0, 9.0, 7.0], [145.0, 112.0, 150.0, 120.0]):
        shown = torch.cat([window["instances"]["boxes"] for window in windows(sample_of(lesion), 48)])
        assert len(shown) == 200
        width, height = (min(lesion[axis + 2] - lesion[axis], 48) for axis in (0, 1))
        sides = shown[:, 2:] - shown[:, :2]
        assert (sides[:, 0] >= width / 2).all()
        assert (sides[:, 1] >= height / 2).all()
        assert (shown >= 0).all()
        assert (shown <= 48).all()


def test_the_place_of_a_lesion_is_not_that_of_the_crop() -> None:
    # The crop has the lesion in its very middle; in its windows it is left and right, above and below, also cut off.
    shown = torch.cat([window["instances"]["boxes"] for window in windows(sample_of(LESION), 64, 400)])
    assert shown[:, 0].min() == 0
    assert shown[:, 2].max() == 64
    centres = (shown[:, :2] + shown[:, 2:]) / 2
    assert (centres.amin(dim=0) < 20).all()
    assert (centres.amax(dim=0) > 44).all()
    every = {corner_of(window) for window in windows(sample_of(LESION), 64, 400)}
    assert len(every) > 200


def test_of_several_lesions_each_is_drawn_and_hardly_visible_ones_do_not_count() -> None:
    far = [130.0, 100.0, 150.0, 120.0]
    found = windows(sample_of(LESION, far), 60)
    labels = [window["instances"]["labels"].tolist() for window in found]
    assert {tuple(each) for each in labels} >= {(1,), (2,)}
    for window in found:
        assert len(window["visible_truth"]["labels"]) == len(window["instances"]["labels"]) >= 1


def test_slices_without_lesions_have_windows_everywhere() -> None:
    corners = {corner_of(window) for window in windows(sample_of(), 100, 600)}
    assert {column for column, _ in corners} == set(range(51))
    assert {row for _, row in corners} == set(range(21))


def test_no_place_shows_enough_of_a_lesion_that_is_mostly_outside() -> None:
    # 4 of 40 pixels are in the image: the nearest window is drawn, and the lesion does not count.
    assert first_and_last(-36.0, 4.0, 20.0, 100, 50) == (0, 0)
    window = windows(sample_of([-36.0, 10.0, 4.0, 50.0]), 50, 1)[0]
    assert len(window["instances"]["boxes"]) == 0


@pytest.mark.parametrize("size", [(40, 150), (120, 50), (30, 30)])
def test_a_short_image_keeps_its_length_with_one_warning(size: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = windows(sample_of([5.0, 6.0, 20.0, 22.0], size=size), 64, 5)
    assert {tuple(window["image"].shape[1:]) for window in found} == {(min(size[0], 64), min(size[1], 64))}
    assert len(caplog.records) == 1
    assert f"{size[0]} x {size[1]} pixels" in caplog.text


def test_detections_find_back_to_the_pixels_of_the_file_and_truth_is_what_is_visible() -> None:
    window: Any = resize_slab(windows(sample_of(LESION), 50, 1)[0], 75)
    found = {"boxes": window["instances"]["boxes"], "scores": torch.ones(1), "labels": torch.ones(1)}
    case = to_case({**window, "pred": found})["case"]
    np.testing.assert_allclose(case["boxes"], case["true_boxes"], atol=1e-4)
    assert (case["height"], case["width"]) == CROP
    column, row = (int(each) for each in window["origin"])
    x1, y1, x2, y2 = LESION
    cut = [max(x1, column), max(y1, row), min(x2, column + 50), min(y2, row + 50)]
    np.testing.assert_allclose(case["true_boxes"], [cut], atol=1e-4)


def test_a_region_to_ignore_is_cut_and_never_drawn() -> None:
    sample: Any = sample_of(LESION)
    whole = torch.tensor([[0.0, 0.0, CROP[1], CROP[0]]])
    far = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    own = sample["instances"]
    boxes = torch.cat([far, own["boxes"], whole])
    sample["instances"] = {
        "boxes": boxes,
        "labels": torch.ones(3, dtype=torch.int64),
        "ignored": torch.tensor([True, False, True]),
    }
    for window in windows(sample, 50, 20):
        found = window["instances"]
        assert (~found["ignored"]).sum() == 1
        assert [0.0, 0.0, 50.0, 50.0] in found["boxes"][found["ignored"]].tolist()


def test_places_depend_on_seed_epoch_and_index_alone() -> None:
    def corners(epoch: int, seed: int = 0) -> list[tuple[int, int]]:
        data = SampleDataset([sample_of(LESION) for _ in range(20)], Compose([RandWindowd(64)]), seed=seed)
        data.set_epoch(epoch)
        return [corner_of(data[index]) for index in range(20)]

    assert corners(0) == corners(0)
    assert len({tuple(corners(0)), tuple(corners(1)), tuple(corners(0, seed=1))}) == 3
    assert len(set(corners(0))) > 10


@pytest.mark.parametrize("pixels", [0, -3, 2.5, True, None])
def test_a_window_has_a_whole_number_of_pixels(pixels: Any) -> None:
    with pytest.raises(ValueError, match="Expected a window of at least 1 pixel"):
        RandWindowd(pixels)


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """All groups of a config."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(child)


def test_no_list_of_transforms_names_one_that_can_be_switched_off() -> None:
    """MONAI leaves such a transform out where it is written in the list; by its name, the list would hold None."""
    for path in sorted(CONFIGS.glob("*.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        switched = {f"@{name}" for name, part in config.items() if isinstance(part, dict) and "_disabled_" in part}
        lists = [node["transforms"] for node in nodes(config) if isinstance(node.get("transforms"), list)]
        assert not [entry for entries in lists for entry in entries if str(entry) in switched], path.name
