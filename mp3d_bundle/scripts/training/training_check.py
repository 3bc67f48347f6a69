"""What a training is about to do, compared with what its settings and its labels say."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ..instances import true_rows
from ..networks.heads.roi_heads import RoIHeads
from ..storage.printable import shown

logger = logging.getLogger(__name__)

# Epochs after a training's end by which all of its milestones lie behind.
_FAR = 1_000_000
# Share of the rate that counts as all of it: a warm-up may end with the epoch before a milestone.
_FULL = 0.99
# Options that give lesions fields: the option, the fields, what a network reads of them, in its words and in ours.
_FIELDS = (
    ("patients", {"male", "age", "position"}, {"patient", "position"}, "sex and age of patients or the position"),
    ("mask_targets", {"recist"}, {"masks"}, "masks of lesions"),
    ("tags", {"tags"}, {"tags"}, "tags of lesions"),
)


class TrainingCheck:
    """Rejects a training without a lesion to learn from, and warns of settings that do not fit its length and data.

    These are a warm-up that ends after the training, milestones that it does not reach, a step that should have more
    images than an epoch has, fields that the network does not read, and a validation split without a lesion.

    Args:
        scheduler: Schedule of the learning rate, stepped once an iteration; its rates are only checked if it is a
            ``LambdaLR``, as in `scripts.training.learning_rate`.
        evaluator: Of the validation.
    """

    def __init__(self, scheduler: Any, evaluator: Any = None) -> None:
        self.scheduler, self.evaluator = scheduler, evaluator

    def attach(self, engine: Engine) -> None:
        """Check the labels, and the settings when ``engine``, a trainer, starts.

        Raises:
            ValueError: If no training image has a lesion, or the schedule does not step by itself.
        """
        _check_schedule(self.scheduler)
        if has_lesions(engine) is False:
            raise ValueError(
                "Expected at least one lesion in the images to train on, got none: the network would learn that there "
                "is nothing to find."
            )
        engine.add_event_handler(Events.STARTED, self.warn)

    def warn(self, engine: Engine) -> None:
        """Log the warnings, in the first process."""
        if idist.get_rank() != 0:
            return
        epochs, length = engine.state.max_epochs or 1, engine.state.epoch_length or 1
        if isinstance(self.scheduler, LambdaLR):
            self._warn_of_rates(epochs, length)
        _warn_of_steps(engine)
        _warn_of_unread_fields(engine)
        if has_lesions(self.evaluator) is False:
            logger.warning(
                "The validation images have no lesion: there is nothing to choose weights by, and model.pt will hold "
                "those of the last epoch."
            )

    def _warn_of_rates(self, epochs: int, length: int) -> None:
        factor, rate = self.scheduler.lr_lambdas[0], self.scheduler.base_lrs[0]
        # Within an epoch the rate rises in the warm-up and is constant otherwise: the last iteration has the highest.
        factors = [factor(epoch * length - 1) for epoch in range(1, epochs + 1)]
        if max(factors) < _FULL:
            logger.warning(
                "The learning rate rises to %g and never to %g: the warm-up does not end before the training of %d "
                "iterations, or before a milestone. Shorten it by --lr_scheduler#warmup_iterations.",
                *(rate * max(factors), rate, epochs * length),
            )
        if factor((epochs + _FAR) * length) < factors[-1]:
            logger.warning(
                "The learning rate falls at a milestone after the %d epochs of this training, which has no effect: set "
                "--milestones.",
                epochs,
            )


def _check_schedule(scheduler: Any) -> None:
    """Reject what cannot be stepped once an iteration, at which no figure of a validation is known."""
    step = getattr(scheduler, "step", None)
    try:
        inspect.signature(step).bind()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        kind = type(scheduler).__name__
        why = f"{kind}, whose step() needs a figure" if callable(step) else f"{shown(scheduler)}, without step()"
        raise ValueError(
            "Expected as lr_scheduler a schedule that is stepped once an iteration, such as OneCycleLR, "
            "CosineAnnealingLR, LambdaLR or MultiStepLR of torch.optim.lr_scheduler (their lengths in iterations), got "
            f"{why}."
        ) from None


def has_lesions(engine: Any) -> bool | None:
    """Whether any image of an engine's loader has a lesion; None if it has no images, or its data set no records."""
    records = getattr(getattr(getattr(engine, "data_loader", None), "dataset", None), "data", None)
    try:
        found = [bool(true_rows(record["instances"]).any()) for record in records or ()]
    except (KeyError, TypeError, AttributeError):
        return None
    return any(found) if found else None


def _warn_of_unread_fields(engine: Any) -> None:
    """Warn of options that make fields of lesions which no part of the network says that it reads."""
    records = getattr(getattr(getattr(engine, "data_loader", None), "dataset", None), "data", None)
    network = getattr(engine, "network", None)
    if not records or not isinstance(network, nn.Module):
        return
    fields, read = set(records[0].get("instances", ())), _fields_read(network)
    for option, own, wanted, what in _FIELDS:
        if own <= fields and not wanted & read:
            logger.warning("--%s has no effect: this network does not read %s.", option, what)


def _fields_read(network: nn.Module) -> set[str]:
    """What the parts of a network say that they read of lesions and patients."""
    probe: Any = [dict.fromkeys(("masks", "tags"))]
    read: set[str] = set()
    for part in network.modules():
        read |= {*getattr(part, "reads", ()), *getattr(part, "patient_facts", ()), *getattr(part, "learnt_facts", ())}
        if isinstance(part, RoIHeads):
            read |= set(part.used(probe))
    return read


def _warn_of_steps(engine: Any) -> None:
    loader: Any = getattr(engine, "data_loader", None)
    batch, sampler = getattr(loader, "batch_size", None), getattr(loader, "sampler", None)
    if batch is None or sampler is None:
        return
    processes = idist.get_world_size()
    wanted = batch * getattr(engine, "accumulation_steps", 1) * processes
    if (images := len(sampler) * processes) < wanted:
        logger.warning(
            "A step has the %d images of an epoch and not %d, as the batch size (times accumulated batches and "
            "processes) says: a learning rate that is scaled to the latter is too high.",
            *(images, wanted),
        )
