"""Words of a command line: options by Fire's rules, texts as typed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from fire.parser import DefaultParseValue

from scripts.command_words import as_typed, command_text, is_flag, literal, split_words, typed_options, use_words

WORDS = ["run", "--a", "1", "-b=x=y", "--flag", "--c-d", "-3", "--e#f::g", "h", "--last", "--", "--trace", "5"]


def test_options_have_their_texts() -> None:
    assert typed_options(WORDS) == {"a": "1", "b": "x=y", "c_d": "-3", "e#f#g": "h"}
    assert typed_options([]) == {}


def test_words_keep_their_order_and_their_dashes() -> None:
    assert split_words(["in", *WORDS[1:6], "--last"]) == [
        ("", "in"),
        ("--a", "1"),
        ("-b", "x=y"),
        ("--flag", None),
        ("--c-d", None),
        ("--last", None),
    ]


def test_numbers_below_zero_are_values() -> None:
    assert [is_flag(word) for word in ("-3", "-.5", "--x", "-x", "x")] == [False, False, True, True, False]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024_01_05", "2024_01_05"),
        ("CT#2", "CT#2"),
        ("Doe,John", "Doe,John"),
        ("'a b'", "a b"),
        ("[a,'CT#2']", ["a", "CT#2"]),
        ("['a', 'b']", ["a", "b"]),
        ("[1, 2]", ["1", "2"]),
    ],
)
def test_texts_are_taken_as_typed(text: str, value: Any) -> None:
    assert as_typed(text) == value


def test_fire_reads_a_literal_as_its_text() -> None:
    for text in ("2024_01_05", "1e5", "True", "a,b", "CT#2", "[a]", "it's", '"a"', "plain/folder", "[1]"):
        assert DefaultParseValue(literal(text)) == text
    assert literal("plain/folder") == "plain/folder"


def test_a_folder_in_brackets_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert as_typed("[a]") == ["a"]
    (tmp_path / "[a]").mkdir()
    assert as_typed("[a]") == "[a]"


def test_the_command_of_a_record_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["somewhere/run.py", "--input", "a b"])
    assert command_text() == "run.py --input 'a b'"


def test_words_of_another_process_are_those_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["worker", "--node=1"])
    use_words(["--checkpoint=2024_01_05", "--overwrite", "--input="])
    assert typed_options() == {"checkpoint": "2024_01_05", "input": ""}
    assert command_text() == "worker --checkpoint=2024_01_05 --overwrite --input="
