"""Output folders: unusable ones are rejected before the work, and two processes never share one."""

from __future__ import annotations

import contextlib
import errno
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.data.synthetic.generator import generate
from scripts.storage import output_folder
from scripts.storage.atomic_files import replacing
from scripts.storage.output_folder import FolderLock, check_output_folder, has_other_content, scratch_folder
from scripts.tools.early_checks import check_export


def test_a_usable_folder_is_left_as_it_was(tmp_path: Path) -> None:
    assert check_output_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert check_output_folder(str(tmp_path)) == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_a_file_or_a_dangling_link_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "file/run"):
        with pytest.raises(NotADirectoryError, match=f"at {tmp_path / name}, found a file at {tmp_path / 'file'}"):
            check_output_folder(tmp_path / name)
    with pytest.raises(NotADirectoryError, match=f"a broken symbolic link at {tmp_path / 'link'}"):
        check_output_folder(tmp_path / "link" / "run")


@pytest.mark.parametrize("text", ["s3://bucket/out", "S3://bucket/out", "https://host/out", "file:///out", "hdfs:/out"])
def test_a_url_makes_no_folder_on_this_machine(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    writers: list[Callable[[str], Any]] = [
        check_output_folder,
        lambda place: FolderLock(place, "a training").acquire(),
        lambda place: replacing(f"{place}/model.pt").__enter__(),
        lambda place: check_export(str(weights), f"{place}/model.onnx"),
        generate,
    ]
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"weights")
    for write in writers:
        for given in (text, str(Path(text))):
            with pytest.raises(OSError, match=r"^Expected a path of this machine to write to, got what .* a URL, "):
                write(given)
    assert list(tmp_path.iterdir()) == [weights]
    assert check_output_folder(tmp_path / "s3:" / "bucket")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_a_folder_that_cannot_be_written_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def reject(**arguments: Any) -> None:
        raise OSError(number, os.strerror(number), str(arguments["dir"]))

    monkeypatch.setattr(tempfile, "TemporaryFile", reject)
    with pytest.raises(OSError, match=rf"can be written, got {tmp_path}/run: {os.strerror(number)}\.$"):
        check_output_folder(tmp_path / "run")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that cannot be written")
def test_a_folder_that_cannot_be_written_is_rejected() -> None:
    with pytest.raises(OSError, match="can be written, got /proc/self/run: "):
        check_output_folder("/proc/self/run")


def test_the_message_about_a_full_disk_gives_both_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100 << 20, 97 << 20, 3 << 20))
    assert check_output_folder(tmp_path, needed_bytes=3 << 20)
    with pytest.raises(OSError, match=r"at least 16 MiB of free space .*found 3 MiB"):
        check_output_folder(tmp_path)


def test_a_second_process_is_kept_out_by_a_message_that_names_the_first(tmp_path: Path) -> None:
    # The lock belongs to the open file, so that a second object in this process acts like another process.
    with FolderLock(tmp_path / "run", "a training"):
        with pytest.raises(BlockingIOError, match=rf"training, process {os.getpid()} on .* in {tmp_path}/run"):
            FolderLock(tmp_path / "run", "an evaluation").acquire()
        FolderLock(tmp_path / "other", "a training").acquire().release()
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    FolderLock(tmp_path / "run", "a training").acquire().release()
    assert list((tmp_path / "run").iterdir()) == []
    # The file of a killed process does not describe the next one.
    (tmp_path / "run" / ".lock").write_text("a training, process 1 on a machine\n" * 3)
    with FolderLock(tmp_path / "run", "an evaluation"):
        (line,) = (tmp_path / "run" / ".lock").read_text().splitlines()
        assert line.startswith(f"an evaluation, process {os.getpid()} on ")


def test_works_of_other_names_do_not_exclude_each_other(tmp_path: Path) -> None:
    with FolderLock(tmp_path, "a training"), FolderLock(tmp_path, "an evaluation", name=".evaluation.lock"):
        assert {path.name for path in tmp_path.iterdir()} == {".lock", ".evaluation.lock"}


def test_a_run_that_failed_in_this_process_is_taken_over(tmp_path: Path) -> None:
    first = FolderLock(tmp_path, "a training").acquire()
    with FolderLock(tmp_path, "a training").acquire(take_over=True):
        first.release()
        assert (tmp_path / ".lock").is_file()
        with pytest.raises(BlockingIOError):
            FolderLock(tmp_path, "a training").acquire()
    lost = FolderLock(tmp_path, "a training").acquire()
    del lost
    FolderLock(tmp_path, "a training").acquire().release()


def test_an_object_takes_its_lock_once(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path, "a training")
    assert lock.acquire().acquire() is lock
    lock.release()
    lock.release()
    FolderLock(tmp_path, "a training").acquire().release()


def test_waiting_ends_when_the_folder_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    waiting, flock = threading.Event(), output_folder.fcntl.flock

    def told(file: Any, operation: int) -> None:
        if not operation & output_folder.fcntl.LOCK_NB:
            waiting.set()
        flock(file, operation)

    def wait() -> None:
        with FolderLock(tmp_path, "a study").acquire(wait=True):
            seen.append("second")

    second = threading.Thread(target=wait)
    with FolderLock(tmp_path, "a study"):
        monkeypatch.setattr(output_folder.fcntl, "flock", told)
        second.start()
        waiting.wait()
        seen.append("first")
    second.join()
    assert seen == ["first", "second"]


HOLD = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from scripts.storage.output_folder import FolderLock
lock = FolderLock(sys.argv[1], "a training").acquire()
child = os.fork()
os.write(1, f"{child or 'child'}\\n".encode())  # one write: the two processes share the pipe
signal.pause()
"""


def test_a_killed_process_leaves_nothing_to_remove_though_its_children_live(tmp_path: Path, bundle_root: Path) -> None:
    words = [sys.executable, "-c", HOLD, str(tmp_path), str(bundle_root)]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert holder.stdout is not None
    try:
        lines = {holder.stdout.readline().strip(), holder.stdout.readline().strip()}
        (child,) = (int(line) for line in lines if line != "child")
        with pytest.raises(BlockingIOError, match=f"process {holder.pid} on"):
            FolderLock(tmp_path, "a training").acquire()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        os.kill(child, 0)
        FolderLock(tmp_path, "a training").acquire().release()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()


def nothing() -> None:
    """A child that ends at once."""


def test_a_child_that_ends_does_not_release_the_lock(tmp_path: Path) -> None:
    with FolderLock(tmp_path, "a training"):
        child = multiprocessing.get_context("fork").Process(target=nothing)
        child.start()
        child.join()
        with pytest.raises(BlockingIOError):
            FolderLock(tmp_path, "a training").acquire()


def test_what_a_process_leaves_at_its_very_start_is_no_content(tmp_path: Path) -> None:
    assert not has_other_content(tmp_path / "new")
    for name in (".lock", ".evaluation.lock", ".set.json.host-12.part", "store.json"):
        (tmp_path / name).write_text("")
    assert not has_other_content(tmp_path, "store.json")
    assert has_other_content(tmp_path)
    (tmp_path / ".hidden").mkdir()
    assert has_other_content(tmp_path, "store.json")


def test_a_file_system_without_locks_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def reject(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(output_folder.fcntl, "flock", reject)
    with caplog.at_level(logging.WARNING), FolderLock(tmp_path, "a training"):
        assert f"Cannot lock {tmp_path / '.lock'} (No locks available)" in caplog.text


def test_a_scratch_folder_starts_empty_and_leaves_nothing(tmp_path: Path) -> None:
    # As a process that was killed leaves it.
    (tmp_path / "work" / "deep").mkdir(parents=True)
    with scratch_folder(tmp_path, "work", "a test") as folder:
        assert (folder, list(folder.iterdir()), folder.stat().st_mode & 0o777) == (tmp_path / "work", [], 0o700)
        (folder / "patient").write_text("")
        with pytest.raises(BlockingIOError, match="found a test, process"), scratch_folder(tmp_path, "work", "another"):
            pass
        assert (folder / "patient").exists()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError), scratch_folder(tmp_path, "work", "a test"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_place_of_a_scratch_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "file").write_text("")
    (tmp_path / "work").symlink_to(tmp_path / "else")
    with pytest.raises(FileExistsError), scratch_folder(tmp_path, "work", "a test"):
        pass
    assert (tmp_path / "else" / "file").exists()
