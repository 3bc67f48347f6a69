"""The folder that an evaluation leaves, its tables and its figure."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.metrics.bootstrap import Bootstrap
from scripts.metrics.evaluation_files import Evaluated
from scripts.metrics.image.image_report import write_report
from scripts.metrics.image.image_tables import format_table
from support.fake_evaluations import image_cases

NOTICE = "Synthetic data, not comparable with DeepLesion."
FILES = [
    "coco_results.json",
    "detections.csv",
    "froc.csv",
    "froc.png",
    "metrics.json",
    "sensitivity.csv",
    "thresholds.csv",
    "true_lesions.csv",
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("report") / "evaluation"
    about = Evaluated("invented boxes", NOTICE)
    metrics = write_report(image_cases(), folder, about, bootstrap=Bootstrap(resamples=20))
    return folder, metrics


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_is_there_and_nothing_else(report: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = report
    assert sorted(path.name for path in folder.iterdir()) == FILES


def test_json_is_what_is_returned(report: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = report
    stored = json.loads((folder / "metrics.json").read_text())
    assert stored == metrics
    assert stored["notice"] == NOTICE
    assert stored["dataset"] == "invented boxes"
    assert list(stored["sensitivity"]) == ["0.5", "1", "2", "4", "8", "16"]


def test_sensitivity_table_repeats_the_json(report: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = report
    rows = read(folder / "sensitivity.csv")
    whole = [row for row in rows if row["group"] == "all"]
    assert {row["fps_per_image"]: float(row["sensitivity"]) for row in whole} == metrics["sensitivity"]
    assert {row["fps_per_image"]: float(row["strict_sensitivity"]) for row in whole} == metrics["sensitivity_strict"]
    assert [float(whole[0]["low"]), float(whole[0]["high"])] == metrics["sensitivity_interval"]["0.5"]
    five = [row for row in rows if row["group"] == "slice_interval: 5 mm"]
    group = metrics["subgroups"]["slice_interval"]["5 mm"]
    assert {row["fps_per_image"]: float(row["sensitivity"]) for row in five} == group["sensitivity"]
    assert {row["images"] for row in five} == {"12"}


def test_boxes_and_their_outcomes(report: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = report
    detections, lesions = read(folder / "detections.csv"), read(folder / "true_lesions.csv")
    assert len(detections) == metrics["counts"]["detections"]
    assert len(lesions) == metrics["counts"]["lesions"]
    scores = [float(row["score"]) for row in detections]
    assert scores == sorted(scores, reverse=True)
    assert {row["outcome"] for row in detections} == {"hit", "duplicate", "false positive"}
    for target, point in metrics["operating_points"].items():
        assert sum(int(row[f"found_at_{target}"]) for row in lesions) == point["lesions_found"]
    hit_scores = {row["score"] for row in detections if row["outcome"] == "hit"}
    assert {row["found_score"] for row in lesions if row["found_score"]} == hit_scores


def test_thresholds_table(report: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = report
    rows = read(folder / "thresholds.csv")
    found = [int(row["lesions_found"]) for row in rows]
    assert found == sorted(found, reverse=True)
    assert all(int(row["lesions_found"]) + int(row["lesions_missed"]) == 24 for row in rows)
    point = metrics["operating_points"]["1"]
    (row,) = [row for row in rows if row["threshold"] == str(point["threshold"])]
    assert int(row["false_positives"]) == point["false_positives"]


def test_nothing_detected_still_makes_a_report(tmp_path: Path) -> None:
    cases = [{**case, "boxes": [], "scores": []} for case in image_cases(3)]
    metrics = write_report(cases, tmp_path, bootstrap=Bootstrap(resamples=5))
    assert set(metrics["sensitivity"].values()) == {0.0}
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    assert read(tmp_path / "froc.csv") == []
    assert "0.0" in format_table(metrics)


def test_no_lesions_still_make_a_report(tmp_path: Path) -> None:
    cases = [{**case, "true_boxes": [], "lesion_type": []} for case in image_cases(3)]
    metrics = write_report(cases, tmp_path, bootstrap=Bootstrap(resamples=5))
    assert metrics["ap50"] is None
    assert read(tmp_path / "froc.csv")[0]["sensitivity"] == ""
    assert " -" in format_table(metrics)


def test_bad_cases_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one case"):
        write_report([], tmp_path / "evaluation")
    assert list(tmp_path.iterdir()) == []


def test_terminal_table(report: tuple[Path, dict[str, Any]]) -> None:
    _, metrics = report
    text = format_table(metrics)
    lines = text.splitlines()
    assert lines[0] == "invented boxes: 24 images, 12 patients, 24 lesions, 168 detections"
    assert lines[1] == NOTICE
    assert all(len(line) <= 110 for line in lines)
    row = next(line for line in lines if "sensitivity %" in line).split()
    assert row[-1] == f"{100 * metrics['mean_sensitivity']:.1f}"
    for words in ("MAP@0.5", "by slice interval", "5 mm (12)", "duplicates as FPs", "by lesion type"):
        assert words in text


def test_further_fields_of_one_number_a_box_are_columns_after_all_others(tmp_path: Path) -> None:
    plain = image_cases(6)
    cases = [
        {
            **case,
            "fields": {"age": np.arange(len(case["boxes"])) / 2, "tags": np.zeros((len(case["boxes"]), 3))},
            "true_fields": {"old": np.arange(len(case["true_boxes"])) > 0},
        }
        for case in plain
    ]
    for name, given in (("plain", plain), ("open", cases)):
        write_report(given, tmp_path / name, bootstrap=Bootstrap(resamples=5))
    for file, column in (("detections.csv", "age"), ("true_lesions.csv", "old")):
        before, after = (
            list(csv.reader((tmp_path / name / file).read_text().splitlines())) for name in ("plain", "open")
        )
        assert [row[:-1] for row in after] == before
        assert after[0][-1] == column
    by_id = {case["id"]: case for case in cases}
    for row in csv.DictReader((tmp_path / "open" / "detections.csv").read_text().splitlines()):
        case = by_id[row["id"]]
        (at,) = np.flatnonzero(np.abs(case["scores"] - float(row["score"])) < 1e-12)
        assert float(row["age"]) == at / 2
