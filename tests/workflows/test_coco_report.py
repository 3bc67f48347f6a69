"""Photographs' detections back in original pixels and in COCO's own category ids."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from scripts.data.coco.coco_instances import Categories
from scripts.inference.outputs.pictures.photograph_pictures import draw_photograph
from scripts.metrics.coco_average_precision import CocoMetrics, check_coco_cases
from scripts.workflows.coco_report import CocoReport, to_coco_case


def data(boxes: list[list[float]], labels: list[int]) -> dict:
    truth = {
        "bbox": np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 9.0, 9.0]]),
        "category_id": np.array([13, 90]),
        "area": np.array([12.0, 70.0]),
        "crowd": np.array([False, True]),
    }
    record = {
        "file_name": "000000000139.jpg",
        "image": "val2017/000000000139.jpg",
        "image_id": 139,
        "image_size": (50, 80),
        "instances": {"boxes": np.array([[1.0, 2.0, 4.0, 6.0]], dtype=np.float32), "labels": np.array([2])},
        "categories": Categories((1, 13, 90), ("person", "stop sign", "toothbrush")),
        "truth": truth,
    }
    found = {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}
    return {
        "record": record,
        "image": torch.zeros(3, 100, 160),
        "scale_factor": torch.tensor([2.0, 2.0]),
        "pred": {**found, "scores": torch.ones(len(boxes))},
    }


def test_labels_become_category_ids_and_boxes_original_pixels() -> None:
    case = to_coco_case(data([[2.0, 4.0, 20.0, 40.0], [0.0, 0.0, 8.0, 8.0]], [3, 2]))["case"]
    assert case["category_ids"].tolist() == [90, 13]
    assert case["boxes"].tolist() == [[1.0, 2.0, 10.0, 20.0], [0.0, 0.0, 4.0, 4.0]]
    assert (case["id"], case["image_id"], case["width"], case["height"]) == ("000000000139", 139, 80, 50)
    assert case["truth"]["crowd"].tolist() == [False, True]


def test_a_turned_photograph_is_drawn_as_it_was_read(tmp_path: Path) -> None:
    # The camera says "turned"; the labels, and so the boxes, are those of the picture as it is stored.
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 50), "white").save(tmp_path / "turned.jpg", exif=exif)
    case = to_coco_case(data([[10.0, 10.0, 150.0, 90.0]], [2]))["case"] | {"image": str(tmp_path / "turned.jpg")}
    report = CocoReport(tmp_path, CocoMetrics(), categories=Categories((1, 13, 90), ("person", "sign", "brush")))
    assert report._picture(case).size == draw_photograph(np.zeros((50, 80, 3), dtype=np.uint8), [], []).size


def test_no_detection_is_a_case_too() -> None:
    case = to_coco_case(data([], []))["case"]
    (checked,) = check_coco_cases([case])
    assert checked["boxes"].shape == (0, 4)
    assert checked["category_ids"].shape == (0,)


def test_metrics_of_an_earlier_evaluation_do_not_stay_with_detections_of_a_later_one(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    case = to_coco_case(data([[2.0, 4.0, 8.0, 12.0]], [2]))["case"] | {"image": str(tmp_path / "none.jpg")}
    metric = cast(Any, SimpleNamespace(cases=check_coco_cases([case])))
    report = CocoReport(tmp_path, metric, categories=Categories((1, 13, 90), ("person", "sign", "brush")))
    with pytest.raises(OSError, match=r"none\.jpg"):
        report.write()
    assert {path.name for path in tmp_path.glob("*.json")} == {"detections.json"}


def test_pictures_of_an_earlier_evaluation_do_not_stay_with_one_without(tmp_path: Path) -> None:
    (tmp_path / "detections.png").write_text("earlier")
    metric = cast(Any, SimpleNamespace(cases=check_coco_cases([to_coco_case(data([], []))["case"]])))
    CocoReport(tmp_path, metric, categories=Categories((1, 13, 90), ("a", "b", "c")), pictures=0).write()
    assert {path.name for path in tmp_path.glob("*.*")} == {"detections.json", "metrics.json"}
