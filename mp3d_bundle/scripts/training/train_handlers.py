"""Handlers that MONAI and Ignite lack: guard against NaN, throughput, progress, epoch seeds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Timer
from monai.engines.utils import IterationEvents
from torch import nn
from tqdm import tqdm

from ..data.transforms import SampleDataset
from .mixed_precision import MixedPrecision


class StopOnNonFinite:
    """Stops a training run before a loss or gradient that is not finite reaches the weights.

    With float16 a gradient may overflow now and then: the scaler skips that step by design, so there only
    the loss is watched.

    Args:
        precision: Arithmetic of the run.
    """

    def __init__(self, precision: MixedPrecision) -> None:
        self.watch_gradient = precision.scaler is None

    def attach(self, engine: Engine) -> None:
        """Watch ``engine``, a trainer."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self.check_loss)
        if self.watch_gradient:
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self.check_gradient)

    def check_loss(self, engine: Engine) -> None:
        """Raise FloatingPointError if the loss of this iteration is not finite."""
        self._check(engine, "loss")

    def check_gradient(self, engine: Engine) -> None:
        """Raise FloatingPointError if the gradient norm of this iteration is not finite."""
        self._check(engine, "gradient_norm")

    def _check(self, engine: Engine, name: str) -> None:
        output: dict[str, Any] = engine.state.output  # pyright: ignore[reportAssignmentType]
        value = output.get(name)
        if value is None or bool(torch.isfinite(torch.as_tensor(value))):
            return
        losses = ", ".join(f"{key} {float(part):g}" for key, part in output.items() if key.startswith("loss"))
        images = ", ".join(str(sample["record"]["file_name"]) for sample in engine.state.batch)  # pyright: ignore
        raise FloatingPointError(
            f"Expected a finite {name}, got {float(value):g} at iteration {engine.state.iteration} (epoch "
            f"{engine.state.epoch}) with images {images} ({losses}); the last checkpoint is as it was."
        )


class Throughput:
    """Writes ``images_per_second`` of all processes, loading included, into the output of each iteration."""

    def __init__(self) -> None:
        self._timer = Timer()

    def attach(self, engine: Engine) -> None:
        """Measure ``engine``, a trainer; attach before the handlers that report."""
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._timer.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.record)

    def record(self, engine: Engine) -> None:
        """Add the figure to the engine's output."""
        images = len(engine.state.batch) * idist.get_world_size()  # pyright: ignore[reportArgumentType]
        engine.state.output["images_per_second"] = images / max(self._timer.value(), 1e-9)  # pyright: ignore


class SeedEpoch:
    """Tells a data set which epoch begins, so that its random numbers follow from (seed, epoch, index).

    Args:
        dataset: Data set of the engine's loader.
    """

    def __init__(self, dataset: SampleDataset) -> None:
        self.dataset = dataset

    def attach(self, engine: Engine) -> None:
        """Follow ``engine``."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda: self.dataset.set_epoch(engine.state.epoch))


class ShareBuffers:
    """Gives all processes the statistics of batch normalisation of the first one, whose weights are stored.

    Args:
        network: The bare network.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Act when ``engine``, an evaluator, starts."""
        engine.add_event_handler(Events.STARTED, self.share)

    def share(self) -> None:
        """Send them; every process must call this."""
        for buffer in self.network.buffers() if idist.get_world_size() > 1 else ():
            torch.distributed.broadcast(buffer, 0)


class ProgressBar:
    """One progress bar over a whole run, with the epoch, the loss and the time left.

    Args:
        description: Label of the bar.
    """

    def __init__(self, description: str = "train") -> None:
        self.description = description
        self._bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        """Show the progress of ``engine``; attach after the handler that resumes it."""
        engine.add_event_handler(Events.STARTED, self.open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.advance)
        engine.add_event_handler(Events.COMPLETED, self.close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.abandon)

    def open(self, engine: Engine) -> None:
        """Begin the bar at the engine's iteration, so that the time left counts this run's pace alone."""
        state = engine.state
        total = (state.max_epochs or 1) * (state.epoch_length or 0)
        # In a log file a line every half minute is enough.
        quiet = 0.5 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(desc=self.description, initial=state.iteration, total=total, mininterval=quiet, unit="batch")

    def advance(self, engine: Engine) -> None:
        """Move on by one batch."""
        if self._bar is None:
            return
        output = engine.state.output
        if isinstance(output, dict) and "loss" in output:
            shown = f"epoch {engine.state.epoch}/{engine.state.max_epochs}, loss {float(output['loss']):.3f}"
            self._bar.set_postfix_str(shown, refresh=False)
        self._bar.update()

    def close(self, engine: Engine) -> None:
        """Leave the finished bar on the screen."""
        if self._bar is not None:
            self._bar.close()

    def abandon(self, engine: Engine, error: Exception) -> None:
        """Leave the bar where it is; Ignite drops an error that its handler does not raise again."""
        self.close(engine)
        raise error


def scalars(prefix: str = "") -> Callable[[dict[str, Any]], dict[str, float]]:
    """Function that picks the numbers out of a training step's output, for MONAI's statistics handlers.

    Args:
        prefix: Put before each name, for example "train/".
    """

    def pick(output: dict[str, Any]) -> dict[str, float]:
        return {f"{prefix}{name}": float(value) for name, value in output.items()}

    return pick
