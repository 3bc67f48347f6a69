"""Checkpoints: where a run stands after every epoch, and its best weights so far."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch import nn

from ..weights import load_state, read_tensors, save_weights, write_atomically
from .config import current_parser, plain_config
from .random_state import gather_random_states, restore_random_states
from .settings import differences

logger = logging.getLogger(__name__)

LAST = "last.pt"
BEST = "model.pt"


def network_definition(key: str = "network_def") -> dict[str, Any]:
    """The running config's description of the network, with every reference resolved.

    Raises:
        ValueError: If this is not called from a config, or the description holds anything but plain data.
    """
    parser = current_parser()
    if parser is None:
        raise ValueError("Expected to be called from a config.")
    return plain_config(parser, key)


def improves(current: float, best: float) -> bool:
    """Whether a metric is better than the best so far; a number always beats NaN (no lesion to find)."""
    return current > best or (math.isnan(best) and not math.isnan(current))


class Checkpointer:
    """Saves a training run after every epoch and goes on with it when it is started again.

    ``last.pt`` holds everything: model, optimiser, schedule, loss scaler, epoch, best score, settings, and the random
    state of every process. All processes must attach one; the first of them writes.
    ``model.pt`` holds the weights with the best key metric of the validations so far (of the last epoch in
    a run without validation), in the format of :mod:`scripts.weights`. Both are written under a temporary
    name first. A run that is stopped within an epoch goes on from the start of that epoch. It goes on with the
    settings it began with, or not at all: its record would else tell of weights that it did not make.

    In a list of handlers it belongs after the learning rate and the validation, and before whatever reads
    the epoch at the start of a run.

    Args:
        directory: Folder of both files.
        objects: What has a state: ``model`` (the bare network), and any of ``optimizer``, ``scheduler``,
            ``scaler``; None where there is none.
        definition: Description of the network, stored with the weights.
        evaluator: Evaluator whose key metric decides; None in a run without validation.
        info: Further plain facts to store with the weights.
        settings: What must be the same when the run goes on, see `scripts.engines.run_settings`; None for no check.
    """

    def __init__(
        self,
        directory: str | Path,
        objects: Mapping[str, Any],
        *,
        definition: Mapping[str, Any],
        evaluator: Evaluator | None = None,
        info: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.network: nn.Module = objects["model"]
        self.objects = {name: item for name, item in objects.items() if item is not None and name != "model"}
        self.definition = dict(definition)
        self.evaluator = evaluator
        self.info = dict(info or {})
        self.settings = None if settings is None else dict(settings)

    def attach(self, engine: Engine) -> None:
        """Resume, save and finish with ``engine``, a trainer."""
        engine.add_event_handler(Events.STARTED, self.resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def resume(self, engine: Engine) -> None:
        """Load ``last.pt`` if there is one, and say in one log line where the run begins.

        Raises:
            ValueError: If the file is damaged or belongs to another network, optimiser, number of iterations an
                epoch or other settings, or not every process finds it.
        """
        path = self.directory / LAST
        if path.is_file():
            self._load(engine, path)
        else:
            logger.info("Starting at epoch 1 of %d: no %s yet.", engine.state.max_epochs, path)
        # Processes on machines that do not share the folder would train on from different weights without a word.
        epochs: Any = idist.all_gather(engine.state.epoch) if idist.get_world_size() > 1 else [engine.state.epoch]
        if len(set(epochs)) > 1:
            raise ValueError(
                f"Expected last.pt of the same epoch in every process, got epochs {', '.join(map(str, epochs))} by "
                f"process from {path} (0 where there is no file): does every machine see this folder?"
            )

    def _load(self, engine: Engine, path: Path) -> None:
        state = engine.state
        content = read_tensors(path)
        self._check(content, path, epoch_length=state.epoch_length)
        load_state(self.network, content["model"], str(path))
        for name, item in self.objects.items():
            if content.get(name) is not None:
                item.load_state_dict(content[name])
            else:
                logger.info("The %s starts afresh: %s comes from a run without one.", name, path)
        state.epoch, state.iteration = content["epoch"], content["epoch"] * content["epoch_length"]
        if self.evaluator is not None:
            self.evaluator.state.best_metric = content["best_metric"]
            self.evaluator.state.best_metric_epoch = content["best_metric_epoch"]
        # Older files hold the state of the first process alone.
        states = content["random"] if isinstance(content["random"], list) else [content["random"]]
        restore_random_states(states, getattr(state, "device", None))
        if state.epoch >= (state.max_epochs or 0):
            logger.info("Nothing left to train: %s is at epoch %d of %d.", path, state.epoch, state.max_epochs)
        else:
            logger.info("Resuming from %s at epoch %d of %d.", path, state.epoch + 1, state.max_epochs)

    def _check(self, content: Any, path: Path, *, epoch_length: int | None) -> None:
        content = content if isinstance(content, dict) else {}
        # A run in float32, as on a CPU, has no loss scaler; one on a GPU goes on from it with a new one.
        objects = {name: item for name, item in self.objects.items() if name != "scaler" or name in content}
        needed = {"model", "random", "epoch", "epoch_length", "kinds", "definition", *objects}
        missing = sorted(needed - set(content))
        advice = f"Use another --output_dir (or --ckpt_dir), or remove {path} to start afresh."
        if missing:
            raise ValueError(f"Expected a checkpoint of a training run, got no {missing[0]} in {path}. {advice}")
        if content["definition"] != self.definition:
            raise ValueError(
                f"Expected a checkpoint of the network {self.definition}, got one of {content['definition']} "
                f"in {path}. {advice}"
            )
        kinds = {name: type(item).__qualname__ for name, item in objects.items()}
        stored = {name: kind for name, kind in content["kinds"].items() if name in kinds}
        if kinds != stored:
            raise ValueError(f"Expected a checkpoint of a run with {kinds}, got {stored} in {path}. {advice}")
        # Files of before settings were kept have none.
        known = self.settings is not None and content.get("settings") is not None
        if known and (other := differences(content["settings"], self.settings or {}, content["epoch"])):
            raise ValueError(f"Expected the settings of the run that left {path}, got {other}. {advice}")
        if content["epoch_length"] != epoch_length:
            raise ValueError(
                f"Expected a checkpoint of a run with {epoch_length} iterations an epoch, got "
                f"{content['epoch_length']} in {path}: data set or batch size differ. {advice}"
            )

    def save(self, engine: Engine) -> None:
        """Write ``last.pt``, and ``model.pt`` first if this epoch's validation was the best."""
        state = engine.state
        states = gather_random_states(getattr(state, "device", None))
        if idist.get_rank() != 0:
            return
        scored = self.evaluator.state if self.evaluator is not None else None
        if scored is not None and scored.best_metric_epoch == state.epoch:
            self._save_best({scored.key_metric_name: float(scored.best_metric), "epoch": state.epoch})
        content = {
            "model": self.network.state_dict(),
            **{name: item.state_dict() for name, item in self.objects.items()},
            "kinds": {name: type(item).__qualname__ for name, item in self.objects.items()},
            "definition": self.definition,
            "settings": self.settings,
            "epoch": state.epoch,
            "epoch_length": state.epoch_length,
            "best_metric": float(scored.best_metric) if scored is not None else -1.0,
            "best_metric_epoch": scored.best_metric_epoch if scored is not None else -1,
            "random": states,
        }
        write_atomically(content, self.directory / LAST)

    def finish(self, engine: Engine) -> None:
        """Write ``model.pt`` at the end of a run that was never validated, and say where the weights are."""
        if idist.get_rank() != 0:
            return
        if self.evaluator is None or self.evaluator.state.best_metric_epoch == -1:
            self._save_best({"epoch": engine.state.epoch})
            logger.info("Training done without a validation: final weights in %s.", self.directory / BEST)
            return
        best = self.evaluator.state
        logger.info(
            "Training done: best %s %.4f at epoch %d, weights in %s.",
            *(best.key_metric_name, best.best_metric, best.best_metric_epoch, self.directory / BEST),
        )

    def _save_best(self, facts: Mapping[str, Any]) -> None:
        save_weights(self.directory / BEST, self.network, self.definition, {**self.info, **facts})
