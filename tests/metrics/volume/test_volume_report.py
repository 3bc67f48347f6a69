"""The files and the table of an evaluation of volumes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import pytest

from scripts.metrics.evaluation_files import Evaluated
from scripts.metrics.volume.volume_report import write_volume_report
from scripts.metrics.volume.volume_tables import SPARSE_KEYS, TINY_BOXES
from support.fake_evaluations import LESION, volume_cases


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("report") / "new"
    return folder, write_volume_report(volume_cases(), folder, Evaluated("two volumes", "Nothing real."))


def test_every_file_is_there_and_metrics_are_what_is_returned(written: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = written
    names = {"metrics.json", "sensitivity.csv", "froc.csv", "detections.csv", "true_lesions.csv", "froc.png"}
    assert {path.name for path in folder.iterdir()} == names
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert metrics["notice"] == "Nothing real."
    assert metrics["notes"] == [TINY_BOXES, SPARSE_KEYS]


def test_detections_say_what_became_of_them_under_each_protocol(written: tuple[Path, dict[str, Any]]) -> None:
    first, second, third = rows(written[0] / "detections.csv")
    assert [first["score"], second["score"], third["score"]] == ["0.9", "0.45", "0.4"]
    assert [first[name] for name in ("x1", "y1", "z1", "x2", "y2", "z2")] == [str(value) for value in LESION]
    assert (first["outcome (3D IoBB 0.3)"], first["outcome (P3D IoU 0.5)"]) == ("hit", "hit")
    assert first["outcome (P3D IoU 0.5 by slice)"] == "false positive"
    assert (second["id"], second["outcome (3D IoU 0.5)"]) == ("000002_01_01_001-020", "false positive")


def test_lesions_say_who_found_them_and_how_large_they_are(written: tuple[Path, dict[str, Any]]) -> None:
    lesions = rows(written[0] / "true_lesions.csv")
    assert [row["protocol"] for row in lesions] == [
        "3D IoBB 0.3", "3D IoU 0.3", "3D IoU 0.5", *["P3D IoU 0.5"] * 2, *["P3D IoU 0.5 by slice"] * 2
    ]  # fmt: skip
    solid, flat = lesions[0], lesions[3]
    assert (solid["width_mm"], solid["height_mm"], solid["depth_mm"]) == ("5.0", "10.0", "25.0")
    assert (solid["found_score"], solid["found_iou"], solid["found_volume_ratio"]) == ("0.9", "1.0", "1.0")
    assert (flat["width_mm"], flat["depth_mm"], flat["found_iou"]) == ("4.25", "", "")
    assert lesions[5]["found_score"] == ""


def test_the_curves_and_operating_points_of_every_protocol(written: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = written
    points = rows(folder / "sensitivity.csv")
    assert {row["protocol"] for row in points} == set(metrics["protocols"])
    groups = [row for row in points if row["group"] == "slice_interval: 5 mm"]
    assert len(groups) == 9
    assert groups[-1]["fps_per_volume"] == "mean of 0.125 to 8"
    assert float(groups[-1]["sensitivity"]) == metrics["protocols"]["3D IoBB 0.3"]["mean_sensitivity"] == 1.0
    corners = [row for row in rows(folder / "froc.csv") if row["protocol"] == "3D IoBB 0.3"]
    assert [(row["fps_per_volume"], row["sensitivity"]) for row in corners] == [("0.0", "1.0"), ("1.0", "1.0")]


def test_the_figure_is_a_picture_with_its_notice(written: tuple[Path, dict[str, Any]]) -> None:
    picture = cv2.imread(str(written[0] / "froc.png"))
    assert picture is not None
    assert picture.shape[:2] == (810, 1080)


def test_nothing_is_written_of_malformed_cases(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="score for each"):
        write_volume_report([{**volume_cases()[0], "scores": []}], tmp_path / "report")
    assert not (tmp_path / "report").exists()
