"""Backbone of the detector: 3D body, conversion to the 2D maps of the target slice, pyramid (section 2.1, Figure 1)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from ..sizes import check_odd_slices, check_sizes
from .resnet3d import ResNet3d, is_usual_on_cpu

STRIDES = (4, 8, 16, 32, 64)
# A slab is padded to a multiple of the deepest stage's stride.
SIZE_DIVISIBLE = 32


def initialise_pyramid(fpn: FeaturePyramidNetwork) -> None:
    """Start a pyramid as the released code does: Xavier-uniform weights, biases of zero."""
    for module in fpn.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def check_slabs(slabs: Tensor, num_slices: int) -> None:
    """Check that the input is a batch of slabs of ``num_slices`` slices.

    Raises:
        ValueError: Unless ``slabs`` is ``(B, num_slices, H, W)``.
    """
    if slabs.ndim != 4 or slabs.shape[1] != num_slices:
        raise ValueError(
            f"Expected slabs of shape (B, {num_slices}, H, W): the network reads {num_slices} slices, "
            f"got {tuple(slabs.shape)}."
        )


class SliceSums(nn.Conv2d):
    """Grouped 1x1 convolution with one output channel for each group, as one batch of matrix products: the same sums.

    With one thread on a CPU, PyTorch runs its own kernel once for each of up to 2048 groups.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C * D, H, W)`` -> ``(B, C, H, W)``, C the number of groups."""
        if not is_usual_on_cpu(x):
            return super().forward(x)
        slices = x.flatten(2).unflatten(1, (self.groups, -1))
        return torch.matmul(self.weight.flatten(1).unsqueeze(1), slices).flatten(1, 2).unflatten(2, x.shape[2:])


class GroupTransform(nn.Module):
    """GTM, the group transform module: each output channel is a learned weighted sum over its own slices.

    The map ``(B, C, D, H, W)`` is seen as ``(B, C * D, H, W)`` (all slices of a channel side by side) and
    goes through a grouped 1x1 convolution with C groups: no bias, norm or activation. The weights tie the
    network to one number of slices.

    Args:
        channels: C.
        num_slices: D.
    """

    def __init__(self, channels: int, num_slices: int) -> None:
        super().__init__()
        self.num_slices = num_slices
        self.conv = SliceSums(channels * num_slices, channels, 1, groups=channels, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming-normal by fan out, as the released code does from scratch."""
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, D, H, W)`` -> ``(B, C, H, W)``.

        Raises:
            ValueError: If the number of slices is not the one that the weights were made for.
        """
        if x.shape[2] != self.num_slices:
            raise ValueError(f"Expected feature maps with {self.num_slices} slices, got {x.shape[2]}.")
        if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last_3d):
            return self.conv(x.flatten(1, 2))
        # Channels last the map above would be a copy, and is not needed.
        return F.conv3d(x, self.conv.weight.reshape(-1, 1, self.num_slices, 1, 1), groups=x.shape[1]).squeeze(2)


class CenterCrop(nn.Module):
    """CTM, the centre-cropping transform of Fang et al. (paper reference [13]): keep slice D // 2 only.

    Takes and ignores the arguments of :class:`GroupTransform`, so that either may be injected.
    """

    def __init__(self, channels: int = 0, num_slices: int = 0) -> None:
        super().__init__()
        del channels, num_slices

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, D, H, W)`` -> ``(B, C, H, W)``."""
        return x[:, :, x.shape[2] // 2]


class FullTransform(nn.Module):
    """Dense alternative of the released code (not in the paper): a ``(D, 1, 1)`` convolution over all channels."""

    def __init__(self, channels: int, num_slices: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, (num_slices, 1, 1), bias=False)
        nn.init.xavier_uniform_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, D, H, W)`` -> ``(B, C, H, W)``; D is the number of slices that the weights were made for."""
        return self.conv(x).squeeze(2)


class SlabBackbone(nn.Module):
    """Slabs in, five 2D feature maps of the target slice out.

    Args:
        body: Gives four 3D maps for ``(B, 1, D, H, W)`` and has ``out_channels``.
        num_slices: D, odd.
        conversion: Makes the 3D-to-2D module of a stage from ``(channels, num_slices)``.
        out_channels: Channels of the pyramid.

    Raises:
        ValueError: If ``num_slices`` is not an odd number >= 1, or ``out_channels`` is below 1.
    """

    def __init__(
        self,
        body: ResNet3d,
        num_slices: int,
        *,
        conversion: Callable[[int, int], nn.Module] = GroupTransform,
        out_channels: int = 256,
    ) -> None:
        super().__init__()
        check_odd_slices(num_slices)
        check_sizes(fpn_channels=out_channels)
        self.num_slices = num_slices
        self.out_channels = out_channels
        self.body = body
        self.conversions = nn.ModuleList(conversion(channels, num_slices) for channels in body.out_channels)
        self.fpn = FeaturePyramidNetwork(body.out_channels, out_channels, LastLevelMaxPool())
        initialise_pyramid(self.fpn)

    def forward(self, slabs: Tensor) -> list[Tensor]:
        """Feature maps P2..P6.

        Args:
            slabs: ``(B, D, H, W)`` normalised slabs, H and W multiples of 32.

        Returns:
            Five tensors ``(B, out_channels, H / s, W / s)``, s = 4, 8, 16, 32, 64 (rounded up).

        Raises:
            ValueError: If the slabs do not have ``num_slices`` slices.
        """
        check_slabs(slabs, self.num_slices)
        maps = self.body(slabs.unsqueeze(1))
        flat = [convert(volume) for convert, volume in zip(self.conversions, maps, strict=True)]
        pyramid = self.fpn(OrderedDict((f"p{level + 2}", level_map) for level, level_map in enumerate(flat)))
        return list(pyramid.values())
