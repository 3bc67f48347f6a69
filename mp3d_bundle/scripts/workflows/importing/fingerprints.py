"""What an imported scan was made of: where that changes, the scan is imported again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...data.importing.truth.truth_files import Truth
from ...data.importing.truth_matching import ImportScan
from ...data.scans.scan import META_SUFFIXES, NRRD_SUFFIXES
from ...data.scans.volume_files.metaimage import metaimage_files
from ...data.scans.volume_files.nifti import PAIR_SUFFIX, nifti_files
from ...data.scans.volume_files.nrrd import nrrd_files


def fingerprint(scan: ImportScan, truths: Sequence[Truth], rules: Mapping[str, Any], patient: str | None) -> str:
    """What changes where a scan has to be imported again.

    Args:
        scan: The scan: its files count, those that a header names as well.
        truths: Its truth, likewise, and the files next to it that say what its classes are called.
        rules: Those of the import, which shape its record; splits are divided anew at every import.
        patient: Whose it is by the folder or the table of patients; None where its own header says it.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If a header is not as expected.
    """
    path = scan.source.path
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    facts = [_state(part) for file in files if file.is_file() for part in _parts(file)]
    of_truth = sorted({
        (str(path), *_state(path)) for truth in truths for path in (*_parts(truth.path), *truth.companions)
    })  # fmt: skip
    shaping = {name: value for name, value in rules.items() if name not in ("splits", "patients")}
    called = sorted(truth.named for truth in truths if truth.named)
    content = [scan.name, facts, of_truth, shaping, patient, *([called] if called else [])]
    text = json.dumps(content, default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _parts(path: Path) -> list[Path]:
    """A file, and those with its voxels that its header names."""
    name = path.name.lower()
    if name.endswith(META_SUFFIXES):
        return list(dict.fromkeys([path, *metaimage_files(path)]))
    if name.endswith(NRRD_SUFFIXES):
        return list(dict.fromkeys([path, *nrrd_files(path)]))
    if name.endswith(PAIR_SUFFIX):
        return nifti_files(path)
    return [path]


def _state(path: Path) -> tuple[str, int, int]:
    state = path.stat()
    return path.name, state.st_size, state.st_mtime_ns
