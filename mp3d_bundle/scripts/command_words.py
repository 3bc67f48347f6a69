"""Words of a command line: which are options, and the text of each as the user typed it.

Fire reads every word as a Python value: ``2024_01_05`` becomes a number, ``Doe,John`` two words, and what follows ``#``
a comment. Paths and other texts must not be read this way. This module imports neither PyTorch nor MONAI, so that a
command line answers at once.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fire.parser import DefaultParseValue

# A text that starts with one of these is a config reference, expression or macro, not a plain text.
MARKS = ("@", "$", "%")
# Arguments of MONAI's `run` that are not keys of the config.
RUN_ARGUMENTS = {
    *("run_id", "init_id", "final_id", "meta_file", "logging_file", "tracking", "workflow_type", "properties_path"),
}


def command_text() -> str:
    """The command line of this process as it can be typed, for records."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def use_words(words: Iterable[str]) -> None:
    """Take these words for the command line of this process: one that does a part of another one's work."""
    sys.argv[1:] = words


def typed_options(words: Iterable[str] | None = None) -> dict[str, str]:
    """Options of the command line with the text of each value; flags without a value are left out.

    Args:
        words: Words of the command line; by default those of this process.
    """
    found = split_words(sys.argv[1:] if words is None else words)
    named = {key.lstrip("-").replace("-", "_").replace("::", "#"): text for key, text in found if key}
    return {name: text for name, text in named.items() if text is not None}


def split_words(words: Iterable[str]) -> list[tuple[str, str | None]]:
    """Words of a command line by Fire's rules.

    Args:
        words: Words after the program. Words after the last lone ``--`` are for Fire itself and are left out.

    Returns:
        For each option its key with the dashes, and its text or None; for any other word ``""`` and its text.
    """
    words = list(words)
    words = words[: len(words) - 1 - words[::-1].index("--")] if "--" in words else words
    found: list[tuple[str, str | None]] = []
    while words:
        word = words.pop(0)
        key, equals, text = word.partition("=")
        if not is_flag(word):
            found.append(("", word))
        elif equals:
            found.append((key, text))
        else:
            found.append((key, None if not words or is_flag(words[0]) else words.pop(0)))
    return found


def is_flag(word: str) -> bool:
    """Whether Fire reads a word as the name of an option. ``-3`` is a value."""
    return word.startswith("--") or re.match("-[a-zA-Z]", word) is not None


def literal(text: str) -> str:
    """A word that Fire reads as this text."""
    return text if DefaultParseValue(text) == text else repr(text)


def as_typed(text: str) -> Any:
    """The text, the texts of a list in brackets, or what Fire makes of a text in quotes.

    If a file or folder with the bracketed name exists, the text means that file.
    """
    value, stripped = DefaultParseValue(text), text.strip()
    if stripped[:1] + stripped[-1:] in ('""', "''") and isinstance(value, str):
        return value
    if stripped[:1] + stripped[-1:] not in ("[]", "()") or os.path.exists(text):
        return text
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return list(value)
    return [item.strip().strip("'\"") for item in stripped[1:-1].split(",") if item.strip()]
