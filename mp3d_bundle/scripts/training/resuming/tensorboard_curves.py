"""TensorBoard curves of a run that may be interrupted: no stretch is written twice."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Evaluator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

from ...storage.atomic_files import replacing
from .checkpoints import CheckpointEvents

PENDING = "validation_{}.pending"
_EVENT_FILE = re.compile(r"(events\.out\.tfevents\.)(\d+)(\..*)")


class EventWriter(SummaryWriter):
    """TensorBoard's writer of a run that may be killed at any moment: every value is in the curves once.

    It is a handler of the trainer, after the :class:`.Checkpointer`, and of the evaluator within the
    training. When a run resumes, what an earlier start has written of later iterations is marked as replaced. What a
    validation writes, by epoch and not by iteration, is kept back until the epoch's checkpoint is written: an epoch
    whose checkpoint is lost leaves nothing. Before a checkpoint is written, the values that it counts on are on the
    disk: those of iterations in the event file, those of the validation in a file of their own, from which the next
    start takes what the curves lack. No file is made before there is something to write.

    Args:
        log_dir: Folder of the event files.
    """

    def __init__(self, log_dir: str) -> None:
        self._made = False
        self._kept_back: list[Event] | None = None
        self._validated = False
        super().__init__(str(log_dir))
        self._made = True

    def attach(self, engine: Engine) -> None:
        """Follow ``engine``, a trainer or the evaluator within a training."""
        if isinstance(engine, Evaluator):
            engine.add_event_handler(Events.EPOCH_STARTED, self.keep_back)
            engine.add_event_handler(Events.COMPLETED, self._note_validated)
        else:
            engine.register_events(*CheckpointEvents)
            engine.add_event_handler(Events.STARTED, self.begin)
            engine.add_event_handler(CheckpointEvents.WRITING, self.secure)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.release)

    def begin(self, engine: Engine) -> None:
        """Let the next event replace what earlier starts wrote of iterations after the engine's own.

        A validation that the checkpoint counts on, and that an earlier start did not write whole, is completed.
        """
        self._kept_back = None
        # Iterations count from 1: a run that starts afresh replaces all.
        self.purge_step = engine.state.iteration + 1 if engine.state.iteration else 0
        self.close()
        self.file_writer = self.all_writers = None
        self._keep_order()
        pending = self._folder / PENDING.format(engine.state.iteration)
        if pending.is_file():
            written = self._find_written()
            for event in _read_events(pending):
                # Each holds one value.
                if (event.step, event.summary.value[0].tag) not in written:
                    self._get_file_writer().event_writer.add_event(event)
            self.flush()
        self._remove_pending()

    def _keep_order(self) -> None:
        """Let the names of earlier files sort before that of the next one, which readers rely on.

        A name holds the second it was made in: not enough for two starts in one, or after a clock was set back.
        """
        latest = int(time.time())
        for path in sorted(self._folder.glob("events.out.tfevents.*"), reverse=True):
            if named := _EVENT_FILE.fullmatch(path.name):
                latest = min(latest - 1, int(named[2]))
                path.rename(path.with_name(f"{named[1]}{latest:010d}{named[3]}"))

    def keep_back(self) -> None:
        """Keep what comes from now on until :meth:`release`, and forget what has been kept before."""
        self._kept_back = []
        self._validated = False

    def _note_validated(self) -> None:
        self._validated = True

    def secure(self, engine: Engine) -> None:
        """Bring to the disk what the checkpoint that is about to be written counts on."""
        self.flush()
        # A checkpoint in the middle of a validation does not count on it: the next start does it again.
        if self._kept_back and self._validated:
            records = BytesIO()
            writer = RecordWriter(records)
            for event in self._kept_back:
                writer.write(event.SerializeToString())
            with replacing(self._folder / PENDING.format(engine.state.iteration)) as part:
                part.write_bytes(records.getvalue())

    def release(self) -> None:
        """Write what has been kept back."""
        kept, self._kept_back = self._kept_back, None
        for event in kept or ():
            self._get_file_writer().event_writer.add_event(event)
        self.flush()
        self._remove_pending()

    def _find_written(self) -> set[tuple[int, str]]:
        """Step and tag of every value in the event files that is not marked as replaced."""
        written: set[tuple[int, str]] = set()
        for path in sorted(self._folder.glob("*tfevents*")):
            for event in _read_events(path):
                if event.session_log.status == SessionLog.START:
                    written = {one for one in written if one[0] < event.step}
                written.update((event.step, value.tag) for value in event.summary.value)
        return written

    @property
    def _folder(self) -> Path:
        return Path(self.log_dir)

    def _remove_pending(self) -> None:
        for path in self._folder.glob(PENDING.format("*")):
            path.unlink()

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
    """Stands in for a file writer, and keeps events of one value each."""

    def __init__(self, writer: Any, events: list[Event]) -> None:
        self._writer = writer
        self._events = events

    def add_summary(self, summary: Summary, global_step: int | None = None, walltime: float | None = None) -> None:
        when = time.time() if walltime is None else walltime
        for value in summary.value:
            event = Event(wall_time=when, step=int(global_step or 0))
            event.summary.value.append(value)
            self._events.append(event)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)


def _read_events(path: Path) -> Iterator[Event]:
    """Events of a file, up to a record that a killed run left unfinished."""
    for record in RawEventFileLoader(str(path)).Load():
        yield Event.FromString(record)
