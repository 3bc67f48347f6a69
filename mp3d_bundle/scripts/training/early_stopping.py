"""The end of a training that no longer gets better: Ignite's handler, whose count survives an interruption."""

from __future__ import annotations

import logging
import math
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from monai.engines import Evaluator

from .training_check import has_lesions

logger = logging.getLogger(__name__)


class StopEarly:
    """Ends a training after so many validations in a row without a better key metric.

    It should be among the objects of the checkpointer: then a run that was interrupted continues to count, and one that
    ended early does not begin again.

    Args:
        evaluator: Evaluator whose key metric decides.
        patience: Validations without a better one.
        interval: Epochs from one validation to the next.
    """

    def __init__(self, evaluator: Evaluator, patience: int, *, interval: int = 1) -> None:
        self.evaluator, self.patience, self.interval = evaluator, patience, interval
        self._handler: EarlyStopping | None = None

    def attach(self, engine: Engine) -> None:
        """Watch ``engine``, a trainer, and warn when it starts if it is too short to end early.

        Raises:
            ValueError: If it will have no validation, or one without a lesion to find.
        """
        if engine.state.max_epochs is not None and engine.state.max_epochs < self.interval:
            raise ValueError(
                f"Expected validations for early_stopping, got a training without any, of {engine.state.max_epochs} "
                f"epochs with one validation every {self.interval}: set val_interval and max_epochs accordingly, "
                "leave the option out, or give the data set patients for validation."
            )
        if has_lesions(self.evaluator) is False:
            raise ValueError(
                "Expected lesions in the validation images for early_stopping, got none: leave the option out, or give "
                "the data set validation images with lesions."
            )
        engine.add_event_handler(Events.STARTED, self._warn)
        self._handler = EarlyStopping(self.patience, self._score, engine)
        self.evaluator.add_event_handler(Events.COMPLETED, self._count)

    def _warn(self, engine: Engine) -> None:
        # The first validation is the best one so far, and none after it may be better.
        earliest, epochs = (self.patience + 1) * self.interval, engine.state.max_epochs or 1
        if earliest >= epochs and idist.get_rank() == 0:
            logger.warning(
                "--early_stopping %d has no effect: it ends a training after epoch %d at the earliest, and this one "
                "has %d epochs with %d validations.",
                *(self.patience, earliest, epochs, epochs // self.interval),
            )

    def _score(self, engine: Engine) -> float:
        value = float(engine.state.metrics[self.evaluator.state.key_metric_name])
        return value if math.isfinite(value) else -math.inf

    def _count(self, engine: Engine) -> None:
        handler: Any = self._handler
        handler(engine)
        if handler.counter >= self.patience:
            logger.info("No better validation %d times in a row: the training ends early.", handler.counter)

    def state_dict(self) -> dict[str, Any]:
        """The count and the best score."""
        handler: Any = self._handler
        return dict(handler.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a count and a best score; a run that ended early stays ended."""
        handler: Any = self._handler
        handler.load_state_dict(state)
        if handler.counter >= self.patience:
            logger.info("Nothing left to train: this training ended early.")
            handler.trainer.terminate()
