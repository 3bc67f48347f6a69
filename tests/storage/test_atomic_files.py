"""Files appear whole or not at all, leave nothing behind and survive a power cut."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis.strategies import text

from scripts.storage import atomic_files
from scripts.storage.atomic_files import (
    cell_text,
    hash_files,
    remove_stale_parts,
    replacing,
    sha256,
    table_text,
    write_csv,
    write_json,
)


def test_folders_are_made_and_old_files_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.json"
    write_json({"a": 1}, path)
    write_json({"a": 2}, path)
    assert path.read_text() == '{\n  "a": 2\n}\n'
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize("text", ["=1+1", '=HYPERLINK("http://x")', "+cmd|' /C calc'!A0", "-2+A1", "@SUM(A1)", "\t=1"])
@pytest.mark.parametrize("dialect", ["excel", "excel-tab"])
def test_a_text_that_begins_like_a_formula_is_a_text_to_a_spreadsheet(text: str, dialect: str) -> None:
    ((header,), (cell, after)) = csv.reader(io.StringIO(table_text([[text], [text, 1]], dialect), newline=""), dialect)
    assert (header, cell, after) == (f"'{text}", f"'{text}", "1")


@given(text())
@example("'=1")
@example("''-x")
@example("'-1 2")
def test_every_text_comes_back_from_a_table(written: str) -> None:
    ((cell, _),) = csv.reader(io.StringIO(table_text([[written, 1]]), newline=""))
    assert cell_text(cell) == written


@pytest.mark.parametrize("value", [-1.5, "-1.5 2 3; -4 5e-07 6", "+3", "a=b", "", "1.2.840", "chest - axial", "'x"])
def test_numbers_and_other_texts_are_written_as_they_are(value: str | float) -> None:
    assert list(csv.reader(io.StringIO(table_text([[value, None]])))) == [[str(value), ""]]


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


def test_devices_pipes_sockets_and_folders_stay_what_they_are(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    before = {path.name: path.lstat().st_mode for path in tmp_path.iterdir()}
    for name in before:
        with pytest.raises(OSError, match=f"^Expected a path to write a file to, got .*{name}, which is a "):
            write_json({}, tmp_path / name)
    assert {path.name: path.lstat().st_mode for path in tmp_path.iterdir()} == before


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        real_sync(descriptor)

    def replace(source: Path, target: Path) -> None:
        steps.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_json({}, tmp_path / "metrics.json")
    if os.path.isdir("/proc/self/fd"):
        assert steps == ["file", "rename", "folder"]
    assert len(steps) == 3


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert sha256(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import os, sys, signal; from pathlib import Path; from scripts.storage.atomic_files import replacing\n"
        "with replacing(Path(sys.argv[1])) as part: part.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(atomic_files.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "last.pt"], cwd=root).returncode < 0
    (left,) = tmp_path.iterdir()
    mine = tmp_path / left.name.replace(left.name.rpartition("-")[2], f"{os.getpid()}.part")
    fresh, old = tmp_path / ".a.json.elsewhere-1.part", tmp_path / ".b.json.1.part"
    others = [tmp_path / name for name in (".hidden.part", "a.part", "model.pt")]
    for path in (mine, fresh, old, *others):
        path.write_text("")
    os.utime(old, (0, time.time() - 2 * 24 * 3600))
    assert sorted(remove_stale_parts(tmp_path)) == sorted([left, old])
    assert sorted(tmp_path.iterdir()) == sorted([mine, fresh, *others])


def test_the_first_write_into_a_folder_removes_stale_parts(tmp_path: Path) -> None:
    left = tmp_path / f".run.json.{atomic_files._machine()}-{2**22 + 1}.part"
    left.touch()
    write_json({}, tmp_path / "run.json")
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_hash_runs_over_all_files_in_order(tmp_path: Path) -> None:
    for name, content in (("a", b"one"), ("b", b"two")):
        (tmp_path / name).write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"one").hexdigest()
    assert hash_files([tmp_path / "b", tmp_path / "a"]) == hashlib.sha256(b"twoone").hexdigest()
