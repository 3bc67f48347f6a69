"""FPN+3DCE, the paper's baseline: 2D features of slice triplets, fused late (Table 1, section 3.2; released code).

A slab of 3 M slices is M images of three neighbouring slices each. One 2D network and pyramid reads them all; proposals
come from the image in the middle alone, and the second stage reads all M images through a 1x1 convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from .backbones.resnet2d import ResNet2d
from .backbones.slab_backbone import check_slabs, initialise_pyramid
from .heads.roi_heads import RoIHeads
from .heads.rpn import RegionProposalNetwork
from .sizes import check_sizes, check_triplets
from .two_stage import FasterRCNN

# Slabs arrive with one mean and deviation for all slices, those of ImageNet's red channel; in units of 0 to 255.
SLAB_MEAN, SLAB_DEVIATION = 123.675, 58.395
RGB_MEAN, RGB_DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class TripletBackbone(nn.Module):
    """2D network and pyramid over each three neighbouring slices of a slab.

    A slab of three slices is read as a colour image, as in the released code: the last slice becomes red, and each
    colour has its own mean and deviation. Slabs of more slices keep order and normalisation. The network
    converts the same normalised slab that every other network gets.

    Args:
        body: 2D network with ``out_channels``.
        num_slices: D = 3 M, with M odd: 3, 9, 15, 21, 27.
        out_channels: Channels of the pyramid for each triplet.
        first_level: 2 for levels P2 to P6, P6 a subsample of P5; 3 for P3 to P7, the last two by convolutions
            (RetinaNet).

    Raises:
        ValueError: If ``num_slices`` is not three times an odd number.
    """

    def __init__(self, body: ResNet2d, num_slices: int, *, out_channels: int = 256, first_level: int = 2) -> None:
        super().__init__()
        check_triplets(num_slices)
        check_sizes(fpn_channels=out_channels)
        if first_level not in (2, 3):
            raise ValueError(f"Expected pyramid levels from 2 or from 3 on, got first_level={first_level!r}.")
        self.num_slices = num_slices
        self.triplets = num_slices // 3
        self.out_channels = out_channels
        self.first_level = first_level
        self.body = body
        channels = body.out_channels[first_level - 2 :]
        top: ExtraFPNBlock = LastLevelMaxPool() if first_level == 2 else LastLevelP6P7(out_channels, out_channels)
        self.fpn = FeaturePyramidNetwork(channels, out_channels, top)
        initialise_pyramid(self.fpn)
        mean, deviation = torch.tensor(RGB_MEAN), torch.tensor(RGB_DEVIATION)
        self.register_buffer("colour_scale", (SLAB_DEVIATION / deviation).reshape(3, 1, 1), persistent=False)
        self.register_buffer("colour_shift", ((SLAB_MEAN - mean) / deviation).reshape(3, 1, 1), persistent=False)

    def as_images(self, slabs: Tensor) -> Tensor:
        """``(B, 3 M, H, W)`` slabs as ``(B * M, 3, H, W)`` images, the M images of a slab one after another."""
        images = slabs.unflatten(1, (self.triplets, 3)).flatten(0, 1)
        if self.triplets > 1:
            return images
        scale, shift = self.get_buffer("colour_scale"), self.get_buffer("colour_shift")
        return images.flip(1) * scale.to(images) + shift.to(images)

    def forward(self, slabs: Tensor) -> list[Tensor]:
        """Pyramid levels of all triplets.

        Args:
            slabs: ``(B, 3 M, H, W)`` normalised slabs, H and W multiples of 32.

        Returns:
            Five tensors ``(B, M * out_channels, H / s, W / s)``, image by image.

        Raises:
            ValueError: If the slabs do not have ``num_slices`` slices.
        """
        check_slabs(slabs, self.num_slices)
        maps = self.body(self.as_images(slabs))[self.first_level - 2 :]
        pyramid = self.fpn({str(level): level_map for level, level_map in enumerate(maps)})
        return [level.unflatten(0, (-1, self.triplets)).flatten(1, 2) for level in pyramid.values()]


class LateFusionRCNN(FasterRCNN):
    """Two-stage detector that proposes on the middle triplet and refines on all of them.

    Args:
        backbone: Slabs to pyramid levels of all triplets.
        rpn: Levels of one triplet to proposals.
        roi_heads: Fused levels and proposals to detections.
    """

    backbone: TripletBackbone
    engine_parts = (*FasterRCNN.engine_parts, "fusion")

    def __init__(self, backbone: TripletBackbone, rpn: RegionProposalNetwork, roi_heads: RoIHeads) -> None:
        super().__init__(backbone, rpn, roi_heads)
        channels = backbone.out_channels
        conv = nn.Conv2d(backbone.triplets * channels, channels, 1)
        nn.init.xavier_uniform_(conv.weight)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.fusion = nn.Sequential(conv, nn.ReLU(inplace=True))

    def features(self, slabs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Levels of the middle triplet for the proposals, and the fused levels for the second stage."""
        levels = self.backbone(slabs)
        channels = self.backbone.out_channels
        first = self.backbone.triplets // 2 * channels
        return [level[:, first : first + channels] for level in levels], [self.fusion(level) for level in levels]
