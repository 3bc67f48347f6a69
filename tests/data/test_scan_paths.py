"""What an input stands for: one scan, a folder of many, a list."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.data.scan_paths import find_scans


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names(sources: list) -> list[str]:
    return [source.name for source in sources]


def test_file_is_one_scan_without_a_name(tmp_path: Path) -> None:
    path = touch(tmp_path / "a.nii.gz")
    (source,) = find_scans(str(path))
    assert (source.path, source.name) == (path, "")


def test_absent_file_is_left_to_the_reader(tmp_path: Path) -> None:
    assert [source.path for source in find_scans(tmp_path / "absent.nii")] == [tmp_path / "absent.nii"]


def test_folder_with_dicom_files_is_one_scan(tmp_path: Path) -> None:
    touch(tmp_path / "1.dcm")
    touch(tmp_path / "mask.nrrd")
    assert [(source.path, source.name) for source in find_scans(tmp_path)] == [(tmp_path, "")]


def test_dicom_is_known_by_its_mark_too(tmp_path: Path) -> None:
    touch(tmp_path / "IM1", b"\0" * 128 + b"DICM")
    assert names(find_scans(tmp_path)) == [""]


def test_folder_of_many_is_searched_and_sorted(tmp_path: Path) -> None:
    touch(tmp_path / "b.nii.gz")
    touch(tmp_path / "a.MHA")
    touch(tmp_path / "deep" / "c.nrrd")
    touch(tmp_path / "series" / "1.dcm")
    touch(tmp_path / "notes.txt")
    touch(tmp_path / "._b.nii.gz")
    touch(tmp_path / ".cache" / "d.nii")
    assert names(find_scans(tmp_path)) == ["a", "b", "deep/c", "series"]
    assert find_scans(tmp_path)[3].path == tmp_path / "series"


def test_names_that_come_again_are_told_apart(tmp_path: Path) -> None:
    one, other = touch(tmp_path / "a" / "ct.nii.gz"), touch(tmp_path / "b" / "ct.nii.gz")
    touch(tmp_path / "b" / "ct.nii")
    assert names(find_scans([str(one), other])) == ["a/ct", "b/ct"]
    assert names(find_scans([one, one])) == ["ct", "ct_2"]
    assert names(find_scans(tmp_path / "b")) == ["ct", "ct_2"]


def test_list_may_hold_folders(tmp_path: Path) -> None:
    touch(tmp_path / "many" / "a.nii")
    touch(tmp_path / "many" / "b.nii")
    touch(tmp_path / "series" / "1.dcm")
    assert names(find_scans([tmp_path / "many", tmp_path / "series"])) == ["many/a", "many/b", "series"]


def test_empty_folder_is_left_to_the_reader(tmp_path: Path) -> None:
    assert [(source.path, source.name) for source in find_scans(tmp_path)] == [(tmp_path, ".")]


@pytest.mark.parametrize("nothing", ["", []])
def test_nothing_is_no_scan(nothing: str | list) -> None:
    assert find_scans(nothing) == []
