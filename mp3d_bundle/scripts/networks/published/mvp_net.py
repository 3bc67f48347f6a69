"""MVP-Net (Li et al., MICCAI 2019, arXiv 1909.04247; the MP3D paper's reference [4]).

One ResNet-50 FPN reads every slice triplet in three intensity windows; a gate weighs the channels of all these views,
and a head on the coarsest level learns the position of the slice along the body. 79,118,733 parameters with 3 slices,
157,173,741 with 9. Numbers by the released code (urmagicsmine/MVP-Net).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.resnet import Bottleneck
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from ..backbones.resnet2d import ResNet2d
from ..backbones.slab_backbone import STRIDES, check_slabs, initialise_pyramid
from ..batching import Targets
from ..heads.box_rules import CLAIMS_AT_ANY_OVERLAP, DETECTRON, Sampling, at_least_float32
from ..heads.inclusive_boxes import FixedAnchors, UnalignedRoIAlign, detectron_anchors
from ..heads.roi_heads import BoxPredictor, DetectionLimits, RoIHeads
from ..heads.rpn import RegionProposalNetwork
from ..sizes import check_sizes
from ..two_stage import FasterRCNN
from .authors_names import Rules

# HU that become 0 and 255, and the mean that is subtracted.
WINDOWS = ((-174.0, 274.0), (-1493.0, 484.0), (-534.0, 1425.0))
PIXEL_MEAN = 100.0
# Upper limits of the lower two of the three parts of the body, as z from 0 to 1.
PART_LIMITS = (0.58, 0.72)
# The inner layer of a gate has this many times fewer channels.
_REDUCTION = 16
# The authors' names of the tensors and ours, by regular expressions; the first match decides.
MVPNET_NAMES: Rules = (
    (r"Conv_Body\.conv_body\.res1\.conv1\.", r"backbone.body.stem.conv."),
    (r"Conv_Body\.conv_body\.res1\.bn1\.", r"backbone.body.stem.norm."),
    *((rf"Conv_Body\.conv_body\.res{stage + 2}\.", rf"backbone.body.stages.{stage}.") for stage in range(4)),
    (r"Conv_Body\.conv_top\.", r"backbone.fpn.inner_blocks.3.0."),
    *(
        (rf"Conv_Body\.topdown_lateral_modules\.{step}\.conv_lateral\.", rf"backbone.fpn.inner_blocks.{2 - step}.0.")
        for step in range(3)
    ),
    *((rf"Conv_Body\.posthoc_modules\.{step}\.", rf"backbone.fpn.layer_blocks.{3 - step}.0.") for step in range(4)),
    (r"cbam\.ChannelGate\.mlp\.1\.", r"backbone.gate.fc1."),
    (r"cbam\.ChannelGate\.mlp\.3\.", r"backbone.gate.fc2."),
    (r"RPN\.FPN_RPN_conv\.", r"rpn.head.conv.0.0."),
    (r"RPN\.FPN_RPN_cls_score\.", r"rpn.head.cls_logits."),
    (r"RPN\.FPN_RPN_bbox_pred\.", r"rpn.head.bbox_pred."),
    (r"Box_Head\.fc1\.", r"roi_heads.box_head.fc6."),
    (r"Box_Head\.fc2\.", r"roi_heads.box_head.fc7."),
    (r"Box_Outs\.", r"roi_heads.predictor."),
    (r"Position_Head\.convs\.", r"position.convs."),
    (r"Position_Cls_Outs\.position_cls\.", r"position.part."),
    (r"Position_Reg_Outs\.position_reg\.", r"position.height."),
)


class ChannelAffine(nn.Module):
    """Scale and shift of each channel: batch normalisation whose statistics are folded into them.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` -> the same shape."""
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class ViewGate(nn.Module):
    """Weights of the channels of all views, from their means and maxima.

    Args:
        channels: Channels of all views together.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels // _REDUCTION)
        self.fc2 = nn.Linear(channels // _REDUCTION, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` -> ``(B, C, h, w)``, weighted."""
        pooled = [x.mean((2, 3)), x.amax((2, 3))]
        weights = sum(self.fc2(self.fc1(each).relu()) for each in pooled).sigmoid()  # type: ignore[union-attr]
        return x * weights[:, :, None, None]


class MultiViewBackbone(nn.Module):
    """Slabs to the gated pyramid of all views.

    The slab arrives as every network gets it: clipped to one window and normalised. It is converted back to HU, which
    is exact inside that window, and rendered in the three windows of MVP-Net. With the default window of -1024 to 1050
    HU the first is exact; below -1024 and above 1050 HU the other two see these limits instead. To show all of them, a
    recipe passes slabs of -1493 to 1425 HU and sets ``window``.

    Args:
        num_slices: 3 or 9: one image of three slices for each window, or three.
        channels: Channels of the pyramid for each view.
        layers: Blocks of each stage of the body.
        width: Planes of the body's first stage; 64 is ResNet-50.
        window: HU that the slab's window makes 0 and 255, and the mean and deviation of its normalisation.

    Raises:
        ValueError: If ``num_slices`` is neither 3 nor 9.
    """

    def __init__(
        self,
        num_slices: int,
        *,
        channels: int = 256,
        layers: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        window: tuple[float, float, float, float] = (-1024.0, 1050.0, 123.675, 58.395),
    ) -> None:
        super().__init__()
        if num_slices not in (3, 9):
            raise ValueError(f"Expected 3 or 9 slices for MVP-Net, got {num_slices!r}.")
        self.num_slices = num_slices
        self.views = num_slices  # three windows, one image for every three slices
        self.out_channels = self.views * channels
        self.window = tuple(window)
        self.body = ResNet2d(layers, width=width, norm=ChannelAffine)
        for stage in list(self.body.stages)[1:]:
            first = cast(Bottleneck, cast(nn.Sequential, stage)[0])
            first.conv1.stride, first.conv2.stride = (2, 2), (1, 1)
        self.fpn = FeaturePyramidNetwork(self.body.out_channels, channels, LastLevelMaxPool())
        initialise_pyramid(self.fpn)
        self.gate = ViewGate(self.out_channels)

    def as_images(self, slabs: Tensor) -> Tensor:
        """``(B, D, H, W)`` normalised slabs as ``(B * views, 3, H, W)`` images, a slab's views window by window."""
        low, high, mean, deviation = self.window
        hounsfield = (slabs * deviation + mean) / 255 * (high - low) + low
        stack = [((hounsfield - start) / (end - start)).clamp(0, 1) * 255 - PIXEL_MEAN for start, end in WINDOWS]
        return torch.cat(stack, dim=1).unflatten(1, (self.views, 3)).flatten(0, 1)

    def from_images(self, images: Tensor) -> list[Tensor]:
        """Levels of images ``(B * views, 3, H, W)``, see `forward`."""
        maps = self.body(images)
        pyramid = self.fpn({str(level): level_map for level, level_map in enumerate(maps)})
        return [self.gate(level.unflatten(0, (-1, self.views)).flatten(1, 2)) for level in pyramid.values()]

    def forward(self, slabs: Tensor) -> list[Tensor]:
        """Gated levels P2..P6.

        Args:
            slabs: ``(B, D, H, W)`` normalised slabs, H and W multiples of 32.

        Returns:
            Five tensors ``(B, views * channels, H / s, W / s)``, view after view, s = 4, 8, 16, 32, 64 (rounded up).

        Raises:
            ValueError: If the slabs do not have ``num_slices`` slices.
        """
        check_slabs(slabs, self.num_slices)
        return self.from_images(self.as_images(slabs))


class PointwiseRPNHead(RPNHead):
    """Region proposal head with a 1x1 convolution in place of the 3x3 one.

    Args:
        inputs: Channels of the levels.
        channels: Channels inside.
        anchors: Anchors of a cell.
    """

    def __init__(self, inputs: int, channels: int, anchors: int) -> None:
        super().__init__(channels, anchors)
        conv = nn.Conv2d(inputs, channels, 1)
        nn.init.normal_(conv.weight, std=0.01)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.conv = nn.Sequential(nn.Sequential(conv, nn.ReLU()))


class PositionHead(nn.Module):
    """Position of a slice along the body, from three views of the coarsest level.

    Args:
        channels: Channels of a view.
        as_released: Repeat two errors of the released code: each view's height is compared with the target of every
            view, which makes that term three times as large; and z = 1.0 belongs to no part of the body, so that a
            slice with it is rejected. Otherwise the term is a mean, and z = 1.0 belongs to the last part.
    """

    def __init__(self, channels: int = 256, *, as_released: bool = False) -> None:
        super().__init__()
        self.as_released = as_released
        wide = 4 * channels
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((channels, channels, 2), (channels, wide, 1), (wide, wide, 1)):
            conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
            layers += [conv, nn.GroupNorm(min(32, outputs), outputs), nn.ReLU()]
        self.convs = nn.Sequential(*layers)
        self.part = nn.Linear(wide, len(PART_LIMITS) + 1)
        self.height = nn.Linear(wide, 1)

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Views ``(V, C, h, w)`` -> logits of the parts of the body ``(V, 3)`` and z ``(V,)``."""
        vectors = self.convs(views).mean((2, 3)).relu()
        return at_least_float32(self.part(vectors)), at_least_float32(self.height(vectors)).squeeze(1)

    def loss(self, logits: Tensor, heights: Tensor, z: Tensor) -> Tensor:
        """A tenth of the cross entropy of the part, plus the smooth L1 distance of z.

        Args:
            logits: ``(V, 3)``.
            heights: ``(V,)``.
            z: ``(V,)``, from 0 to 1.

        Raises:
            ValueError: If a z is outside 0..1, or is 1.0 with the released rule.
        """
        if not ((z >= 0) & (z <= 1)).all() or (self.as_released and (z == 1).any()):
            limit = "below 1, as the released rule assigns no part to 1" if self.as_released else "1 at most"
            raise ValueError(f"Expected positions z from 0, {limit}, got {z.tolist()}.")
        part = torch.bucketize(z, z.new_tensor(PART_LIMITS), right=True)
        if self.as_released:
            distance = F.smooth_l1_loss(heights[:, None] + 0 * z, z + 0 * heights[:, None], reduction="sum") / len(z)
        else:
            distance = F.smooth_l1_loss(heights, z)
        return 0.1 * F.cross_entropy(logits, part) + distance


class MVPNet(FasterRCNN):
    """Two-stage detector that learns the position of the slice next to the boxes.

    Args:
        backbone: Slabs to gated levels.
        rpn: Levels to proposals.
        roi_heads: Levels and proposals to detections.
        position: Learns in training; detections do not depend on it.
    """

    backbone: MultiViewBackbone
    # What its loss reads of patients; detections read nothing.
    learnt_facts = ("position",)

    def __init__(
        self, backbone: MultiViewBackbone, rpn: RegionProposalNetwork, roi_heads: RoIHeads, position: PositionHead
    ) -> None:
        super().__init__(backbone, rpn, roi_heads)
        self.position = position

    def middle_views(self, level: Tensor) -> Tensor:
        """Three views ``(3 B, C, h, w)`` of a level: one of each window, or with 9 slices those of the second."""
        views = level.unflatten(1, (self.backbone.views, -1))
        first = (self.backbone.views - 3) // 2
        return views[:, first : first + 3].flatten(0, 1)

    def further_losses(self, levels: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """``loss_position`` of the slabs whose targets have the field ``position``; zero without one.

        ``position`` ``(N,)`` is z of the slice along the body, 0 to 1 or NaN, the same in every row of a slab.
        """
        logits, heights = self.position(self.middle_views(levels[-1]))
        places = [target.get("position", target["boxes"].new_zeros(0)) for target in targets]
        rows = [row for row, place in enumerate(places) if len(place) and bool(place[0].isfinite())]
        if not rows:
            return {"loss_position": (logits.sum() + heights.sum()) * 0}
        chosen = torch.tensor([3 * row + view for row in rows for view in range(3)], device=logits.device)
        z = torch.stack([places[row][0] for row in rows]).to(heights).repeat_interleave(3)
        return {"loss_position": self.position.loss(logits[chosen], heights[chosen], z)}


def mvp_net(
    num_slices: int = 9,
    num_classes: int = 1,
    *,
    layers: Sequence[int] = (3, 4, 6, 3),
    channels: int = 256,
    fc_channels: int = 1024,
    window: tuple[float, float, float, float] = (-1024.0, 1050.0, 123.675, 58.395),
    as_released: bool = False,
) -> MVPNet:
    """MVP-Net, whole: 79,118,733 parameters with 3 slices, 157,173,741 with 9.

    Boxes are those of its authors, whose last pixel counts (`..heads.box_rules`).

    Args:
        num_slices: 3 or 9.
        num_classes: Classes without background.
        layers: Blocks of each stage of the body.
        channels: Channels of the pyramid for each view; a quarter of them are the planes of the body's first stage.
        fc_channels: Width of the two fully connected layers.
        window: See `MultiViewBackbone`.
        as_released: See `PositionHead`.

    Raises:
        ValueError: If ``num_slices`` is neither 3 nor 9, or ``num_classes`` is below 1.
    """
    check_sizes(channels=channels, fc_channels=fc_channels)
    backbone = MultiViewBackbone(num_slices, channels=channels, layers=layers, width=channels // 4, window=window)
    anchors = FixedAnchors([detectron_anchors(stride, (4,), (0.5, 1.0, 2.0)) for stride in STRIDES], STRIDES)
    rpn = RegionProposalNetwork(
        PointwiseRPNHead(backbone.out_channels, channels, anchors.per_cell),
        anchors,
        matching=CLAIMS_AT_ANY_OVERLAP,
        sampling=Sampling(32, 0.5),
        rules=DETECTRON,
    )
    pool = UnalignedRoIAlign()
    roi_heads = RoIHeads(
        pool,
        TwoMLPHead(backbone.out_channels * pool.output_size**2, fc_channels),
        BoxPredictor(fc_channels, num_classes, background=True),
        sampling=Sampling(32, 0.25),
        limits=DetectionLimits(score=0.05),
        rules=DETECTRON,
    )
    return MVPNet(backbone, rpn, roi_heads, PositionHead(channels, as_released=as_released))
