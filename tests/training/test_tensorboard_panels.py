"""Panels: true and found boxes land where they belong, on a slice in its display window."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from scripts.inference.outputs.pictures.box_drawing import DETECTION, TRUTH
from scripts.training.tensorboard_panels import DetectionPanels
from support.fake_engines import Run

SAMPLE = {
    "image": torch.full((3, 256, 512), 50.0),
    "instances": {"boxes": torch.tensor([[50.0, 100.0, 90.0, 130.0]])},
    "record": {"file_name": "a.png", "window": (0.0, 100.0)},
}
NOTHING = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0)}
GREY = (128, 128, 128)


class Writer:
    def __init__(self) -> None:
        self.images: list[tuple[str, int]] = []

    def add_image(self, name: str, picture: np.ndarray, step: int, dataformats: str) -> None:
        assert picture.dtype == np.uint8
        assert picture.shape[-1] == 3
        assert dataformats == "HWC"
        self.images.append((name, step))


def panels(**arguments: Any) -> DetectionPanels:
    return DetectionPanels(Writer(), lambda values: values, **arguments)  # type: ignore[arg-type]


def extent(picture: np.ndarray, colour: tuple[int, int, int]) -> list[int]:
    """First and last column and row of a colour."""
    rows, columns = np.nonzero((picture == colour).all(axis=-1))
    return [columns.min(), rows.min(), columns.max(), rows.max()]


def test_lesions_and_detections_are_framed_where_they_are() -> None:
    found = {"boxes": torch.tensor([[300.0, 50.0, 400.0, 150.0]]), "scores": torch.tensor([0.9])}
    picture = panels().panel(SAMPLE, found)
    assert picture.shape == (256, 512, 3)
    assert extent(picture, TRUTH) == [49, 99, 90, 130]
    left, _, right, bottom = extent(picture, DETECTION)  # the score stands above the frame
    assert (left, right, bottom) == (299, 400, 150)
    assert tuple(picture[115, 70]) == GREY


def test_an_image_without_lesion_and_detection_is_the_slice_alone() -> None:
    picture = panels().panel({**SAMPLE, "instances": {"boxes": torch.zeros(0, 4)}}, NOTHING)
    assert (picture == GREY).all()


def test_only_the_best_detections_are_drawn() -> None:
    boxes = torch.tensor([[10.0, 10.0, 20.0, 20.0], [300.0, 50.0, 400.0, 150.0]])
    found = {"boxes": boxes, "scores": torch.tensor([0.1, 0.9])}
    picture = panels(detections=1).panel({**SAMPLE, "instances": {"boxes": torch.zeros(0, 4)}}, found)
    assert extent(picture, DETECTION)[0] == 299


def test_the_same_images_come_every_so_many_epochs() -> None:
    shown = panels(images=6, interval=2)
    run = Run(epochs=3)
    shown.attach(run.evaluator)
    run.run()
    names = [f"validation/{index:02d}_000001_01_01_{index:03d}.png" for index in range(6)]
    assert shown.summary_writer.images == [(name, epoch) for epoch in (1, 3) for name in names]  # type: ignore
