"""Files of one scan's results, put into their folder all together or not at all, whatever ends the process.

New files are first written below ``.part`` in the folder, the record ``finished.json`` last. From then on they count:
they are moved into place, ``lesions.json`` and then the record at the end. If the process is killed before the record
is written, the folder is as it was; if it is killed while files are moved, `settle` moves the rest. So a folder with a
record holds all files that the record names, and a folder with ``lesions.json`` holds all files of its scan.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...storage.atomic_files import sync
from ...storage.result_files import file_names
from .output_table import strict_json

RECORD = "finished.json"
MAIN = "lesions.json"
_PART = ".part"
_PICTURES = "overlays"
_OWN_PICTURES = ("lesion_", "slice_")


def store(folder: Path, files: Mapping[str, bytes], record: Mapping[str, Any]) -> None:
    """Write all files of one scan and their record; files of an earlier run in the folder are replaced or removed.

    Args:
        folder: Where to; made when needed.
        files: The content of each file by its name, which may have folders in it.
        record: ``made``, what the results were made from and with, and anything else to be kept, plain values.

    Raises:
        OSError: If a file cannot be written; the folder then holds what it held before.
    """
    part = folder / _PART
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        part.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            _settle(folder)
            try:
                for name in files:
                    if (folder / name).is_dir():
                        raise IsADirectoryError(None, f"{name} is a folder")
                for name, content in files.items():
                    _write(part / name, content)
                _write(part / RECORD, strict_json({**record, "files": hashes}))
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise
            _settle(folder)
    except OSError as error:
        for path in new:
            # Empty ones only.
            with contextlib.suppress(OSError):
                path.rmdir()
        raise OSError(f"Could not write the results to {folder}: {error.strerror or error}.") from error


def settle(folder: Path) -> None:
    """Finish what a killed process began in a folder: move files that count, remove those that do not.

    Raises:
        OSError: If a file cannot be moved.
    """
    if not (folder / _PART).is_dir():
        return
    try:
        with _locked(folder):
            _settle(folder)
    except OSError as error:
        raise OSError(f"Could not finish the results in {folder}: {error.strerror or error}.") from error


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of the results in a folder; None if it is missing or cannot be read."""
    return _read(folder / RECORD)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
        return content if isinstance(content["files"], dict) and isinstance(content["made"], dict) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _settle(folder: Path) -> None:
    part = folder / _PART
    record = _read(part / RECORD)
    if record is not None:
        names = record["files"]
        # From here to the end the folder must not look finished.
        (folder / RECORD).unlink(missing_ok=True)
        for name in (MAIN, *file_names()):
            # What is named and not waiting was moved before the process was killed.
            if name not in names or (name == MAIN and (part / name).exists()):
                (folder / name).unlink(missing_ok=True)
        for old in (folder / _PICTURES).rglob("*.png"):
            if old.name.startswith(_OWN_PICTURES) and old.relative_to(folder).as_posix() not in names:
                old.unlink()
        for name in sorted([*names, RECORD], key=lambda name: (name == RECORD, name == MAIN)):
            if (part / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(part / name, folder / name)
        sync(folder)
    shutil.rmtree(part, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    sync(path)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait for other processes that write into the folder; the lock ends with the process, however it ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems have no locks.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
