"""Read JSON from other sources: the result is plain values, or a one-line error.

Python's own reader raises RecursionError for deeply nested lists, accepts whole numbers too large for any array, and
keeps the last of two equal keys.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from .printable import one_line, shown

# What a document holds that is written as JSON.
Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"

# COCO's own training labels have 0.45 GB, and hardly any file nests deeper than 6.
MAX_BYTES = 1 << 31
MAX_DEPTH = 32
_MAX_WHOLE = 1 << 63
_BRACKETS = b"[{]}"
_OTHERS = bytes(set(range(256)) - set(_BRACKETS))
# An opening bracket goes one level down, a closing one goes one level up.
_STEPS = bytes.maketrans(_BRACKETS, bytes([1, 1, 255, 255]))


def read_json(path: str | Path, what: str = "JSON") -> Any:
    """Read a JSON file; UTF-8 with or without a byte order mark, UTF-16 or UTF-32.

    Args:
        path: The file.
        what: What is expected, for messages.

    Returns:
        Its content. NaN and infinities are read, as many programs write them.

    Raises:
        FileNotFoundError: If the file does not exist.
        OSError: If it cannot be read.
        ValueError: If it is not JSON, larger than `MAX_BYTES`, nested deeper than `MAX_DEPTH`, holds a whole number of
            more than 64 bits, or a key twice in one object.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected {what} at {path}, but the file does not exist.")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES >> 20} MiB")
        return parse_json(path.read_bytes())
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"Expected {what}, cannot read {path}: {one_line(error).rstrip('.')}.") from error


def parse_json(data: bytes) -> Any:
    """Read JSON from memory.

    Raises:
        ValueError: As `read_json`.
    """
    encoding = json.detect_encoding(data)
    text = data.decode(encoding)
    deepest = _depth(data if encoding in ("utf-8", "utf-8-sig") else text.encode("utf-8"))
    if deepest > MAX_DEPTH:
        raise ValueError(f"it is nested {deepest} deep, at most {MAX_DEPTH} are expected")
    return json.loads(text, parse_int=_whole, object_pairs_hook=_unique)


def finite_numbers(values: Any, count: int, key: str, source: str, below: float = math.inf) -> list[float]:
    """Check numbers of a JSON document; a text such as ``"96"`` and ``true`` are rejected.

    Args:
        values: What stands there.
        count: How many are expected in a list.
        key: What they are, for messages.
        source: Where they stand, for messages.
        below: Each has a smaller magnitude.

    Raises:
        ValueError: If there are others, or one is not finite or too large.
    """
    plain = isinstance(values, (list, tuple)) and len(values) == count
    if not plain or not all(type(value) in (int, float) and abs(value) < below for value in values):
        limit = "" if below == math.inf else f" below {below:g}"
        raise ValueError(f"Expected {count} finite number(s){limit} as {key}, got {shown(values)} in {source}.")
    return [float(value) for value in values]


def text_number(text: str) -> float:
    """The number that a text of a table or a label writes; ``1_0``, which Python takes for 10, is rejected.

    Raises:
        ValueError: If it is not a number; NaN and infinity are.
    """
    if "_" in text:
        raise ValueError(f"could not convert string to float: {text!r}")
    return float(text)


def _depth(data: bytes) -> int:
    """Depth of nested brackets outside of texts."""
    bare = b"".join(data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    steps = np.frombuffer(bare.translate(_STEPS, _OTHERS), dtype=np.int8)
    return int(steps.cumsum(dtype=np.int64).max(initial=0))


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -_MAX_WHOLE <= (number := int(digits)) < _MAX_WHOLE:
        raise ValueError(f"it holds a whole number of {len(digits.lstrip('-'))} digits")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"it has the key {twice[:100]!r} twice in one object")
    return content
