"""DenseNet-121 without its last block, over the slices or the images of a slab, with an operator that mixes them.

The body of MULAN (images of three slices, nothing mixed inside a layer) and of AlignShift, TSM, A3D and SATr (single
slices, mixed before every convolution of a dense layer). Slices are in the batch dimension, so that all kernels are 2D
and have the shapes of the ImageNet weights and of the authors' files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..sizes import check_sizes

# Makes the operator in front of a convolution from its input channels and the number of slices.
MixFactory = Callable[[int, int], nn.Module]


class NoMix(nn.Module):
    """No mixing: each slice alone.

    Args:
        channels: Ignored; part of the common signature.
        num_slices: Ignored.
    """

    def __init__(self, channels: int = 0, num_slices: int = 0) -> None:
        super().__init__()
        del channels, num_slices

    def forward(self, x: Tensor, alpha: Tensor) -> Tensor:
        """``(B, D, C, h, w)`` unchanged."""
        del alpha
        return x


class AlignShift(nn.Module):
    """Parts of the channels move to the neighbouring slices, further where slices are thin (Yang et al. 2020).

    An eighth of the channels (rounded down) reads the next slice, the second eighth the one before; the share
    ``alpha`` of the own slice stays.

    Args:
        channels: C.
        num_slices: Ignored; part of the common signature.
        folds: Moving parts are a ``folds``-th of the channels each.
        zero_ends: Whether zeros are shifted in at the ends; otherwise the end slices keep their values (released code).
    """

    def __init__(self, channels: int, num_slices: int = 0, *, folds: int = 8, zero_ends: bool = False) -> None:
        super().__init__()
        del num_slices
        self.fold = channels // folds
        self.zero_ends = zero_ends

    def forward(self, x: Tensor, alpha: Tensor) -> Tensor:
        """``(B, D, C, h, w)`` and ``alpha`` ``(B,)`` in [0, 1] -> ``(B, D, C, h, w)``."""
        fold, share = self.fold, alpha.to(x).reshape(-1, 1, 1, 1, 1)
        ahead, back, rest = x[:, :, :fold], x[:, :, fold : 2 * fold], x[:, :, 2 * fold :]
        last, first = ahead[:, -1:], back[:, :1]
        if self.zero_ends:
            last, first = torch.zeros_like(last), torch.zeros_like(first)
        after = torch.cat([ahead[:, 1:], last], dim=1)
        before = torch.cat([first, back[:, :-1]], dim=1)
        return torch.cat([share * ahead + (1 - share) * after, share * back + (1 - share) * before, rest], dim=2)


class TemporalShift(AlignShift):
    """TSM (Lin et al. 2019): channels move by one whole slice for any thickness; zeros are shifted in at the ends.

    Args:
        channels: C.
        num_slices: Ignored; part of the common signature.
        folds: Moving parts are a ``folds``-th of the channels each.
    """

    def __init__(self, channels: int, num_slices: int = 0, *, folds: int = 8) -> None:
        super().__init__(channels, num_slices, folds=folds, zero_ends=True)

    def forward(self, x: Tensor, alpha: Tensor) -> Tensor:
        """``(B, D, C, h, w)`` -> ``(B, D, C, h, w)``; ``alpha`` is ignored."""
        return super().forward(x, torch.zeros_like(alpha))


class SlicePairs(nn.Module):
    """A3D (Yang et al. 2021): each channel of each slice becomes a learned sum over that channel's slices.

    Args:
        channels: C.
        num_slices: D.
        noise: The start is the identity plus uniform noise of up to this size.
    """

    def __init__(self, channels: int, num_slices: int, *, noise: float = 0.1) -> None:
        super().__init__()
        start = torch.eye(num_slices)[:, :, None].repeat(1, 1, channels)
        self.matrix = nn.Parameter(start + torch.empty_like(start).uniform_(-noise, noise) if noise else start)

    def forward(self, x: Tensor, alpha: Tensor | None = None) -> Tensor:
        """``(B, D, C, h, w)`` -> ``(B, D, C, h, w)``; ``alpha`` is ignored."""
        del alpha
        return torch.einsum("bdchw,dkc->bkchw", x, self.matrix.to(x.dtype))


class DenseLayer(nn.Module):
    """Normalisation, ReLU, mixing and convolution, first 1x1, then 3x3; the input is kept in front of the output.

    Args:
        inputs: Channels in.
        growth: Channels added.
        num_slices: D.
        mix: Makes the operator in front of each convolution.
    """

    def __init__(self, inputs: int, growth: int, num_slices: int, mix: MixFactory) -> None:
        super().__init__()
        inner = 4 * growth
        self.num_slices = num_slices
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(inner)
        self.mix1, self.mix2 = mix(inputs, num_slices), mix(inner, num_slices)
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.conv2 = nn.Conv2d(inner, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor, alpha: Tensor) -> Tensor:
        """``(B * D, C, h, w)`` -> ``(B * D, C + growth, h, w)``."""
        inner = self.conv1(self._mixed(self.mix1, self.norm1(x).relu(), alpha))
        return torch.cat([x, self.conv2(self._mixed(self.mix2, self.norm2(inner).relu(), alpha))], dim=1)

    def _mixed(self, mix: nn.Module, x: Tensor, alpha: Tensor) -> Tensor:
        return mix(x.unflatten(0, (-1, self.num_slices)), alpha).flatten(0, 1)


class DenseBlock(nn.ModuleDict):
    """Dense layers, one after another."""

    def forward(self, x: Tensor, alpha: Tensor) -> Tensor:
        """``(B * D, C, h, w)`` -> ``(B * D, C + layers * growth, h, w)``."""
        for layer in self.values():
            x = layer(x, alpha)
        return x


class Transition(nn.Module):
    """Half the channels at half the resolution.

    Args:
        inputs: Channels in.
        outputs: Channels out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, h, w)`` -> ``(N, C', h / 2, w / 2)``."""
        return F.avg_pool2d(self.conv(self.norm(x).relu()), 2)


class TruncatedDenseNet(nn.Module):
    """Stem and three dense blocks; DenseNet-121 with its defaults.

    Its parts have torchvision's names, so that ImageNet weights fit.

    Args:
        inputs: Channels of an image: 1 for slices, 3 for images of three slices.
        num_slices: Slices or images of a slab, D.
        mix: Makes the operator in front of each convolution of a dense layer.
        layers: Dense layers of each block.
        growth: Channels that a dense layer adds; the stem has twice as many.

    Raises:
        ValueError: If there are not three blocks of at least one layer.
    """

    def __init__(
        self,
        inputs: int,
        num_slices: int,
        *,
        mix: MixFactory = NoMix,
        layers: Sequence[int] = (6, 12, 24),
        growth: int = 32,
    ) -> None:
        super().__init__()
        if len(layers) != 3:
            raise ValueError(f"Expected the layers of three blocks, got layers={tuple(layers)}.")
        check_sizes(layers=layers, growth=growth)
        self.num_slices = num_slices
        width = 2 * growth
        self.conv0 = nn.Conv2d(inputs, width, 7, stride=2, padding=3, bias=False)
        self.norm0 = nn.BatchNorm2d(width)
        self.out_channels: list[int] = []
        # A network may put its own fusion behind each transition.
        self.after = nn.ModuleList(nn.Identity() for _ in layers[1:])
        channels = width
        for index, count in enumerate(layers, start=1):
            made = [DenseLayer(channels + growth * i, growth, num_slices, mix) for i in range(count)]
            block = DenseBlock({f"denselayer{i}": layer for i, layer in enumerate(made, start=1)})
            self.add_module(f"denseblock{index}", block)
            channels += growth * count
            self.out_channels.append(channels)
            if index < len(layers):
                self.add_module(f"transition{index}", Transition(channels, channels // 2))
                channels //= 2
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor, alpha: Tensor) -> list[Tensor]:
        """Maps of the three blocks.

        Args:
            x: ``(B * D, inputs, H, W)``, the D slices of a slab one after another; H and W multiples of 16.
            alpha: ``(B,)``, the share of its own slice that AlignShift leaves.

        Returns:
            Three tensors ``(B * D, C_i, H / s, W / s)``, s = 4, 8, 16.
        """
        x = F.max_pool2d(self.norm0(self.conv0(x)).relu(), 3, stride=2, padding=1)
        maps = [self.get_submodule("denseblock1")(x, alpha)]
        for index, fuse in enumerate(self.after, start=1):
            below = fuse(self.get_submodule(f"transition{index}")(maps[-1]))
            maps.append(self.get_submodule(f"denseblock{index + 1}")(below, alpha))
        return maps


class OneMapDecoder(nn.Module):
    """1x1 laterals and top-down sums, no smoothing: one map at the finest resolution.

    Args:
        channels: Channels of the maps, finest first.
        out_channels: Channels of the result.
    """

    def __init__(self, channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(each, out_channels, 1) for each in channels)
        for lateral in self.laterals:
            nn.init.kaiming_uniform_(lateral.weight, a=1)  # type: ignore[arg-type]
            nn.init.zeros_(lateral.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps ``(N, C_i, H / s, W / s)``, each half the size of the one before -> ``(N, out_channels, h, w)``."""
        sums = [lateral(each) for lateral, each in zip(self.laterals, maps, strict=True)]
        total = sums.pop()
        while sums:
            total = sums.pop() + F.interpolate(total, scale_factor=2.0, mode="nearest")
        return total


def own_share(thickness: Tensor, reference: float = 2.0) -> Tensor:
    """AlignShift's share of the own slice, ``1 - reference / thickness``, in [0, 1].

    Args:
        thickness: ``(B,)`` distances between slices in mm.
        reference: Slices of up to this distance move fully.

    Raises:
        ValueError: If a thickness is not a positive number.
    """
    if not bool((thickness > 0).all()) or not all(math.isfinite(each) for each in thickness.tolist()):
        raise ValueError(f"Expected thicknesses of slices above 0 mm, got {thickness.tolist()}.")
    return 1 - (reference / thickness).clamp(0, 1)
