"""Handlers: a NaN stops the run with its images named; throughput and progress are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from monai.bundle import ConfigParser

from scripts.training.train_handlers import ProgressBar, ShareBuffers, StopOnNonFinite, Throughput, scalars
from support.fake_engines import Run
from support.two_processes import in_two_processes

CONFIGS = Path(__file__).resolve().parents[2] / "mp3d_bundle" / "configs"


def spoil_at(run: Run, iteration: int, factor: float) -> None:
    run.network.spoil = lambda loss: loss * (factor if run.trainer.state.iteration == iteration else 1.0)


def guarded(folder: Path | None = None, epochs: int = 3) -> Run:
    run = Run(folder, epochs=epochs)
    StopOnNonFinite(run.precision).attach(run.trainer)
    return run


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path: Path, factor: float) -> None:
    run = guarded(tmp_path)
    spoil_at(run, 5, factor)
    with pytest.raises(FloatingPointError) as caught:
        run.run()
    message = str(caught.value)
    assert "iteration 5 (epoch 2)" in message
    assert "loss_box_reg" in message
    images = [sample["record"]["file_name"] for sample in run.trainer.state.batch]
    assert len(images) == 4
    assert all(image in message for image in images)
    assert all(torch.isfinite(value).all() for value in run.weights().values())
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    assert saved["epoch"] == 1
    assert all(torch.isfinite(value).all() for value in saved["model"].values())


def test_a_gradient_that_overflows_in_float32_stops_the_run() -> None:
    """The loss is finite, but the step would not be: the weights must stay as they are."""
    run = guarded()
    run.network.head.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = run.weights()
    with pytest.raises(FloatingPointError, match="finite gradient_norm"):
        run.run()
    assert all(torch.equal(value, before[name]) for name, value in run.weights().items())


def test_after_a_nan_the_same_command_resumes_from_the_last_checkpoint(tmp_path: Path) -> None:
    run = guarded(tmp_path)
    spoil_at(run, 5, float("nan"))
    with pytest.raises(FloatingPointError):
        run.run()
    assert all(
        torch.equal(value, Run(tmp_path / "straight", epochs=3).run().weights()[name])
        for name, value in guarded(tmp_path).run().weights().items()
    )


def test_throughput_counts_images() -> None:
    run = Run(epochs=1, handlers=(Throughput(),)).run()
    assert run.trainer.state.output["images_per_second"] > 0


def test_scalars_are_prefixed_floats() -> None:
    assert scalars("train/")({"loss": torch.tensor(2.0), "learning_rate": 0.1}) == {
        "train/loss": 2.0,
        "train/learning_rate": 0.1,
    }


def test_the_bar_covers_the_whole_run_with_loss_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    Run(epochs=2, handlers=(ProgressBar(),)).run()
    shown = capsys.readouterr().err
    assert "6/6" in shown
    assert "<" in shown
    assert "epoch 2/2, loss 0." in shown


def test_the_bar_of_a_resumed_run_begins_where_it_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run(tmp_path, epochs=1).run()
    Run(tmp_path, epochs=2, handlers=(ProgressBar(),)).run()
    shown = capsys.readouterr().err
    assert "3/6" in shown
    assert "0/6" not in shown


def test_an_error_closes_the_bar_and_resumes() -> None:
    bar = ProgressBar()
    run = Run(epochs=2, handlers=(bar,))
    StopOnNonFinite(run.precision).attach(run.trainer)
    spoil_at(run, 2, float("nan"))
    with pytest.raises(FloatingPointError):
        run.run()
    assert bar._bar is not None
    assert bar._bar.disable


class OwnHandler:
    """A handler of a user's, which may be attached to anything."""

    def attach(self, engine: Any) -> None:
        """Do nothing."""


def test_an_appended_handler_is_there_in_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are several processes, handlers that report belong to the first one alone."""
    own = [{"_target_": f"{__name__}.OwnHandler"}]
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({"+train#handlers": own, "+validate#handlers": own}))

    def handlers(rank: int) -> list[list[str]]:
        monkeypatch.setattr(idist, "get_rank", lambda: rank)
        files = [CONFIGS / "train.json", CONFIGS / "multi_gpu_train.json", CONFIGS / "variants" / "size_narrow.yaml"]
        parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in (*files, overlay)]))
        changes = {"train#dataset": [1, 2], "validate#dataset": [1], "network": "@network_def", "device": "cpu"}
        parser.update(
            {
                **changes,
                "validate#dataloader#sampler": None,
                "train#sampler": None,
                "recipe": None,
                "output_dir": str(tmp_path / "run"),
            }
        )
        names = ("train#trainer#train_handlers", "validate#evaluator#val_handlers")
        return [[type(handler).__name__ for handler in parser.get_parsed_content(name)] for name in names]

    ((first, first_validation), (second, second_validation)) = handlers(0), handlers(1)
    assert first == [*second, "ProgressBar", "StatsHandler", "TensorBoardStatsHandler"]
    assert "OwnHandler" in second
    assert {"Checkpointer", "StopOnNonFinite", "ValidationHandler"} < set(second)
    assert second_validation == ["ShareBuffers", "OwnHandler"]
    assert first_validation == [
        *second_validation,
        "EventWriter",
        "DetectionPanels",
        "StatsHandler",
        "TensorBoardStatsHandler",
    ]


def share_statistics(rank: int, folder: Path) -> None:
    norm = torch.nn.BatchNorm1d(2)
    norm.running_mean += rank + 1  # type: ignore[operator]
    ShareBuffers(norm).share()
    torch.save(norm.running_mean, folder / f"{rank}.pt")


def test_a_validation_begins_with_the_statistics_of_the_first_process(tmp_path: Path) -> None:
    in_two_processes(share_statistics, tmp_path)
    assert [torch.load(tmp_path / f"{rank}.pt").tolist() for rank in (0, 1)] == [[1.0, 1.0], [1.0, 1.0]]
    norm = torch.nn.BatchNorm1d(2)
    ShareBuffers(norm).share()
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [0.0, 0.0]
