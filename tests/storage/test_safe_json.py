"""JSON of others ends in plain values or in one line."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from scripts.storage.safe_json import MAX_DEPTH, finite_numbers, parse_json, read_json, text_number

CONTENT = {"a": [1, -2.5, None, True, ']]][[[{{\\"[', {"é": []}], "large": (1 << 63) - 1, "small": -(1 << 63)}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_good_files_are_read_in_every_encoding_of_json(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.json"
    for ascii_only in (True, False):
        path.write_bytes(json.dumps(CONTENT, ensure_ascii=ascii_only).encode(encoding))
        assert read_json(path) == CONTENT
    path.write_bytes(json.dumps(nested(MAX_DEPTH)).encode(encoding))
    assert read_json(path) == nested(MAX_DEPTH)
    assert parse_json(b"[NaN, 1e400]")[1] == float("inf")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (json.dumps(nested(MAX_DEPTH + 1)).encode(), f"nested {MAX_DEPTH + 1} deep, at most {MAX_DEPTH}"),
        (b"[" * 100_000, "nested 100000 deep"),
        (b'{"a":' * 100_000, "nested 100000 deep"),
        # Brackets inside of texts do not make up for those outside.
        (b'[["]]]]]]]]", ' * 40, "nested 80 deep"),
        (b'["\\"]]]]]", ' * 40, "nested 40 deep"),
        (json.dumps(nested(MAX_DEPTH + 1)).encode("utf-16"), "nested"),
        (b"[" + b"9" * 400 + b"]", "whole number of 400 digits"),
        (b"[-" + b"9" * 5000 + b"]", "whole number of 5000 digits"),
        (b"[9223372036854775808]", "whole number of 19 digits"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' twice"),
        (b"", "Expecting value"),
        (b"\xff\xfe\xfd", "decode"),
        (b"\x80abc", "decode"),
        (b'{"a": "\x00"}', "control character"),
        (b"\x00" * 9, ""),
        (b"[1, 2", "Expecting"),
        (b"<html>", "Expecting value"),
    ],
)
def test_anything_else_is_one_line(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"Expected labels, cannot read .*a\.json: ") as error:
        read_json(path, "labels")
    assert reason in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400 + len(str(path))


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "absent", Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(FileNotFoundError, match="Expected labels at"):
            read_json(path, "labels")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(ValueError, match="more than 2048 MiB"):
        read_json(tmp_path / "a.json")


def test_numbers_are_numbers() -> None:
    assert finite_numbers([1, -2.5], 2, "bbox", "a.json") == [1.0, -2.5]


@pytest.mark.parametrize("values", [[1], [1, 2, 3], [1, "2"], [1, True], [1, None], [1, float("inf")], "12", None, 12])
def test_anything_else_names_what_was_expected(values: Any) -> None:
    with pytest.raises(ValueError, match=r"^Expected 2 finite number\(s\) as bbox, got .* in a\.json\.$"):
        finite_numbers(values, 2, "bbox", "a.json")


def test_numbers_have_a_bound_if_one_is_given() -> None:
    assert finite_numbers([-99.5], 1, "bbox", "a.json", below=100) == [-99.5]
    with pytest.raises(ValueError, match=r"finite number\(s\) below 100 as bbox, got \[-100\] in a\.json"):
        finite_numbers([-100], 1, "bbox", "a.json", below=100)


def test_numbers_in_texts_have_no_underscores() -> None:
    assert [text_number(text) for text in ("10", " -1.5e3 ", "inf")] == [10.0, -1500.0, math.inf]
    for text in ("1_0", "0.1_5", "", "a"):
        with pytest.raises(ValueError, match="could not convert string to float"):
            text_number(text)
