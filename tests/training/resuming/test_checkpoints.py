"""Checkpoints: an interrupted run ends where an uninterrupted one does; nothing is lost on an error."""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Events

from scripts import weights
from scripts.storage.output_folder import FolderLock
from scripts.training.mixed_precision import MixedPrecision
from scripts.training.resuming.checkpoints import improves
from support.fake_engines import Run
from support.two_processes import in_two_processes


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_two_and_two_epochs_are_four(tmp_path: Path, workers: int, optimizer: type[torch.optim.Optimizer]) -> None:
    straight = Run(tmp_path / "straight", epochs=4, workers=workers, optimizer=optimizer).run()
    Run(tmp_path / "halves", epochs=2, optimizer=optimizer).run()
    resumed = Run(tmp_path / "halves", epochs=4, workers=workers, optimizer=optimizer).run()
    assert_same(straight.weights(), resumed.weights())
    assert straight.optimizer.param_groups[0]["lr"] == resumed.optimizer.param_groups[0]["lr"]
    assert straight.evaluator.state.best_metric == resumed.evaluator.state.best_metric
    assert straight.evaluator.state.best_metric_epoch == resumed.evaluator.state.best_metric_epoch
    assert (resumed.trainer.state.epoch, resumed.trainer.state.iteration) == (4, 12)
    best = [torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("straight", "halves")]
    assert_same(best[0]["model"], best[1]["model"])


def test_the_loss_scale_resumes_where_it_was(tmp_path: Path) -> None:
    def scaled() -> MixedPrecision:
        precision = MixedPrecision("cpu")
        precision.scaler = torch.amp.GradScaler("cpu", init_scale=512.0, growth_interval=4)
        return precision

    first = scaled()
    Run(tmp_path, epochs=2, precision=first).run()
    second = scaled()
    Run(tmp_path, epochs=2, precision=second).run()
    assert first.scaler is not None
    assert second.scaler is not None
    assert second.scaler.state_dict() == first.scaler.state_dict()
    assert (second.scaler.get_scale(), second.scaler.state_dict()["_growth_tracker"]) == (1024.0, 2)


def test_a_run_without_a_loss_scale_resumes_with_a_fresh_one_and_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Run(tmp_path, epochs=1).run()
    scaled = MixedPrecision("cpu")
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    with caplog.at_level(logging.INFO):
        Run(tmp_path, epochs=2, precision=scaled).run()
    assert "The scaler starts afresh" in caplog.text
    assert Run(tmp_path, epochs=3).run().trainer.state.epoch == 3


def test_an_interruption_within_an_epoch_repeats_that_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    straight = Run(tmp_path / "straight", epochs=3).run()
    broken = Run(tmp_path / "broken", epochs=3)

    def interrupt() -> None:
        raise KeyboardInterrupt

    broken.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=5), interrupt)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    with caplog.at_level(logging.INFO):
        resumed = Run(tmp_path / "broken", epochs=3).run()
    assert f"Resuming from {tmp_path / 'broken' / 'last.pt'} at epoch 2 of 3" in caplog.text
    assert_same(straight.weights(), resumed.weights())


def kill_at(run: Run, iteration: int) -> None:
    """End a run in the middle of an iteration, with nothing but what is on the disk left of it."""

    def pull_the_plug() -> None:
        raise KeyboardInterrupt

    run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=iteration), pull_the_plug)
    with pytest.raises(KeyboardInterrupt):
        run.run()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_an_interrupted_run_resumes_within_its_epoch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int, optimizer: type[torch.optim.Optimizer]
) -> None:
    # Six iterations an epoch; gradients of two are added, so that checkpoints fall between additions and steps too.
    same: dict[str, Any] = {"epochs": 2, "batch_size": 2, "accumulation": 2, "optimizer": optimizer}
    straight = Run(tmp_path / "straight", **same).run()
    for iteration, kept in ((3, 2), (5, 4), (6, 5), (9, 8), (12, 11)):
        interval = 1 if kept % 2 else 2
        kill_at(Run(tmp_path / "broken", **same, interval=interval, workers=workers), iteration)
        content = torch.load(tmp_path / "broken" / "last.pt", weights_only=True)
        assert (content["iteration"], content["epoch"]) == (kept, kept // 6)
        assert bool(content["gradients"]) == bool(kept % 2)
    with caplog.at_level(logging.INFO):
        resumed = Run(tmp_path / "broken", **same, interval=1).run()
    assert f"Resuming from {tmp_path / 'broken' / 'last.pt'} at epoch 2 of 2, iteration 6 of 6" in caplog.text
    assert_same(straight.weights(), resumed.weights())
    assert str(straight.optimizer.state_dict()) == str(resumed.optimizer.state_dict())
    assert straight.evaluator.state.best_metric == resumed.evaluator.state.best_metric
    assert str(torch.load(tmp_path / "straight" / "last.pt")) == str(torch.load(tmp_path / "broken" / "last.pt"))


def test_the_loss_scale_resumes_within_an_epoch(tmp_path: Path) -> None:
    def scaled() -> MixedPrecision:
        precision = MixedPrecision("cpu")
        precision.scaler = torch.amp.GradScaler("cpu", init_scale=512.0, growth_interval=2)
        return precision

    straight, resumed = scaled(), scaled()
    weights = Run(tmp_path / "straight", epochs=2, accumulation=2, precision=straight).run().weights()
    kill_at(Run(tmp_path / "broken", epochs=2, accumulation=2, precision=scaled(), interval=1), 5)
    assert_same(weights, Run(tmp_path / "broken", epochs=2, accumulation=2, precision=resumed).run().weights())
    assert straight.scaler is not None
    assert resumed.scaler is not None
    assert straight.scaler.state_dict() == resumed.scaler.state_dict()


def test_a_checkpoint_within_an_epoch_needs_a_sampler_that_can_resume(tmp_path: Path) -> None:
    kill_at(Run(tmp_path, epochs=2, interval=1), 3)
    other = Run(tmp_path, epochs=2)
    other.trainer.data_loader = [[]] * 3
    with pytest.raises(ValueError, match=r"ResumableSampler in train#sampler: .*last\.pt was written within an epoch"):
        other.run()


@pytest.mark.parametrize("iteration", [7, 2, -1, "3", None, 3.0])
def test_an_iteration_that_does_not_fit_is_rejected(tmp_path: Path, iteration: Any) -> None:
    Run(tmp_path, epochs=1).run()
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    torch.save({**content, "iteration": iteration}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=rf"from 3 to 6 after 1 epochs, got {iteration!r} in .*last\.pt"):
        Run(tmp_path, epochs=2).run()


@pytest.mark.parametrize("interval", [-1, 2.5, "10", True])
def test_an_interval_is_a_number_of_iterations(tmp_path: Path, interval: Any) -> None:
    with pytest.raises(ValueError, match=f"number of iterations or 0 for none, got {interval!r}"):
        Run(tmp_path, interval=interval)


def test_a_second_training_in_the_folder_is_rejected(tmp_path: Path) -> None:
    with FolderLock(tmp_path, "a training"):
        mine = Run(tmp_path, epochs=1)
        mine.checkpointer.lock.acquire = lambda **given: FolderLock.acquire(
            mine.checkpointer.lock
        )  # as another process
        with pytest.raises(BlockingIOError, match=rf"found a training, process {os.getpid()} on .* in {tmp_path}"):
            mine.run()
    assert list(tmp_path.iterdir()) == []
    Run(tmp_path, epochs=1).run()
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "model.pt"}


def test_too_little_space_is_found_out_before_the_first_iteration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    with pytest.raises(OSError, match=rf"free space for the results in {tmp_path}, found 1 MiB"):
        Run(tmp_path, epochs=1).run()


def test_what_a_killed_run_has_left_half_written_is_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Run(tmp_path, epochs=1).run()
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    machine = re.sub(r"[^\w-]", "_", platform.node())
    left = tmp_path / f".last.pt.{machine}-{child.stdout.strip()}.part"
    for path in (left, tmp_path / ".mine.part"):
        path.write_bytes(b"half")
    with caplog.at_level(logging.INFO):
        Run(tmp_path, epochs=2).run()
    assert f"Removed {left}" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "model.pt", ".mine.part"}


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = Run(tmp_path, epochs=2).run()
    with caplog.at_level(logging.INFO):
        again = Run(tmp_path, epochs=2).run()
    assert "Nothing left to train" in caplog.text
    assert_same(first.weights(), again.weights())


def test_the_best_weights_are_those_of_the_best_epoch(tmp_path: Path) -> None:
    run = Run(tmp_path, epochs=4)
    scores, by_epoch = iter([1.0, 3.0, 2.0, 3.0]), {}
    metric: Any = lambda: run.evaluator.state.metrics.update(mean_sensitivity=next(scores))  # noqa: E731
    # Before MONAI compares: the stand-in metric stores its own value first.
    run.evaluator._event_handlers[Events.EPOCH_COMPLETED].insert(1, (metric, (), {}))
    run.trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: by_epoch.update({run.trainer.state.epoch: run.weights()})
    )
    run.run()
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert_same(content["model"], by_epoch[2])
    assert content["info"] == {"notice": "fake", "mean_sensitivity": 3.0, "epoch": 2}
    assert content["network"] == {"_target_": "scripts.networks.mp3d_fpn", "num_slices": 3}


def test_a_run_without_validation_leaves_its_last_weights(tmp_path: Path) -> None:
    run = Run(tmp_path, epochs=1)
    run.checkpointer.evaluator = None
    run.run()
    assert_same(torch.load(tmp_path / "model.pt", weights_only=True)["model"], run.weights())


def test_a_set_with_its_classes_in_another_order_is_another_run(tmp_path: Path) -> None:
    def run(*classes: str) -> Run:
        found = Run(tmp_path, epochs=1)
        own: Any = found.checkpointer
        info = {"recipe": {"classes": list(classes)}}
        options = {"definition": own.definition, "evaluator": own.evaluator, "info": info, "settings": {"seed": 0}}
        own.__init__(tmp_path, {"model": own.network, **own.objects}, **options)
        return found

    run("dark", "bright").run()
    with pytest.raises(ValueError, match=r"got classes \['bright', 'dark'\] and not \['dark', 'bright'\]"):
        run("bright", "dark").run()
    run("dark", "bright").run()
    # A checkpoint from before they were kept.
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    torch.save({**content, "settings": {"seed": 0}}, tmp_path / "last.pt")
    run("bright", "dark").run()


def test_a_number_beats_nan() -> None:
    assert improves(0.0, float("nan"))
    assert improves(float("nan"), float("nan"))
    assert not improves(float("nan"), 0.0)
    assert not improves(0.5, 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_slices": 5}, "'num_slices': 5.*'num_slices': 3"),
        ({"batch_size": 6}, "2 iterations an epoch, got 3"),
        ({"optimizer": torch.optim.AdamW}, "AdamW.*SGD"),
        ({"settings": {"rate": 0.1, "seed": 1}}, r"left .*last\.pt, got rate 0\.1 and not 0\.2\. Use"),
    ],
)
def test_another_run_in_the_same_folder_is_rejected(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    Run(tmp_path, epochs=1, settings={"rate": 0.2, "seed": 1}).run()
    other = Run(tmp_path, epochs=2, **change)
    with pytest.raises(ValueError, match=message) as caught:
        other.run()
    assert "\n" not in str(caught.value)
    assert "Use another --output_dir (or --ckpt_dir), or remove" in str(caught.value)


def test_a_file_from_before_settings_were_kept_resumes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Run(tmp_path, epochs=1).run()
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    del content["settings"]
    torch.save(content, tmp_path / "last.pt")
    with caplog.at_level(logging.INFO):
        Run(tmp_path, epochs=2, settings={"rate": 0.1}).run()
    assert "Resuming from" in caplog.text
    stored = torch.load(tmp_path / "last.pt", weights_only=True)["settings"]
    assert (stored["rate"], stored["training_data"][:10]) == (0.1, "12 images,")


def test_other_training_data_are_rejected_and_older_files_resume(tmp_path: Path) -> None:
    Run(tmp_path, epochs=1, settings={"rate": 0.1}).run()
    other = Run(tmp_path, epochs=2, settings={"rate": 0.1})
    # As many images, which another fold of a set has too.
    other.dataset.data[3] = {**other.dataset.data[3], "file_name": "000002_01_01_003.png"}
    with pytest.raises(ValueError, match=r"got training_data '12 images, \w+' and not '12 images, \w+'\. Use another"):
        other.run()
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    torch.save({**content, "settings": {"rate": 0.1}}, tmp_path / "last.pt")
    assert Run(tmp_path, epochs=2, settings={"rate": 0.1}).run().trainer.state.epoch == 2


def go_on_apart(rank: int, folder: Path) -> None:
    """Two processes of which only the first sees the checkpoint."""
    try:
        Run(folder / str(rank), epochs=2).run()
    except ValueError as error:
        (folder / f"{rank}.txt").write_text(str(error))


def test_processes_that_see_different_disks_are_stopped(tmp_path: Path) -> None:
    Run(tmp_path / "0", epochs=1).run()
    in_two_processes(go_on_apart, tmp_path)
    for rank in (0, 1):
        message = (tmp_path / f"{rank}.txt").read_text()
        assert "Expected last.pt of the same iteration in every process, got iterations 3, 0 by process" in message


def draw_after(rank: int, folder: Path, part: str, seeds: tuple[int, ...]) -> None:
    """Leave what a process draws when its run has ended; a run that has nothing left to do draws nothing itself."""
    run = Run(folder, epochs=1)
    torch.manual_seed(seeds[rank])
    run.run()
    torch.save(torch.rand(3), folder / f"{part}_{rank}.pt")
    if idist.get_world_size() > 1:
        idist.barrier()


def test_every_process_resumes_with_its_own_random_numbers(tmp_path: Path) -> None:
    in_two_processes(draw_after, tmp_path, "before", (1, 2))
    in_two_processes(draw_after, tmp_path, "after", (3, 4))
    drawn = {path.stem: torch.load(path) for path in tmp_path.glob("*_?.pt")}
    assert not torch.equal(drawn["before_0"], drawn["before_1"])
    assert torch.equal(drawn["before_0"], drawn["after_0"])
    assert torch.equal(drawn["before_1"], drawn["after_1"])


def test_another_number_of_processes_resumes_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    in_two_processes(draw_after, tmp_path, "before", (1, 2))
    with caplog.at_level(logging.INFO):
        draw_after(0, tmp_path, "after", (3,))
    assert "Random numbers differ" in caplog.text
    assert "of 2 process(es), this run has 1" in caplog.text
    assert torch.equal(torch.load(tmp_path / "before_0.pt"), torch.load(tmp_path / "after_0.pt"))
    # A file of one process in two: the second keeps the numbers it was seeded with.
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    torch.save({**content, "random": content["random"][0]}, tmp_path / "last.pt")
    in_two_processes(draw_after, tmp_path, "again", (3, 4))
    torch.manual_seed(4)
    assert torch.equal(torch.load(tmp_path / "again_0.pt"), torch.load(tmp_path / "before_0.pt"))
    assert torch.equal(torch.load(tmp_path / "again_1.pt"), torch.rand(3))


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Run(tmp_path, epochs=1).run()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full_disk(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device", file.name)

    monkeypatch.setattr(weights.torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        Run(tmp_path, epochs=2).run()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
