"""What a command needs is missing or there."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.storage.needed_files import EVALUATION, need_evaluation, need_folder, need_weights


def test_weights(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"a weights file, found no file {path}"):
            need_weights(path)
    (tmp_path / "a.pt").write_bytes(b"")
    need_weights(tmp_path / "a.pt")


@pytest.mark.parametrize("lost", EVALUATION)
def test_an_evaluation(tmp_path: Path, lost: str) -> None:
    for name in EVALUATION:
        (tmp_path / name).write_text("")
    need_evaluation(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(FileNotFoundError, match=f"found no {lost} in {tmp_path}"):
        need_evaluation(tmp_path)


def test_a_folder_is_there_missing_or_a_file(tmp_path: Path) -> None:
    need_folder(tmp_path, "the slices in")
    file = tmp_path / "labels.csv"
    with pytest.raises(FileNotFoundError, match=rf"^Expected the slices in {file}, but the folder does not exist\.$"):
        need_folder(file, "the slices in")
    file.write_text("")
    with pytest.raises(NotADirectoryError, match=rf"^Expected the slices in {file}, but that is a file\.$"):
        need_folder(file, "the slices in")
