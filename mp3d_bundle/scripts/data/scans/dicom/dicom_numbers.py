"""Numbers out of DICOM headers, of which any may be absent, empty, several or no number at all."""

from __future__ import annotations

import hashlib
import math
import re
from decimal import Decimal
from pathlib import Path

import pydicom
from pydicom.multival import MultiValue

_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")


def uid_name(uid: str) -> str:
    """What stands as a UID in a header as a name of files: neither a path nor a person's name can come from it.

    Returns:
        The UID; ``series_`` and a hash of what is no UID.
    """
    return uid if _UID.fullmatch(uid) else f"series_{hashlib.sha256(uid.encode(errors='replace')).hexdigest()[:16]}"


def read_numbers(header: pydicom.Dataset, tag: str, path: Path) -> list[float]:
    """The numbers of a tag; none where it is absent or empty.

    Args:
        header: The header.
        tag: Keyword of the tag.
        path: What messages call the file.

    Raises:
        ValueError: If one is no finite number.
    """
    try:
        value = header.get(tag)
        if value is None or value == "":
            return []
        numbers = [_number(one) for one in (value if isinstance(value, (MultiValue, list)) else [value])]
    # pydicom converts a value when it is asked for, each kind with errors of its own.
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"Expected numbers in the DICOM tag {tag}, got others in {path} ({reason}).") from error
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"Expected finite numbers in the DICOM tag {tag}, got {value} in {path}.")
    return numbers


def read_vector(header: pydicom.Dataset, tag: str, length: int, path: Path) -> list[float]:
    """The ``length`` numbers of a tag that has to be there.

    Raises:
        ValueError: If there are more or fewer, or one is no finite number.
    """
    numbers = read_numbers(header, tag, path)
    if len(numbers) != length:
        word = "number" if length == 1 else "numbers"
        raise ValueError(f"Expected {length} {word} in the DICOM tag {tag}, got {header.get(tag)} in {path}.")
    return numbers


def read_number(header: pydicom.Dataset, tag: str, path: Path) -> float | None:
    """The number of a tag, None where it is absent or empty.

    Raises:
        ValueError: If there are several, or it is no finite number.
    """
    return read_vector(header, tag, 1, path)[0] if read_numbers(header, tag, path) else None


def _number(value: object) -> float:
    """A number of pydicom's, or text that is one; bytes and sequences are none."""
    if not isinstance(value, (int, float, str, Decimal)):
        raise TypeError(f"got {type(value).__name__}")
    return float(value)


def read_text(header: pydicom.Dataset, tag: str) -> str:
    """The text of a tag without blanks around it, several values with a backslash between them as DICOM stores them.

    Returns:
        The text; ``""`` where the tag is absent, empty, or no text can be made of it.
    """
    try:
        value = header.get(tag)
        values = value if isinstance(value, (MultiValue, list, tuple)) else [value]
        return "\\".join("" if one is None else str(one).strip() for one in values).strip("\0 ")
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return ""
