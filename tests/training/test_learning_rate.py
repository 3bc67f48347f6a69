"""Learning rate: the released code's schedule, number for number."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from scripts.training.learning_rate import scale_learning_rate, warmup_step_factor, warmup_step_schedule

CONFIGS = Path(__file__).resolve().parents[2] / "mp3d_bundle" / "configs"


def optimizer(rate: float = 0.02) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def rates(epochs: int, epoch_length: int) -> list[float]:
    sgd = optimizer()
    schedule = warmup_step_schedule(sgd, epoch_length)
    out = []
    for _ in range(epochs * epoch_length):
        out.append(sgd.param_groups[0]["lr"])
        sgd.step()
        schedule.step()
    return out


def test_every_iteration_of_the_reference(shared: Path) -> None:
    reference = json.loads((shared / "reference" / "golden" / "misc.json").read_text())["lr_schedule"]
    got = rates(reference["epochs"], reference["iters_per_epoch"])
    for iteration, (epoch, rate) in reference["lr"].items():
        assert int(iteration) // reference["iters_per_epoch"] == epoch
        assert got[int(iteration)] == rate, iteration


def test_warm_up_begins_at_a_third_and_steps_after_epochs_16_and_22() -> None:
    got = rates(24, 40)
    assert got[0] == pytest.approx(0.02 / 3)
    assert got[499] < got[500] == 0.02
    changes = [index for index in range(501, len(got)) if got[index] != got[index - 1]]
    assert changes == [16 * 40, 22 * 40]
    assert got[-1] == pytest.approx(0.0002)


def test_a_step_within_the_warm_up_multiplies_it() -> None:
    factor = warmup_step_factor(epoch_length=10, milestones=(1,), warmup_iterations=20)
    assert factor(10) == pytest.approx(0.1 * (1 - 0.5 * 2 / 3))


def test_no_warm_up_is_legal() -> None:
    assert warmup_step_factor(epoch_length=10, milestones=(), warmup_iterations=0)(0) == 1.0


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("epoch_length", 0), ("warmup_iterations", -1), ("gamma", -0.5), ("gamma", float("nan"))),
        *(("warmup_start", -1.0), ("warmup_start", 1.5), ("warmup_start", float("inf"))),
    ],
)
def test_bad_numbers_are_rejected(argument: str, value: float) -> None:
    arguments: dict[str, Any] = {"epoch_length": 10, "warmup_iterations": 5, argument: value}
    with pytest.raises(ValueError, match=str(value)):
        warmup_step_factor(milestones=(1,), **arguments)


def test_the_state_holds_no_schedule_of_its_own() -> None:
    """Or a resumed run would bring an old epoch length back, whatever its config says."""
    sgd = optimizer()
    schedule = warmup_step_schedule(sgd, 10)
    assert schedule.state_dict()["lr_lambdas"] == [None]


@pytest.mark.parametrize(
    ("batch", "accumulation", "processes", "expected"), [(16, 1, 1, 0.02), (2, 1, 1, 0.0025), (2, 4, 2, 0.02)]
)
def test_linear_scaling(
    caplog: pytest.LogCaptureFixture, batch: int, accumulation: int, processes: int, expected: float
) -> None:
    with caplog.at_level(logging.INFO):
        rate = scale_learning_rate(0.02, 16, batch_size=batch, accumulation_steps=accumulation, world_size=processes)
    assert rate == pytest.approx(expected)
    assert len(caplog.records) == 1
    assert f"{expected:g}" in caplog.text
    assert str(batch * accumulation * processes) in caplog.text


def test_an_empty_batch_is_rejected() -> None:
    with pytest.raises(ValueError, match="batch_size to be at least 1, got 0"):
        scale_learning_rate(0.02, 16, batch_size=0)


def train_config(*overlays: str) -> ConfigParser:
    """The training config with overlays on top."""
    return ConfigParser(ConfigParser.load_config_files([str(CONFIGS / name) for name in ("train.json", *overlays)]))


@pytest.mark.parametrize(
    ("changes", "images"),
    [
        ({}, 2),
        ({"batch_size": 3}, 3),
        ({"train#dataloader#batch_size": 4}, 4),
        ({"accumulation_steps": 3}, 6),
        ({"train#trainer#accumulation_steps": 3, "train#dataloader#batch_size": 5}, 15),
    ],
)
def test_the_learning_rate_follows_the_images_of_a_step(changes: dict[str, Any], images: int) -> None:
    parser = train_config()
    parser["train#dataset"], parser["train#sampler"] = [1, 2, 3], None
    parser.update(changes)
    assert parser.get_parsed_content("learning_rate") == pytest.approx(0.02 * images / 16)
    assert parser.get_parsed_content("lr_scheduler#warmup_iterations") == 500 * parser.get_parsed_content(
        "train#trainer#accumulation_steps"
    )


@pytest.mark.parametrize("rate", [0.01, 0.5])
def test_one_option_sets_the_rate_of_short_runs(rate: float) -> None:
    parser = train_config("variants/optimizer_adamw.yaml")
    parser["epoch_length"], parser["train#trainer#max_epochs"], parser["optimizer#lr"] = 10, 2, rate
    parser["optimizer#params"] = "$[torch.nn.Parameter(torch.zeros(1))]"
    schedule = parser.get_parsed_content("lr_scheduler")
    rates = []
    for _ in range(schedule.total_steps):
        rates.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step() if len(rates) < schedule.total_steps else None
    assert len(rates) == 20
    assert max(rates) == pytest.approx(rate)
