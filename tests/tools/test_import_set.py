"""The command: options reach the import, and mistakes end in a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.data.deeplesion.splits import load_records
from scripts.tools.import_set import main
from support.fake_truth import write_nifti_case, write_yolo


def test_a_set_and_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_nifti_case(tmp_path, "case")
    write_yolo(tmp_path / "labels")
    with pytest.raises(ValueError, match=r"counted from 0 or 1 \(--slices_from\)"):
        main(str(tmp_path / "images"), str(tmp_path / "set"), str(tmp_path / "labels"), slice_frame="from_head")
    main(
        str(tmp_path / "images"),
        str(tmp_path / "set"),
        str(tmp_path / "labels"),
        slice_frame="from_head",
        slices_from=1,
        classes=["tumour=0"],
        key_slices="all",
        split=(1, 0, 0),
    )
    printed = capsys.readouterr().out
    assert "report.html before you train" in printed
    assert "run training" in printed
    assert len(load_records(tmp_path / "set", "train")) >= 6


def test_shares_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="three shares as split"):
        main(str(tmp_path), str(tmp_path / "set"), split=(0.5, 0.5))
