"""How an uncaught error of a run is told: in one line where the input is at fault, with a traceback elsewhere."""

from __future__ import annotations

import os
import re
import sys
import traceback
from pathlib import Path
from types import TracebackType

SCRIPTS = Path(__file__).resolve().parents[1]
# Set to anything, tracebacks are shown for every error.
SHOW_TRACEBACK = "MP3D_TRACEBACK"
# How MONAI begins the message of an error that it wraps around the real one.
_WRAPPERS = ("Failed to instantiate component", "Failed to evaluate", "applying transform")
# What a loader process puts before the text of its error.
_FROM_LOADER = "Original Traceback"


def root_error(error: BaseException) -> BaseException:
    """The error that says what is wrong, beneath MONAI's wrappers."""
    while isinstance(error, RuntimeError) and str(error).startswith(_WRAPPERS) and error.__cause__ is not None:
        error = error.__cause__
    return error


def end_errors_in_one_line() -> None:
    """Let an uncaught error of this process end in one line that says what is wrong.

    MONAI raises an error of its own around everything that fails while a config is built, so that the
    last line of a traceback names a config item instead of the file or the value at fault. An input that
    the bundle's code itself refuses (``ValueError``, ``OSError``) is told by that line alone, as the
    traceback says nothing to who typed it; the environment variable ``MP3D_TRACEBACK=1`` brings it back.
    """
    previous = sys.excepthook
    if getattr(previous, "ends_in_one_line", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt) and not os.environ.get(SHOW_TRACEBACK):
            sys.stderr.write("Interrupted. A training goes on from its last checkpoint by the same command.\n")
            return
        cause = root_error(error)
        if os.environ.get(SHOW_TRACEBACK) or not _refused_by_us(cause):
            previous(kind, error, trace)
        if isinstance(cause, Exception):
            text = str(cause).strip()
            if _stray_argument(cause):
                text += ", which comes from the command line or from overlays that do not go together (docs/rows.md)."
            line = text.splitlines()[-1] if _FROM_LOADER in text else " ".join(text.split())
            sys.stderr.write(f"Error: {line or type(cause).__name__}\n")

    hook.ends_in_one_line = True  # pyright: ignore[reportFunctionMemberAccess]
    sys.excepthook = hook


def _refused_by_us(error: BaseException) -> bool:
    """Whether the bundle's own code raised it about its input."""
    if _stray_argument(error):
        return True
    if not isinstance(error, (ValueError, OSError)):
        return False
    text = str(error)
    if _FROM_LOADER in text:
        files = re.findall(r'File "([^"]+)", line', text)
    else:
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return bool(files) and Path(files[-1]).resolve().is_relative_to(SCRIPTS)


def _stray_argument(error: BaseException) -> bool:
    """Whether a config gives a network or another part an argument that it does not know."""
    return isinstance(error, TypeError) and "got an unexpected keyword argument" in str(error)
