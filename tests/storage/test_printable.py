"""Values in messages are short and on one line."""

from __future__ import annotations

from typing import Any

import numpy as np

from scripts.storage.printable import one_line, shown, shown_name


def test_short_values_are_shown_as_they_are() -> None:
    for value in ("a b", 1, -2.5, None, [1, 2.5, "x"], {"a": [1]}, (1, 2), float("nan")):
        assert shown(value) == repr(value)
    assert shown_name("000001_01_01_109.png") == "000001_01_01_109.png"


def laughs(depth: int) -> list[Any]:
    value: list[Any] = ["ha"]
    for _ in range(depth):
        value = [value, value]
    return value


def test_others_are_cut() -> None:
    odd: list[Any] = [
        "x" * 100_000,
        "a\nb\x1b[2J",
        10**400,
        10**100_000,
        laughs(60),
        b"\0" * 999,
        set(range(999)),
        "\ud800",
    ]
    odd += [[[[[[[1] * 99] * 99] * 99] * 99] * 99], {str(n): list(range(99)) for n in range(99)}, np.zeros((300, 300))]
    for value in odd:
        for text in (shown(value), shown_name(value)):
            assert 0 < len(text) <= 200
            assert text.isprintable()


def test_the_text_of_an_error_is_one_line() -> None:
    assert one_line(ValueError("a\n  b ")) == "a b"
    assert one_line(ValueError("abc"), 2) == "ab"
    assert one_line(KeyError()) == "KeyError"
    assert one_line(MemoryError("\n")) == "MemoryError"
