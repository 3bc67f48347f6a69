"""Result files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.metrics.files import replacing, write_csv, write_json


def test_folders_are_made_and_old_files_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.json"
    write_json({"a": 1}, path)
    write_json({"a": 2}, path)
    assert path.read_text() == '{\n  "a": 2\n}\n'
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_csv(("a", "b"), [(1, None)], path)

    def rows() -> object:
        yield (2, 3)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_csv(("a", "b"), rows(), path)  # pyright: ignore[reportArgumentType]
    assert path.read_text() == "a,b\n1,\n"
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]


def test_nan_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"a": float("nan")}, tmp_path / "metrics.json")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    def write() -> None:
        with replacing(tmp_path / "metrics.json") as part:
            part.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"Cannot write .*metrics\.json: No space left on device\."):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match=r"Cannot write .*metrics\.json"):
        write_json({}, tmp_path / "taken" / "metrics.json")
