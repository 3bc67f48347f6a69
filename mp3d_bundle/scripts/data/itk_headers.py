"""What headers of NRRD and MetaImage files say beyond what ITK tells: is there a spacing, and which files hold data."""

from __future__ import annotations

import os
import re
from pathlib import Path

_NRRD_SUFFIXES = (".nrrd", ".nhdr")
# No header is longer, with any number of remarks; pixels may follow in the same file.
_HEADER_BYTES = 1 << 20
_MAX_FILES = 100_000
_SPACING_KEYS = ("spacings", "space directions", "elementspacing", "elementsize")
_DATA_KEYS = ("data file", "datafile", "elementdatafile")


def read_header(path: Path) -> list[tuple[str, str]]:
    """Keys (lower case) and values of a header in its order, up to the data; lines without a key have an empty one.

    Raises:
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        text = os.fsdecode(file.read(_HEADER_BYTES))
    nrrd = path.name.lower().endswith(_NRRD_SUFFIXES)
    entries = []
    for line in text.split("\n"):
        if nrrd and not line.strip():
            break
        key, mark, value = line.partition(":" if nrrd else "=")
        entries.append((key.strip().lower(), value.strip()) if mark else ("", line.strip()))
        if entries[-1][0] == "elementdatafile" and entries[-1][1].upper() == "LOCAL":
            break
    return entries


def tells_spacing(header: list[tuple[str, str]]) -> bool:
    """Whether a header gives the size of voxels."""
    return any(key in _SPACING_KEYS and "nan" not in value.lower() for key, value in header)


def data_files(header: list[tuple[str, str]], folder: Path) -> tuple[Path, ...]:
    """The files beside a header that hold its voxels, as far as they are there: one, a list, or a numbered pattern."""
    for at, (key, value) in enumerate(header):
        if key not in _DATA_KEYS or value.upper() == "LOCAL":
            continue
        pattern = re.fullmatch(r"([^%\s]*%\d*d[^%\s]*)\s+(-?\d+)\s+(-?\d+)\s+(-?\d+)(?:\s+\d+)?", value)
        if re.match(r"LIST\b", value):
            names = [line for _, line in header[at + 1 :]]
        elif pattern is not None and int(pattern[4]):
            first, last, step = (int(number) for number in pattern.groups()[1:])
            names = [pattern[1] % number for number in range(first, last + (1 if step > 0 else -1), step)[:_MAX_FILES]]
        else:
            names = [value]
        return tuple(folder / name for name in names if name and (folder / name).is_file())
    return ()
