"""Tags that exclude each other, by what the ontology says of them, their parents and their children."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from scripts.data.tag_ontology import exclusions
from support.fake_ontology import write_ontology

NAMES = ("chest", "abdomen", "lung", "left lung", "liver", "nodule")
ROWS = [
    ("chest", "abdomen | head", ""),
    ("abdomen", "chest", ""),
    ("lung", "", "chest"),
    ("left lung", "", "lung | chest"),
    ("liver", "", "abdomen"),
    ("nodule & mass", "chest", ""),
]


def pairs(found: np.ndarray) -> set[tuple[str, str]]:
    return {(NAMES[i], NAMES[j]) for i, j in np.argwhere(found).tolist()}


@pytest.mark.parametrize("shared", [True, False])
def test_what_a_tag_excludes(tmp_path: Path, shared: bool) -> None:
    found = exclusions(write_ontology(tmp_path / "lesion_ontology.xlsx", ROWS, shared=shared), NAMES)
    chest, abdomen = ("chest", "lung", "left lung"), ("abdomen", "liver")
    assert pairs(found) == {(a, b) for a in chest for b in abdomen} | {(b, a) for a in chest for b in abdomen}
    assert found.dtype == bool


def test_the_relations_are_those_of_the_sheet_alone(tmp_path: Path) -> None:
    path = write_ontology(tmp_path / "a.xlsx", [("chest", "", ""), ("lung", "liver", "chest"), ("nodule", "", "lung")])
    # What a child excludes its parent does not; what a tag excludes need not exclude it.
    assert pairs(exclusions(path, NAMES)) == {("lung", "liver"), ("nodule", "liver")}


def test_other_files_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="Expected an Excel file"):
        exclusions(path, NAMES)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", "x")
    with pytest.raises(ValueError, match="a sheet of an Excel file, got none"):
        exclusions(path, NAMES)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/worksheets/sheet1.xml", '<a><row r="1"><c r="A1" t="s"><v>3</v></c></row></a>')
    with pytest.raises(ValueError, match="number of a text below 0, got '3'"):
        exclusions(path, NAMES)
    with pytest.raises(ValueError, match="tags like 'chest' in column C"):
        exclusions(write_ontology(path, [("other", "", "")]), NAMES)
    with pytest.raises(FileNotFoundError):
        exclusions(tmp_path / "none.xlsx", NAMES)
