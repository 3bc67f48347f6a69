"""Headers of NRRD and MetaImage files as text: their lines, numbers and units of length, read strictly.

ITK's readers trust such headers: one with 300,000 dimensions ends the process. ITK is not used here.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ....storage.contained_paths import contained
from ....storage.safe_json import text_number

# Longest header, with any number of comments; voxels may follow in the same file.
_HEADER_BYTES = 1 << 20
_SHOWN = 60
_MAX_FILES = 100_000
# Millimetres in each unit, as people write it.
_MILLIMETRES = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("dm", "decimeter", "decimeters", "decimetre", "decimetres"), 100.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers"), 0.001),
    **dict.fromkeys(("micrometre", "micrometres"), 0.001),
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), 1e-6),
    **dict.fromkeys(("in", "inch", "inches"), 25.4),
}
# Notes for the user about a header with missing values.
NO_SPACING = "The header gives no voxel spacing: 1 mm was assumed."
NO_ORIENTATION = "The header gives no orientation: its axes were assumed to point left, to the back and up."
NO_ORIGIN = "The header gives no origin: the first voxel was assumed to be at 0."
_NO_UNIT = ("", "?", "???", "none", "unknown", "unspecified")


@dataclass(frozen=True)
class Fields:
    """The values of a header by key.

    Attributes:
        path: The file, for messages.
        values: Value of each key, the keys in lower case.
        names: Lines after the last key: names of files, if that key announces them.
        end: Offset in bytes at which voxels may begin in the same file.
    """

    path: Path
    values: dict[str, str]
    names: tuple[str, ...]
    end: int

    def get(self, *keys: str) -> str | None:
        """The value of the first of these keys that is present, None if all are absent."""
        return next((self.values[key] for key in keys if key in self.values), None)

    def need(self, key: str) -> str:
        """The value of a required key; ValueError if it is missing."""
        if key not in self.values:
            raise ValueError(f"Expected a line '{key}' in the header, got none in {self.path}.")
        return self.values[key]

    def add(self, key: str, value: str) -> None:
        """Add a line; ValueError if its key occurred before with another value."""
        if self.values.setdefault(key, value) != value:
            raise ValueError(f"Expected each line of the header once, got '{key}' twice in {self.path}.")


def read_lines(file: BinaryIO, path: Path) -> Iterable[tuple[str, int]]:
    """The lines of a header without their ends, each with the offset after it in the file.

    Raises:
        ValueError: If they exceed a megabyte: this is not a header.
    """
    place = 0
    while line := file.readline(_HEADER_BYTES):
        place += len(line)
        if place > _HEADER_BYTES:
            raise ValueError(f"Expected a header of at most {_HEADER_BYTES >> 10} KiB, got a longer one in {path}.")
        yield os.fsdecode(line).rstrip("\r\n"), place


def numbers(text: str, key: str, path: Path, *, count: int | None = None) -> list[float]:
    """Finite numbers separated by spaces.

    Args:
        text: The value of a key.
        key: For messages.
        path: For messages.
        count: Required number of them.

    Raises:
        ValueError: If there are more or fewer, or one is not a finite number.
    """
    wanted = "numbers" if count is None else f"{count} number{'s' if count > 1 else ''}"
    try:
        found = [text_number(word) for word in text.split()]
    except ValueError as error:
        raise ValueError(f"Expected {wanted} as '{key}', got {shortened(text)} in {path}.") from error
    if (count is not None and len(found) != count) or not all(math.isfinite(number) for number in found):
        raise ValueError(f"Expected {wanted} as '{key}', got {shortened(text)} in {path}.")
    return found


def integers(text: str, key: str, path: Path, *, count: int | None = None) -> list[int]:
    """Whole numbers separated by spaces; see `numbers`.

    Raises:
        ValueError: If there are more or fewer, or one is not a whole number.
    """
    words = text.split()
    # 18 digits are enough for any file size; int() is slow for a million digits.
    if any(len(word) > 18 or not word.removeprefix("-").isdecimal() for word in words) or len(words) != (
        count or len(words)
    ):
        wanted = "whole numbers" if count is None else f"{count} whole number{'s' if count > 1 else ''}"
        raise ValueError(f"Expected {wanted} as '{key}', got {shortened(text)} in {path}.")
    return [int(word) for word in words]


def axis_sizes(fields: Fields, dimension_key: str, size_key: str, allowed: range) -> list[int]:
    """The number of voxels along each axis.

    Args:
        fields: The header.
        dimension_key: What it calls the number of axes.
        size_key: What it calls their sizes.
        allowed: The numbers of axes that such a file may have.

    Raises:
        ValueError: If one of the two is missing, the number of axes is not allowed, or there are more or fewer sizes.
    """
    (count,) = integers(fields.need(dimension_key.lower()), dimension_key, fields.path, count=1)
    if count not in allowed:
        raise ValueError(f"Expected a volume of 3 dimensions, got {count} in {fields.path}.")
    return integers(fields.need(size_key.lower()), size_key, fields.path, count=count)


def millimetres(units: Sequence[str], path: Path) -> tuple[list[float], str | None]:
    """Factors from units of length, one per axis, to millimetres, and a note if they are not 1.

    Raises:
        ValueError: If a unit is not known.
    """
    factors = []
    for unit in units:
        word = unit.strip().lower()
        if word not in _MILLIMETRES and word not in _NO_UNIT:
            raise ValueError(
                f"Expected a unit of length (mm, cm, m, um, ...), got {shortened(unit)} in the header of {path}."
            )
        factors.append(_MILLIMETRES.get(word, 1.0))
    if all(factor == 1.0 for factor in factors):
        return factors, None
    return factors, f"The header gives lengths in {' x '.join(dict.fromkeys(units))}: converted to mm."


def data_names(value: str, listed: tuple[str, ...], where: Path) -> list[str]:
    """The names of the files that hold voxels, as a header of NRRD or MetaImage gives them.

    Args:
        value: A name, ``LIST``, or a pattern with first and last number and step (``slice%03d.raw 1 90 1``).
        listed: The lines after ``LIST``.
        where: The header, for messages.

    Raises:
        ValueError: If there is none, or there are more than ``_MAX_FILES``.
    """
    pattern = re.fullmatch(
        r"([^%\s]*%(?:0?\d{1,2})?d[^%\s]*)\s+(-?\d{1,9})\s+(-?\d{1,9})\s+(-?\d{1,9})(?:\s+\d+)?", value
    )
    if re.fullmatch(r"LIST(\s+\d+D?)?", value):
        names: Sequence[str] = listed
    elif pattern is not None and int(pattern[4]):
        first, last, step = (int(number) for number in pattern.groups()[1:])
        steps = range(first, last + (1 if step > 0 else -1), step)
        names = [pattern[1] % number for number in steps[: _MAX_FILES + 1]]
    else:
        names = [value] if value else []
    if not 1 <= len(names) <= _MAX_FILES:
        raise ValueError(f"Expected names of 1 to {_MAX_FILES} files with voxels, got {len(names)} in {where}.")
    return list(names)


def data_file(name: str, where: Path) -> Path:
    """A file that the header ``where`` names: a regular one next to it or below.

    Raises:
        ValueError: If it is another one.
        FileNotFoundError: If it does not exist.
    """
    path = contained(where.parent, name, str(where))
    if not path.is_file():
        raise FileNotFoundError(f"Expected a file with voxels, which {where} names, nothing is at {shortened(name)}.")
    return path


def shortened(text: str) -> str:
    """A text shortened for one line of a message."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
