"""In which order a network keeps its maps in memory: channels last is faster for 3D convolutions on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def channels_last(network: nn.Module) -> nn.Module:
    """Have 3D convolutions of a network work channels last in evaluation, from the first one on.

    A convolution takes the order of its input or its weights, and normalisation, activation and pooling keep what they
    are given. Where there is one input channel or a 1x1x1 kernel the weights do not show an order, so that the output
    of the first convolution is put into it. 2D layers stay as they are: the step from 3D to 2D needs the other order.
    ``Module.to`` would not do, as it rejects networks that have layers of both kinds. Values change by rounding only.

    For evaluation only: group normalisation of PyTorch 2.15 on a CPU rounds some 10 times more in this order
    (docs/performance.md).

    PyTorch keeps the order where it takes oneDNN's convolutions: with several threads, and batches or maps that are
    not small.

    Args:
        network: Changed in place; its parameters stay the same objects. Again for the same network changes nothing.

    Returns:
        The network.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
            if module.in_channels == 1 and _put_last not in module._forward_hooks.values():
                module.register_forward_hook(_put_last)
    return network


def _put_last(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    del module, inputs
    # A conversion for another engine would hold the change of order as a step of its own.
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        return output
    return output.contiguous(memory_format=torch.channels_last_3d)
