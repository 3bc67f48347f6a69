"""Output folders: check that one can be written before the work starts, and lock it against other processes."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import logging
import os
import shutil
import socket
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .atomic_files import check_local, is_part

logger = logging.getLogger(__name__)

LOCK = ".lock"
# An evaluation may write into the folder of a training: its files have other names.
EVALUATION_LOCK = ".evaluation.lock"
# Enough for results and the lock; callers that know their size pass another number.
NEEDED_BYTES = 16 << 20
_MIB = 1 << 20


def check_output_folder(path: str | Path, *, needed_bytes: int = NEEDED_BYTES) -> Path:
    """Check before the work starts that a folder can hold its results. Leaves nothing behind.

    Args:
        path: The folder. If it does not exist yet, the nearest folder above it is checked.
        needed_bytes: Free space wanted, in bytes.

    Returns:
        The path.

    Raises:
        OSError: If it is not a folder but a file or a URL, cannot be written, or its disk has less space than needed.
            The message names the folder and the reason.
    """
    check_local(path)
    path = Path(path)
    nearest = path.absolute()
    while not nearest.exists() and not nearest.is_symlink():
        nearest = nearest.parent
    if not nearest.is_dir():
        kind = "a broken symbolic link" if not nearest.exists() else "a file"
        raise NotADirectoryError(f"Expected a folder for the results at {path}, found {kind} at {nearest}.")
    try:
        # Permissions alone do not show a read-only disk or a used-up quota.
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(b"\0" * 4096)
            file.flush()
        free = shutil.disk_usage(nearest).free
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"Expected a folder for the results that can be written, got {path}: {reason}.") from error
    if free < needed_bytes:
        raise OSError(
            f"Expected at least {needed_bytes / _MIB:.0f} MiB of free space for the results in {path}, found "
            f"{free / _MIB:.0f} MiB."
        )
    return path


def has_other_content(folder: str | Path, *own: str) -> bool:
    """Whether a folder holds anything but named entries, locks and the temporary files of `atomic_files.replacing`.

    For commands that resume: a process that was killed at its very start leaves no more than that.

    Args:
        folder: The folder; one that does not exist has no content.
        own: Names of entries that the command makes first.

    Raises:
        OSError: If it cannot be listed.
    """
    folder = Path(folder)
    expected = {LOCK, EVALUATION_LOCK, *own}
    return folder.is_dir() and any(entry.name not in expected and not is_part(entry.name) for entry in folder.iterdir())


def evaluation_lock(folder: str | Path) -> FolderLock:
    """The lock of an evaluation into a folder: two at once would overwrite each other's files."""
    return FolderLock(folder, "an evaluation", name=EVALUATION_LOCK)


class FolderLock:
    """Keeps a second process out of a folder for as long as this one lives.

    The kernel holds the lock on a file in the folder, and releases it when the process ends in any way: nothing has
    to be removed after a crash. Child processes do not hold it. The file names the holder and is removed when
    the lock is released. Over NFS the lock keeps other machines out too; on a file system without locks a warning
    is logged and the work starts without one.

    Args:
        folder: The folder; :meth:`acquire` creates it if needed.
        work: What is done there, for messages: "a training".
        name: Name of the file; locks of different names do not exclude each other.

    Attributes:
        path: The file that is locked.
    """

    def __init__(self, folder: str | Path, work: str, *, name: str = LOCK) -> None:
        self.path = Path(folder) / name
        self.work = work
        self._file: Any = None
        self._made_folder = False

    def acquire(self, *, wait: bool = False, take_over: bool = False) -> FolderLock:
        """Take the lock; no effect if this object holds it already.

        Args:
            wait: Wait for the holder to leave.
            take_over: Take it from another object of this same process, such as a run that failed in a notebook.

        Returns:
            This object, which is a context manager that releases the lock.

        Raises:
            BlockingIOError: If another process works there and `wait` is not set. The message names it.
            OSError: If the folder cannot be made or written, or is a URL.
        """
        if self._file is not None:
            return self
        check_local(self.path)
        if take_over:
            for other in [lock for lock in _held if lock.path.absolute() == self.path.absolute()]:
                other.release()
        self._made_folder = not self.path.parent.exists()
        file = self._open(wait=wait)
        while not _is_at(file, self.path):  # the holder has removed the file since
            file.close()
            file = self._open(wait=wait)
        self._file = file
        _held.add(self)
        file.truncate(0)
        file.write(f"{self.work}, process {os.getpid()} on {socket.gethostname()}, since {_now()}\n")
        file.flush()
        return self

    def _open(self, *, wait: bool) -> Any:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file: Any = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read(500).strip() or "another process"
            file.close()
            raise BlockingIOError(
                f"Expected a folder that no other process uses, found {holder} in {self.path.parent}. "
                "Wait until it has ended, or choose another folder."
            ) from error
        except OSError as error:
            logger.warning(
                "Cannot lock %s (%s): make sure that only one process uses this folder.", self.path, error.strerror
            )
        return file

    def release(self) -> None:
        """Release the folder, and remove it if it was made for the lock and nothing was written there."""
        if self._file is None:
            return
        # Before the release, so that it cannot remove another process's file.
        if _is_at(self._file, self.path):
            self.path.unlink(missing_ok=True)
            if self._made_folder:
                with contextlib.suppress(OSError):
                    self.path.parent.rmdir()
        self.drop()

    def drop(self) -> None:
        """Close the file in a child process: otherwise it would keep the lock after its parent is killed."""
        _held.discard(self)
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> FolderLock:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


@contextmanager
def scratch_folder(folder: str | Path, name: str, work: str) -> Iterator[Path]:
    """A folder inside another one for files that must not outlive the work, not even if the process is killed.

    It has one place and belongs to the holder of a lock. So what a killed process has left there is removed by the
    next one, also by one that does nothing inside the block, and never taken from one that works.

    Args:
        folder: Folder in which it is made.
        name: Its name; the lock is ``name.lock`` next to it.
        work: What is done there, for messages.

    Yields:
        The folder, empty, for this user alone; it is removed after the block.

    Raises:
        BlockingIOError: If another process works there.
        OSError: If it cannot be made, or what was left there cannot be removed.
    """
    with FolderLock(folder, work, name=f"{name}.lock"):
        path = Path(folder) / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def _is_at(file: Any, path: Path) -> bool:
    """Whether an open file is still the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


# Not kept alive by this: a lock that is no longer referred to is released.
_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _drop_in_child() -> None:
    for lock in list(_held):
        lock.drop()


def _release_at_exit() -> None:
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_drop_in_child)
atexit.register(_release_at_exit)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
