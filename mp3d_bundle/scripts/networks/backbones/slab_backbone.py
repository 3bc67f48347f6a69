"""Backbone of the detector: 3D body, conversion to 2D, feature pyramid (paper Figure 1)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from .group_transform import GroupTransform
from .resnet3d import ResNet3d

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
    """Refuse what is no batch of slabs of ``num_slices`` slices.

    Raises:
        ValueError: Unless ``slabs`` is ``(B, num_slices, H, W)``.
    """
    if slabs.ndim != 4 or slabs.shape[1] != num_slices:
        raise ValueError(
            f"Expected slabs of shape (B, {num_slices}, H, W): the network reads {num_slices} slices, "
            f"got {tuple(slabs.shape)}."
        )


class SlabBackbone(nn.Module):
    """Slabs in, five 2D feature maps of the target slice out.

    Args:
        body: Gives four 3D maps for ``(B, 1, D, H, W)`` and has ``out_channels``.
        num_slices: D, odd.
        conversion: Makes the 3D-to-2D module of a stage from ``(channels, num_slices)``.
        out_channels: Channels of the pyramid.

    Raises:
        ValueError: If ``num_slices`` is not an odd number >= 1.
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
        if isinstance(num_slices, bool) or not isinstance(num_slices, int) or num_slices < 1 or num_slices % 2 == 0:
            raise ValueError(
                f"Expected an odd number of slices >= 1 (the middle one is the target), got {num_slices!r}."
            )
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
