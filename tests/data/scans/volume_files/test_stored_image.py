"""Notes have a form for results and one for the log; rules of reading are checked, and reach every kind of input."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from scripts.data.scans.find_scans import find_scans
from scripts.data.scans.volume_files.stored_image import Note, ReadingRules, log_text, shown


def test_results_get_the_text_and_the_log_the_names() -> None:
    note = Note("Left out a file.", log="Left out DOE.dcm.")
    assert json.loads(json.dumps([note, "plain"])) == ["Left out a file.", "plain"]
    assert (f"{note}", log_text(note), log_text("plain")) == ("Left out a file.", "Left out DOE.dcm.", "plain")


def test_notes_go_to_other_processes_with_both_forms() -> None:
    note = pickle.loads(pickle.dumps(Note("Left out a file.", log="Left out DOE.dcm.")))
    assert (note, log_text(note)) == ("Left out a file.", "Left out DOE.dcm.")


def test_names_are_shown_on_one_line() -> None:
    assert shown(Path("CT é") / "a\nb\r\x1b[2J.nii") == "CT é/a\\nb\\r\\x1b[2J.nii"
    assert shown(Path("a\udcff.nii")) == "a\\udcff.nii"


@pytest.mark.parametrize(
    "given",
    [
        {"hu_offset": "much"},
        {"hu_offset": float("nan")},
        {"hu_offset": True},
        {"any_geometry": "yes"},
        {"any_geometry": 1},
        {"max_gigabytes": 0},
        {"max_gigabytes": None},
        {"max_gigabytes": float("inf")},
    ],
)
def test_values_of_another_kind_are_rejected_by_name(given: dict) -> None:
    (name,) = given
    with pytest.raises(ValueError, match=f"as {name}, got"):
        ReadingRules(**given)


def test_rules_reach_the_source_of_a_file(tmp_path: Path) -> None:
    rules = ReadingRules(hu_offset=-1024)
    (source,) = find_scans(tmp_path / "scan.nii", rules=rules)
    assert source.rules is rules
