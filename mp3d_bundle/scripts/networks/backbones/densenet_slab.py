"""Backbone of AlignShift, TSM and A3D: dense blocks over slices, each reduced to the target slice, one map of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..sizes import check_odd_slices, check_sizes
from .densenet import MixFactory, OneMapDecoder, SlicePairs, TruncatedDenseNet, own_share
from .slab_backbone import check_slabs


class DenseSlabBackbone(nn.Module):
    """Slabs in, one 2D feature map of the target slice out, at a quarter of the resolution.

    Args:
        num_slices: D, odd: 3 or 7 in the released code.
        mix: Makes the operator in front of each convolution of a dense layer: `AlignShift`, `TemporalShift` or
            `SlicePairs`.
        out_channels: Channels of the map.
        layers: Dense layers of each block.
        growth: Channels that a dense layer adds; the stem has twice as many.
        thickness: Distance between slices in mm where a call does not give it.

    Raises:
        ValueError: If ``num_slices`` is not an odd number >= 1, or the thickness not positive.
    """

    def __init__(
        self,
        num_slices: int,
        mix: MixFactory,
        *,
        out_channels: int = 512,
        layers: Sequence[int] = (6, 12, 24),
        growth: int = 32,
        thickness: float = 2.0,
    ) -> None:
        super().__init__()
        check_odd_slices(num_slices)
        check_sizes(channels=out_channels)
        own_share(torch.tensor([float(thickness)], device="cpu"))
        self.num_slices, self.out_channels, self.thickness = num_slices, out_channels, float(thickness)
        self.body = TruncatedDenseNet(1, num_slices, mix=mix, layers=layers, growth=growth)
        self.reductions = nn.ModuleList(
            nn.Conv3d(channels, channels, (num_slices, 1, 1), bias=False) for channels in self.body.out_channels
        )
        for reduction in self.reductions:
            nn.init.kaiming_normal_(reduction.weight)  # type: ignore[arg-type]
        self.decoder = OneMapDecoder(self.body.out_channels, out_channels)
        paired = any(isinstance(module, SlicePairs) for module in self.body.modules())
        self.unused = UnusedMatrices(self.body) if paired else None

    def forward(self, slabs: Tensor, thickness: Tensor | None = None) -> list[Tensor]:
        """The map of the target slice.

        Args:
            slabs: ``(B, D, H, W)`` normalised slabs, H and W multiples of 16.
            thickness: ``(B,)`` distances between slices in mm, which AlignShift reads.

        Returns:
            One tensor ``(B, out_channels, H / 4, W / 4)``, in a list.

        Raises:
            ValueError: If the slabs do not have ``num_slices`` slices, or a thickness is not positive.
        """
        check_slabs(slabs, self.num_slices)
        if thickness is None:
            alpha = own_share(torch.tensor([self.thickness], device="cpu")).item()
            shares = slabs.new_full((slabs.shape[0],), alpha)
        else:
            shares = own_share(thickness)
        maps = self.body(slabs.flatten(0, 1)[:, None], shares)
        volumes = [each.unflatten(0, (-1, self.num_slices)).transpose(1, 2) for each in maps]
        return [self.decoder(self.reduced(volumes))]

    def reduced(self, volumes: Sequence[Tensor]) -> list[Tensor]:
        """``(B, C_i, D, h, w)`` maps of the blocks -> ``(B, C_i, h, w)`` maps of the target slice."""
        return [reduce(each).squeeze(2) for reduce, each in zip(self.reductions, volumes, strict=True)]


class UnusedMatrices(nn.Module):
    """Slice-pair matrices that A3D's code makes for stem and transitions and never reads: 3 x 3, whatever D is.

    They are held, without gradient, because the authors' files have them and their parameter counts include them.

    Args:
        body: The network whose stem and transitions they belong to.
    """

    def __init__(self, body: TruncatedDenseNet) -> None:
        super().__init__()
        channels = [body.conv0.in_channels, *body.out_channels[:-1]]
        matrices = [torch.eye(3)[:, :, None].repeat(1, 1, each) for each in channels]
        self.matrices = nn.ParameterList(nn.Parameter(each, requires_grad=False) for each in matrices)
