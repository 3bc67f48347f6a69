"""In which order a network keeps its maps in memory: channels last is faster for convolutions on a CPU."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Of maps in 2D and in 3D, by their number of dimensions.
_ORDERS = {4: torch.channels_last, 5: torch.channels_last_3d}
# So many values float32 adds up one by one well enough for results of a type.
_TERMS = {torch.float32: 64, torch.bfloat16: 1024}


def channels_last(network: nn.Module) -> nn.Module:
    """Have convolutions of a network work channels last in evaluation, in 3D from the first pooling on.

    A convolution takes the order of its input or its weights, and normalisation, activation and pooling keep what they
    are given. Where there is one input channel or a 1x1x1 kernel the weights do not show an order, so that the input
    of a pooling is put into it; before it, in the stem, the maps are the largest and gain nothing. ``Module.to`` would
    not do, as it rejects networks that have layers of both kinds. Values change by rounding only: group normalisation
    gets sums that are as exact as in the usual order. Training and conversions keep PyTorch's own.

    PyTorch keeps the order where it takes oneDNN's convolutions: with several threads, and batches or maps that are
    not small.

    Args:
        network: Changed in place; its parameters stay the same objects. The same network again is not changed.

    Returns:
        The network.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            module.weight.data = module.weight.data.contiguous(memory_format=_ORDERS[module.weight.ndim])
        elif isinstance(module, nn.MaxPool3d) and _put_last not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_put_last)
        elif isinstance(module, nn.GroupNorm):
            module.forward = partial(_group_norm, module)  # type: ignore[method-assign]
    return network


def _put_last(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
    return None if _as_it_is(module) else (inputs[0].contiguous(memory_format=torch.channels_last_3d),)


def _as_it_is(module: nn.Module) -> bool:
    """Whether a module is trained or converted for another engine, which would hold our steps as its own."""
    return module.training or torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_exporting()


def _group_norm(module: nn.GroupNorm, x: Tensor) -> Tensor:
    """Group normalisation of maps ``(B, C, ...)`` whose statistics add up few values one by one.

    PyTorch 2.15 adds up all pixels of a channel one by one in this order: with the air of a CT, which is all alike,
    maps are off by 1e-4 to 1e-2 of their norm; so, as in the usual order, by less than 1e-6.
    """
    last = x.ndim in _ORDERS and x.is_contiguous(memory_format=_ORDERS[x.ndim]) and not x.is_contiguous()
    if not last or x.dtype not in _TERMS or _as_it_is(module):
        return nn.GroupNorm.forward(module, x)
    images = [_normalised(module, image) for image in x.split(1)]
    return images[0] if len(images) == 1 else torch.cat(images)


def _normalised(module: nn.GroupNorm, x: Tensor) -> Tensor:
    """The same for one image: batch normalisation by the statistics of its groups, in the place of a batch's."""
    pixels, groups = x[0, 0].numel(), module.num_groups
    terms = next(count for count in range(_TERMS[x.dtype], 0, -1) if pixels % count == 0)
    # As they lie in memory: pixels that are far apart are examples, all others and the channels are features.
    examples = x.movedim(1, -1).reshape(terms, -1)
    # Running statistics that a momentum of 0 leaves alone: they ask for results in float32.
    unused = torch.zeros(examples.shape[1])
    means, variances = torch.batch_norm_update_stats(examples, unused, unused, 0.0)
    means = means.view(-1, groups, x.shape[1] // groups).double()
    mean = means.mean((0, 2), keepdim=True)
    variance = (variances.view(means.shape) + (means - mean).square()).mean((0, 2), keepdim=True)
    mean, variance = (each[0].float().expand(means.shape[1:]).flatten() for each in (mean, variance))
    return F.batch_norm(x, mean, variance, module.weight, module.bias, eps=module.eps)
