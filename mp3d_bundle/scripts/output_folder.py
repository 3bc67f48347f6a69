"""Output folders: whether one can be written before the work starts, and who is at work in it."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import socket
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

LOCK = ".lock"
# Results and the lock itself; whoever knows how much there will be says so.
NEEDED_BYTES = 16 << 20
_MIB = 1 << 20


def check_output_folder(path: str | Path, *, needed_bytes: int = NEEDED_BYTES) -> Path:
    """Find out before the work starts whether a folder can hold its results. Nothing is made that stays.

    Args:
        path: The folder. Where it is not there yet, the nearest folder above it is tried.
        needed_bytes: Free space wanted, in bytes.

    Returns:
        The path.

    Raises:
        OSError: If it is no folder, cannot be written, or its disk has less space than needed. The message names
            the folder and the reason.
    """
    path = Path(path)
    nearest = path.absolute()
    while not nearest.exists() and not nearest.is_symlink():
        nearest = nearest.parent
    if not nearest.is_dir():
        kind = "a link to nowhere" if not nearest.exists() else "a file"
        raise NotADirectoryError(f"Expected a folder for the results at {path}, found {kind} at {nearest}.")
    try:
        # Permissions alone would not tell of a read-only disk or a used-up quota.
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


class FolderLock:
    """Keeps a second process out of a folder for as long as this one lives.

    The kernel holds the lock on ``.lock`` in the folder, and lets go of it when the process ends, however it ends:
    nothing needs to be removed after a crash. Child processes do not hold it. The file says who holds it. Over NFS the
    lock keeps other machines out too; a file system without locks is noted in the log and the work starts without one.

    Args:
        folder: The folder; :meth:`acquire` makes it if need be.
        work: What is done there, for messages: "a training".

    Attributes:
        path: The file that is locked.
    """

    def __init__(self, folder: str | Path, work: str) -> None:
        self.path = Path(folder) / LOCK
        self.work = work
        self._file: Any = None

    def acquire(self, *, wait: bool = False) -> FolderLock:
        """Take the lock; nothing happens where this object holds it already.

        Args:
            wait: Wait for the holder to leave.

        Returns:
            This object, which is a context manager that releases the lock.

        Raises:
            BlockingIOError: If another process is at work there, and not to be waited for. The message names it.
            OSError: If the folder cannot be made or written.
        """
        if self._file is not None:
            return self
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read(500).strip() or "another process"
            file.close()
            raise BlockingIOError(
                f"Expected a folder that no other process works in, found {holder} at work in {self.path.parent}. "
                "Wait until it has ended, or choose another folder."
            ) from error
        except OSError as error:
            logger.warning(
                "Cannot lock %s (%s): see to it that only one process works in this folder.", self.path, error.strerror
            )
        # A forked child would hold on to the lock after this process is killed, until it has noticed.
        _held.add(file)
        self._file = file
        file.truncate(0)
        file.write(f"{self.work}, process {os.getpid()} on {socket.gethostname()}, since {_now()}\n")
        file.flush()
        return self

    def release(self) -> None:
        """Let go of the folder; the file stays, so that nobody locks a file that is about to be removed."""
        if self._file is not None:
            _held.discard(self._file)
            self._file.close()
            self._file = None

    def __enter__(self) -> FolderLock:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


_held: set[Any] = set()


def _let_go_in_child() -> None:
    for file in _held:
        file.close()
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
