"""2D residual networks of the baselines: ResNet-50 with slices as colours (paper Table 1, section 3.2).

The blocks are torchvision's, so that its ImageNet weights fit tensor by tensor (:func:`from_torchvision`); stem and
stages have the names of :class:`.ResNet3d`, and so do the arguments that make a network narrow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, conv1x1

from ..sizes import check_sizes
from .resnet3d import NormFactory, group_norm


class FixedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that keeps the statistics of its pre-trained weights, with trainable scale and shift.

    The released code's choice for the baseline. Without pre-trained weights it normalises nothing: statistics that
    were never gathered are 0 and 1.
    """

    def train(self, mode: bool = True) -> FixedBatchNorm2d:
        """Stay in evaluation mode for any ``mode``."""
        del mode
        return super().train(False)


class Stem2d(nn.Module):
    """First 7x7 convolution and max-pool of a 2D network, each with stride 2.

    Args:
        channels: Output channels.
        norm: Makes the normalisation.
    """

    def __init__(self, channels: int, norm: NormFactory) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.norm = norm(channels)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W)`` -> ``(B, channels, H / 4, W / 4)``."""
        return self.pool(self.relu(self.norm(self.conv(x))))


class ResNet2d(nn.Module):
    """ResNet over three slices as channels; ResNet-50 with its defaults, the stride on the 3x3 convolutions.

    Args:
        layers: Number of bottlenecks in each stage.
        width: Planes of the first stage; each further stage doubles it.
        norm_groups: Groups of the group normalisation (fewer where there are fewer channels).
        norm: Makes another normalisation from the number of channels: :class:`FixedBatchNorm2d` for ImageNet weights.
            Group normalisation if left out, which can be trained from scratch.
        stem: Makes the stem from ``(channels, norm)``.

    Raises:
        ValueError: If there are not four stages of at least one block.
    """

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 6, 3),
        *,
        width: int = 64,
        norm_groups: int = 32,
        norm: NormFactory | None = None,
        stem: Callable[[int, NormFactory], nn.Module] = Stem2d,
    ) -> None:
        super().__init__()
        if len(layers) != 4:
            raise ValueError(f"Expected the blocks of four stages, got layers={tuple(layers)}.")
        check_sizes(layers=layers, width=width, norm_groups=norm_groups)
        make = norm or (lambda channels: group_norm(channels, norm_groups))
        self.stem = stem(width, make)
        self.stages = nn.ModuleList()
        self.out_channels: list[int] = []
        channels = width
        for stage, count in enumerate(layers):
            planes = width * 2**stage
            blocks = []
            for position in range(count):
                stride = 2 if stage > 0 and position == 0 else 1
                shortcut = None
                if position == 0:
                    shortcut = nn.Sequential(conv1x1(channels, 4 * planes, stride), make(4 * planes))
                blocks.append(Bottleneck(channels, planes, stride, shortcut, norm_layer=make))
                channels = 4 * planes
            self.stages.append(nn.Sequential(*blocks))
            self.out_channels.append(channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of the four stages.

        Args:
            x: ``(B, 3, H, W)``, H and W multiples of 32.

        Returns:
            Four tensors ``(B, C_i, H / s_i, W / s_i)`` with s = 4, 8, 16, 32.
        """
        outputs = []
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of torchvision's ResNet under the names of :class:`ResNet2d`; its classifier is left out."""
    renamed = {}
    for name, tensor in state.items():
        name = re.sub(r"^conv1\.", "stem.conv.", name)
        name = re.sub(r"^bn1\.", "stem.norm.", name)
        name = re.sub(r"^layer([1-4])\.", lambda found: f"stages.{int(found[1]) - 1}.", name)
        if not name.startswith("fc."):
            renamed[name] = tensor
    return renamed
