"""What a pass through a network has to know of the whole batch, of which it may see only a part.

A batch is spread over processes, or divided into parts that pass one after the other to save memory. The losses are
those of one pass through all of it if three things are: the size that slabs are padded to (group normalisation sees the
padding too), the numbers of boxes that the losses are divided by, and the random choice of boxes in each slab.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Part:
    """What is known of the slabs of one pass.

    Args:
        seeds: A seed for each slab, of the random choice of its boxes; None for torch's global generator.
        size: Height and width that slabs are padded to; by default as large as the largest of all processes.
        totals: Numbers of boxes of the whole batch, over all processes and parts, in the order of `mean_count`'s calls.
            None for those of this pass, over all processes.
        shares: Parts of the whole batch, over all processes and passes, that ``totals`` are of.

    Attributes:
        noted: Where ``totals`` have to be found, the numbers of this pass alone, in the order of the calls.
    """

    def __init__(
        self,
        seeds: Sequence[int] | None = None,
        *,
        size: tuple[int, int] | None = None,
        totals: Sequence[float] | None = None,
        shares: int = 1,
    ) -> None:
        self.seeds = seeds
        self.size = size
        self.totals = totals
        self.shares = shares
        self.noted: list[float] = []
        self.asked = 0
        self.counts_alone = False
        self._generators: dict[int, torch.Generator] = {}

    @classmethod
    def to_count(cls, seeds: Sequence[int] | None, size: tuple[int, int]) -> Part:
        """A pass whose losses are thrown away: it gives ``noted``, and waits for no other process."""
        part = cls(seeds, size=size)
        part.counts_alone = True
        return part

    def generator(self, row: int, device: torch.device) -> torch.Generator | None:
        """The generator of a slab, the same one for all choices of a pass."""
        if self.seeds is None:
            return None
        if row not in self._generators:
            self._generators[row] = torch.Generator(device).manual_seed(self.seeds[row])
        return self._generators[row]


_current: ContextVar[Part | None] = ContextVar("part of a batch", default=None)


@contextmanager
def passing(part: Part) -> Iterator[Part]:
    """Let the networks that run inside know of which part their slabs are."""
    token = _current.set(part)
    try:
        yield part
    finally:
        _current.reset(token)


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Let batch normalisation normalise as in training, without a change of its running statistics.

    For a pass that repeats another one, or that another one repeats: each batch should be counted once.
    """
    layers: list[Any] = [layer for layer in network.modules() if getattr(layer, "track_running_stats", False)]
    held = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, (momentum, count) in zip(layers, held, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, count


def processes() -> int:
    """Number of processes that share the work; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def draw_generator(row: int, device: torch.device) -> torch.Generator | None:
    """The generator for a random choice of boxes in a slab of this pass; None for torch's global one."""
    part = _current.get()
    return None if part is None else part.generator(row, device)


def common_size(size: tuple[int, int], like: Tensor) -> tuple[int, int]:
    """The size that all slabs of the whole batch are padded to; every process must ask.

    Args:
        size: Height and width that those of this pass need.
        like: On the device of this process.
    """
    part = _current.get()
    if part is not None and part.size is not None:
        return part.size
    if processes() == 1:
        return size
    largest = torch.tensor(size, dtype=torch.int64, device=like.device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    height, width = largest.tolist()
    return height, width


def mean_count(count: int | Tensor, like: Tensor, *, least: int = 1) -> int | float | Tensor:
    """What to divide a sum over boxes by, so that the mean over passes and processes is the sum over all by its number.

    Every process must ask, as often as the others. In one process and one pass it is ``count``.

    Args:
        count: Boxes of this pass, an integer.
        like: On the device of this process.
        least: The number over all is at least this.
    """
    part = _current.get()
    if part is not None and part.totals is not None:
        part.asked += 1
        return max(part.totals[part.asked - 1], least) / part.shares
    counts_alone = part is not None and part.counts_alone
    if part is not None and counts_alone:
        # Only here: the number of a tensor makes a GPU wait.
        part.noted.append(float(count))
    if processes() == 1 or counts_alone:
        return count.clamp(min=least) if isinstance(count, Tensor) else max(count, least)
    total = sum_over_processes([float(count)], like)
    return total[0].clamp(min=least) / processes()


def sum_over_processes(numbers: Sequence[float], like: Tensor) -> Tensor:
    """Numbers added over all processes, float64 ``(N,)`` on the device of ``like``; every process must ask."""
    total = torch.tensor(numbers, dtype=torch.float64, device=like.device)
    if processes() > 1:
        dist.all_reduce(total)
    return total
