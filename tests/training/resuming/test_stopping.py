"""Signals: a run is left between two iterations and resumes bit for bit; all processes leave at the same place."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine, Events

from scripts.training.resuming import stopping
from scripts.training.resuming.stopping import BeforeCommonBatches, Stopped, StopSignals, TrainingDataLoader
from support.fake_engines import Run
from support.two_processes import in_two_processes


def stopped_at(run: Run, iteration: int, number: int = signal.SIGTERM, *, in_validation: bool = False) -> Stopped:
    """Run, with a signal to this process in an iteration, or in the validation after it."""

    def send() -> None:
        if run.trainer.state.iteration == iteration:
            os.kill(os.getpid(), number)

    engine = run.evaluator if in_validation else run.trainer
    engine.add_event_handler(Events.ITERATION_STARTED, send)
    with pytest.raises(Stopped) as caught:
        run.run()
    assert isinstance(caught.value, Stopped)
    return caught.value


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["terminated", "by_hand"]
)
def test_a_signal_leaves_a_checkpoint_and_the_handlers_as_they_were(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, number: int, code: int
) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    with caplog.at_level(logging.INFO):
        stop = stopped_at(Run(tmp_path, epochs=3), 5, number)
    assert stop.code == code
    name = signal.Signals(number).name
    assert f"Training stopped by {name}. The same command resumes in {tmp_path} at epoch 2, iteration 3 of 3" in (
        caplog.text
    )
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert (content["epoch"], content["iteration"]) == (1, 5)
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_stopped_run_ends_where_a_straight_one_does(tmp_path: Path, workers: int, accumulation: int) -> None:
    straight = Run(tmp_path / "straight", epochs=3, accumulation=accumulation).run()
    for iteration, in_validation in ((1, False), (3, True), (4, False), (9, True)):
        run = Run(tmp_path / "stopped", epochs=3, accumulation=accumulation, workers=workers)
        stopped_at(run, iteration, in_validation=in_validation)
    resumed = Run(tmp_path / "stopped", epochs=3, accumulation=accumulation).run()
    assert all(torch.equal(value, resumed.weights()[name]) for name, value in straight.weights().items())
    contents = [torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("straight", "stopped")]
    for name in ("iteration", "epoch", "best_metric", "best_metric_epoch", "scheduler"):
        assert contents[0][name] == contents[1][name]
    assert str(contents[0]["optimizer"]) == str(contents[1]["optimizer"])
    assert str(contents[0]["random"]) == str(contents[1]["random"])


def test_a_validation_that_is_left_says_where_the_run_resumes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        stopped_at(Run(tmp_path, epochs=1), 3, in_validation=True)
        assert f"resumes in {tmp_path} at the end of epoch 1" in caplog.text
        run = Run(tmp_path, epochs=1).run()
    assert f"Resuming from {tmp_path / 'last.pt'} at the end of epoch 1 of 1" in caplog.text
    assert run.evaluator.state.best_metric_epoch == 1
    assert (tmp_path / "model.pt").is_file()


def test_a_second_interruption_by_hand_ends_at_once() -> None:
    signals = StopSignals()
    signals.install()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.asked() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signals.restore()


def test_another_thread_trains_without_signals(tmp_path: Path) -> None:
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(Run(tmp_path, epochs=1).run().trainer.state.epoch))
    thread.start()
    thread.join()
    assert done == [1]


def stop_one(rank: int, folder: Path) -> None:
    """Only the second process has the signal."""
    run: Any = Run(folder if rank == 0 else folder / "nothing", epochs=3)
    run.checkpointer.directory = folder
    if rank == 1:
        run.trainer.add_event_handler(Events.ITERATION_STARTED(once=5), lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        run.run()
    except Stopped as stop:
        (folder / f"{rank}.txt").write_text(f"{stop.code} {run.trainer.state.iteration}")
    idist.barrier()


def test_all_processes_leave_at_the_same_iteration(tmp_path: Path) -> None:
    in_two_processes(stop_one, tmp_path)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["143 5", "143 5"]
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert (content["iteration"], len(content["random"])) == (5, 2)


def share_three_batches(rank: int, folder: Path) -> None:
    """Two batches for the first process, one for the second; each notes before which it acts with the other."""
    engine, acted = Engine(lambda engine, batch: None), []
    BeforeCommonBatches(lambda: acted.append(int(idist.all_reduce(1)))).attach(engine)
    engine.run([0, 1] if rank == 0 else [0])
    (folder / f"{rank}.txt").write_text(str(acted))


def test_processes_with_unequal_shares_of_a_validation_ask_at_the_same_places(tmp_path: Path) -> None:
    in_two_processes(share_three_batches, tmp_path)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["[2]", "[2]"]


def train_in_a_group(folder: Path, sender: Connection) -> None:
    """Train at the head of a process group, and send the number of each iteration."""
    os.setsid()
    run = Run(folder, epochs=1000, workers=2)
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: sender.send(run.trainer.state.iteration))
    run.run()


def test_a_signal_to_the_whole_process_group_ends_in_a_checkpoint_too(tmp_path: Path) -> None:
    """As batch systems and terminals send it: the loader's processes have it as well."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=train_in_a_group, args=(tmp_path, sender))
    process.start()
    sender.close()
    iterations = []
    with contextlib.suppress(EOFError):  # at the end of the process, whenever that is
        while True:
            iterations.append(receiver.recv())
            if iterations[-1] == 4:
                os.killpg(process.pid or 0, signal.SIGTERM)
    process.join()
    assert process.exitcode == 143
    assert torch.load(tmp_path / "last.pt", weights_only=True)["iteration"] == iterations[-1]


def test_a_worker_outlives_a_signal_that_comes_before_it_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    main, seed = os.getpid(), stopping.worker_init_fn

    def late(worker_id: int) -> None:
        # PyTorch's own handler is there already, ours is not.
        assert os.getpid() != main
        os.kill(os.getpid(), signal.SIGTERM)
        seed(worker_id)

    monkeypatch.setattr(stopping, "worker_init_fn", late)
    data = list(range(6))
    loader = TrainingDataLoader(data, num_workers=2, worker_init_fn=stopping.start_worker, timeout=60)
    for _ in range(2):
        assert torch.cat(list(loader)).tolist() == data
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
