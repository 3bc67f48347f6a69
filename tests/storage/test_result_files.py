"""The table of outputs: every line leads to a maker, and a new line is all that a new output needs."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from scripts.data.scans.find_scans import find_scans
from scripts.inference.detections import ScanResult
from scripts.inference.outputs.result_writer import ResultWriter, choose_outputs, maker_of
from scripts.storage.result_files import OUTPUTS, Output, file_names
from support.fake_results import parts, results_of
from support.fake_scans import ball_scan, scan_of

BOXES = [(24, 10, 4, 37, 23, 9), (5, 6, 1, 9, 12, 2)]


def rows(result: ScanResult) -> dict[str, bytes]:
    """One line for each lesion and slice."""
    lines = [
        f"{entry['lesion']},{at}"
        for entry, one in zip(result.entries, result.lesions, strict=True)
        for at in one.members
    ]
    return {"rows.nii": "\n".join([*result.notices, *lines]).encode()}


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table with a further line, and the module that it names."""
    module = ModuleType("scripts.inference.outputs.rows")
    module.rows = rows  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(OUTPUTS, "rows", Output(("rows.nii",), "rows.rows"))


def test_no_file_has_two_makers() -> None:
    assert len(file_names()) == len(set(file_names()))


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_line_leads_to_a_maker(name: str) -> None:
    if name == "dicom":
        pytest.importorskip("highdicom")
    module, attribute = OUTPUTS[name].maker.rsplit(".", 1)
    assert hasattr(importlib.import_module(f"scripts.inference.outputs.{module}"), attribute)
    assert callable(maker_of(name))


def test_an_unknown_output_is_rejected_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"outputs among json, csv, .* got 'pdf'"):
        ResultWriter(tmp_path, outputs=["pdf"])


def test_a_new_output_is_one_line(table: None, tmp_path: Path) -> None:
    results = results_of(scan_of(ball_scan()), BOXES, (0.9, 0.4))
    assert choose_outputs("json,rows") == ("json", "rows")
    folder = ResultWriter(tmp_path, outputs=["json", "rows"])(*parts(results))
    lines = (folder / "rows.nii").read_text().splitlines()
    assert lines[1:] == [f"{one + 1},{at}" for one, lesion in enumerate(results.lesions) for at in lesion.members]
    # No search for scans takes the file for one, and a later run without it removes it.
    (folder / "scan.nii").touch()
    assert [source.path.name for source in find_scans(folder)] == ["scan.nii"]
    ResultWriter(tmp_path, outputs=["json"])(*parts(results))
    assert not (folder / "rows.nii").exists()
