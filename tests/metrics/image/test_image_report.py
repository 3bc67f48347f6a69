"""The folder that an evaluation leaves, its tables and its figure."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from scripts.metrics.bootstrap import Bootstrap
from scripts.metrics.froc import froc_curve
from scripts.metrics.froc_figure import PAPER_POINTS, froc_figure, write_froc_figure
from scripts.metrics.image.image_report import write_report
from scripts.metrics.image.image_tables import detection_rows, format_table, froc_rows, lesion_rows, threshold_rows
from scripts.metrics.matching import MULAN, STRICT, match_detections

NOTICE = "Synthetic data, not comparable with DeepLesion."
FILES = [
    "detections.csv",
    "froc.csv",
    "froc.png",
    "metrics.json",
    "sensitivity.csv",
    "thresholds.csv",
    "true_lesions.csv",
]


def make_cases(images: int = 24) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    cases = []
    for number in range(images):
        corners = generator.uniform(0, 400, (6, 2))
        boxes = np.concatenate([corners, corners + generator.uniform(15, 90, (6, 2))], axis=1)
        count = number % 3
        cases.append(
            {
                "id": f"{number:03d}.png",
                "patient": f"p{number // 2}",
                "boxes": np.concatenate([boxes, boxes[:1] + 2]),
                "scores": generator.uniform(size=7),
                "true_boxes": boxes[:count] + generator.normal(0, 3, (count, 4)),
                "width": 512,
                "height": 512,
                "slice_interval": (1.0, 5.0)[number % 2],
                "spacing": (0.8, 0.8),
                "lesion_type": generator.integers(1, 9, count),
            }
        )
    return cases


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("report") / "evaluation"
    metrics = write_report(
        make_cases(), folder, bootstrap=Bootstrap(resamples=20), dataset_name="invented boxes", notice=NOTICE
    )
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


@pytest.mark.parametrize("rule", [MULAN, STRICT])
def test_corners_give_the_whole_curve(rule: Any) -> None:
    curve = froc_curve(make_cases(), rule)
    rows = list(froc_rows("a", curve))
    assert len(rows) < len(curve.scores)
    grid = np.linspace(0, float(curve.fps_per_image[-1]), 50)
    for target in grid:
        reached = max((row[3] for row in rows if row[2] <= target), default=0.0)
        assert reached == max(curve.sensitivity[curve.fps_per_image <= target], default=0.0)


def test_nothing_detected_still_makes_a_report(tmp_path: Path) -> None:
    cases = [{**case, "boxes": [], "scores": []} for case in make_cases(3)]
    metrics = write_report(cases, tmp_path, bootstrap=Bootstrap(resamples=5))
    assert set(metrics["sensitivity"].values()) == {0.0}
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    assert read(tmp_path / "froc.csv") == []
    assert "0.0" in format_table(metrics)


def test_no_lesions_still_make_a_report(tmp_path: Path) -> None:
    cases = [{**case, "true_boxes": [], "lesion_type": []} for case in make_cases(3)]
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
    plain = make_cases(6)
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


def test_rows_without_optional_keys() -> None:
    keys = ("id", "patient", "boxes", "scores", "true_boxes", "width", "height")
    from_cases = [{key: case[key] for key in keys} for case in make_cases(3)]
    matches = match_detections(from_cases)
    rows = list(lesion_rows(from_cases, matches, [None, 0.0]))
    assert [row[7:11] for row in rows] == [(None, None, None, None)] * 3
    assert [row[-2] for row in rows] == [0, 0, 0]
    assert len(list(detection_rows(from_cases, matches))) == 21
    assert [row[0] for row in threshold_rows(matches, [None, 0.25])][3:6] == [0.1, 0.2, 0.25]


def test_the_paper_is_quoted_right() -> None:
    assert PAPER_POINTS["MP3D FPN, 9 slices"] == (79.60, 85.29, 89.61, 92.45)
    assert PAPER_POINTS["FPN+3DCE, 9 slices"] == (74.06, 82.00, 87.58, 91.56)


def test_figure_says_what_is_from_where(tmp_path: Path) -> None:
    curves = {"9 slices": froc_curve(make_cases()), "1 slice": froc_curve(make_cases(3))}
    for notice, quoted in ((None, len(PAPER_POINTS)), (NOTICE, 0)):
        figure = froc_figure(curves, dataset_name="invented boxes", notice=notice)
        (legend,) = figure.legends
        labels = [text.get_text() for text in legend.get_texts()]
        assert labels[:quoted] == [f"paper, on DeepLesion: {name}" for name in PAPER_POINTS][:quoted]
        assert labels[quoted].startswith("ours, on invented boxes: 9 slices")
        assert labels[quoted + 1].startswith("ours, on invented boxes: 1 slice")
        assert figure.axes[0].get_title() == (notice or "")
    assert figure.get_suptitle() == "FROC on invented boxes"
    write_froc_figure(figure, tmp_path / "froc.png")
    picture = cv2.imread(str(tmp_path / "froc.png"))
    assert picture is not None
    assert picture.shape[1] >= 1000


def test_a_figure_without_curves_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one FROC curve"):
        froc_figure({}, dataset_name="nothing")
