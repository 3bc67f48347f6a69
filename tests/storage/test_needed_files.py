"""What a command needs is missing or there."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.storage.needed_files import EVALUATION, need_evaluation, need_weights


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
