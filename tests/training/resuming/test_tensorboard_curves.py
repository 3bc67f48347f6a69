"""Curves: a lost stretch is written once, a validation only when its epoch's checkpoint is."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from ignite.engine import Engine, Events
from monai.handlers import TensorBoardStatsHandler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch.utils.tensorboard import SummaryWriter

from scripts.training.resuming.tensorboard_curves import EventWriter
from scripts.training.train_handlers import scalars
from support.fake_engines import Run


def run(folder: Path, *, stop_at: int = 0, interval: int = 0) -> None:
    """Train three epochs of three iterations with curves, killed at an iteration or within a validation."""
    writer = EventWriter(str(folder / "curves"))
    own = Run(folder, epochs=3, interval=interval, handlers=(writer, stats(writer, iteration_log=True)))
    for handler in (writer, stats(writer, iteration_log=False)):
        handler.attach(own.evaluator)

    def stop(engine: Engine) -> None:
        if engine.state.iteration == abs(stop_at):
            raise OSError("pulled the plug")

    if stop_at > 0:
        own.trainer.add_event_handler(Events.ITERATION_COMPLETED, stop)
    elif stop_at < 0:
        # After the validation has written its curves, and before the checkpoint is written.
        kill = own.evaluator.add_event_handler
        kill(Events.EPOCH_COMPLETED, lambda: stop(own.trainer))
    if not stop_at:
        own.run()
        return
    with pytest.raises(OSError, match="pulled the plug"):
        own.run()


def stats(writer: SummaryWriter, *, iteration_log: bool) -> TensorBoardStatsHandler:
    return TensorBoardStatsHandler(writer, iteration_log=iteration_log, output_transform=scalars("train/"))


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder / "curves")).Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("seconds", [-86400, -1, 0])
def test_a_clock_that_was_set_back_mixes_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    run(tmp_path / "straight")
    # Names of files hold whole seconds and the process: the last of these numbers sorts before the first.
    for start, (stop, process) in enumerate([(5, "9"), (-6, "10"), (8, "100"), (0, "11")]):
        monkeypatch.setattr(time, "time", lambda now=1e9 + start * seconds: now)
        monkeypatch.setattr(os, "getpid", lambda process=process: int(process))
        run(tmp_path / "stopped", stop_at=stop, interval=2)
    assert curves(tmp_path / "stopped") == curves(tmp_path / "straight")
    assert len(list((tmp_path / "stopped" / "curves").glob("*tfevents*"))) == 4


@pytest.mark.parametrize("stops", [(2, 5), (5, 5, 8), (-3, -6), (4, -6, 8)])
@pytest.mark.parametrize("interval", [0, 2])
def test_an_interrupted_run_has_the_curves_of_a_straight_one(
    tmp_path: Path, stops: tuple[int, ...], interval: int
) -> None:
    run(tmp_path / "straight")
    for stop_at in stops:
        run(tmp_path / "stopped", stop_at=stop_at, interval=interval)
    run(tmp_path / "stopped", interval=interval)
    found = curves(tmp_path / "stopped")
    assert found == curves(tmp_path / "straight")
    assert [step for step, _ in found["train/loss"]] == list(range(1, 10))
    assert [step for step, _ in found["mean_sensitivity"]] == [1, 2, 3]


@pytest.mark.parametrize("written", [0, 1, 99])
def test_a_validation_that_the_checkpoint_counts_on_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    run(tmp_path / "straight")
    write = EventFileWriter.add_event
    own = EventWriter.release

    def release(self: EventWriter) -> None:
        """As killed after the checkpoint, with some of the validation's values in the event file."""
        left = [written]

        def add(writer: EventFileWriter, event: Event) -> None:
            if not left[0]:
                raise OSError("pulled the plug")
            left[0] -= 1
            write(writer, event)

        monkeypatch.setattr(EventFileWriter, "add_event", add)
        try:
            own(self)
        finally:
            monkeypatch.setattr(EventFileWriter, "add_event", write)
        raise OSError("pulled the plug")

    monkeypatch.setattr(EventWriter, "release", release)
    with pytest.raises(OSError, match="pulled the plug"):
        run(tmp_path / "stopped")
    monkeypatch.setattr(EventWriter, "release", own)
    run(tmp_path / "stopped")
    assert curves(tmp_path / "stopped") == curves(tmp_path / "straight")
    assert not list((tmp_path / "stopped").rglob("*.pending"))


def test_values_of_iterations_are_on_the_disk_before_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def read(self: EventWriter, engine: Engine) -> None:
        secure(self, engine)
        found.append([step for step, _ in curves(tmp_path).get("train/loss", [])])

    secure = EventWriter.secure
    monkeypatch.setattr(EventWriter, "secure", read)
    run(tmp_path, interval=1)
    assert found[0] == [1]
    assert found[-1] == list(range(1, 10))


def test_no_file_is_made_before_there_is_something_to_write(tmp_path: Path) -> None:
    writer = EventWriter(str(tmp_path / "curves"))
    writer.flush()
    writer.close()
    assert not (tmp_path / "curves").exists()


def test_a_disk_that_is_full_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: SummaryWriter) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = EventWriter(str(tmp_path))
    monkeypatch.setattr(SummaryWriter, "flush", full)
    with pytest.raises(OSError, match=f"Could not write curves in {tmp_path}: No space left on device"):
        writer.flush()
