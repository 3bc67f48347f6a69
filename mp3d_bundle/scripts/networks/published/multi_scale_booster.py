"""MSB, the Multi-Scale Booster (Shao et al. 2019, arXiv 1907.03958; the MP3D paper's reference [2]).

A ResNet-50 FPN on three slices whose 3x3 output convolutions are replaced by blocks that look at each level with
three dilations of one shared kernel and weigh channels and places. 43,209,750 parameters. Numbers by the released code
(shaoqb/multi_scale_booster).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbones.resnet2d import ResNet2d
from ..backbones.slab_backbone import check_slabs

DILATIONS = (1, 2, 3)


def _normed(inputs: int, outputs: int, *, relu: bool = True) -> nn.Sequential:
    """1x1 convolution without bias, batch normalisation and perhaps ReLU."""
    layers = [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


class SharedDilations(nn.Module):
    """One 3x3 kernel and one normalisation, applied with three dilations to the same map.

    In training the normalisation sees three batches a step and updates its running statistics three times, as in the
    released code.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``(B, C, h, w)`` -> three maps of that shape, dilations 1, 2 and 3."""
        maps = [F.conv2d(x, self.conv.weight, padding=step, dilation=step) for step in DILATIONS]
        return [self.norm(each).relu() for each in maps]


class ChannelGate(nn.Module):
    """Weights of channels from their means: squeeze and excitation with convolutions.

    Args:
        channels: Channels to weigh.
        reduction: The inner layer has this many times fewer.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` -> weights ``(B, C, 1, 1)`` in (0, 1)."""
        return self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class SpatialGate(nn.Module):
    """Weights of places from the maximum and the mean over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` -> weights ``(B, 1, h, w)`` in (0, 1)."""
        pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)
        return self.norm(self.conv(pooled)).sigmoid()


class BoosterBlock(nn.Module):
    """The block that follows each level of the pyramid.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pointwise = _normed(channels, channels)
        self.dilated = SharedDilations(channels)
        self.channel_gate = ChannelGate(4 * channels)
        self.fusion = _normed(4 * channels, channels, relu=False)
        self.spatial_gate = SpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` -> ``(B, C, h, w)``, not negative."""
        maps = torch.cat([self.pointwise(x), *self.dilated(x)], dim=1)
        fused = self.fusion(maps * self.channel_gate(maps))
        return (fused * self.spatial_gate(fused)).relu()


class BoosterBackbone(nn.Module):
    """ResNet-50 on three slices as channels, normed laterals, top-down sums and a booster block per level.

    Args:
        body: 2D network with ``out_channels``; ResNet-50 with batch normalisation if left out.
        out_channels: Channels of the pyramid.
    """

    num_slices = 3

    def __init__(self, body: ResNet2d | None = None, *, out_channels: int = 256) -> None:
        super().__init__()
        self.body = body or ResNet2d(norm=nn.BatchNorm2d)
        self.out_channels = out_channels
        laterals = [_normed(channels, out_channels) for channels in self.body.out_channels]
        blocks = [BoosterBlock(out_channels) for _ in laterals]
        for module in (each for part in (*laterals, *blocks) for each in part.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
        for block in blocks:
            block.dilated.conv.reset_parameters()  # the released code leaves the shared kernel at PyTorch's start
        self.laterals, self.blocks = nn.ModuleList(laterals), nn.ModuleList(blocks)

    def forward(self, slabs: Tensor) -> list[Tensor]:
        """Feature maps P2..P6.

        Args:
            slabs: ``(B, 3, H, W)`` normalised slabs, H and W multiples of 32.

        Returns:
            Five tensors ``(B, out_channels, H / s, W / s)``, s = 4, 8, 16, 32, 64 (rounded up).

        Raises:
            ValueError: If the slabs do not have three slices.
        """
        check_slabs(slabs, self.num_slices)
        sums = [lateral(level) for lateral, level in zip(self.laterals, self.body(slabs), strict=True)]
        for level in range(len(sums) - 1, 0, -1):
            sums[level - 1] = sums[level - 1] + F.interpolate(sums[level], scale_factor=2.0, mode="nearest")
        levels = [block(each) for block, each in zip(self.blocks, sums, strict=True)]
        return [*levels, F.max_pool2d(levels[-1], 1, stride=2)]
