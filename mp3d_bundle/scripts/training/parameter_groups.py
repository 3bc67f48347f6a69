"""Learning rates and weight decay by the names of parameters, as the older codes of the field have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def by_name(
    network: nn.Module, *, rate: float, rates: Mapping[str, float], weight_decay: float, bias_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Parameters for an optimiser, in groups of one learning rate and one weight decay.

    Caffe, and what came after it, learns biases at twice the rate and does not decay them.

    Args:
        network: Its parameters that learn.
        rate: Learning rate of the others.
        rates: Factors on it by what a parameter's name ends with, at a full stop: ``bias`` or ``predictor.bias``. Of
            several, the longest one counts.
        weight_decay: Of weights.
        bias_decay: Of biases, those of normalisation too.

    Returns:
        Groups with ``params``, ``lr`` and ``weight_decay``.

    Raises:
        ValueError: If a name in ``rates`` fits no parameter.
    """
    unused = set(rates)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        fitting = [each for each in rates if f".{name}".endswith(f".{each}")]
        unused -= set(fitting)
        factor = rates[max(fitting, key=len)] if fitting else 1.0
        decay = bias_decay if name.rpartition(".")[2] == "bias" else weight_decay
        groups.setdefault((factor, decay), []).append(parameter)
    if unused:
        raise ValueError(f"Expected names that parameters of the network end with, got {', '.join(sorted(unused))}.")
    return [
        {"params": parameters, "lr": rate * factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]
