"""In which order a network keeps its maps in memory: channels last is faster for 3D convolutions on a CPU."""

from __future__ import annotations

from functools import partial
from math import gcd

import torch
from torch import Tensor, nn

# Pixels that PyTorch's own sums add up well enough: of a part at most, and of a whole map.
_PART, _MAP = 128, 2048


def channels_last(network: nn.Module) -> nn.Module:
    """Have 3D convolutions of a network work channels last in evaluation, from the first pooling on.

    A convolution takes the order of its input or its weights, and normalisation, activation and pooling keep what they
    are given. Where there is one input channel or a 1x1x1 kernel the weights do not show an order, so that the output
    of a pooling is put into it; before it, in the stem, the maps are the largest and gain nothing. 2D layers stay as
    they are: the step from 3D to 2D needs the other order. ``Module.to`` would not do, as it rejects networks that have
    layers of both kinds. Values change by rounding only: group normalisation gets sums that are as exact as in the
    usual order. Training and conversions keep PyTorch's own.

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
        elif isinstance(module, nn.MaxPool3d) and _put_last not in module._forward_hooks.values():
            module.register_forward_hook(_put_last)
        elif isinstance(module, nn.GroupNorm):
            module.forward = partial(_group_norm, module)  # type: ignore[method-assign]
    return network


def _put_last(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    del inputs
    return output if _as_it_is(module) else output.contiguous(memory_format=torch.channels_last_3d)


def _as_it_is(module: nn.Module) -> bool:
    """Whether a module is trained or converted for another engine, which would hold our steps as its own."""
    return module.training or torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_exporting()


def _group_norm(module: nn.GroupNorm, x: Tensor) -> Tensor:
    """Group normalisation of maps ``(B, C, D, H, W)`` with statistics of parts of few pixels, put together.

    PyTorch 2.15 adds up all pixels of a channel one by one in this order: with the air of a CT, which is all alike,
    maps are off by 1e-4 to 1e-3 of their norm, by parts and in the usual order by some 1e-6.
    """
    last = x.ndim == 5 and x.is_contiguous(memory_format=torch.channels_last_3d) and not x.is_contiguous()
    if not last or x.dtype != torch.float32 or x[0, 0].numel() <= _MAP or _as_it_is(module):
        return nn.GroupNorm.forward(module, x)
    batch, channels, _, height, width = x.shape
    rows, groups = gcd(height, max(1, _PART // width)), module.num_groups
    parts = x.permute(0, 2, 3, 4, 1).reshape(-1, rows, width, channels).permute(0, 3, 1, 2)
    sizes = (len(parts), channels, rows * width, groups)
    _, means, inverse = torch.native_group_norm(parts, None, None, *sizes, module.eps)
    means = means.view(batch, -1, groups)
    mean = means.mean(1, keepdim=True)
    variance = (inverse.view(means.shape).pow(-2) - module.eps + (means - mean).square()).mean(1)
    scale = (variance + module.eps).rsqrt()[..., None].expand(-1, -1, channels // groups)
    shift = -mean.view(batch, groups, 1) * scale
    if module.affine:
        weight = module.weight.view(groups, -1)
        scale, shift = scale * weight, shift * weight + module.bias.view(groups, -1)
    shape = (batch, channels, 1, 1, 1)
    return torch.addcmul(shift.reshape(shape), x, scale.reshape(shape))
