"""The state of every random generator that a process draws from, in a form that checkpoints can hold."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Any, TypedDict

import ignite.distributed as idist
import numpy as np
import torch

logger = logging.getLogger(__name__)


class RandomState(TypedDict):
    """State of the generators of one process, as tensors and plain values.

    Attributes:
        python: Of `random`.
        numpy: Of NumPy's global generator: name, 624 keys as an int64 tensor, position, and what is left of a pair of
            normal numbers.
        torch: Of PyTorch's generator on the CPU.
        cuda: Of the generator of this process's GPU; empty on a CPU.
    """

    python: tuple[Any, ...]
    numpy: tuple[Any, ...]
    torch: torch.Tensor
    cuda: list[torch.Tensor]


def get_random_state(device: torch.device | str | None = None) -> RandomState:
    """State of Python's, NumPy's and PyTorch's generators as tensors and plain values.

    Args:
        device: Where this process computes; the generator of a GPU belongs to the state, other GPUs are left alone.
    """
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if device is not None and _on_gpu(device) else [],
    }


def set_random_state(state: RandomState, device: torch.device | str | None = None) -> None:
    """Restore what :func:`get_random_state` gave; a GPU's state only where this process computes on one too."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and device is not None and _on_gpu(device):
        # Older files hold the states of all GPUs of the machine.
        own = torch.device(device).index or 0
        torch.cuda.set_rng_state(state["cuda"][own if own < len(state["cuda"]) else 0], device)


def _on_gpu(device: torch.device | str) -> bool:
    return torch.device(device).type == "cuda"


def gather_random_states(own: RandomState) -> list[RandomState]:
    """State of every process, by rank; all processes must call this, each with its own."""
    gathered: Any = idist.all_gather([own]) if idist.get_world_size() > 1 else [[own]]
    return [state for part in gathered for state in part]


def restore_random_states(states: Sequence[RandomState], device: torch.device | str | None = None) -> None:
    """Restore this process's own of what `gather_random_states` gave.

    A run of another number of processes cannot continue with the same random numbers: a process without a state of
    its own keeps the one that it was seeded with (logged).
    """
    rank, processes = idist.get_rank(), idist.get_world_size()
    if len(states) != processes:
        logger.info(
            "Random numbers differ from those of an uninterrupted run: the checkpoint is of %d process(es), this run "
            "has %d.",
            *(len(states), processes),
        )
    if rank < len(states):
        set_random_state(states[rank], device)
