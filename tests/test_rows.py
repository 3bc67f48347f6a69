"""docs/rows.md: every command of a row names files that are there and trains what the row says."""

from __future__ import annotations

import re
import shlex
from ast import literal_eval
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from scripts.engines import check_config

BUNDLE = Path(__file__).resolve().parents[1] / "mp3d_bundle"
ROWS = [
    (cells[0], cells[1], cells[3])
    for line in (BUNDLE / "docs" / "rows.md").read_text().splitlines()
    if line.startswith("|") and "monai.bundle run training" in line
    for cells in [[cell.strip().strip("`") for cell in line.strip("|").split("|")]]
]


def files_of(command: str) -> list[Path]:
    words = shlex.split(command)
    value = words[words.index("--config_file") + 1]
    return [BUNDLE / name for name in (literal_eval(value) if value.startswith("[") else [value])]


@pytest.mark.parametrize(("table", "row", "command"), ROWS, ids=[f"{table} {row}" for table, row, _ in ROWS])
def test_commands_build_the_network_of_their_row(table: str, row: str, command: str) -> None:
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
    heads = [file.read_text() for file in files[1:]]
    assert not heads or any(f"Table {table[0]}" in head or "Tables 1 to 5" in head for head in heads)


def test_every_table_is_there() -> None:
    assert {number for table, _, _ in ROWS for number in table.split(", ")} == {"1", "2", "3", "4", "5"}
    assert len(ROWS) == 21


def test_every_overlay_that_names_a_table_is_in_the_document() -> None:
    text = (BUNDLE / "docs" / "rows.md").read_text()
    for path in BUNDLE.glob("configs/variants/*.yaml"):
        if re.match(r"# Tables? [1-5]", path.read_text()) and path.stem != "slices_9":
            assert path.stem in text, path.stem
