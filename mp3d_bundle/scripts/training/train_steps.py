"""One iteration of training and of evaluation, passed to MONAI's engines as ``iteration_update``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents

from ..data.records import Sample
from ..data.transforms import SampleDataset
from ..freed_memory import keep_freed_memory
from ..instances import Instances, to
from ..networks import Patient
from ..networks.batching import padded_size
from ..networks.whole_batch import Part, common_size, passing, processes, statistics_kept, sum_over_processes
from .mixed_precision import MixedPrecision

Batch = Sequence[Sample]


def _slabs(samples: Batch, device: torch.device | str | None, non_blocking: bool) -> list[torch.Tensor]:
    images: list[Any] = [sample["image"] for sample in samples]
    plain = [image.as_tensor() if hasattr(image, "as_tensor") else torch.as_tensor(image) for image in images]
    return [image.to(device, non_blocking=non_blocking) for image in plain]


def prepare_slabs(
    samples: Batch, device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[list[torch.Tensor], None]:
    """What an evaluation step passes to the network: the slabs alone.

    Args:
        samples: Samples with ``image`` of shape (D, H, W).
        device: Device to copy to.
        non_blocking: Whether copies may overlap with computation.
        kwargs: Unused; MONAI's engines pass their ``to_kwargs``.

    Returns:
        The slabs, and None in place of targets.
    """
    return _slabs(samples, device, non_blocking), None


def prepare_targets(
    samples: Batch, device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[list[torch.Tensor], list[Instances[torch.Tensor]], tuple[list[Instances[torch.Tensor]]], dict]:
    """What a training step passes to the network: slabs and their instances, every field of them.

    Args:
        samples: Samples with ``image`` (D, H, W) and ``instances``, whose ``boxes`` (N, 4) are in pixels of it.
        device: Device to copy to.
        non_blocking: Whether copies may overlap with computation.
        kwargs: Unused; MONAI's engines pass their ``to_kwargs``.

    Returns:
        Slabs, targets (``boxes`` float32, ``labels`` int64, further fields as they are), and the targets once more as
        the positional arguments of the network, with no keyword arguments.
    """
    slabs, targets = _slabs(samples, device, non_blocking), []
    for sample in samples:
        instances = to(sample["instances"], device)
        boxes, labels = instances["boxes"].float().reshape(-1, 4), instances["labels"].long()
        targets.append({**instances, "boxes": boxes, "labels": labels})
    return slabs, targets, (targets,), {}


def finished(loader: Any, samples: Batch, device: torch.device | str | None, non_blocking: bool) -> Batch:
    """The samples, on the device what a deferring data set left to do there; see `SampleDataset`.

    Args:
        loader: Where the samples come from.
        samples: Of its data set.
        device: Device of the network.
        non_blocking: Whether copies may overlap with computation.
    """
    dataset = getattr(loader, "dataset", None)
    if not isinstance(dataset, SampleDataset):
        return samples
    return [dataset.finish(sample, device, non_blocking=non_blocking) for sample in samples]


def slab_facts(network: Any, samples: Batch) -> dict[str, list[Any]]:
    """What a network wants to know of its slabs, as keyword arguments, where the samples have it.

    These are ``thickness`` in mm, for one that says ``reads_thickness``, and the `Patient` as ``patients``, for one
    that says ``reads_patients``.

    Args:
        network: On one device or several.
        samples: What the slabs were made of.
    """
    network, facts = getattr(network, "module", network), {}
    if getattr(network, "reads_thickness", False) and "thickness" in samples[0]:
        facts["thickness"] = [float(sample.get("thickness", 0)) for sample in samples]
    if getattr(network, "reads_patients", False) and "age" in samples[0].get("instances", {}):
        facts["patients"] = [Patient.of(sample["instances"]) for sample in samples]
    return facts


def total_loss(losses: dict[str, torch.Tensor], targets: Any = None) -> torch.Tensor:
    """Sum of the network's named losses, each with weight 1 (released code).

    Args:
        losses: Named scalar losses.
        targets: Unused; MONAI's trainer passes them.
    """
    return torch.stack([loss.float() for loss in losses.values()]).sum()


class TrainingStep:
    """Forward, backward, gradient clipping and optimiser step of one batch.

    It differs from MONAI's own iteration in four ways: mixed precision on any device, clipping of the
    gradient's L2 norm over all parameters (35 in the released code) after the loss scale has been taken
    out, an output of plain detached numbers instead of a graph kept alive until the next batch, and losses that
    depend on the batch of all processes alone (see `scripts.networks.whole_batch`).

    The output holds ``loss``, every named loss, ``learning_rate`` (the one used), and, where the
    optimiser takes a step, ``gradient_norm`` (before clipping). The losses are those of all processes.

    Args:
        precision: Arithmetic of the forward pass.
        images_per_pass: Images that pass through the network at once; None for the whole batch. The result is the same
            but for rounding; it saves memory, and costs one more pass without gradients, which counts the boxes that
            the losses are divided by. Layers of batch normalisation see a pass alone.
        max_gradient_norm: Largest L2 norm of the gradient; None for no clipping.
        max_gradient_value: Largest value of an element of the gradient (3DCE has 5); None for any.
    """

    def __init__(
        self,
        precision: MixedPrecision,
        *,
        max_gradient_norm: float | None = 35.0,
        max_gradient_value: float | None = None,
        images_per_pass: int | None = None,
    ) -> None:
        if precision.device.type == "cpu":
            keep_freed_memory()
        self.precision = precision
        self.images_per_pass = images_per_pass
        self.max_gradient_value = max_gradient_value
        self.max_gradient_norm = float("inf") if max_gradient_norm is None else float(max_gradient_norm)

    def __call__(self, engine: SupervisedTrainer, samples: Batch) -> dict[str, Any]:
        """Run one iteration; see the class."""
        samples = finished(engine.data_loader, samples, engine.state.device, engine.non_blocking)
        first, last = self._window(engine)
        engine.network.train()
        if first:
            engine.optimizer.zero_grad(set_to_none=True)
        size = self.images_per_pass or len(samples)
        passes = [samples[start : start + size] for start in range(0, len(samples), size)]
        parts = [Part(_seeds(samples))] if len(passes) == 1 else self._count(engine, passes)
        *early, final = zip(passes, parts, strict=True)
        outputs: list[dict[str, torch.Tensor]] = []
        for part in early:
            # The gradients of all parts are added before the processes share them.
            with getattr(engine.network, "no_sync", nullcontext)():
                losses = self._forward(engine, *part)
                outputs.append({name: value.detach() for name, value in losses.items()})
                self._add_gradients(engine, losses["loss"] / len(passes))
        losses = self._forward(engine, *final)
        outputs.append({name: value.detach() for name, value in losses.items()})
        told = {name: torch.stack([output[name] for output in outputs]).mean(0) for name in losses}
        engine.state.output = {**told, "learning_rate": engine.optimizer.param_groups[0]["lr"]}
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        self._add_gradients(engine, losses["loss"] / len(passes))
        self._step(engine, step=last)
        engine.state.output |= _over_processes(told)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def _forward(self, engine: SupervisedTrainer, samples: Batch, part: Part) -> dict[str, torch.Tensor]:
        """The ``loss``, and every named loss."""
        slabs, targets, args, kwargs = engine.prepare_batch(samples, engine.state.device, engine.non_blocking)
        with self.precision.autocast(), passing(part):
            facts = slab_facts(engine.network, samples)
            losses: Any = engine.inferer(slabs, engine.network, *args, **kwargs, **facts)
            return {"loss": engine.loss_function(losses, targets), **losses}

    def _count(self, engine: SupervisedTrainer, passes: Sequence[Batch]) -> list[Part]:
        """What each pass has to know of the whole batch, from a pass without gradients."""
        sizes = [padded_size(torch.as_tensor(sample["image"])) for batch in passes for sample in batch]
        like = next(engine.network.parameters())
        size = common_size((max(height for height, _ in sizes), max(width for _, width in sizes)), like)
        counts: list[list[float]] = []
        with torch.no_grad(), statistics_kept(engine.network):
            for batch in passes:
                part = Part.to_count(_seeds(batch), size)
                self._forward(engine, batch, part)
                counts.append(part.noted)
        totals = sum_over_processes([sum(numbers) for numbers in zip(*counts, strict=True)], like).tolist()
        shares = len(passes) * processes()
        return [Part(_seeds(batch), size=size, totals=totals, shares=shares) for batch in passes]

    def _window(self, engine: SupervisedTrainer) -> tuple[bool, bool]:
        """Whether this iteration is the first and the last of those whose gradients are added."""
        index = (engine.state.iteration - 1) % engine.state.epoch_length
        last_of_epoch = index + 1 == engine.state.epoch_length
        first = index % engine.accumulation_steps == 0
        return first, last_of_epoch or (index + 1) % engine.accumulation_steps == 0

    def _add_gradients(self, engine: SupervisedTrainer, loss: torch.Tensor) -> None:
        scaler, loss = self.precision.scaler, loss / engine.accumulation_steps
        (loss if scaler is None else scaler.scale(loss)).backward()

    def _step(self, engine: SupervisedTrainer, *, step: bool) -> None:
        scaler = self.precision.scaler
        if not step:
            engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
            return
        if scaler is not None:
            scaler.unscale_(engine.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(engine.network.parameters(), self.max_gradient_norm)
        if self.max_gradient_value is not None:
            torch.nn.utils.clip_grad_value_(engine.network.parameters(), self.max_gradient_value)
        engine.state.output["gradient_norm"] = norm.detach()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if scaler is None:
            engine.optimizer.step()
        else:
            scaler.step(engine.optimizer)
            scaler.update()


def _seeds(samples: Batch) -> list[int] | None:
    """Seeds of the random choice of boxes; None where samples have none."""
    seeds = [sample["seed"] for sample in samples if "seed" in sample]
    return seeds if len(seeds) == len(samples) else None


def _over_processes(losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Mean of each loss over the processes, which is that of the batch of all of them."""
    if processes() == 1:
        return losses
    values = torch.stack([loss.double() for loss in losses.values()])
    torch.distributed.all_reduce(values)
    return dict(zip(losses, values / processes(), strict=True))


class EvaluationStep:
    """Detections of one batch, as a list with one ``{"pred": {boxes, scores, labels}}`` per image.

    Args:
        precision: Arithmetic of the forward pass.
    """

    def __init__(self, precision: MixedPrecision) -> None:
        self.precision = precision

    def __call__(self, engine: SupervisedEvaluator, samples: Batch) -> list[dict[str, Any]]:
        """Run one iteration; see the class."""
        slabs, _ = engine.prepare_batch(samples, engine.state.device, engine.non_blocking)
        with engine.mode(engine.network), self.precision.autocast():
            detections: Any = engine.inferer(slabs, engine.network, **slab_facts(engine.network, samples))
        engine.state.output = [{"pred": {key: _plain(value) for key, value in found.items()}} for found in detections]
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output


def _plain(values: torch.Tensor) -> torch.Tensor:
    """On the CPU, and never of a reduced type: NumPy has no bfloat16."""
    return values.float().cpu() if values.is_floating_point() else values.cpu()
