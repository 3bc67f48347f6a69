"""Careful training of a body that has learnt before: stages that stay as they are, and a lower learning rate."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn
from torch.optim import Optimizer

logger = logging.getLogger(__name__)

BODY = "backbone.body"
# Entry of a parameter group: the factor on its learning rate.
_FACTOR, _WHOLE = "rate_factor", "rate_without_factor"


def prepare_body(network: nn.Module, optimizer: Optimizer, *, frozen_stages: int = 0, body_rate: float = 1.0) -> None:
    """Freeze the first stages of a detector's body, and let the rest of it learn more slowly than the heads.

    With the defaults nothing is touched. The factor holds for any schedule: it is applied to the rate that the schedule
    has set while the optimiser takes its step, and taken back after it.

    Args:
        network: A detector with ``backbone.body``.
        optimizer: Of its parameters.
        frozen_stages: Stages that do not learn, the stem with the first one; as many as there are freeze the body.
            Their batch normalisation keeps its statistics, and normalises by them.
        body_rate: Factor on the learning rate of the body, at least 0.

    Raises:
        ValueError: If the body has no such stages.
    """
    body: Any = network.get_submodule(BODY) if frozen_stages or body_rate != 1 else None
    if frozen_stages:
        _freeze(body, frozen_stages)
    if body_rate != 1:
        _slow_down(optimizer, {id(parameter) for parameter in body.parameters()}, body_rate)
        logger.info("The body learns at %g of the learning rate.", body_rate)


def _freeze(body: Any, count: int) -> None:
    stages = getattr(body, "stages", ())
    if not isinstance(stages, nn.ModuleList) or not 1 <= count <= len(stages):
        known = len(stages) if isinstance(stages, nn.ModuleList) else 0
        raise ValueError(
            f"Expected frozen_stages from 0 to {known} for a body of {known} stages, got {count}."
            if known
            else f"Expected a body with stages to freeze {count}, got a {type(body).__name__} without."
        )
    # What comes before the first stage and what belongs to a frozen one, whatever it is called.
    later = {id(parameter) for stage in stages[count:] for parameter in stage.parameters()}
    pools = getattr(body, "stage_pools", None)
    if pools is not None:
        later |= {id(parameter) for pool in pools[count:] for parameter in pool.parameters()}
    frozen = [parameter for parameter in body.parameters() if id(parameter) not in later]
    for parameter in frozen:
        parameter.requires_grad_(False)
    for layer in body.modules():
        own = {id(parameter) for parameter in layer.parameters(recurse=False)}
        if getattr(layer, "track_running_stats", False) and own and not own & later:
            layer.register_forward_pre_hook(_in_evaluation)
    logger.info("%d tensors of the body's stem and first %d stage(s) do not learn.", len(frozen), count)


def _in_evaluation(layer: nn.Module, args: tuple[Any, ...]) -> None:
    """Normalise by the statistics that a layer has, also where a step has just put the network into training mode."""
    del args
    layer.eval()


def _slow_down(optimizer: Optimizer, body: set[int], factor: float) -> None:
    """Move the body's parameters into groups of their own, with a factor."""
    for group in list(optimizer.param_groups):
        moved = [parameter for parameter in group["params"] if id(parameter) in body]
        if not moved:
            continue
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in body]
        rest = {name: value for name, value in group.items() if name != "params"}
        if group["params"]:
            optimizer.add_param_group({**rest, "params": moved, _FACTOR: factor})
        else:
            group.update({"params": moved, _FACTOR: factor})
    optimizer.register_step_pre_hook(_apply)
    optimizer.register_step_post_hook(_take_back)


def _apply(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    del args, kwargs
    for group in optimizer.param_groups:
        if _FACTOR in group:
            group[_WHOLE] = group["lr"]
            group["lr"] = group["lr"] * group[_FACTOR]


def _take_back(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    del args, kwargs
    for group in optimizer.param_groups:
        if _WHOLE in group:
            group["lr"] = group.pop(_WHOLE)
