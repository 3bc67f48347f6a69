"""Checkpoints: an interrupted run ends where an uninterrupted one does; nothing is lost on an error."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Events

from fake_engines import Run
from scripts import weights
from scripts.engines import MixedPrecision, improves


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


def test_the_loss_scale_goes_on_where_it_was(tmp_path: Path) -> None:
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


def test_a_run_without_a_loss_scale_goes_on_with_a_fresh_one_and_back(
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


def test_a_number_beats_nan() -> None:
    assert improves(0.0, float("nan"))
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
def test_another_run_in_the_same_folder_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    Run(tmp_path, epochs=1, settings={"rate": 0.2, "seed": 1}).run()
    other = Run(tmp_path, epochs=2, **change)
    with pytest.raises(ValueError, match=message) as caught:
        other.run()
    assert "\n" not in str(caught.value)
    assert "Use another --output_dir (or --ckpt_dir), or remove" in str(caught.value)


def test_a_file_from_before_settings_were_kept_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Run(tmp_path, epochs=1).run()
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    del content["settings"]
    torch.save(content, tmp_path / "last.pt")
    with caplog.at_level(logging.INFO):
        Run(tmp_path, epochs=2, settings={"rate": 0.1}).run()
    assert "Resuming from" in caplog.text
    assert torch.load(tmp_path / "last.pt", weights_only=True)["settings"] == {"rate": 0.1}


def go_on_apart(rank: int, folder: Path) -> None:
    """Two processes of which only the first sees the checkpoint."""
    try:
        Run(folder / str(rank), epochs=2).run()
    except ValueError as error:
        (folder / f"{rank}.txt").write_text(str(error))


def test_processes_that_see_different_disks_are_stopped(tmp_path: Path) -> None:
    Run(tmp_path / "0", epochs=1).run()
    idist.spawn("gloo", go_on_apart, args=(tmp_path,), nproc_per_node=2, start_method="fork")
    for rank in (0, 1):
        message = (tmp_path / f"{rank}.txt").read_text()
        assert "Expected last.pt of the same epoch in every process, got epochs 1, 0 by process" in message


def draw_after(rank: int, folder: Path, part: str, seeds: tuple[int, ...]) -> None:
    """Leave what a process draws when its run has ended; a run that has nothing left to do draws nothing itself."""
    run = Run(folder, epochs=1)
    torch.manual_seed(seeds[rank])
    run.run()
    torch.save(torch.rand(3), folder / f"{part}_{rank}.pt")
    if idist.get_world_size() > 1:
        idist.barrier()


def in_two(*arguments: Any) -> None:
    idist.spawn("gloo", draw_after, args=arguments, nproc_per_node=2, start_method="fork")


def test_every_process_goes_on_with_its_own_random_numbers(tmp_path: Path) -> None:
    in_two(tmp_path, "before", (1, 2))
    in_two(tmp_path, "after", (3, 4))
    drawn = {path.stem: torch.load(path) for path in tmp_path.glob("*_?.pt")}
    assert not torch.equal(drawn["before_0"], drawn["before_1"])
    assert torch.equal(drawn["before_0"], drawn["after_0"])
    assert torch.equal(drawn["before_1"], drawn["after_1"])


def test_another_number_of_processes_goes_on_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    in_two(tmp_path, "before", (1, 2))
    with caplog.at_level(logging.INFO):
        draw_after(0, tmp_path, "after", (3,))
    assert "Random numbers differ" in caplog.text
    assert "of 2 process(es), this run has 1" in caplog.text
    assert torch.equal(torch.load(tmp_path / "before_0.pt"), torch.load(tmp_path / "after_0.pt"))
    # A file of one process in two: the second keeps the numbers it was seeded with.
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    torch.save({**content, "random": content["random"][0]}, tmp_path / "last.pt")
    in_two(tmp_path, "again", (3, 4))
    torch.manual_seed(4)
    assert torch.equal(torch.load(tmp_path / "again_0.pt"), torch.load(tmp_path / "before_0.pt"))
    assert torch.equal(torch.load(tmp_path / "again_1.pt"), torch.rand(3))


def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=str(path)):
        Run(tmp_path, epochs=1).run()
    torch.save({"model": {}}, path)
    with pytest.raises(ValueError, match="Expected a checkpoint of a training run, got no"):
        Run(tmp_path, epochs=1).run()


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Run(tmp_path, epochs=1).run()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full_disk(content: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(weights.torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        Run(tmp_path, epochs=2).run()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
