"""RetinaNet with dense masks and attention (Zlocha et al., MICCAI 2019; the MP3D paper's reference [3]).

Only its abstract, its published search of anchors and its figures can be read: that masks made by GrabCut from the
RECIST diameters are part of the training objective, and that an attention mechanism helped. Where the mask branch and
the gates sit, their layers, and the loss of the mask are choices of this module; docs/rows.md lists them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from ..backbones.resnet2d import ResNet2d
from ..batching import Detections, Targets, check_targets, pad_slabs, split_regions
from ..detectors import TwoStageHead
from ..heads.box_rules import at_least_float32
from ..heads.mask_head import dice_loss
from ..heads.rpn import AnchorShapes
from ..late_fusion import TripletBackbone
from ..one_stage import OneStageDetector, OneStageHead, one_stage_head, pyramid_start
from ..whole_batch import common_size, mean_count

# Cells of which less is known have no loss, whatever they should be.
_LEAST = 1e-6


class AttentionGate(nn.Module):
    """Weights of positions by a level and the coarser one above it: additive attention (Oktay et al. 2018).

    Args:
        channels: Channels of both levels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.level = nn.Conv2d(channels, inner, 1, bias=False)
        self.above = nn.Conv2d(channels, inner, 1)
        self.weight = nn.Conv2d(inner, 1, 1)
        # Near one at the start, so that the pyramid passes.
        nn.init.constant_(self.weight.bias, 2.0)  # type: ignore[arg-type]

    def forward(self, level: Tensor, above: Tensor) -> Tensor:
        """``(B, C, h, w)`` and ``(B, C, h / 2, w / 2)`` -> the first, weighted."""
        seen = F.interpolate(self.above(above), size=level.shape[-2:], mode="bilinear", align_corners=False)
        return level * self.weight((self.level(level) + seen).relu()).sigmoid()


class GatedTriplets(TripletBackbone):
    """`TripletBackbone` with an attention gate on every level but the coarsest.

    Args:
        body: As there.
        num_slices: As there.
        out_channels: As there.
        first_level: As there.
    """

    def __init__(self, body: ResNet2d, num_slices: int, *, out_channels: int = 256, first_level: int = 3) -> None:
        super().__init__(body, num_slices, out_channels=out_channels, first_level=first_level)
        self.gates = nn.ModuleList(AttentionGate(out_channels) for _ in range(4))

    def forward(self, slabs: Tensor) -> list[Tensor]:
        """Gated levels, see `TripletBackbone.forward`."""
        levels = super().forward(slabs)
        pairs = zip(self.gates, levels[:-1], levels[1:], strict=True)
        return [*(gate(level, above) for gate, level, above in pairs), levels[-1]]


class DenseMaskBranch(nn.Module):
    """Lesion or not, cell by cell, at twice the resolution of the finest level.

    Args:
        channels: Channels of the level.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.logits = nn.Conv2d(channels, 1, 1)
        for layer in (*self.convs, self.upsample):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.logits.bias)  # type: ignore[arg-type]

    def forward(self, level: Tensor) -> Tensor:
        """``(B, C, h, w)`` -> logits ``(B, 2 h, 2 w)``."""
        for conv in self.convs:
            level = conv(level).relu()
        return self.logits(self.upsample(level).relu())[:, 0]

    def loss(self, level: Tensor, dense: Tensor, known: Tensor | None = None) -> Tensor:
        """Binary cross-entropy and Dice loss, mean over slabs.

        Args:
            level: ``(B, C, h, w)``, the finest level.
            dense: ``(B, H, W)`` masks of the slabs, 0 to 1.
            known: ``(B, H, W)``, 0 at pixels of which nothing is known, which have no loss; all count by default.
        """
        logits = at_least_float32(self(level))
        size = (logits.shape[-2], logits.shape[-1])
        if known is None:
            wanted = F.adaptive_avg_pool2d(dense.to(logits), size)
            return F.binary_cross_entropy_with_logits(logits, wanted) + dice_loss(logits, wanted)
        share = F.adaptive_avg_pool2d(known.to(logits), size)
        wanted = F.adaptive_avg_pool2d((dense * known).to(logits), size) / share.clamp(min=_LEAST)
        cells = F.binary_cross_entropy_with_logits(logits, wanted, weight=share, reduction="sum")
        return cells / mean_count(share.sum(), logits) + dice_loss(logits, wanted, share)


def dense_masks(targets: Targets, size: tuple[int, int]) -> Tensor:
    """The masks of the lesions of each slab in one.

    Args:
        targets: ``boxes`` ``(N, 4)`` and ``masks`` ``(N, h, w)``, grids over them, of each slab.
        size: Height and width of the slabs in pixels.

    Returns:
        ``(B, H, W)`` float, 0 to 1, on the device of the boxes.
    """
    slabs = []
    for target in targets:
        boxes, masks = target["boxes"].float(), target["masks"].float()
        if len(boxes):
            slabs.append(paste_masks_in_image(masks[:, None], boxes, size).amax(dim=(0, 1)))
        else:
            slabs.append(boxes.new_zeros(size))
    return torch.stack(slabs)


def known_pixels(regions: Sequence[Tensor], dense: Tensor) -> Tensor:
    """Where the masks of slabs say something: everywhere but in regions to ignore, unless a lesion is there.

    Args:
        regions: ``(K, 4)`` of each slab; a pixel is in one if its centre is.
        dense: ``(B, H, W)``, see `dense_masks`.

    Returns:
        ``(B, H, W)`` float, 0 or 1.
    """
    height, width = dense.shape[-2:]
    x, y = (torch.arange(side, device=dense.device) + 0.5 for side in (width, height))
    inside = []
    for boxes in regions:
        x1, y1, x2, y2 = (edge[:, None] for edge in boxes.to(dense).unbind(1))
        across, along = (x >= x1) & (x < x2), (y >= y1) & (y < y2)
        inside.append((along[:, :, None] & across[:, None, :]).any(0))
    return ((dense > 0) | ~torch.stack(inside)).to(dense)


class DenseMaskDetector(OneStageDetector):
    """`OneStageDetector` that learns dense masks too; its detections have none.

    Args:
        backbone: Slabs to gated levels.
        num_classes: Classes without background.
        head: Numbers of the head.
        anchors: Anchors of a cell.
    """

    reads: Sequence[str] = ("masks",)

    def __init__(
        self,
        backbone: GatedTriplets,
        num_classes: int = 1,
        *,
        head: OneStageHead | None = None,
        anchors: AnchorShapes | None = None,
    ) -> None:
        super().__init__(backbone, num_classes, head=head, anchors=anchors)
        self.mask_branch = DenseMaskBranch(backbone.out_channels)

    def forward(  # type: ignore[override]
        self, slabs: Tensor | Sequence[Tensor], targets: Targets | None = None
    ) -> dict[str, Tensor] | Detections:
        """Losses in training, detections in evaluation; see `OneStageDetector.forward`.

        Args:
            slabs: As there.
            targets: As there, with ``masks`` ``(N, h, w)`` over the boxes.

        Returns:
            In training ``loss_masks`` as well.
        """
        if not self.training:
            return super().forward(slabs)
        images = pad_slabs(slabs, common_size)
        checked = check_targets(targets, len(images.image_sizes), self.num_classes, self.reads)
        levels = self.network.feature_extractor(images.tensors)  # type: ignore[operator]
        outputs, anchors, counts = self._outputs(images, self.network.read(levels))  # type: ignore[operator]
        losses = self.compute_loss(outputs, self._row_first(images, checked), anchors, counts)
        height, width = images.tensors.shape[-2:]
        lesions, regions = split_regions(checked)
        dense = dense_masks(lesions, (height, width)).to(images.tensors.device)
        known = None if regions is None else known_pixels(regions, dense)
        return {**losses, "loss_masks": self.mask_branch.loss(levels[0], dense, known)}


def retinanet_masks(
    num_slices: int = 3,
    num_classes: int = 1,
    *,
    body: ResNet2d | None = None,
    fpn_channels: int = 256,
    head: OneStageHead | TwoStageHead | None = None,
    anchors: AnchorShapes | None = None,
) -> DenseMaskDetector:
    """RetinaNet on three slices as colours with attention gates, and a branch of dense masks in training.

    Args:
        num_slices: Slices of a slab; 3 only.
        num_classes: Classes without background.
        body: 2D body; ResNet-50 with group normalisation if left out.
        fpn_channels: Channels of the pyramid and the head, a multiple of 8.
        head: Numbers of the head; those of a two-stage head as far as they apply.
        anchors: Anchors of a cell; the pyramid begins at P2 or P3, as their first stride says (4 or 8).

    Raises:
        ValueError: If ``num_slices`` is not 3, no class is given, or the strides do not fit a pyramid.
    """
    first = pyramid_start(num_slices, anchors)
    backbone = GatedTriplets(body or ResNet2d(), num_slices, out_channels=fpn_channels, first_level=first)
    return DenseMaskDetector(backbone, num_classes, head=one_stage_head(head), anchors=anchors)
