"""Checkpoints: where a run is after every epoch and every so many iterations, and its best weights so far."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, EventEnum, Events
from monai.engines import Evaluator
from torch import nn

from ...configuration.running_config import plain_config
from ...configuration.typed_options import current_parser
from ...storage.atomic_files import remove_stale_parts
from ...storage.output_folder import NEEDED_BYTES, FolderLock, check_output_folder
from ...weights import load_state, read_tensors, save_weights, write_atomically
from .checkpoint_checks import check_best_weights, check_checkpoint
from .random_state import RandomState, gather_random_states, get_random_state, restore_random_states
from .sample_order import ResumableSampler, training_data
from .stopping import BeforeCommonBatches, Stopped, StopSignals

logger = logging.getLogger(__name__)

LAST = "last.pt"
BEST = "model.pt"


class CheckpointEvents(EventEnum):
    """Events that a :class:`Checkpointer` fires on the trainer."""

    WRITING = "checkpoint_writing"
    """``last.pt`` is about to be written: what it counts on has to be on the disk."""


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
    """Whether a metric is better than the best so far; anything beats NaN, so that without lesions the last counts."""
    return current > best or math.isnan(best)


class Checkpointer:
    """Saves a training run after every epoch and every so many iterations, and resumes it when it is started again.

    ``last.pt`` holds everything: model, optimiser, schedule, loss scaler, gradients that wait for their step, epoch,
    iteration, best score, settings, and the random state of every process. All processes must attach one; the first of
    them writes, and holds the folder's lock.
    ``model.pt`` holds the weights with the best key metric of the validations so far (of the last epoch in
    a run without validation), in the format of :mod:`scripts.weights`. Both are written under a temporary
    name first. A run resumes with the iteration after its checkpoint, and ends bit for bit where it would have ended
    without the interruption. It resumes with the settings it began with, or not at all: otherwise its record would
    describe weights it did not produce.

    SIGTERM and Ctrl-C end a run after the current iteration, with a checkpoint, and all processes at the same place;
    a validation is left, and done again when the run resumes.

    In a list of handlers it belongs after the learning rate and the validation, and before whatever reads
    the epoch at the start of a run.

    Args:
        directory: Folder of both files.
        objects: What has a state: ``model`` (the bare network), and any of ``optimizer``, ``scheduler``,
            ``scaler``; None where there is none.
        definition: Description of the network, stored with the weights.
        evaluator: Evaluator whose key metric decides; None in a run without validation.
        info: Further plain facts to store with the weights.
        settings: What must be the same when the run resumes, see `run_settings`; so must classes and training data.
        interval: Iterations from one checkpoint within an epoch to the next; 0 or None for none but at the epochs'
            ends. It needs a loader with a :class:`~scripts.training.resuming.sample_order.ResumableSampler`.

    Raises:
        ValueError: If ``interval`` is anything else.
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
        interval: int | None = 0,
    ) -> None:
        if interval is not None and (type(interval) is not int or interval < 0):
            raise ValueError(
                f"Expected checkpoint_interval to be a number of iterations or 0 for none, got {interval!r}."
            )
        self.directory = Path(directory)
        self.network: nn.Module = objects["model"]
        self.objects = {name: item for name, item in objects.items() if item is not None and name != "model"}
        self.definition = dict(definition)
        self.evaluator = evaluator
        self.info = dict(info or {})
        classes = self.info["recipe"].get("classes") if isinstance(self.info.get("recipe"), Mapping) else None
        self.settings = None if settings is None else {**settings, **({"classes": list(classes)} if classes else {})}
        self.interval = interval or 0
        self.lock = FolderLock(directory, "a training")
        self.signals = StopSignals()
        # Epochs whose end, validation included, is behind us; and what the file holds already.
        self._epochs_done, self._iteration_saved = 0, 0
        # Random numbers to continue with: of a resumed run, and of the last iteration of an epoch.
        self._to_restore: list[RandomState] | None = None
        self._at_end: RandomState | None = None

    def attach(self, engine: Engine) -> None:
        """Resume, save and finish with ``engine``, a trainer."""
        engine.register_events(*CheckpointEvents)
        engine.add_event_handler(Events.STARTED, self.resume)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self.save_between)
        engine.add_event_handler(Events.ITERATION_STARTED, self._restore)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note_end)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._leave)
        if self.evaluator is not None:
            BeforeCommonBatches(lambda: self._stop_if_asked(engine)).attach(self.evaluator)

    def resume(self, engine: Engine) -> None:
        """Take the folder, load ``last.pt`` if there is one, and say in one log line where the run begins.

        Raises:
            ValueError: If the file is damaged or belongs to another network, optimiser, number of iterations an
                epoch or other settings, or not every process finds it.
            BlockingIOError: If another training is running in the folder.
            OSError: If the folder cannot be written, or there is too little space for the run's files.
        """
        # After all other handlers: Ignite drops an error that none of its handlers raises again.
        engine.add_event_handler(Events.EXCEPTION_RAISED, _raise_again)
        self.settings = self.settings and {**self.settings, **training_data(getattr(engine, "data_loader", None))}
        self._take_folder()
        self.signals.install()
        path = self.directory / LAST
        self._epochs_done = 0
        if path.is_file():
            self._load(engine, path)
        else:
            logger.info("Starting at epoch 1 of %d: no %s yet.", engine.state.max_epochs, path)
        self._iteration_saved = engine.state.iteration
        # Processes on machines that do not share the folder would silently train on from different weights.
        places: Any = idist.all_gather(engine.state.iteration) if idist.get_world_size() > 1 else [0]
        if len(set(places)) > 1:
            raise ValueError(
                "Expected last.pt of the same iteration in every process, got iterations "
                f"{', '.join(map(str, places))} by process from {path} (0 where there is no file): does every machine "
                "see this folder?"
            )

    def _take_folder(self) -> None:
        failure = None
        if idist.get_rank() == 0:
            try:
                self.lock.acquire(take_over=True)
                self._check_space()
                for part in remove_stale_parts(self.directory):
                    logger.info("Removed %s, which a run that was killed had not finished writing.", part)
            except OSError as error:
                failure = error
        if idist.get_world_size() > 1:
            # The others would wait for the first process for ever.
            told: Any = idist.all_gather("" if failure is None else str(failure)[:1000])
            if failure is None and any(told):
                raise BlockingIOError("".join(told))
        if failure is not None:
            raise failure

    def _check_space(self) -> None:
        """See that the files of a first checkpoint fit, or those of a further one next to the last."""
        tensors = (*self.network.parameters(), *self.network.buffers())
        weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        optimizer = self.objects.get("optimizer")
        # Adam and its kin keep two numbers for each weight, SGD keeps its momentum.
        state = weights * (3 if "betas" in getattr(optimizer, "defaults", {}) else 2)
        wanted = state + sum(
            size for name, size in ((LAST, state), (BEST, weights)) if not (self.directory / name).is_file()
        )
        check_output_folder(self.directory, needed_bytes=wanted + NEEDED_BYTES)

    def _load(self, engine: Engine, path: Path) -> None:
        state = engine.state
        content = read_tensors(path)
        check_checkpoint(
            content, path, objects=self.objects, definition=self.definition, settings=self.settings,
            epoch_length=state.epoch_length,
        )  # fmt: skip
        load_state(self.network, content["model"], str(path))
        for name, item in self.objects.items():
            if content.get(name) is not None:
                item.load_state_dict(content[name])
            else:
                logger.info("The %s starts afresh: %s comes from a run without one.", name, path)
        device = getattr(state, "device", None)
        for name, parameter in self.network.named_parameters():
            if name in content.get("gradients", {}):
                parameter.grad = content["gradients"][name].to(parameter.device)
        self._epochs_done = state.epoch = content["epoch"]
        # Older files were written at the end of an epoch.
        state.iteration = content.get("iteration", content["epoch"] * content["epoch_length"])
        if self.evaluator is not None:
            self.evaluator.state.best_metric = content["best_metric"]
            self.evaluator.state.best_metric_epoch = content["best_metric_epoch"]
            if content["best_metric_epoch"] > 0:
                check_best_weights(self.directory / BEST, content["best_metric_epoch"], path)
        # Older files hold the state of the first process alone.
        states = content["random"] if isinstance(content["random"], list) else [content["random"]]
        within = state.iteration - state.epoch * content["epoch_length"]
        if within:
            self._enter(engine, within, path)
        if 0 < within < content["epoch_length"]:
            # Not yet: the loader draws a number when its pass begins.
            self._to_restore = states
        else:
            restore_random_states(states, device)
        if state.epoch >= (state.max_epochs or 0):
            logger.info("Nothing left to train: %s is at epoch %d of %d.", path, state.epoch, state.max_epochs)
        elif not within:
            logger.info("Resuming from %s at epoch %d of %d.", path, state.epoch + 1, state.max_epochs)

    def _enter(self, engine: Engine, within: int, path: Path) -> None:
        """Go to the iteration after ``within`` of an epoch, or to its validation where no iteration is left."""
        state, length = engine.state, engine.state.epoch_length or 0
        where = (path, state.epoch + 1, state.max_epochs)
        if within == length:
            logger.info("Resuming from %s at the end of epoch %d of %d.", *where)
            # As the last handler of this event: all others have then begun.
            engine.add_event_handler(Events.STARTED, self._end_epoch)
            return
        loader: Any = getattr(engine, "data_loader", None)
        if not isinstance(getattr(loader, "sampler", None), ResumableSampler):
            raise ValueError(
                f"Expected a ResumableSampler in train#sampler: {path} was written within an epoch. Resume with the "
                f"sampler that the run began with, or remove {path} to start afresh."
            )
        loader.sampler.start_at(within * loader.batch_size)
        logger.info("Resuming from %s at epoch %d of %d, iteration %d of %d.", *where, within + 1, length)

    def _end_epoch(self, engine: Engine) -> None:
        engine.remove_event_handler(self._end_epoch, Events.STARTED)
        engine.state.epoch += 1
        self._at_end = get_random_state(getattr(engine.state, "device", None))
        engine.fire_event(Events.EPOCH_COMPLETED)

    def _restore(self, engine: Engine) -> None:
        if self._to_restore is not None:
            restore_random_states(self._to_restore, getattr(engine.state, "device", None))
            self._to_restore = None

    def _note_end(self, engine: Engine) -> None:
        """Keep the random numbers of an epoch's end: a validation that is left draws some."""
        if engine.state.iteration % (engine.state.epoch_length or 1) == 0:
            self._at_end = get_random_state(getattr(engine.state, "device", None))

    def save(self, engine: Engine) -> None:
        """Write ``last.pt``, and ``model.pt`` first if this epoch's validation was the best."""
        state = engine.state
        scored = self.evaluator.state if self.evaluator is not None else None
        if scored is not None and scored.best_metric_epoch == state.epoch and idist.get_rank() == 0:
            self._save_best({scored.key_metric_name: float(scored.best_metric), "epoch": state.epoch})
        self._epochs_done = state.epoch
        self._write(engine, get_random_state(getattr(state, "device", None)))

    def save_between(self, engine: Engine) -> None:
        """Between two iterations: write ``last.pt`` if it is time to, and leave if a signal asks for it.

        Raises:
            Stopped: If a signal asks for it.
        """
        iteration = engine.state.iteration
        if self.interval and iteration % self.interval == 0:
            self._save_within(engine)
        self._stop_if_asked(engine)

    def _save_within(self, engine: Engine) -> None:
        loader: Any = getattr(engine, "data_loader", None)
        if engine.state.iteration == self._iteration_saved:
            return
        if isinstance(getattr(loader, "sampler", None), ResumableSampler):
            self._write(engine, get_random_state(getattr(engine.state, "device", None)))

    def _stop_if_asked(self, engine: Engine) -> None:
        state = engine.state
        if not (number := self.signals.asked()):
            return
        length = state.epoch_length or 1
        if state.iteration == (self._epochs_done + 1) * length and self._at_end is not None:
            # In a validation: neither weights nor optimiser have changed since the last iteration.
            if state.iteration != self._iteration_saved:
                self._write(engine, self._at_end)
            place = f"the end of epoch {self._epochs_done + 1}"
        else:
            self._save_within(engine)
            done = divmod(self._iteration_saved, length)
            place = f"epoch {done[0] + 1}, iteration {done[1] + 1} of {length}"
        stopped = Stopped(number)
        logger.info("Training %s. The same command resumes in %s at %s.", stopped, self.directory, place)
        raise stopped

    def _write(self, engine: Engine, own_random: RandomState) -> None:
        """Write ``last.pt``; all processes must call this."""
        state = engine.state
        states = gather_random_states(own_random)
        self._iteration_saved = state.iteration
        if idist.get_rank() != 0:
            return
        scored = self.evaluator.state if self.evaluator is not None else None
        content = {
            "model": self.network.state_dict(),
            **{name: item.state_dict() for name, item in self.objects.items()},
            "kinds": {name: type(item).__qualname__ for name, item in self.objects.items()},
            "definition": self.definition,
            "info": self.info,
            "settings": self.settings,
            "epoch": self._epochs_done,
            "iteration": state.iteration,
            "epoch_length": state.epoch_length,
            "best_metric": float(scored.best_metric) if scored is not None else -1.0,
            "best_metric_epoch": scored.best_metric_epoch if scored is not None else -1,
            "gradients": self._waiting_gradients(engine),
            "random": states,
        }
        engine.fire_event(CheckpointEvents.WRITING)
        write_atomically(content, self.directory / LAST)

    def _waiting_gradients(self, engine: Engine) -> dict[str, Any]:
        """Gradients of iterations whose optimiser step is still to come."""
        within = engine.state.iteration - self._epochs_done * (engine.state.epoch_length or 1)
        if within % getattr(engine, "accumulation_steps", 1) == 0 or within == engine.state.epoch_length:
            return {}
        return {name: item.grad for name, item in self.network.named_parameters() if item.grad is not None}

    def finish(self, engine: Engine) -> None:
        """Write ``model.pt`` at the end of a run that was never validated, and say where the weights are."""
        self.signals.restore()
        if idist.get_rank() != 0:
            return
        if self.evaluator is None or self.evaluator.state.best_metric_epoch == -1:
            self._save_best({"epoch": engine.state.epoch})
            logger.info("Training done without a validation: final weights in %s.", self.directory / BEST)
        else:
            best = self.evaluator.state
            logger.info(
                "Training done: best %s %.4f at epoch %d, weights in %s.",
                *(best.key_metric_name, best.best_metric, best.best_metric_epoch, self.directory / BEST),
            )
        self.lock.release()

    def _leave(self, engine: Engine, error: BaseException) -> None:
        self.signals.restore()
        self.lock.release()

    def _save_best(self, facts: Mapping[str, Any]) -> None:
        save_weights(self.directory / BEST, self.network, self.definition, {**self.info, **facts})


def _raise_again(engine: Engine, error: BaseException) -> None:
    raise error
