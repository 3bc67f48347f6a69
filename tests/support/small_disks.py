"""A real file system of a few kilobytes, or one that cannot be written, which only one child process sees."""

from __future__ import annotations

import ctypes
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from support.killed_copies import status_of_a_copy

_NEW_MOUNTS, _NEW_USER = 0x20000, 0x10000000
_READ_ONLY, _REMOUNT, _PRIVATE = 1, 32, 0x4000 | 1 << 18
_SKIP = 77
# Seconds; a training takes the most.
_LONGEST = 900


def _call(name: str, *words: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*words):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(kind: bytes | None, at: Path, flags: int, options: str) -> None:
    _call("mount", kind or b"none", os.fsencode(at), kind, ctypes.c_ulong(flags), options.encode())


class Disk:
    """A file system in memory that can change its size.

    Args:
        folder: An empty folder, where it is.
    """

    def __init__(self, folder: Path) -> None:
        user, group = os.getuid(), os.getgid()
        _call("unshare", _NEW_USER | _NEW_MOUNTS)
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path("/proc/self", name).write_text(text)
        # Nobody else sees what is mounted here.
        _mount(None, Path("/"), _PRIVATE, "")
        _mount(b"tmpfs", folder, 0, "size=64k")
        self.folder = folder

    def resize(self, kibibytes: int) -> None:
        """Give it this size; what it holds stays."""
        _mount(b"tmpfs", self.folder, _REMOUNT, f"size={kibibytes}k")

    def protect(self) -> None:
        """Let nobody write."""
        _mount(b"tmpfs", self.folder, _REMOUNT | _READ_ONLY, "")


def on_a_small_disk(folder: Path, work: Callable[[Disk], object]) -> bool:
    """Run something in a copy of this process that has a small disk.

    Args:
        folder: An empty folder, the place of the disk.
        work: Given the disk; an error that it raises is printed.

    Returns:
        Whether it ran to its end.

    Raises:
        NotImplementedError: If the system does not let a process have mounts of its own.
    """

    def with_a_disk() -> None:
        try:
            disk = Disk(folder)
        except (OSError, AttributeError):
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(_SKIP)
        work(disk)

    status = status_of_a_copy(with_a_disk, kill_after=_LONGEST)
    if status == _SKIP:
        raise NotImplementedError("this system does not let a process have mounts of its own")
    return status == 0


def assert_on_a_small_disk(folder: Path, work: Callable[[Disk], object]) -> None:
    """Fail unless something ends well on a small disk; skip the test where that cannot be tried."""
    try:
        assert on_a_small_disk(folder, work)
    except NotImplementedError as reason:
        pytest.skip(str(reason))
