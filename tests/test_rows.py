"""docs/rows.md: every command of a row names existing files and trains the network of the row."""

from __future__ import annotations

import re
import shlex
from ast import literal_eval
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from research.study_plan import load_study
from scripts.configuration.running_config import check_config

BUNDLE = Path(__file__).resolve().parents[1] / "mp3d_bundle"
ROWS = [
    tuple(cells)
    for line in (BUNDLE / "docs" / "rows.md").read_text().splitlines()
    if line.startswith("|") and "monai.bundle run training" in line
    for cells in [[cell.strip().strip("`") for cell in line.strip("|").split("|")]]
]


def files_of(command: str) -> list[Path]:
    words = shlex.split(command)
    value = words[words.index("--config_file") + 1]
    return [BUNDLE / name for name in (literal_eval(value) if value.startswith("[") else [value])]


def paper_figures() -> dict[tuple[str, str], str]:
    """By table and label, the paper's figures as the document prints them; test_plan.py holds them to the paper."""
    found = {}
    for name, table in load_study().tables.items():
        for row in table.rows:
            *points, precision = ("-" if value is None else f"{value:.2f}" for value in row.paper)
            shown = "-" if set(points) == {"-"} else ", ".join(points)
            found[name, row.label] = f"{shown}; {precision}"
    return found


def study_label(table: str, row: str) -> tuple[str, str]:
    """Table and label of a row in the study."""
    if table == "1, 2, 3":
        return "1", "MP3D FPN, 9 slices"
    if table == "2":
        return table, next(label for number, label in paper_figures() if number == "2" and label.startswith(row))
    return table, row.replace("; 20 % of the images", ", 20 %")


@pytest.mark.parametrize(("table", "row", "paper", "command"), ROWS, ids=[f"{cells[0]} {cells[1]}" for cells in ROWS])
def test_commands_build_the_network_of_their_row(table: str, row: str, paper: str, command: str) -> None:
    assert paper == paper_figures()[study_label(table, row)]
    files = files_of(command)
    parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))
    check_config(parser)
    slices = re.search(r"(\d+) slices", row)
    assert parser.get_parsed_content("num_slices") == (int(slices[1]) if slices else 9)
    schedule = re.search(r"\b([126])x\b", row)
    assert parser.get_parsed_content("max_epochs") == 12 * int(schedule[1] if schedule else 2)
    share = re.search(r"(\d+) % of the images", row)
    assert parser.get_parsed_content("train_fraction") == (int(share[1]) / 100 if share else 1.0)
    names = {file.stem for file in files}
    assert ("init_imagenet" in names) == bool(re.search("3DCE|RetinaNet", row))
    assert ("init_coco" in names) == ("w/o" not in row and "init_imagenet" not in names)
    heads = [re.match(r"# Tables? ([\d ,andto]+) of", file.read_text()) for file in files[1:]]
    named = {digit for head in heads if head for digit in ("12345" if "to" in head[1] else head[1])}
    assert not heads or table[0] in named


def test_every_table_is_there() -> None:
    assert {number for table, *_ in ROWS for number in table.split(", ")} == {*load_study().tables} - {"later"}
    assert len({(table, row) for table, row, *_ in ROWS}) == len(ROWS)


def test_the_table_by_share_is_the_papers() -> None:
    lines = [line for line in (BUNDLE / "docs" / "rows.md").read_text().splitlines() if line.startswith("|")]
    table = load_study().tables["5"]
    for first in range(0, len(table.rows), len(table.shares)):
        rows = table.rows[first : first + len(table.shares)]
        figures = " | ".join(f"{row.paper[-1]:.2f}" for row in rows)
        assert f"| {rows[0].label.removesuffix(', 100 %')} | {figures} |" in lines


def test_every_overlay_that_names_a_table_is_in_the_document() -> None:
    text = (BUNDLE / "docs" / "rows.md").read_text()
    for path in BUNDLE.glob("configs/variants/*.yaml"):
        if re.match(r"# Tables? [1-5]", path.read_text()) and path.stem != "slices_9":
            assert path.stem in text, path.stem
