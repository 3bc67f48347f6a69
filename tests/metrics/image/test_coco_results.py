"""COCO's results: the same figures when any program scores them, this one included."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scripts.metrics.bootstrap import Bootstrap
from scripts.metrics.image.coco_results import coco_results
from scripts.metrics.image.image_report import write_report
from scripts.workflows.outside_detections import OutsideDetections, flat_cases
from support.fake_evaluations import image_cases


def test_entries_are_as_coco_wants_them() -> None:
    case = {"id": "a.png", "boxes": np.array([[1.5, 2, 4, 8], [0, 0, 10, 20]]), "scores": np.array([0.25, 0.5])}
    empty = {"id": "b.png", "boxes": np.zeros((0, 4)), "scores": np.zeros(0)}
    assert coco_results([case, empty]) == [
        {"image_id": "a.png", "category_id": 1, "bbox": [0.0, 0.0, 10.0, 20.0], "score": 0.5},
        {"image_id": "a.png", "category_id": 1, "bbox": [1.5, 2.0, 2.5, 6.0], "score": 0.25},
    ]


def test_classes_are_numbered_as_the_data_set_has_them() -> None:
    case = {
        "id": "a.png",
        "boxes": np.array([[0, 0, 2, 2], [4, 4, 8, 8]]),
        "scores": np.array([0.5, 0.25]),
        "classes": np.array(["node", "cyst"]),
        "true_classes": np.array([], dtype=str),
        "class_names": ("cyst", "node"),
    }
    assert [entry["category_id"] for entry in coco_results([case])] == [2, 1]
    assert [entry["category_id"] for entry in coco_results([{**case, "true_classes": None}])] == [1, 1]


def test_what_is_written_scores_as_it_was_scored(tmp_path: Path) -> None:
    cases = image_cases()
    metrics = write_report(cases, tmp_path / "evaluation", bootstrap=Bootstrap(resamples=5))
    truth = {
        "images": [
            {"id": number, "file_name": case["id"], "width": case["width"], "height": case["height"]}
            for number, case in enumerate(cases)
        ],
        "annotations": [
            {"image_id": number, "category_id": 7, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for number, case in enumerate(cases)
            for x1, y1, x2, y2 in np.asarray(case["true_boxes"], dtype=float).tolist()
        ],
        "categories": [{"id": 7, "name": "lesion"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    again = flat_cases(tmp_path / "truth.json", OutsideDetections.read(tmp_path / "evaluation" / "coco_results.json"))
    scored = write_report(again, tmp_path / "again", bootstrap=Bootstrap(resamples=5))
    for name in ("sensitivity", "sensitivity_strict", "ap50", "ap50_95"):
        assert scored[name] == pytest.approx(metrics[name]), name
