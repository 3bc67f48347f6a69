"""3DCE, the 3D context enhanced region-based CNN (Yan et al., MICCAI 2018; the MP3D paper's reference [1]).

A VGG-16 reads each three neighbouring slices; proposals come from the image in the middle, and position-sensitive maps
of all images are pooled for each proposal and fused by one fully connected layer. 17,195,150 parameters with 3 slices
(there the improved R-FCN), 25,223,310 with 27. Numbers by the released code (rsummers11/CADLab, MXNet).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.vgg import make_layers

from ..backbones.slab_backbone import check_slabs
from ..heads.box_rules import CLAIMS_AT_ANY_OVERLAP, BoxRules, Sampling
from ..heads.inclusive_boxes import FixedAnchors, detectron_anchors
from ..heads.roi_heads import BoxPredictor, DetectionLimits, PyramidRoIAlign, RoIHeads
from ..heads.rpn import ProposalLimits, RegionProposalNetwork
from ..sizes import check_sizes
from ..two_stage import FasterRCNN
from .authors_names import Rules

STRIDE = 8
GROUP = 7
MAPS = 10  # position-sensitive maps of each image for each of the 7 x 7 bins
RULES = BoxRules(inclusive=True, deviations=(1.0, 1.0, 1.0, 1.0), max_ratio=float("inf"))
# Index of each convolution in the body, counting ReLU and max-pool layers.
_CONVOLUTIONS = {
    "conv1_1_new": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10, "conv3_2": 12, "conv3_3": 14,
    "conv4_1": 17, "conv4_2": 19, "conv4_3": 21, "conv5_1": 23, "conv5_2": 25, "conv5_3": 27,
}  # fmt: skip
# The authors' names of the tensors and ours, by regular expressions; the first match decides. The
# objectness layer has 2 x 15 outputs in their file, background first, and so here.
THREE_DCE_NAMES: Rules = (
    *((rf"arg:{name}_(weight|bias)$", rf"backbone.body.{place}.\1") for name, place in _CONVOLUTIONS.items()),
    (r"arg:conv_new_1_(weight|bias)$", r"backbone.position_maps.\1"),
    (r"arg:rpn_conv_3x3_(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (r"arg:rpn_cls_score_(weight|bias)$", r"rpn.head.cls_logits.\1"),
    (r"arg:rpn_bbox_pred_(weight|bias)$", r"rpn.head.bbox_pred.\1"),
    (r"arg:fc6_(weight|bias)$", r"roi_heads.box_head.1.\1"),
    (r"arg:cls_score_(weight|bias)$", r"roi_heads.predictor.cls_score.\1"),
    (r"arg:bbox_pred_(weight|bias)$", r"roi_heads.predictor.bbox_pred.\1"),
)


def position_sensitive_pool(level_map: Tensor, rois: Tensor, scale: float, group: int = GROUP) -> Tensor:
    """Mean of each of ``group x group`` bins of a box, each from maps of its own, as MXNet's ``PSROIPooling``.

    torchvision's ``ps_roi_pool`` is another operator: it rounds on the map, enforces a side of one cell and leaves out
    the last row and column.

    Args:
        level_map: ``(B, maps * group * group, h, w)``.
        rois: ``(R, 5)``, the row of the batch and an inclusive box in image pixels.
        scale: Cells per pixel.
        group: Bins along each side.

    Returns:
        ``(R, maps, group, group)``; a bin outside the map is 0.
    """
    height, width = level_map.shape[-2:]
    batch = rois[:, 0].long()
    # Half away from zero, as C rounds.
    corners = rois[:, 1:].sign() * (rois[:, 1:].abs() + 0.5).floor()
    start, end = corners[:, :2] * scale, (corners[:, 2:] + 1) * scale
    sides = (end - start).clamp(min=0.1) / group
    steps = torch.arange(group + 1, device=rois.device, dtype=rois.dtype)
    edges = sides[:, :, None] * steps + start[:, :, None]  # (R, 2, group + 1), x first
    limit = edges.new_tensor([width, height])[:, None]
    first = edges[..., :-1].floor().clamp(min=0).minimum(limit).long()
    last = edges[..., 1:].ceil().clamp(min=0).minimum(limit).long()
    # Sums over rectangles from a table of sums, in double precision so that large sums keep small differences.
    table = torch.zeros((*level_map.shape[:2], height + 1, width + 1), dtype=torch.float64, device=level_map.device)
    table[..., 1:, 1:] = level_map.double().cumsum(2).cumsum(3)
    table = table.unflatten(1, (-1, group, group)).permute(0, 2, 3, 4, 5, 1)  # (B, group, group, h + 1, w + 1, maps)
    row = torch.arange(group, device=rois.device)[:, None]
    column = torch.arange(group, device=rois.device)[None, :]
    image = batch[:, None, None]
    x1, x2 = (side[:, 0, None, :] for side in (first, last))
    y1, y2 = (side[:, 1, :, None] for side in (first, last))
    corner = lambda y, x: table[image, row, column, y, x]  # noqa: E731
    sums = corner(y2, x2) - corner(y1, x2) - corner(y2, x1) + corner(y1, x1)
    cells = (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)
    means = torch.where(cells[..., None] > 0, sums / cells.clamp(min=1)[..., None], 0.0)
    return means.permute(0, 3, 1, 2).to(level_map.dtype)


class OneLevelPool(PyramidRoIAlign):
    """Crops of the one level there is."""

    def __init__(self) -> None:
        super().__init__((STRIDE,), output_size=GROUP)

    def levels(self, boxes: Tensor) -> Tensor:
        """The one level there is, ``(N,)``, for boxes of any size ``(N, 4)``."""
        return torch.zeros_like(boxes[:, 0], dtype=torch.int64)


class PositionSensitivePool(OneLevelPool):
    """Crops of one level by :func:`position_sensitive_pool`."""

    def crop(self, level_map: Tensor, rois: Tensor, stride: int) -> Tensor:
        """Crops ``(R, maps, output_size, output_size)`` of rows and inclusive boxes ``(R, 5)``."""
        return position_sensitive_pool(level_map, rois, 1 / stride, self.output_size)


class SoftmaxRPNHead(RPNHead):
    """Region proposal head with two class scores for each anchor, whose difference is the logit of a softmax.

    Args:
        inputs: Channels of the map.
        channels: Channels inside.
        anchors: Anchors of a cell.
    """

    def __init__(self, inputs: int, channels: int, anchors: int) -> None:
        super().__init__(channels, anchors)
        self.conv = nn.Sequential(nn.Sequential(nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()))
        self.cls_logits = nn.Conv2d(channels, 2 * anchors, 1)
        for layer, std in ((self.conv[0][0], 0.01), (self.cls_logits, 0.01), (self.bbox_pred, 0.001)):  # type: ignore[index]
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits ``(B, A, h, w)`` that an anchor holds a lesion, and offsets ``(B, 4 A, h, w)``, level by level."""
        scores, offsets = super().forward(x)
        halves = [level.chunk(2, dim=1) for level in scores]
        return [lesion - background for background, lesion in halves], offsets


def map_layer(inputs: int, outputs: int) -> nn.Conv2d:
    """1x1 convolution ``(B, inputs, h, w)`` -> ``(B, outputs, h, w)`` with its authors' start."""
    layer = nn.Conv2d(inputs, outputs, 1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class TripletVgg(nn.Module):
    """VGG-16 without its fourth max-pool, on each three neighbouring slices of a slab.

    Args:
        num_slices: D = 3 M, with M odd: 3, 9, ... 33; or 1, one slice used three times.
        width: Channels of the first convolutions; 64 is VGG-16.
        maps: Makes the maps of the second stage from the features of an image, ``(B, out_channels, h, w)``; 3DCE's
            position-sensitive ones by default.

    Raises:
        ValueError: If ``num_slices`` is another number.
    """

    def __init__(self, num_slices: int, *, width: int = 64, maps: nn.Module | None = None) -> None:
        super().__init__()
        if num_slices != 1 and num_slices not in range(3, 34, 6):
            raise ValueError(f"Expected 1, 3, 9, 15, 21, 27 or 33 slices for 3DCE, got {num_slices!r}.")
        check_sizes(width=width)
        self.num_slices = num_slices
        self.images = -(-num_slices // 3)
        w = width
        self.out_channels = 8 * w
        self.body = make_layers([w, w, "M", 2 * w, 2 * w, "M", *[4 * w] * 3, "M", *[8 * w] * 6])
        self.position_maps = maps or map_layer(self.out_channels, MAPS * GROUP**2)
        for layer in self.body:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, slabs: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the middle image, and maps of all for the second stage.

        Args:
            slabs: ``(B, 3 M, H, W)`` normalised slabs, H and W multiples of 8.

        Returns:
            Two maps, ``(B, out_channels, H / 8, W / 8)`` and, image after image, ``(B, M * 490, H / 8, W / 8)`` of
            3DCE.

        Raises:
            ValueError: If the slabs do not have ``num_slices`` slices.
        """
        check_slabs(slabs, self.num_slices)
        slabs = slabs.expand(-1, 3 * self.images, -1, -1)
        features = self.body(slabs.unflatten(1, (self.images, 3)).flatten(0, 1))
        maps = self.position_maps(features).unflatten(0, (-1, self.images)).flatten(1, 2)
        return features.unflatten(0, (-1, self.images))[:, self.images // 2], maps


class ThreeDCE(FasterRCNN):
    """Two-stage detector whose first stage reads the middle image and whose second stage reads the maps of all."""

    def features(self, slabs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """One level for the proposals and one for the second stage, see `TripletVgg.forward`."""
        middle, maps = self.backbone(slabs)
        return [middle], [maps]


def three_dce(
    num_slices: int = 27, num_classes: int = 1, *, width: int = 64, rpn_channels: int = 256, fc_channels: int = 2048
) -> ThreeDCE:
    """3DCE, whole: 17,195,150 parameters with 3 slices, 25,223,310 with 27.

    Boxes are those of its authors, whose last pixel counts (`..heads.box_rules`); offsets have no bound.

    Args:
        num_slices: Three times an odd number, 3 to 33; or 1.
        num_classes: Classes without background.
        width: Channels of the first convolutions; 64 is VGG-16.
        rpn_channels: Channels inside the region proposal head.
        fc_channels: Width of the fully connected layer.

    Raises:
        ValueError: If ``num_slices`` is another number, or ``num_classes`` is below 1.
    """
    check_sizes(rpn_channels=rpn_channels, fc_channels=fc_channels)
    backbone = TripletVgg(num_slices, width=width)
    box_head = nn.Sequential(nn.Flatten(), nn.Linear(backbone.images * MAPS * GROUP**2, fc_channels), nn.ReLU())
    predictor = BoxPredictor(fc_channels, num_classes, background=True)
    network = vgg_detector(backbone, PositionSensitivePool(), box_head, predictor, rpn_channels=rpn_channels)
    nn.init.normal_(box_head[1].weight, std=0.001)  # type: ignore[arg-type]
    return network


def vgg_detector(
    backbone: TripletVgg, pool: PyramidRoIAlign, box_head: nn.Module, predictor: Any, *, rpn_channels: int
) -> ThreeDCE:
    """3DCE's two stages, with a second one of these parts.

    Args:
        backbone: Features and maps of stride 8.
        pool: Crops of the maps.
        box_head: Crops to vectors; its linear layers start by Xavier's rule.
        predictor: Vectors to class scores and offsets, see `BoxPredictor`.
        rpn_channels: Channels inside the region proposal head.
    """
    anchors = FixedAnchors([detectron_anchors(STRIDE, (2, 3, 4, 6, 12), (0.5, 1.0, 2.0))], (STRIDE,))
    rpn = RegionProposalNetwork(
        SoftmaxRPNHead(backbone.out_channels, rpn_channels, anchors.per_cell),
        anchors,
        matching=CLAIMS_AT_ANY_OVERLAP,
        sampling=Sampling(32, 0.5),
        train_limits=ProposalLimits(12000, 2000, min_side=8.0),
        test_limits=ProposalLimits(6000, 300, min_side=8.0),
        rules=RULES,
    )
    roi_heads = RoIHeads(
        pool,
        box_head,
        predictor,
        sampling=Sampling(32, 0.25),
        limits=DetectionLimits(nms_iou=0.3, per_image=300 * predictor.num_classes),
        rules=RULES,
    )
    roi_heads.box_weight = 10.0
    return ThreeDCE(backbone, rpn, roi_heads)
