"""From 3D feature maps to the 2D maps of the target slice (paper section 2.1, Figure 1)."""

from __future__ import annotations

from torch import Tensor, nn


class GroupTransform(nn.Module):
    """GTM, the group transform module: each output channel is a learnt weighted sum over its own slices.

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
        self.conv = nn.Conv2d(channels * num_slices, channels, 1, groups=channels, bias=False)
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
        return self.conv(x.flatten(1, 2))


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
