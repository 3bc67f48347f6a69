"""The results of one scan in their folder: written all together or not at all, and recognised later.

New files are first written below ``.part`` in the folder, the record ``finished.json`` last. From then on they count:
they are moved into place, ``lesions.json`` and then the record at the end. If the process is killed before the record
is written, the folder is as it was; if it is killed while files are moved, `settle` moves the rest. So a folder with a
record holds all files that the record names, and a folder with ``lesions.json`` holds all files of its scan.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, TypedDict

import numpy as np
import torch

from ...storage.atomic_files import hash_files, sha256, sync
from ...storage.result_files import NUMBERED, file_names
from ..scan_protocol import ScanLike
from .lesions_document import bundle_version, strict_json

RECORD = "finished.json"
MAIN = "lesions.json"
_PART = ".part"
# How names of numbered files begin.
_OWN = ("lesion_", "slice_")


class ResultRecord(TypedDict):
    """The parts of ``finished.json`` that are read again."""

    made: dict[str, Any]
    files: dict[str, str]


class ResultSource(TypedDict):
    """What results were made from: hash of the files, checksum and place of the voxels, version of the bundle."""

    sha256: str
    voxels_crc32: str
    index_to_lps_mm: list[float]
    bundle_version: str


def store(folder: Path, files: Mapping[str, bytes], record: Mapping[str, Any], *, overwrite: bool = True) -> None:
    """Write all files of one scan and their record; files of an earlier run in the folder are replaced or removed.

    Args:
        folder: Target folder; created if needed.
        files: The content of each file by its name, which may have folders in it.
        record: ``made`` (input and settings of the results) and anything else to be kept, plain values.
        overwrite: Replace results of another scan, weights or settings, too.

    Raises:
        OSError: If a file cannot be written; the folder is then unchanged.
        ValueError: If the folder has other results, which another process may have written in the meantime, and they
            are not to be replaced.
    """
    part = folder / _PART
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        part.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            _settle(folder)
            if not overwrite:
                _are_these(folder, record["made"])
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
    """Finish the work of a killed process in a folder: move valid files, remove the others.

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


def read_record(folder: Path) -> ResultRecord | None:
    """The record of the results in a folder; None if it is missing or cannot be read."""
    try:
        content = json.loads((folder / RECORD).read_bytes())
        return content if isinstance(content["files"], dict) and isinstance(content["made"], dict) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _settle(folder: Path) -> None:
    part = folder / _PART
    record = read_record(part)
    if record is not None:
        names = record["files"]
        # From here on until the end the folder must not look finished.
        (folder / RECORD).unlink(missing_ok=True)
        for name in (MAIN, *file_names()):
            # Named files that are not waiting were moved before the process was killed.
            if name not in names or (name == MAIN and (part / name).exists()):
                (folder / name).unlink(missing_ok=True)
        for place, pattern in NUMBERED:
            for old in (folder / place).glob(pattern):  # deeper ones are of a scan that is called so
                if old.name.startswith(_OWN) and old.relative_to(folder).as_posix() not in names:
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
    """Wait for other processes that write into the folder; the lock ends with the process in any case."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems have no locks.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


# Speed and logging: results do not depend on them.
_FREE = {"batch_size", "progress", "threads"}
# Largest depth of parts of a detector; deeper parts are compared by their type.
_DEEPEST = 12
_PLAIN = (str, int, float, bool, type(None))


def describe_source(scan: ScanLike) -> ResultSource:
    """The input of detection: the hash of the files, and of the voxels, which reading options change."""
    return {
        "sha256": scan.sha256 or hash_files(scan.files),
        "voxels_crc32": f"{zlib.crc32(np.ascontiguousarray(scan.hu).data):08x}",
        "index_to_lps_mm": [round(float(value), 6) for value in scan.affine.ravel()],
        "bundle_version": bundle_version(),
    }


def describe_part(part: Any, depth: int = 0) -> Any:
    """A part of the detector as plain values: its type, and the settings that affect results."""
    if isinstance(part, _PLAIN):
        return part
    if depth > _DEEPEST:
        return type(part).__name__
    inner = functools.partial(describe_part, depth=depth + 1)
    if isinstance(part, Mapping):
        return {str(name): inner(value) for name, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [inner(value) for value in part]
    if isinstance(part, functools.partial):
        return {"kind": part.func.__qualname__, **inner(part.keywords)}
    if isinstance(part, torch.dtype):
        return str(part)
    if isinstance(part, (type, FunctionType)):
        return part.__qualname__
    values = getattr(part, "__dict__", {})
    if not dataclasses.is_dataclass(part):
        # Only plain values of other objects: any other text may contain a memory address, which differs by process.
        values = {name: value for name, value in values.items() if isinstance(value, _PLAIN)}
    settings = {name: value for name, value in values.items() if name not in _FREE and not name.startswith("_")}
    return {"kind": type(part).__qualname__, **inner(settings)}


def are_finished(folder: Path, made: Mapping[str, Any]) -> bool:
    """Whether a folder already has all results that would be made.

    Leftovers of a killed process in the folder are cleaned up first.

    Args:
        folder: Folder for the results of a scan.
        made: Input and settings of the results, plain values.

    Returns:
        False if results are missing, or some of their files have been removed.

    Raises:
        ValueError: If there are other results, or results that were changed after they were written.
        OSError: If the folder cannot be read or cleaned up.
    """
    settle(folder)
    return _are_these(folder, made)


def _are_these(folder: Path, made: Mapping[str, Any]) -> bool:
    """As `are_finished`, in a folder that is clean."""
    record = read_record(folder)
    advice = "Use --overwrite to replace them, or another --output_dir."
    if record is None:
        for name in (RECORD, *file_names()):
            if (folder / name).exists():
                raise ValueError(
                    f"Expected a folder without results of other runs, got {name} without a readable {RECORD} next to "
                    f"it in {folder}. {advice}"
                )
        return False
    made = json.loads(json.dumps(made))
    if record["made"] != made:
        raise ValueError(
            f"Expected a folder without results of other runs, got results {_difference(record['made'], made)} in "
            f"{folder}. {advice}"
        )
    hashes = {name: _hash(folder / name) for name in record["files"]}
    for name, digest in record["files"].items():
        if hashes[name] not in (digest, None):
            raise ValueError(
                f"Expected unchanged results, {name} was changed after it was written in {folder}. {advice}"
            )
    return None not in hashes.values()


def differs_from_others(folder: Path, made: Mapping[str, Any], of_scan: Collection[str] = ()) -> str | None:
    """Say how results of another scan next to a folder differ from those that would be made.

    Args:
        folder: Folder for the results of a scan.
        made: Input and settings of the results, plain values.
        of_scan: Settings that are of a scan.

    Returns:
        Which results, and the difference; None if none were found, or the first that were found are equal.
    """
    others = (path.parent for path in folder.parent.glob(f"*/{RECORD}") if path.parent != folder)
    other, record = next(((one, record) for one in others if (record := read_record(one))), (folder, None))
    if record is None:
        return None
    there, here = (
        {**part, "source": None, "settings": {k: v for k, v in part.get("settings", {}).items() if k not in of_scan}}
        for part in (record["made"], json.loads(json.dumps(made)))
    )
    return None if there == here else f"the results in {other} are {_difference(there, here)}"


def lesion_count(folder: Path) -> int | None:
    """Number of lesions in finished results; None of those without ``lesions.json``."""
    try:
        return len(json.loads((folder / MAIN).read_bytes())["lesions"])
    except FileNotFoundError:
        return None


def _hash(path: Path) -> str | None:
    try:
        return sha256(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The difference of two descriptions for a message: the scan, the weights, or the first setting."""
    pairs = (
        ("of another scan", ("source", "sha256")),
        ("of another version of the bundle", ("source", "bundle_version")),
        ("of the scan read in another way", ("source",)),
        ("of other weights", ("weights_sha256",)),
    )
    for said, keys in pairs:
        one, other = (functools.reduce(lambda node, key: (node or {}).get(key), keys, side) for side in (there, here))
        if one != other:
            told = isinstance(one, str) and isinstance(other, str)
            return f"{said} ({str(one)[:12]} there, {str(other)[:12]} here)" if told else said
    return f"with other settings ({_first(there, here)})"


def _first(there: Any, here: Any, name: str = "") -> str:
    """The first value that differs, with its name."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**there, **here}:
            if there.get(key) != here.get(key):
                return _first(there.get(key), here.get(key), key)
    return f"{name} {json.dumps(there)} there, {json.dumps(here)} here"
