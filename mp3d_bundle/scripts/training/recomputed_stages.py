"""Less memory in training: activations of chosen stages are computed again on the way back instead of kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..networks.whole_batch import statistics_kept


def recompute_stages(network: nn.Module, stages: Sequence[int]) -> nn.Module:
    """Keep only the inputs of stages of a detector's body; losses and gradients stay what they are.

    So do the running statistics of batch normalisation, which a second pass does not count again.

    Args:
        network: A detector with ``backbone.body.stages``; changed in place. Evaluation is as before.
        stages: Numbers of stages from 1. The first has the largest maps and saves most.

    Returns:
        The network.

    Raises:
        ValueError: If the network has no such stage.
    """
    if not stages:
        return network
    held = getattr(getattr(getattr(network, "backbone", None), "body", None), "stages", ())
    for number in stages:
        if not 1 <= number <= len(held):
            raise ValueError(f"Expected recomputed_stages from 1 to {len(held)} for this network, got {number}.")
        stage = held[number - 1]
        stage.forward = partial(_forward, type(stage).forward, stage)
    return network


def _forward(own: Any, stage: nn.Module, *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return own(stage, *inputs)
    contexts = partial(_contexts, stage)
    return checkpoint(partial(own, stage), *inputs, use_reentrant=False, context_fn=contexts)


def _contexts(stage: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the first pass, and around the one on the way back."""
    return nullcontext(), statistics_kept(stage)
