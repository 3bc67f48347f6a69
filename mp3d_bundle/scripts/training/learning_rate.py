"""Learning rate: linear scaling with the batch, warm-up and steps."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import ignite.distributed as idist
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

logger = logging.getLogger(__name__)


def scale_learning_rate(
    rate: float, reference_batch: int, *, batch_size: int, accumulation_steps: int = 1, world_size: int | None = None
) -> float:
    """Scale a learning rate linearly to the real batch (logged).

    Args:
        rate: Learning rate that suits ``reference_batch`` (0.02 for 16 images in the released code).
        reference_batch: Images in a batch for which ``rate`` is meant.
        batch_size: Images that one process takes at once.
        accumulation_steps: Batches whose gradients are added before a step.
        world_size: Number of processes; by default that of the running job.

    Returns:
        The learning rate for ``batch_size * accumulation_steps * world_size`` images a step.

    Raises:
        ValueError: If a count is below one.
    """
    processes = idist.get_world_size() if world_size is None else world_size
    counts = {
        "reference_batch": reference_batch,
        "batch_size": batch_size,
        "accumulation_steps": accumulation_steps,
        "world_size": processes,
    }
    for name, count in counts.items():
        # A loader with batches of its own making has no batch size.
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"Expected {name} to be at least 1, got {count}.")
    total = batch_size * accumulation_steps * processes
    scaled = rate * total / reference_batch
    logger.info(
        "Learning rate %g: %g for a batch of %d, scaled to %d images a step (%d x %d accumulated x %d processes).",
        *(scaled, rate, reference_batch, total, batch_size, accumulation_steps, processes),
    )
    return scaled


def warmup_step_factor(
    *,
    epoch_length: int,
    milestones: Sequence[int],
    gamma: float = 0.1,
    warmup_iterations: int = 500,
    warmup_start: float = 1 / 3,
) -> Callable[[int], float]:
    """Factor on the base learning rate as a function of the iteration (0-based).

    The warm-up multiplies the stepped rate, so it may span epochs (released code).

    Args:
        epoch_length: Iterations in an epoch.
        milestones: Epochs (0-based) from whose first iteration on the rate is multiplied by ``gamma``:
            (16, 22) for the paper's 24 epochs.
        gamma: Factor at each milestone, 0 or more.
        warmup_iterations: Iterations until the full rate is reached; 0 for none.
        warmup_start: Factor at iteration 0, 0 to 1.

    Raises:
        ValueError: If ``epoch_length`` is below one, or another number out of its range.
    """
    if epoch_length < 1:
        raise ValueError(f"Expected at least one iteration an epoch, got {epoch_length}.")
    numbers = {"warmup_iterations": warmup_iterations, "gamma": gamma, "warmup_start": warmup_start}
    for name, number in numbers.items():
        if not 0 <= number < math.inf:
            raise ValueError(f"Expected {name} of at least 0, got {number}.")
    if warmup_start > 1:
        raise ValueError(f"Expected a warm-up that rises to 1, got warmup_start {warmup_start}.")
    steps = sorted(milestones)

    def factor(iteration: int) -> float:
        epoch = iteration // epoch_length
        stepped = gamma ** sum(epoch >= step for step in steps)
        if iteration >= warmup_iterations:
            return stepped
        missing = (1 - iteration / warmup_iterations) * (1 - warmup_start)
        return stepped * (1 - missing)

    return factor


def warmup_step_schedule(
    optimizer: Optimizer,
    epoch_length: int,
    *,
    milestones: Sequence[int] = (16, 22),
    gamma: float = 0.1,
    warmup_iterations: int = 500,
    warmup_start: float = 1 / 3,
) -> LambdaLR:
    """The paper's schedule, stepped once an iteration: linear warm-up, then ``gamma`` at each milestone.

    See :func:`warmup_step_factor` for the arguments. The function passed to ``LambdaLR`` is a closure on
    purpose: objects would be written into checkpoints and would bring an old epoch length back.
    """
    factor = warmup_step_factor(
        epoch_length=epoch_length,
        milestones=milestones,
        gamma=gamma,
        warmup_iterations=warmup_iterations,
        warmup_start=warmup_start,
    )
    return LambdaLR(optimizer, factor)
