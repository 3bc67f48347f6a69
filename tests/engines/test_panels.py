"""Panels: true and found boxes land where they belong, on a slice in its display window."""

from __future__ import annotations

from typing import Any

import torch

from fake_engines import Run
from scripts.engines import DetectionPanels

SAMPLE = {
    "image": torch.full((3, 40, 60), 50.0),
    "box": torch.tensor([[5.0, 10.0, 20.0, 30.0]]),
    "record": {"file_name": "a.png", "window": (0.0, 100.0)},
}
NOTHING = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0)}


class Writer:
    def __init__(self) -> None:
        self.images: list[tuple[str, int]] = []

    def add_image(self, name: str, picture: torch.Tensor, step: int) -> None:
        assert picture.dtype is torch.uint8
        self.images.append((name, step))


def panels(**arguments: Any) -> DetectionPanels:
    return DetectionPanels(Writer(), lambda values: values, **arguments)  # type: ignore[arg-type]


def test_a_lesion_is_green_and_a_detection_red() -> None:
    found = {"boxes": torch.tensor([[30.0, 5.0, 50.0, 35.0]]), "scores": torch.tensor([0.9])}
    picture = panels().panel(SAMPLE, found)
    assert picture.shape == (3, 40, 60)
    assert picture[:, 20, 5].tolist() == [0, 255, 0]
    assert picture[:, 20, 30].tolist() == [255, 0, 0]
    assert picture[:, 20, 12].tolist() == [127, 127, 127]


def test_an_image_without_lesion_and_detection_is_the_slice_alone() -> None:
    picture = panels().panel({**SAMPLE, "box": torch.zeros(0, 4)}, NOTHING)
    assert (picture == 127).all()


def test_only_the_best_detections_are_drawn() -> None:
    found = {"boxes": torch.tensor([[1.0, 1, 9, 9], [30.0, 5, 50, 35]]), "scores": torch.tensor([0.1, 0.9])}
    picture = panels(detections=1).panel({**SAMPLE, "box": torch.zeros(0, 4)}, found)
    assert picture[:, 20, 30].tolist() == [255, 0, 0]
    assert picture[:, 9, 1].tolist() == [127, 127, 127]


def test_the_same_images_come_every_so_many_epochs() -> None:
    shown = panels(images=6, interval=2)
    run = Run(epochs=3)
    shown.attach(run.evaluator)
    run.run()
    names = [f"validation/{index:02d}_000001_01_01_{index:03d}.png" for index in range(6)]
    assert shown.summary_writer.images == [(name, epoch) for epoch in (1, 3) for name in names]  # type: ignore
