"""Which scans a path, a folder or a list of both stands for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .dicom import is_dicom
from .scan import ITK_SUFFIXES, NIFTI_SUFFIXES


@dataclass(frozen=True)
class ScanSource:
    """Where one scan lies and what its results are called.

    Attributes:
        path: A file or the folder of a DICOM series; it need not exist (reading it then says so).
        name: Relative folder for the results; ``""`` where the input was a single scan.
    """

    path: Path
    name: str = ""


def find_scans(inputs: str | Path | Sequence[str | Path]) -> list[ScanSource]:
    """List the scans that an input stands for; nothing is read yet.

    A file, or a folder that itself holds DICOM files, is one scan. Any other folder is searched with its
    sub-folders, hidden ones apart, for NIfTI, NRRD and MetaImage files and for folders with DICOM files;
    each result is named by its place below the folder. In a list each entry counts so, named by its own
    name, or by its place below the folder of them all where a name comes twice; ``_2``, ``_3``, ... follow
    where that does not suffice.

    Args:
        inputs: A path, or a list of paths. An empty string or list stands for no scan.

    Returns:
        The sources, a folder's in sorted order. A folder without any scan is returned as if it were a
        series, so that reading it says what is missing.
    """
    if isinstance(inputs, (str, Path)):
        if not str(inputs):
            return []
        path = Path(inputs)
        if not path.is_dir() or _holds_dicom(path):
            return [ScanSource(path)]
        return _unique(ScanSource(found, _stem(found.relative_to(path))) for found in _search(path))
    paths = [Path(entry) for entry in inputs]
    names = [_stem(Path(path.name)) for path in paths]
    if len(set(names)) < len(names):
        # patient_1/ct.nii and patient_2/ct.nii: the folders tell them apart.
        parents = os.path.commonpath([path.absolute().parent for path in paths])
        names = [_stem(path.absolute().relative_to(parents)) for path in paths]
    return _unique(
        ScanSource(source.path, os.path.join(name, source.name).rstrip(os.sep))
        for path, name in zip(paths, names, strict=True)
        for source in find_scans(path)
    )


def _search(folder: Path) -> list[Path]:
    """The scans below a folder, or the folder itself where there is none."""
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(place)
        if here != folder and _holds_dicom(here):
            found.append(here)
            continue
        names = sorted(name for name in files if not name.startswith("."))
        found.extend(here / name for name in names if name.lower().endswith((*NIFTI_SUFFIXES, *ITK_SUFFIXES)))
    return sorted(found) or [folder]


def _holds_dicom(folder: Path) -> bool:
    return any(entry.is_file() and not entry.name.startswith(".") and is_dicom(entry) for entry in folder.iterdir())


def _stem(path: Path) -> str:
    """A relative path without the suffix of a volume file."""
    text = path.as_posix()
    for suffix in sorted((*NIFTI_SUFFIXES, *ITK_SUFFIXES), key=len, reverse=True):
        if text.lower().endswith(suffix):
            return text[: -len(suffix)]
    return text


def _unique(sources: Sequence[ScanSource] | Iterator[ScanSource]) -> list[ScanSource]:
    """The same sources with ``_2``, ``_3``, ... after a name that was given already."""
    taken: set[str] = set()
    result = []
    for source in sources:
        name, number = source.name, 1
        while name in taken:
            number += 1
            name = f"{source.name}_{number}"
        taken.add(name)
        result.append(ScanSource(source.path, name))
    return result
