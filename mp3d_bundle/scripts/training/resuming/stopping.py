"""Stopping on a signal: a run is left between two iterations, with its checkpoint written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.data.utils import worker_init_fn

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
    """The end of a run that a signal asked for; the process ends with 128 and the signal's number, as shells have it.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


class StopSignals:
    """Remembers SIGTERM and SIGINT (Ctrl-C) while it is installed, for a run to look at between iterations.

    A second Ctrl-C ends a single process at once; launchers of several processes may send each signal twice.
    """

    def __init__(self) -> None:
        self._number = 0
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        """Take over both signals; only a process's main thread can, elsewhere they are left as they are."""
        if threading.current_thread() is not threading.main_thread() or self._previous:
            return
        self._number = 0
        self._previous = {number: signal.signal(number, self._remember) for number in _SIGNALS}

    def restore(self) -> None:
        """Give both signals back to the handlers that had them."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._previous.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._previous = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._number == number and idist.get_world_size() == 1:
            raise KeyboardInterrupt
        self._number = number

    def asked(self) -> int:
        """The signal that any process of the run has had; 0 for none. All processes must ask at the same place."""
        if idist.get_world_size() == 1:
            return self._number
        return int(idist.all_reduce(self._number, "MAX"))


class BeforeCommonBatches:
    """Acts before each batch of an engine that every process has: shares of a validation may differ by one.

    Args:
        act: What all processes do at the same place.
    """

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act
        self._common = 0

    def attach(self, engine: Engine) -> None:
        """Follow ``engine``, an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._before)

    def _begin(self, engine: Engine) -> None:
        own: Any = engine.state.epoch_length or 0
        self._common = idist.all_reduce(own, "MIN") if idist.get_world_size() > 1 else own

    def _before(self, engine: Engine) -> None:
        if engine.state.iteration < self._common:
            self.act()


def start_worker(worker_id: int) -> None:
    """Seed a loader's worker as MONAI does, and leave Ctrl-C and the first SIGTERM to the main process.

    Terminals and batch systems signal all processes of a job: a worker that ended first would end the training in the
    middle of an iteration.

    Args:
        worker_id: Number of the worker.
    """
    worker_init_fn(worker_id)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _ignore_once)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


class TrainingDataLoader(DataLoader):
    """MONAI's loader whose workers a signal to all processes of a job does not end, not even while they start.

    PyTorch gives a new worker its own handler of SIGTERM, which ends it, before `start_worker` comes. So both signals
    wait from before a worker is forked until then. Workers that start with another function are as PyTorch has them.
    """

    def __iter__(self) -> Any:
        """Start the workers."""
        if self.worker_init_fn is not start_worker or not hasattr(signal, "pthread_sigmask"):
            return super().__iter__()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ignore_once(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
