"""Values from files in messages: short and on one line, even if they are long, deep or odd."""

from __future__ import annotations

import io
import reprlib
import sys

# If this variable is set, every error shows its traceback.
SHOW_TRACEBACK = "MP3D_TRACEBACK"
_LENGTH = 200


def shown(value: object) -> str:
    """A value for a message, as Python writes it; the middle of a long text, list or number is left out."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxlong, short.maxother = 3, 120, 60, 120
    short.maxlist = short.maxtuple = short.maxarray = short.maxset = short.maxfrozenset = short.maxdict = 12
    try:
        text = " ".join(short.repr(value).split())
    except (ValueError, RecursionError):  # more digits than Python writes, or a value whose repr fails
        text = type(value).__name__
    return text if len(text) <= _LENGTH else f"{text[: _LENGTH - 3]}..."


def shown_name(text: object) -> str:
    """A name for a message: unchanged if it is short and on one line, otherwise as `shown`."""
    return text if isinstance(text, str) and text.isprintable() and len(text) <= _LENGTH else shown(text)


def one_line(error: BaseException, length: int = 1000) -> str:
    """The text of an error on one line, cut to ``length`` characters; its kind if it has no text."""
    return " ".join(str(error).split())[:length] or type(error).__name__


def escape_output() -> None:
    """Let standard output write characters that its encoding does not have as escapes; they would end the program."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
