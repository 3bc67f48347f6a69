"""Reporting an uncaught error of a run: one line where the input is at fault, a traceback elsewhere."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from pathlib import Path
from types import TracebackType

from monai.apps.utils import get_logger

from .storage.printable import SHOW_TRACEBACK, escape_output

SCRIPTS = Path(__file__).resolve().parents[0]
# Start of the messages of errors that MONAI wraps around the real one.
_COMPONENT = "Failed to instantiate component"
_WRAPPERS = (_COMPONENT, "Failed to evaluate", "applying transform")
# Start of the path of a component of this bundle.
_OURS = "scripts."
# A loader process writes this before the text of its error.
_FROM_LOADER = "Original Traceback"
# PyTorch's message about a loader process that ended without raising an error.
_KILLED_LOADER = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: (\w+)|exited unexpectedly)"
)
_ENGINES = ("SupervisedTrainer", "SupervisedEvaluator")


def root_error(error: BaseException) -> BaseException:
    """The original error beneath MONAI's wrappers."""
    while isinstance(error, RuntimeError) and str(error).startswith(_WRAPPERS) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _component(error: BaseException) -> str:
    """Path of the class or function whose call failed at the root, "" if no config names it."""
    path = ""
    while isinstance(error, RuntimeError) and str(error).startswith(_WRAPPERS) and error.__cause__ is not None:
        named = re.match(f"{_COMPONENT} '([^']*)'", str(error))
        path, error = named[1] if named else "", error.__cause__
    return path


def end_errors_in_one_line() -> None:
    """Let an uncaught error of this process end in one line that says what is wrong.

    MONAI raises an error of its own around everything that fails while a config is built, so that the
    last line of a traceback names a config item instead of the file or the value at fault. An input that
    the bundle's code itself rejects (``ValueError``, ``OSError``) is reported by that line alone, as the
    traceback does not help the person who typed it; the environment variable ``MP3D_TRACEBACK=1`` brings it back.
    Names that the encoding of standard output does not have are escaped; their lines of the log would be lost.
    """
    escape_output()
    previous = sys.excepthook
    if getattr(previous, "ends_in_one_line", False):
        return
    for name in _ENGINES:
        logging.getLogger(f"ignite.engine.engine.{name}").addFilter(_is_no_error)
    # Made by MONAI, which gives a logger its output only where nobody has asked for it before.
    get_logger("monai.handlers.StatsHandler").addFilter(_is_no_error)

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt) and not os.environ.get(SHOW_TRACEBACK):
            sys.stderr.write("Interrupted. A training resumes from its last checkpoint by the same command.\n")
            return
        cause, component = root_error(error), _component(error)
        reported_by_part = _rejected_by_part(cause, component)
        if os.environ.get(SHOW_TRACEBACK) or not (reported_by_part or _rejected_by_us(cause)):
            previous(kind, error, trace)
        if isinstance(cause, Exception):
            text = _line_of(cause)
            if reported_by_part and not _stray_argument(cause) and not component.startswith(_OURS):
                text = f"{component}: {text}" if component else text
            if _stray_argument(cause):
                text += ", which comes from the command line or from overlays that do not go together (docs/rows.md)."
            line = text.splitlines()[-1] if _FROM_LOADER in text else " ".join(text.split())
            sys.stderr.write(f"Error: {line or type(cause).__name__}\n")

    hook.ends_in_one_line = True  # pyright: ignore[reportFunctionMemberAccess]
    sys.excepthook = hook


def _is_no_error(record: logging.LogRecord) -> bool:
    """Whether to log a record of an engine. The hook reports an error that ends the run, once, at the end."""
    return record.levelno < logging.ERROR or bool(os.environ.get(SHOW_TRACEBACK))


def _line_of(error: BaseException) -> str:
    """Text of an error, in words that a person can act on."""
    text = str(error).strip()
    if killed := _killed_loader(error):
        how = f"was killed ({killed[2]})" if killed[2] else "ended unexpectedly"
        return (
            f"A process that loads data {how}, process {killed[1]}: often memory or /dev/shm has run out. Fewer "
            "--num_workers need less. A training resumes from its last checkpoint by the same command."
        )
    return text


def _killed_loader(error: BaseException) -> re.Match[str] | None:
    return _KILLED_LOADER.search(str(error)) if isinstance(error, RuntimeError) else None


def _rejected_by_us(error: BaseException) -> bool:
    """Whether the error is about an input or the machine, not about the code."""
    if _stray_argument(error) or _killed_loader(error):
        return True
    # The system's message with a file name is enough; a loader process passes on only its text.
    if isinstance(error, OSError) and re.search(r"\[Errno \d+\] [^\n]+: '[^\n]+'\s*$", str(error)):
        return True
    # A package for an option that is not there: raised by hand, without the name of a module.
    missing = isinstance(error, ImportError) and error.name is None
    # FloatingPointError: a training whose loss is not finite.
    if not (missing or isinstance(error, (ValueError, OSError, FloatingPointError))):
        return False
    text = str(error)
    if _FROM_LOADER in text:
        files = re.findall(r'File "([^"]+)", line', text)
    else:
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return bool(files) and Path(files[-1]).resolve().is_relative_to(SCRIPTS)


def _rejected_by_part(error: BaseException, component: str) -> bool:
    """Whether a component of another library rejects what the config gives it, or does not exist.

    In our own components, errors that are not about arguments are bugs and keep their traceback.
    """
    if isinstance(error, ModuleNotFoundError) and "Cannot locate class or function path" in str(error):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    if component and frames and isinstance(error, TypeError) and frames[-1].name == "instantiate":
        return True
    return bool(component) and not component.startswith(_OURS) and isinstance(error, (TypeError, ValueError))


def _stray_argument(error: BaseException) -> bool:
    """Whether a config gives a network or another component an unknown argument."""
    return isinstance(error, TypeError) and "got an unexpected keyword argument" in str(error)
