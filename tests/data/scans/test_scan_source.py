"""Scans that were found: how they are opened, and what their results are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.data.scans.scan_source import (
    ScanSource,
    case_name,
    entry_names,
    with_extensions,
    with_unique_names,
    without_suffix,
)


def test_entries_are_named_by_their_folders_only_where_it_takes_that() -> None:
    assert entry_names([Path("a/ct.nii.gz"), Path("b/mr.mha")]) == ["ct", "mr"]
    assert entry_names([Path("a/ct.nii.gz"), Path("b/ct.nii")]) == ["a/ct", "b/ct"]


@pytest.mark.parametrize(
    ("name", "wanted"), [("x.nii.gz", "x"), ("x.NRRD", "x"), ("a/b.zip", "a/b"), ("x.txt", "x.txt")]
)
def test_the_suffix_of_a_volume_goes(name: str, wanted: str) -> None:
    assert without_suffix(Path(name)) == wanted


def test_a_series_is_named_by_its_uid_and_others_by_their_place() -> None:
    assert case_name(ScanSource(Path("Doe^Jane"), "Doe_Jane", "1.2.3")) == "1.2.3"
    assert case_name(ScanSource(Path("Doe^Jane"), "Doe_Jane", "none")) == "Doe_Jane"
    assert case_name(ScanSource(Path("x.nii"), "x")) == "x"
    assert case_name(ScanSource(Path("x"), "x", "../../Doe")).startswith("series_")


def test_names_that_come_again_get_extensions_or_numbers() -> None:
    files = [ScanSource(Path("x.nrrd"), "x"), ScanSource(Path("x.mha"), "x"), ScanSource(Path("y.mha"), "y")]
    assert [one.name for one in with_extensions(files)] == ["x.nrrd", "x.mha", "y"]
    same = [ScanSource(Path("x"), "x"), ScanSource(Path("x"), "x"), ScanSource(Path("x"), "x")]
    assert [one.name for one in with_unique_names(same)] == ["x", "x_2", "x_3"]


def test_a_source_without_an_opener_reads_its_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing is at"):
        ScanSource(tmp_path / "absent.nii").open()
