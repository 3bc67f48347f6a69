"""Folders with their files: no hidden ones, no results, each folder once."""

from __future__ import annotations

from pathlib import Path

from scripts.data.scans.folder_walk import walk


def test_each_folder_comes_once_without_hidden_files_and_results(tmp_path: Path) -> None:
    for name in ("b/2.nii", "b/1.nii", "a/.hidden", "a/lesions.json", "a/own.json", ".git/x", "c/d/3.nii"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "again").symlink_to(tmp_path / "b")
    (tmp_path / "c" / "loop").symlink_to(tmp_path)
    found = [(place.relative_to(tmp_path).as_posix(), files) for place, files in walk(tmp_path)]
    assert found == [(".", []), ("a", ["own.json"]), ("b", ["1.nii", "2.nii"]), ("c", []), ("c/d", ["3.nii"])]
