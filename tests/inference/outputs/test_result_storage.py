"""Results of one scan appear together or not at all, at whatever step the process is killed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.inference.outputs.result_storage import RECORD, read_record, settle, store
from scripts.storage.result_files import file_names

OLD = {
    "lesions.json": b"old",
    "lesions.csv": b"old",
    "overlays/lesion_001.png": b"old",
    "overlays/lesion_002.png": b"old",
}
NEW: dict[str, bytes] = dict.fromkeys(
    ("lesions.json", "detections.json", "overlays/lesion_001.png", "report.html"), b"new"
)


class Killed(BaseException):
    """Stands for the end of the process: nothing that comes after it is done."""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that can be seen, but for the record."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".part" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.name != RECORD}


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> bool:
    """Do some work up to its step-th change of the disk; whether it came that far."""
    count = 0

    def counted(change: Any) -> Any:
        def changed(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count >= step:
                raise Killed
            return change(*arguments, **options)

        return changed

    with monkeypatch.context() as patch:
        for owner, name in ((os, "replace"), (Path, "write_bytes"), (Path, "unlink"), (shutil, "rmtree")):
            patch.setattr(owner, name, counted(getattr(owner, name)))
        try:
            work()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("before", [{}, OLD], ids=["nothing", "other results"])
def test_killed_at_any_step_the_folder_holds_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, bytes]
) -> None:
    ends = []
    for step in range(1, 40):
        folder = tmp_path / str(step)
        folder.mkdir()
        (folder / "mine.png").write_bytes(b"not ours")
        if before:
            store(folder, before, {"made": {"by": "old"}})
        whole = killed_at(step, monkeypatch, lambda folder=folder: store(folder, NEW, {"made": {"by": "new"}}))
        seen = contents(folder)
        # A folder with lesions.json holds all of its scan's files, before anybody puts it in order.
        if "lesions.json" in seen:
            assert (before if seen["lesions.json"] == b"old" else NEW).items() <= seen.items()
        if step % 2 and killed_at(step // 2, monkeypatch, lambda folder=folder: settle(folder)):
            assert "lesions.json" not in contents(folder) or contents(folder)["lesions.json"] in (b"old", b"new")
        settle(folder)
        seen = contents(folder)
        assert seen.pop("mine.png") == b"not ours"
        assert seen in (before, NEW)
        record = read_record(folder)
        assert (record["made"]["by"] if record else None) == ("new" if seen == NEW else "old" if before else None)
        assert not (folder / ".part").exists()
        ends.append(seen == NEW)
        if not whole:
            break
    assert ends == sorted(ends)
    assert ends[-1]
    assert not ends[0]


def test_record_names_every_file_with_its_hash(tmp_path: Path) -> None:
    store(tmp_path / "a" / "b", {"lesions.csv": b"one"}, {"notices": ["n"], "made": {"x": 1}})
    record = json.loads((tmp_path / "a" / "b" / RECORD).read_text())
    assert record["notices"] == ["n"]
    # printf one | sha256sum
    assert record["files"] == {"lesions.csv": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"}
    assert RECORD not in file_names()


def test_a_folder_in_the_way_of_a_file_changes_nothing(tmp_path: Path) -> None:
    store(tmp_path, OLD, {"made": {}})
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OSError, match=r"Could not write the results to .*: report\.html is a folder\."):
        store(tmp_path, NEW, {"made": {}})
    assert contents(tmp_path) == OLD


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"files": 1, "made": {}}', b"[" * 100_000])
def test_what_is_no_record_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RECORD).write_bytes(content)
    assert read_record(tmp_path) is None
