"""Files that another file names: only regular ones next to it or below.

Label files and headers of volumes name other files. They are untrusted: a name in them may lead out of the folder
(``../x``, ``/etc/passwd``, a link) or to something without an end (a pipe, a device).
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

_SHOWN = 80
# A drive letter or a leading slash, in Windows form too: label files are shared between systems.
_ABSOLUTE = re.compile(r"[A-Za-z]:|[/\\]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LONGEST = 4096


def contained(folder: str | Path, name: object, where: str) -> Path:
    """Path of a file that another file names. The file may be missing.

    Args:
        folder: Folder that names are relative to.
        name: The name in the other file.
        where: The place of the name, for messages.

    Returns:
        ``folder / name``; if something is there it is a regular file inside of ``folder`` (links are followed).

    Raises:
        ValueError: If it is not a name, leads out of the folder, or is that of a folder, pipe, socket or device.
    """
    path = Path(folder) / plain_name(name, where)
    check_contained(path, folder, where)
    return path


def plain_name(name: object, where: str) -> str:
    """Check a name alone, without looking at the disk.

    Returns:
        The name.

    Raises:
        ValueError: If it is not a text, empty, absolute, holds ``..`` between slashes (either kind), a control
            character, or thousands of characters.
    """
    expected = "Expected the name of a file next to it or below"
    if not isinstance(name, str) or not name:
        raise ValueError(f"{expected}, got {'an empty text' if name == '' else type(name).__name__} in {where}.")
    if _ABSOLUTE.match(name) or ".." in re.split(r"[/\\]", name):
        raise ValueError(f"{expected}, got {_shown(name)}, which leads out of the folder, in {where}.")
    if len(name) > _LONGEST or _CONTROL.search(name):
        raise ValueError(f"{expected}, got {_shown(name)} in {where}.")
    return name


def check_contained(path: str | Path, folder: str | Path, where: str) -> None:
    """Check what is at a path. A missing file passes: readers report it.

    Args:
        path: Path below ``folder``.
        folder: It may itself be a link.
        where: The place of the name, for messages.

    Raises:
        ValueError: If it is not a regular file, or a link leads out of the folder.
    """
    try:
        mode = os.stat(path).st_mode
        inside = Path(path).resolve().is_relative_to(Path(folder).resolve())
    except FileNotFoundError:
        return
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name that the disk cannot have
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ValueError(f"Expected a regular file, cannot use {_shown(str(path))}: {reason}, in {where}.") from error
    if not stat.S_ISREG(mode):
        raise ValueError(f"Expected a regular file, got {_kind(mode)} at {_shown(str(path))}, named in {where}.")
    if not inside:
        raise ValueError(
            f"Expected a file in the folder {folder}, got a link out of it at {_shown(str(path))}, named in {where}."
        )


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def _shown(text: str) -> str:
    """A text on one line; the middle of a long text is left out."""
    return repr(text if len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]}...{text[-_SHOWN:]}")
