"""Damaged content drawn by Hypothesis: bytes, numbers and words of any file, values of JSON, elements of DICOM."""

from __future__ import annotations

import copy
import io
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
from hypothesis import strategies as st

NUMBERS = (
    b"0",
    b"-1",
    b"3",
    b"300000",
    b"1e30",
    b"nan",
    b"-inf",
    b"9" * 30,
    b"1e-30",
    b"0x10",
    b"",
    b"1,5",
    b"\xd9\xa3",
)
WORDS = (b"LOCAL", b"../x", b"/dev/urandom", b"none", b"gzip", b"hex", b"%d.raw 1 99999999 1", b"\xff", b"\0", b"\n")
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1 << 64, 10**400, 0.5, 1e308, float("nan"), float("inf"), "", "x", "1", "9" * 5000, "../x"),
    *("a\0b", "a\nb", "\ud800", [], {}, [[]], [1], [[1, 2], [3]], {"a": 1}, [float("nan")] * 6, [1e308] * 6),
)
DICOM_VALUES: tuple[Any, ...] = (
    *("", "x", "0", "-1", "1e30", "nan", "1e-300", "9" * 64, "a\\b", "\\", "1\\2\\3\\4\\5\\6\\7", "2.25", "é", "a\nb"),
    *(0, -1, 65535, 1 << 31, 0.0, float("nan"), float("inf"), b"", b"\xff" * 3, None, [], [0, 0], [1, 2, 3]),
)


@st.composite
def spoilt_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with one to three changes; three of four are near its beginning, where headers are."""
    for _ in range(draw(st.integers(1, 3))):
        content = _changed(draw, content)
    return content


def _changed(draw: st.DrawFn, content: bytes) -> bytes:
    size = len(content)
    if not size:
        return draw(st.binary(max_size=8))
    near = min(size, 700) if draw(st.integers(0, 3)) else size
    at = draw(st.integers(0, near - 1))
    kind = draw(st.integers(0, 7))
    if kind == 0:
        bit = draw(st.integers(0, 7))
        return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
    if kind in (1, 2):
        some = draw(st.binary(min_size=1, max_size=8))
        return content[:at] + some + content[at + (len(some) if kind == 1 else 0) :]
    if kind == 3:
        return content[:at] + content[at + draw(st.integers(1, 64)) :]
    if kind == 4:
        return content[:at]
    if kind == 5:
        end = at + draw(st.integers(1, 200))
        return content[:end] + content[at:end] + content[end:]
    pattern, others = ((rb"-?\d+(?:\.\d+)?", NUMBERS), (rb"[A-Za-z_]{3,}", WORDS))[kind - 6]
    found = [match.span() for match in re.finditer(pattern, content[:4000])]
    if not found:
        return content[:at]
    start, end = draw(st.sampled_from(found))
    return content[:start] + draw(st.sampled_from(others)) + content[end:]


@st.composite
def spoilt_json(draw: st.DrawFn, content: Any) -> bytes:
    """JSON with one to three values replaced, removed or repeated; some of it with damaged bytes as well."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(content))
        if not places:
            break
        container, key = draw(st.sampled_from(places))
        kind = draw(st.integers(0, 5))
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, list):
            container += [container[key]] * draw(st.sampled_from([1, 30]))
        else:
            container[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
    data = json.dumps(content).encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-16"])))
    return draw(spoilt_bytes(data)) if draw(st.integers(0, 3)) == 0 else data


def _places(content: Any) -> Any:
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from _places(content[key])


@st.composite
def spoilt_dicom(draw: st.DrawFn, content: bytes) -> bytes:
    """A DICOM file with one or two elements changed or removed, as far as pydicom can write it; the rest in bytes."""
    if draw(st.integers(0, 1)):
        return draw(spoilt_bytes(content))
    dataset = pydicom.dcmread(io.BytesIO(content))
    elements = [element.tag for element in dataset if element.keyword != "PixelData"]
    for _ in range(draw(st.integers(1, 2))):
        tag = draw(st.sampled_from(elements))
        value = draw(st.sampled_from(DICOM_VALUES))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if value is None and tag in dataset:
                del dataset[tag]
            elif tag in dataset:
                try:
                    dataset[tag].value = value
                except (ValueError, TypeError, AttributeError, OverflowError):
                    continue
    target = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset.save_as(target)
    except Exception:  # what pydicom cannot write is no file
        return draw(spoilt_bytes(content))
    return target.getvalue()


Draw = Callable[[Any], st.SearchStrategy[bytes]]


def drawer(path: Path) -> tuple[Draw, Any]:
    """How to spoil a file, and its content as that takes it."""
    content = path.read_bytes()
    if path.suffix in (".json",):
        return spoilt_json, json.loads(content)
    if path.suffix == ".dcm":
        return spoilt_dicom, content
    return spoilt_bytes, content
