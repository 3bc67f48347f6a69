"""TensorBoard curves of a run that may be interrupted: no stretch is written twice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch.utils.tensorboard import SummaryWriter


class EventWriter(SummaryWriter):
    """TensorBoard's writer, which is told where a run resumes.

    It is a handler of the trainer, after the :class:`.Checkpointer`, and of the evaluator within the
    training. When a run resumes, what an earlier start has written of later iterations is marked as replaced. What a
    validation writes, by epoch and not by iteration, is kept back until the epoch's checkpoint is written: an epoch
    whose checkpoint is lost leaves nothing. No file is made before there is something to write.

    Args:
        log_dir: Folder of the event files.
    """

    def __init__(self, log_dir: str) -> None:
        self._made = False
        self._kept_back: list[Callable[[], Any]] | None = None
        super().__init__(str(log_dir))
        self._made = True

    def attach(self, engine: Engine) -> None:
        """Follow ``engine``, a trainer or the evaluator within a training."""
        if isinstance(engine, Evaluator):
            engine.add_event_handler(Events.EPOCH_STARTED, self.keep_back)
        else:
            engine.add_event_handler(Events.STARTED, self.begin)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.release)

    def begin(self, engine: Engine) -> None:
        """Let the next event replace what earlier starts wrote of iterations after the engine's own."""
        self._kept_back = None
        # Iterations count from 1: a run that starts afresh replaces all.
        self.purge_step = engine.state.iteration + 1 if engine.state.iteration else 0
        self.close()
        self.file_writer = self.all_writers = None

    def keep_back(self) -> None:
        """Keep what comes from now on until :meth:`release`, and forget what has been kept before."""
        self._kept_back = []

    def release(self) -> None:
        """Write what has been kept back."""
        kept, self._kept_back = self._kept_back, None
        for write in kept or ():
            write()
        self.flush()

    def _get_file_writer(self) -> Any:
        if not self._made:
            return None
        writer = super()._get_file_writer()
        return writer if self._kept_back is None else _Later(writer, self._kept_back)

    def flush(self) -> None:
        """Write to disk.

        Raises:
            OSError: If that is not possible; the message names the folder.
        """
        try:
            super().flush()
        except OSError as error:
            raise OSError(f"Could not write curves in {self.log_dir}: {error.strerror or error}.") from error


class _Later:
    """Stands in for a file writer and notes what to call on it."""

    def __init__(self, writer: Any, calls: list[Callable[[], Any]]) -> None:
        self._writer = writer
        self._calls = calls

    def __getattr__(self, name: str) -> Callable[..., None]:
        def note(*arguments: Any, **named: Any) -> None:
            self._calls.append(partial(getattr(self._writer, name), *arguments, **named))

        return note
