"""Trainings that end early, and stay ended when they are started again."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ignite.engine import Engine, Events

from scripts.training.early_stopping import StopEarly


def trainer(values: list[float], patience: int, stored: dict[str, Any] | None = None) -> tuple[list[int], StopEarly]:
    """Epochs that a training of as many as there are values begins, validated with these after each."""
    evaluator, engine, begun = Engine(lambda *_: None), Engine(lambda *_: None), []
    evaluator.state.key_metric_name = "score"  # type: ignore[attr-defined]
    handler = StopEarly(evaluator, patience)  # type: ignore[arg-type]
    if stored is not None:
        engine.add_event_handler(Events.STARTED, lambda: handler.load_state_dict(stored))
    handler.attach(engine)
    engine.add_event_handler(Events.EPOCH_STARTED, lambda: begun.append(engine.state.epoch))

    def validate() -> None:
        evaluator.add_event_handler(
            Events.EPOCH_COMPLETED,
            lambda: evaluator.state.metrics.update(score=values[engine.state.epoch - 1]),
        )
        evaluator.run([0])

    engine.add_event_handler(Events.EPOCH_COMPLETED, validate)
    engine.run([0], max_epochs=len(values))
    return begun, handler


@pytest.mark.parametrize(
    ("values", "patience", "epochs"),
    [
        ([0.1, 0.2, 0.3], 1, 3),
        ([0.1, 0.2, 0.2, 0.3], 1, 3),
        ([0.1, 0.05, 0.2, 0.1, 0.1, 0.9], 2, 5),
        ([float("nan"), float("nan"), 0.1], 2, 3),
        ([0.5, float("nan"), float("nan"), 0.9], 2, 3),
    ],
)
def test_ends_after_so_many_validations_without_a_better_one(values: list[float], patience: int, epochs: int) -> None:
    assert len(trainer(values, patience)[0]) == epochs


def test_a_run_that_is_resumed_continues_to_count() -> None:
    begun, first = trainer([0.5, 0.4], 2)
    assert len(begun) == 2
    assert first.state_dict()["counter"] == 1
    assert len(trainer([0.45, 0.9], 2, first.state_dict())[0]) == 1
    assert len(trainer([0.6, 0.9], 2, first.state_dict())[0]) == 2


def test_a_run_that_ended_early_stays_ended() -> None:
    _, ended = trainer([0.5, 0.4, 0.3], 1)
    assert trainer([0.9, 0.9], 1, ended.state_dict())[0] == []


def test_without_validations_it_is_an_error() -> None:
    handler, engine = StopEarly(Engine(lambda *_: None), 2, interval=4), Engine(lambda *_: None)  # type: ignore[arg-type]
    engine.state.max_epochs = 3
    with pytest.raises(ValueError, match="without any, of 3 epochs with one validation every 4: set val_interval"):
        handler.attach(engine)
    engine.state.max_epochs = 4
    handler.attach(engine)


def test_a_validation_without_a_lesion_is_an_error() -> None:
    evaluator, engine = Engine(lambda *_: None), Engine(lambda *_: None)
    records = [{"instances": {"boxes": np.zeros((0, 4), np.float32)}}]
    evaluator.data_loader = SimpleNamespace(dataset=SimpleNamespace(data=records))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="lesions in the validation images for early_stopping, got none"):
        StopEarly(evaluator, 2).attach(engine)  # type: ignore[arg-type]
    records[0]["instances"]["boxes"] = np.zeros((1, 4), np.float32)
    StopEarly(evaluator, 2).attach(engine)  # type: ignore[arg-type]


@pytest.mark.parametrize(("patience", "interval"), itertools.product((1, 2, 3), (1, 2, 3)))
def test_a_patience_that_cannot_end_the_training_is_warned_of(
    patience: int, interval: int, caplog: pytest.LogCaptureFixture
) -> None:
    for epochs in range(interval, 14):
        evaluator, engine = Engine(lambda *_: None), Engine(lambda *_: None)
        evaluator.state.key_metric_name = "score"  # type: ignore[attr-defined]
        evaluator.add_event_handler(Events.COMPLETED, lambda engine: engine.state.metrics.update(score=0.5))
        StopEarly(evaluator, patience, interval=interval).attach(engine)  # type: ignore[arg-type]
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=interval), lambda _, own=evaluator: own.run([0]))
        caplog.clear()
        engine.run([0], max_epochs=epochs)
        # Equal figures are not better, so it ends as early as it can.
        warned = [text for text in caplog.messages if text.startswith(f"--early_stopping {patience} has no effect: ")]
        assert len(warned) == (engine.state.epoch == epochs)
        assert all(text.endswith(f"{epochs} epochs with {epochs // interval} validations.") for text in warned)
