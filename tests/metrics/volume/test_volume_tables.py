"""The table and the rows of volumes."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.metrics.bootstrap import Bootstrap
from scripts.metrics.evaluation_files import Evaluated
from scripts.metrics.froc import curve_from_matches
from scripts.metrics.volume.volume_evaluation import evaluate_volumes
from scripts.metrics.volume.volume_matching import check_volumes
from scripts.metrics.volume.volume_report import write_volume_report
from scripts.metrics.volume.volume_tables import (
    SPARSE_KEYS,
    TINY_BOXES,
    format_volume_table,
    official_predictions,
    volume_notes,
    volume_tables,
)
from support.fake_evaluations import ELSEWHERE, LESION, volume_cases


def test_the_table_holds_every_figure_on_short_lines(tmp_path: Path) -> None:
    metrics = write_volume_report(volume_cases(), tmp_path, Evaluated("two volumes", "Nothing real."))
    table = format_volume_table(metrics)
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
    empty = [{**case, "true_boxes": [], "key_boxes": None, "tracks": None} for case in volume_cases()]
    metrics = write_volume_report(empty, tmp_path)
    main = next(line for line in format_volume_table(metrics).splitlines() if "3D IoBB 0.3, %" in line)
    assert main.split()[-9:] == ["-"] * 9
    assert metrics["notes"] == [TINY_BOXES]


def test_predictions_in_the_official_form() -> None:
    first, second = official_predictions(volume_cases()).values()
    assert first == [[*LESION, 0.9], [*ELSEWHERE, 0.4]]
    assert second == [[*LESION, 0.45]]
    (none,) = official_predictions([{"id": "a", "boxes": [], "scores": []}]).values()
    assert none == []


def test_every_row_has_a_cell_for_each_column() -> None:
    metrics, matches = evaluate_volumes(volume_cases(), bootstrap=Bootstrap(resamples=5))
    curves = {name: curve_from_matches(one) for name, one in matches.items()}
    tables = volume_tables(check_volumes(volume_cases()), metrics, matches, curves)
    assert set(tables) == {"sensitivity", "froc", "detections", "true_lesions"}
    for name, (header, rows) in tables.items():
        lengths = {len(row) for row in rows}
        assert lengths == {len(header)}, name


@pytest.mark.parametrize(
    ("names", "notes"),
    [
        (["3D IoBB 0.3"], [TINY_BOXES]),
        (["P3D IoU 0.5"], []),
        (["3D IoBB 0.3", "P3D IoU 0.5"], [TINY_BOXES, SPARSE_KEYS]),
    ],
)
def test_notes_are_about_the_protocols_that_were_used(names: list[str], notes: list[str]) -> None:
    assert volume_notes({"protocols": dict.fromkeys(names)}) == notes


def test_every_class_has_a_line_and_rows(tmp_path: Path) -> None:
    names = ("node", "a class of a long name")
    cases = [
        {**case, "class_names": names, "classes": [names[0]] * len(case["boxes"]),
         "true_classes": [names[0]] * len(case["true_boxes"])}
        for case in volume_cases()
    ]  # fmt: skip
    metrics = write_volume_report(cases, tmp_path)
    lines = format_volume_table(metrics).splitlines()
    assert next(line for line in lines if "3D IoBB 0.3, node, %" in line).split()[-1] == "100.0"
    assert next(line for line in lines if "3D IoBB 0.3, a class of a, %" in line).split()[-1] == "-"
    assert all(len(line) <= 110 for line in lines if line.strip() not in (TINY_BOXES, SPARSE_KEYS))
    with (tmp_path / "sensitivity.csv").open() as file:
        assert sum("class: node" in line for line in file) == 3 * 9
