"""Stop at once when the user or the system asks for it, and leave nothing half done."""

from __future__ import annotations

import contextlib
import importlib
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import NoReturn


class Stopped(BaseException):
    """A signal asked the process to stop. This is not an error of a scan.

    Attributes:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise `Stopped` where SIGTERM or SIGINT arrives, so that what is open is closed and removed on the way out."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Stopped(number)

    # Only the main thread of a program may set signal handlers.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_interrupted() -> NoReturn:
    """End with a line and the status of Ctrl-C."""
    sys.stderr.write("Interrupted.\n")
    sys.exit(128 + signal.SIGINT)


@contextlib.contextmanager
def interrupted_at_once() -> Iterator[None]:
    """End the process in a line where Ctrl-C arrives during imports: PyTorch's aborts it if an error is raised then."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        sys.stderr.write("Interrupted.\n")
        sys.stderr.flush()
        os._exit(128 + number)

    # A process in the background of a shell ignores Ctrl-C.
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    if ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_module(name: str) -> None:
    """Run a module as ``python -m`` does; Ctrl-C ends it in a line, also while it is imported."""
    with interrupted_at_once():
        importlib.import_module(name)
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def run_command(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run a command in a process of its own, which ends before this one does.

    SIGTERM and Ctrl-C are passed on as SIGTERM, and the command has the time that it needs to stop, such as for the
    checkpoint of a training.

    Args:
        command: Program and words.
        environment: Variables in place of those of this process.

    Returns:
        Its exit status.

    Raises:
        SystemExit: If a signal stopped it, with 128 and the number of the signal.
    """
    number = 0
    with stopped_by_signals(), subprocess.Popen(command, env=environment) as process:
        while True:
            try:
                status = process.wait()
                break
            except Stopped as stop:
                number = stop.number
                process.terminate()
    if number:
        sys.exit(128 + number)
    return status
