"""The files and the table of an evaluation of volumes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import pytest
from matplotlib.figure import Figure

from scripts.metrics.volume import volume_report
from scripts.metrics.volume.volume_figure import volume_froc_figure
from scripts.metrics.volume.volume_report import write_volume_report
from scripts.metrics.volume.volume_tables import SPARSE_KEYS, TINY_BOXES, format_volume_table, official_predictions

LESION = [100.0, 50.0, 7.0, 109.0, 69.0, 11.0]
ELSEWHERE = [300.0, 300.0, 7.0, 309.0, 309.0, 9.0]
KEY = [101.5, 50.0, 9.0, 109.0, 69.0, 9.0]


def cases() -> list[dict[str, Any]]:
    shared = {"spacing": (0.5, 0.5, 5.0), "slice_interval": 5.0}
    return [
        {
            "id": f"00000{number}_01_01_001-020",
            "patient": f"00000{number}",
            "boxes": [LESION, ELSEWHERE][: 3 - number],
            "scores": [0.9 / number, 0.4][: 3 - number],
            "true_boxes": [LESION] if number == 1 else [],
            "key_boxes": [KEY],
            "tracks": [],
            **shared,
        }
        for number in (1, 2)
    ]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("report") / "new"
    return folder, write_volume_report(cases(), folder, dataset_name="two volumes", notice="Nothing real.")


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


def test_the_figure_names_what_it_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[Figure] = []

    def keep(*arguments: Any, **settings: Any) -> Figure:
        drawn.append(volume_froc_figure(*arguments, **settings))
        return drawn[-1]

    monkeypatch.setattr(volume_report, "volume_froc_figure", keep)
    write_volume_report(cases(), tmp_path, dataset_name="two volumes", notice="Nothing real.")
    (axes,) = drawn[0].axes
    assert axes.get_title() == "Nothing real."
    assert axes.get_xlabel() == "false positives per volume"
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels[0].startswith("3D IoBB 0.3, 1 lesions (3D boxes)")
    assert labels[3].startswith("P3D IoU 0.5, 2 lesions (boxes on key slices)")
    with pytest.raises(ValueError, match="at least one FROC curve"):
        volume_froc_figure({}, {}, dataset_name="none")


def test_the_table_holds_every_figure_on_short_lines(written: tuple[Path, dict[str, Any]]) -> None:
    table = format_volume_table(written[1])
    lines = table.splitlines()
    assert lines[0] == "two volumes: 2 volumes, 2 patients, 3 detected lesions"
    assert lines[1] == "Nothing real."
    assert all(len(line) <= 110 for line in lines[2:] if line.strip() not in (TINY_BOXES, SPARSE_KEYS))
    main = next(line for line in lines if "3D IoBB 0.3, %" in line)
    assert main.split()[-9:] == ["100.0"] * 9
    assert TINY_BOXES in table
    assert "median IoU 1.00" in table
    assert "3D IoBB 0.3, 5 mm, %" in table


def test_a_table_without_lesions_shows_dashes(tmp_path: Path) -> None:
    empty = [{**case, "true_boxes": [], "key_boxes": None, "tracks": None} for case in cases()]
    metrics = write_volume_report(empty, tmp_path)
    main = next(line for line in format_volume_table(metrics).splitlines() if "3D IoBB 0.3, %" in line)
    assert main.split()[-9:] == ["-"] * 9
    assert metrics["notes"] == [TINY_BOXES]


def test_predictions_in_the_official_form() -> None:
    first, second = official_predictions(cases()).values()
    assert first == [[*LESION, 0.9], [*ELSEWHERE, 0.4]]
    assert second == [[*LESION, 0.45]]
    (none,) = official_predictions([{"id": "a", "boxes": [], "scores": []}]).values()
    assert none == []


def test_nothing_is_written_of_malformed_cases(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="score for each"):
        write_volume_report([{**cases()[0], "scores": []}], tmp_path / "report")
    assert not (tmp_path / "report").exists()
