"""MSB, the Multi-Scale Booster (Shao et al. 2019, arXiv 1907.03958; the MP3D paper's reference [2]).

A ResNet-50 FPN on three slices whose 3x3 output convolutions are replaced by blocks that look at each level with
three dilations of one shared kernel and weigh channels and positions. 43,209,750 parameters. Numbers by the released
code (shaoqb/multi_scale_booster).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.rpn import RPNHead

from ..backbones.resnet2d import ResNet2d
from ..backbones.slab_backbone import STRIDES, check_slabs
from ..heads.box_rules import MMDETECTION, Matching, Sampling
from ..heads.inclusive_boxes import FixedAnchors, InclusiveRoIAlign, mmdetection_anchors
from ..heads.roi_heads import BoxPredictor, DetectionLimits, RoIHeads
from ..heads.rpn import ProposalLimits, RegionProposalNetwork
from ..sizes import check_sizes
from ..two_stage import FasterRCNN
from .authors_names import Rules

DILATIONS = (1, 2, 3)
# The inner layer of a gate has this many times fewer channels.
_REDUCTION = 16
# The authors' names of the tensors and ours, by regular expressions; the first match decides.
MSB_NAMES: Rules = (
    (r"backbone\.conv1\.", r"backbone.body.stem.conv."),
    (r"backbone\.bn1\.", r"backbone.body.stem.norm."),
    *((rf"backbone\.layer{stage + 1}\.", rf"backbone.body.stages.{stage}.") for stage in range(4)),
    (r"neck\.lateral_convs\.(\d)\.conv\.", r"backbone.laterals.\1.0."),
    (r"neck\.lateral_convs\.(\d)\.norm\.", r"backbone.laterals.\1.1."),
    (r"neck\.fpn_convs\.(\d)\.conv1\.", r"backbone.blocks.\1.pointwise."),
    (r"neck\.fpn_convs\.(\d)\.sc\.atrous_conv\.", r"backbone.blocks.\1.dilated.conv."),
    (r"neck\.fpn_convs\.(\d)\.sc\.bn\.", r"backbone.blocks.\1.dilated.norm."),
    (r"neck\.fpn_convs\.(\d)\.se\.", r"backbone.blocks.\1.channel_gate."),
    (r"neck\.fpn_convs\.(\d)\.fusion\.", r"backbone.blocks.\1.fusion."),
    (r"neck\.fpn_convs\.(\d)\.sptial\.spatial\.bn\.", r"backbone.blocks.\1.spatial_gate.norm."),
    (r"neck\.fpn_convs\.(\d)\.sptial\.spatial\.", r"backbone.blocks.\1.spatial_gate."),
    (r"rpn_head\.rpn_conv\.", r"rpn.head.conv.0.0."),
    (r"rpn_head\.rpn_cls\.", r"rpn.head.cls_logits."),
    (r"rpn_head\.rpn_reg\.", r"rpn.head.bbox_pred."),
    (r"bbox_head\.shared_fcs\.0\.", r"roi_heads.box_head.fc6."),
    (r"bbox_head\.shared_fcs\.1\.", r"roi_heads.box_head.fc7."),
    (r"bbox_head\.fc_cls\.", r"roi_heads.predictor.cls_score."),
    (r"bbox_head\.fc_reg\.", r"roi_heads.predictor.bbox_pred."),
)


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
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // _REDUCTION, 1)
        self.fc2 = nn.Conv2d(channels // _REDUCTION, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` -> weights ``(B, C, 1, 1)`` in (0, 1)."""
        return self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class SpatialGate(nn.Module):
    """Weights of positions from the maximum and the mean over channels."""

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
        check_sizes(channels=out_channels)
        self.body = body or ResNet2d(norm=nn.BatchNorm2d)
        self.out_channels = out_channels
        laterals = [_normed(channels, out_channels) for channels in self.body.out_channels]
        blocks = [BoosterBlock(out_channels) for _ in laterals]
        for module in (each for part in (*laterals, *blocks) for each in part.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
        for block in blocks:
            block.dilated.conv.reset_parameters()  # the released code keeps PyTorch's own start here
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


def multi_scale_booster(
    num_slices: int = 3,
    num_classes: int = 1,
    *,
    layers: Sequence[int] = (3, 4, 6, 3),
    width: int = 64,
    channels: int = 256,
    fc_channels: int = 1024,
) -> FasterRCNN:
    """MSB, whole: 43,209,750 parameters.

    Boxes are those of its authors, whose last pixel counts (`..heads.box_rules`). At most ten are reported.

    Args:
        num_slices: 3, the only supported number.
        num_classes: Classes without background.
        layers: Blocks of each stage of the body.
        width: Planes of the body's first stage; 64 is ResNet-50.
        channels: Channels of the pyramid.
        fc_channels: Width of the two fully connected layers.

    Raises:
        ValueError: If ``num_slices`` is not 3, or ``num_classes`` is below 1.
    """
    if num_slices != BoosterBackbone.num_slices:
        raise ValueError(f"Expected {BoosterBackbone.num_slices} slices for MSB, got {num_slices!r}.")
    check_sizes(fc_channels=fc_channels)
    backbone = BoosterBackbone(ResNet2d(layers, width=width, norm=nn.BatchNorm2d), out_channels=channels)
    bases = [mmdetection_anchors(stride, (2, 4, 6, 8), (0.5, 1.0, 2.0)) for stride in STRIDES]
    anchors = FixedAnchors(bases, STRIDES)
    limits = ProposalLimits(per_level=2000, per_image=2000)
    rpn = RegionProposalNetwork(
        RPNHead(channels, anchors.per_cell),
        anchors,
        matching=Matching(0.5, 0.3, low_quality_floor=0.3),
        sampling=Sampling(48, 0.5),
        train_limits=limits,
        test_limits=limits,
        rules=MMDETECTION,
    )
    pool = InclusiveRoIAlign()
    roi_heads = RoIHeads(
        pool,
        TwoMLPHead(channels * pool.output_size**2, fc_channels),
        BoxPredictor(fc_channels, num_classes, background=True),
        matching=Matching(0.5, 0.4, low_quality_floor=0.4),
        sampling=Sampling(48, 0.25),
        limits=DetectionLimits(score=0.05, per_image=10),
        rules=MMDETECTION,
    )
    return FasterRCNN(backbone, rpn, roi_heads)
