"""Backbone of MULAN: dense blocks over images of three slices, fused into the one in the middle."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..sizes import check_sizes, check_triplets
from .densenet import OneMapDecoder, TruncatedDenseNet
from .slab_backbone import check_slabs


class MiddleFusion(nn.Module):
    """A 1x1 convolution over the maps of all images, whose result replaces the map of the middle image.

    Args:
        channels: Channels of a map.
        images: M.
    """

    def __init__(self, channels: int, images: int) -> None:
        super().__init__()
        self.images = images
        self.conv = nn.Conv2d(images * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B * M, C, h, w)`` -> ``(B * M, C, h, w)``."""
        maps = x.unflatten(0, (-1, self.images))
        fused = self.conv(maps.flatten(1, 2))
        middle = self.images // 2
        return torch.cat([maps[:, :middle], fused[:, None], maps[:, middle + 1 :]], dim=1).flatten(0, 1)


class DenseImagesBackbone(nn.Module):
    """Slabs in, one 2D feature map of the target slice out, at a quarter of the resolution.

    Args:
        num_slices: Slices of a slab, three times an odd number: 9 in the released code.
        out_channels: Channels of the map.
        layers: Dense layers of each block.
        growth: Channels that a dense layer adds; the stem has twice as many.

    Raises:
        ValueError: If ``num_slices`` is not three times an odd number.
    """

    def __init__(
        self,
        num_slices: int = 9,
        *,
        out_channels: int = 512,
        layers: Sequence[int] = (6, 12, 24),
        growth: int = 32,
    ) -> None:
        super().__init__()
        check_triplets(num_slices)
        check_sizes(channels=out_channels)
        self.num_slices, self.images, self.out_channels = num_slices, num_slices // 3, out_channels
        self.body = TruncatedDenseNet(3, self.images, layers=layers, growth=growth)
        # As released; the authors' code has options for fusion elsewhere, all off by default.
        self.body.after[1] = MiddleFusion(self.body.out_channels[1] // 2, self.images)
        self.decoder = OneMapDecoder(self.body.out_channels, out_channels)
        self.fusion = nn.Conv2d(self.images * out_channels, out_channels, 1)
        nn.init.kaiming_uniform_(self.fusion.weight, a=1)
        nn.init.zeros_(self.fusion.bias)  # type: ignore[arg-type]

    def forward(self, slabs: Tensor) -> list[Tensor]:
        """The map of the target slice.

        Args:
            slabs: ``(B, 3 M, H, W)`` normalised slabs, H and W multiples of 16.

        Returns:
            One tensor ``(B, out_channels, H / 4, W / 4)``, in a list.

        Raises:
            ValueError: If the slabs do not have ``num_slices`` slices.
        """
        check_slabs(slabs, self.num_slices)
        images = slabs.unflatten(1, (self.images, 3)).flatten(0, 1)
        decoded = self.decoder(self.body(images, images.new_zeros(slabs.shape[0])))
        return [self.fusion(decoded.unflatten(0, (-1, self.images)).flatten(1, 2))]
