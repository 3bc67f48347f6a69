"""Trainings that cannot learn, and warnings about those whose settings do not fit their length and data."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau

from scripts.instances import IGNORED
from scripts.networks import FasterRCNN, ResNet3d, TwoStageHead, mp3d_fpn, mulan, mvp_net
from scripts.training.learning_rate import warmup_step_schedule
from scripts.training.training_check import TrainingCheck, has_lesions

LENGTH = 100


def schedule(**settings: Any) -> LRScheduler:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    return warmup_step_schedule(optimizer, LENGTH, **settings)


def warnings_of(
    scheduler: Any, caplog: pytest.LogCaptureFixture, *, epochs: int = 8, images: int = 200, accumulation: int = 1
) -> list[str]:
    """What a training with batches of two logs at its start."""
    engine: Any = Engine(lambda engine, batch: None)
    engine.data_loader = SimpleNamespace(batch_size=2, sampler=range(images))
    engine.accumulation_steps = accumulation
    TrainingCheck(scheduler).attach(engine)
    with caplog.at_level(logging.WARNING):
        engine.run([0], max_epochs=epochs, epoch_length=LENGTH)
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("milestones", [[5, 7], [], [5]])
def test_a_schedule_that_fits_is_not_mentioned(milestones: list[int], caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(schedule(milestones=milestones), caplog) == []


def test_a_warm_up_that_never_ends_is_named_with_the_highest_rate(caplog: pytest.LogCaptureFixture) -> None:
    (told,) = warnings_of(schedule(milestones=[], warmup_iterations=400), caplog, epochs=3)
    # The 299th of 400 iterations: 1/3 + 2/3 * 299/400 of 0.5.
    assert told.startswith(f"The learning rate rises to {0.5 * (1 / 3 + 2 / 3 * 299 / 400):g} and never to 0.5: ")
    assert "300 iterations" in told


def test_a_milestone_within_the_warm_up_is_named(caplog: pytest.LogCaptureFixture) -> None:
    (told,) = warnings_of(schedule(milestones=[1], warmup_iterations=150), caplog)
    assert "or before a milestone" in told


@pytest.mark.parametrize("milestones", [[8], [3, 22]])
def test_a_milestone_after_the_end_is_named(milestones: list[int], caplog: pytest.LogCaptureFixture) -> None:
    (told,) = warnings_of(schedule(milestones=milestones, warmup_iterations=0), caplog)
    assert "falls at a milestone after the 8 epochs" in told


def test_a_step_of_more_images_than_there_are_is_named(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(schedule(milestones=[]), caplog, accumulation=100) == []
    (told,) = warnings_of(schedule(milestones=[]), caplog, accumulation=101)
    assert "the 200 images of an epoch and not 202" in told


def test_a_schedule_that_needs_a_figure_is_rejected() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    for wrong, words in (
        (ReduceLROnPlateau(optimizer), r"ReduceLROnPlateau, whose step\(\) needs a figure"),
        ({"factor": 0.1}, r"\{'factor': 0\.1\}, without step\(\)"),
        (None, r"None, without step\(\)"),
    ):
        with pytest.raises(ValueError, match=f"stepped once an iteration, such as OneCycleLR, .* got {words}"):
            TrainingCheck(wrong).attach(Engine(lambda engine, batch: None))


def test_a_schedule_of_another_kind_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    cycle = OneCycleLR(optimizer, max_lr=0.5, total_steps=800)
    assert warnings_of(cycle, caplog) == []
    (told,) = warnings_of(cycle, caplog, images=1)
    assert "the 1 images of an epoch and not 2" in told


def engine_of(*counts: int, ignored: bool = False) -> Any:
    """An engine whose images have so many boxes, all of them regions to ignore or none."""
    engine: Any = Engine(lambda engine, batch: None)
    records = [
        {"instances": {"boxes": np.zeros((count, 4), np.float32), IGNORED: np.full(count, ignored)}} for count in counts
    ]
    engine.data_loader = SimpleNamespace(dataset=SimpleNamespace(data=records))
    return engine


def test_lesions_are_found_in_records() -> None:
    assert has_lesions(engine_of(0, 1)) is True
    assert has_lesions(engine_of(0, 0)) is False
    assert has_lesions(engine_of(2, ignored=True)) is False
    assert has_lesions(engine_of()) is None
    engine = engine_of()
    for data in ([1, 2], [{"image": 1}], None):
        engine.data_loader.dataset.data = data
        assert has_lesions(engine) is None
    assert has_lesions(None) is None


def test_a_training_without_a_lesion_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"^Expected at least one lesion in the images to train on, got none"):
        TrainingCheck(schedule()).attach(engine_of(0, 0))


def test_a_validation_without_a_lesion_is_named(caplog: pytest.LogCaptureFixture) -> None:
    for counts in ((0, 0), (0, 1), ()):
        engine = engine_of(1)
        TrainingCheck(schedule(milestones=[], warmup_iterations=0), engine_of(*counts)).attach(engine)
        engine.run([0], max_epochs=1, epoch_length=LENGTH)
    (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told.startswith("The validation images have no lesion")


class Masks(torch.nn.Module):
    """A further head as far as it says what it reads."""

    reads = ("masks",)


def detector(**fields: Any) -> FasterRCNN:
    body = ResNet3d(layers=(1, 1, 1, 1), width=8)
    return mp3d_fpn(body=body, fpn_channels=8, head=TwoStageHead(fc_channels=8, **fields))


@pytest.mark.parametrize(
    ("network", "reads"),
    [
        (detector, ()),
        (lambda: detector(fields={"masks": lambda length, channels: Masks()}), ("mask_targets",)),
        (lambda: mvp_net(3, layers=(1, 1, 1, 1), channels=8, fc_channels=8), ("patients",)),
        (lambda: mulan(9, tags=3, layers=(1, 1, 1), channels=8, fc_channels=8), ("mask_targets", "tags")),
        (
            lambda: mulan(9, tags=3, extras=("patient",), layers=(1, 1, 1), channels=8, fc_channels=8),
            ("mask_targets", "tags", "patients"),
        ),
    ],
)
def test_fields_that_a_network_does_not_read_are_named(
    network: Any, reads: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of(1)
    fields = dict.fromkeys(("male", "age", "position", "recist", "tags"), np.zeros(1))
    engine.data_loader.dataset.data[0]["instances"] |= fields
    engine.network = network()
    TrainingCheck(schedule(milestones=[], warmup_iterations=0)).attach(engine)
    with caplog.at_level(logging.WARNING):
        engine.run([0], max_epochs=1, epoch_length=LENGTH)
    told = " ".join(record.getMessage() for record in caplog.records)
    for option in ("patients", "mask_targets", "tags"):
        assert (f"--{option} has no effect" in told) == (option not in reads)
