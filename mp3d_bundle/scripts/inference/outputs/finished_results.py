"""Whether the results of a scan are there already: made from the same input, with the same weights and settings."""

from __future__ import annotations

import dataclasses
import functools
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch

from ...storage.atomic_files import hash_files, sha256
from ...storage.result_files import file_names
from ..scan_protocol import ScanLike
from .output_table import bundle_version
from .result_storage import RECORD, read_record, settle

# How fast and how chatty: no result depends on them.
_FREE = {"batch_size", "progress", "threads"}
# Parts of a detector lie this deep at most; what lies deeper counts by its kind.
_DEEPEST = 12
_PLAIN = (str, int, float, bool, type(None))


def describe_source(scan: ScanLike) -> dict[str, Any]:
    """What is detected in: the hash of the files, and what was read from them, which options of reading change."""
    return {
        "sha256": scan.sha256 or hash_files(scan.files),
        "voxels_crc32": f"{zlib.crc32(np.ascontiguousarray(scan.hu).data):08x}",
        "index_to_lps_mm": [round(float(value), 6) for value in scan.affine.ravel()],
        "bundle_version": bundle_version(),
    }


def describe_part(part: Any, depth: int = 0) -> Any:
    """A part of the detector as plain values: its kind, and how it is set as far as results depend on it."""
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
        # Of other objects what is plain: the text of anything else may hold its address, which no two processes share.
        values = {name: value for name, value in values.items() if isinstance(value, _PLAIN)}
    settings = {name: value for name, value in values.items() if name not in _FREE and not name.startswith("_")}
    return {"kind": type(part).__qualname__, **inner(settings)}


def are_finished(folder: Path, made: Mapping[str, Any]) -> bool:
    """Whether a folder holds all results that would be made.

    What a killed process left in the folder is put in order first.

    Args:
        folder: Where the results of a scan belong.
        made: What they would be made from and with, plain values.

    Returns:
        False if results are missing, or some of their files have been removed.

    Raises:
        ValueError: If there are other results, or such that were changed after they had been written.
        OSError: If the folder cannot be read or put in order.
    """
    settle(folder)
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
                f"Expected results as they were written, {name} has been changed since in {folder}. {advice}"
            )
    return None not in hashes.values()


def _hash(path: Path) -> str | None:
    try:
        return sha256(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """In what two descriptions differ, for a message: the scan, the weights, or the first setting."""
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
