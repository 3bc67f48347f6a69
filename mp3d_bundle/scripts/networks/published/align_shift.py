"""AlignShift, TSM and A3D (Yang et al., MICCAI 2020 and 2021; arXiv 2005.01969, 2109.08684).

Three ways to mix slices in one network: DenseNet-121 without its last block over the slices, reduced to the target
slice after each block. Numbers by the released code (M3DV/AlignShift).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.rpn import RPNHead

from ...instances import Instances
from ..backbones.densenet import AlignShift, SlicePairs, TemporalShift
from ..backbones.densenet_slab import DenseSlabBackbone
from ..batching import Detections, Targets
from ..heads.box_rules import MMDETECTION, Matching, Sampling
from ..heads.inclusive_boxes import FixedAnchors, InclusiveRoIAlign, mmdetection_anchors
from ..heads.mask_head import MaskHead
from ..heads.roi_heads import BoxPredictor, DetectionLimits, RoIHeads
from ..heads.rpn import ProposalLimits, RegionProposalNetwork
from ..two_stage import FasterRCNN
from .authors_names import DENSE_BODY, Rules

STRIDE = 4

AUTHORS_BACKBONE: Rules = (
    (r"backbone\.conv0\.adaptive_align_weights$", "backbone.unused.matrices.0"),
    (r"backbone\.transition(\d)\.conv\.adaptive_align_weights$", r"backbone.unused.matrices.\1"),
    (
        r"backbone\.(denseblock\d\.denselayer\d+)\.conv(\d)\.adaptive_align_weights$",
        r"backbone.body.\1.mix\2.matrix",
    ),
    *((rf"backbone\.reductionz{i}\.reduction_z_conv\.", rf"backbone.reductions.{i - 1}.") for i in (1, 2, 3)),
    *DENSE_BODY,
)
MASK_RCNN: Rules = (
    (r"rpn_head\.rpn_conv\.", "rpn.head.conv.0.0."),
    (r"rpn_head\.rpn_cls\.", "rpn.head.cls_logits."),
    (r"rpn_head\.rpn_reg\.", "rpn.head.bbox_pred."),
    (r"bbox_head\.fc_cls\.", "roi_heads.predictor.cls_score."),
    (r"bbox_head\.fc_reg\.", "roi_heads.predictor.bbox_pred."),
    (r"bbox_head\.shared_fcs\.0\.", "roi_heads.box_head.fc6."),
    (r"bbox_head\.shared_fcs\.1\.", "roi_heads.box_head.fc7."),
    (r"mask_head\.convs\.(\d)\.conv\.", r"roi_heads.fields.masks.convs.\1."),
    (r"mask_head\.upsample\.", "roi_heads.fields.masks.upsample."),
    (r"mask_head\.conv_logits\.", "roi_heads.fields.masks.logits."),
)
# The authors' names of AlignShift, TSM and A3D.
ALIGN_SHIFT_NAMES: Rules = (*AUTHORS_BACKBONE, *MASK_RCNN)


class ThicknessRCNN(FasterRCNN):
    """Two-stage detector whose backbone gets the distance between the slices of each slab."""

    reads_thickness = True
    # The backbone takes the distance as numbers, which a converted one would hold for good.
    engine_parts = FasterRCNN.engine_parts[1:]
    _given: Tensor | None = None

    def forward(
        self,
        slabs: Tensor | Sequence[Tensor],
        targets: Targets | None = None,
        thickness: Tensor | Sequence[float] | float | None = None,
    ) -> dict[str, Tensor] | Detections:
        """Losses in training, detections in evaluation; see `FasterRCNN.forward`.

        Args:
            slabs: As there.
            targets: As there.
            thickness: mm between the slices of each slab, or of all; that of the backbone if left out.

        Raises:
            ValueError: As there; or if there is not one thickness for each slab, or one is not above zero.
        """
        if thickness is None:
            return super().forward(slabs, targets)
        given = torch.as_tensor(thickness, dtype=torch.float32, device="cpu")
        if given.ndim > 1 or (given.ndim == 1 and len(given) != len(slabs)):
            raise ValueError(f"Expected a thickness for each of {len(slabs)} slabs, got {tuple(given.shape)}.")
        given = given.expand(len(slabs))
        try:
            if self.training:
                self._given = given
                return super().forward(slabs, targets)
            found: dict[int, Instances[Tensor]] = {}
            # Slabs of one thickness at a time, because slabs of different sizes are not detected in their order.
            for value in given.unique():
                rows = torch.nonzero(given == value).flatten().tolist()
                self._given = value[None]
                detections: Any = super().forward([slabs[row] for row in rows])
                found.update(zip(rows, detections, strict=True))
            return [found[row] for row in range(len(slabs))]
        finally:
            self._given = None

    def features(self, slabs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The map of the target slice, see `FasterRCNN.features`."""
        given = None if self._given is None else self._given.to(slabs).expand(len(slabs))
        levels = self.backbone(slabs, given)
        return levels, levels


def one_map_mask_rcnn(
    backbone: nn.Module,
    channels: int,
    *,
    predictor: BoxPredictor,
    masks: bool,
    score: float,
    detector: type[FasterRCNN] = FasterRCNN,
) -> FasterRCNN:
    """The Mask R-CNN of AlignShift, TSM, A3D and SATr on one map at a quarter of the resolution.

    Args:
        backbone: Slabs to a list of one map.
        channels: Channels of the map; the mask head has half as many.
        predictor: Feature vectors, as long as the two fully connected layers are wide, to scores and offsets.
        masks: Whether boxes get the field ``masks``, which the training targets then need too.
        score: Only boxes that score higher are reported, at most 50.
        detector: What is made of the parts.
    """
    anchors = FixedAnchors([mmdetection_anchors(STRIDE, (4, 6, 8, 12, 24, 48), (0.5, 1.0, 2.0), 0.0)], [STRIDE])
    rpn = RegionProposalNetwork(
        RPNHead(channels, anchors.per_cell),
        anchors,
        matching=Matching(0.7, 0.3, low_quality_floor=0.3),
        sampling=Sampling(32, 0.5),
        train_limits=ProposalLimits(per_level=12000, per_image=2000),
        test_limits=ProposalLimits(per_level=6000, per_image=300),
        rules=MMDETECTION,
    )
    pool = InclusiveRoIAlign([STRIDE])
    mask_head = MaskHead(channels, InclusiveRoIAlign([STRIDE], output_size=14), width=channels // 2)
    roi_heads = RoIHeads(
        pool,
        TwoMLPHead(channels * pool.output_size**2, predictor.cls_score.in_features),
        predictor,
        matching=Matching(0.5, 0.5),
        sampling=Sampling(64, 0.25),
        limits=DetectionLimits(score=score, per_image=50),
        fields={"masks": mask_head} if masks else None,
        rules=MMDETECTION,
    )
    return detector(backbone, rpn, roi_heads)


def align_shift(
    num_slices: int = 3,
    num_classes: int = 1,
    *,
    masks: bool = True,
    thickness: float = 2.0,
    layers: Sequence[int] = (6, 12, 24),
    growth: int = 32,
    channels: int = 512,
    fc_channels: int = 2048,
) -> FasterRCNN:
    """AlignShift, whole: 70,527,078 and 76,032,102 parameters at 3 and 7 slices.

    Boxes are those of its authors, whose last pixel counts (`..heads.box_rules`).

    Args:
        num_slices: Slices of a slab, odd.
        num_classes: Classes without background; the authors' weights are for one.
        masks: Whether boxes get the field ``masks``, which the training targets then need too.
        thickness: Distance between slices in mm where a call does not give it.
        layers: Dense layers of each block.
        growth: Channels that a dense layer adds; the stem has twice as many.
        channels: Channels of the map.
        fc_channels: Width of the two fully connected layers.

    Raises:
        ValueError: If ``num_slices`` is not an odd number >= 1, or the thickness not positive.
    """
    predictor = BoxPredictor(fc_channels, num_classes, background=True)
    backbone = DenseSlabBackbone(
        num_slices, AlignShift, out_channels=channels, layers=layers, growth=growth, thickness=thickness
    )
    return one_map_mask_rcnn(backbone, channels, predictor=predictor, masks=masks, score=1e-3, detector=ThicknessRCNN)


def temporal_shift(
    num_slices: int = 3,
    num_classes: int = 1,
    *,
    masks: bool = True,
    layers: Sequence[int] = (6, 12, 24),
    growth: int = 32,
    channels: int = 512,
    fc_channels: int = 2048,
) -> FasterRCNN:
    """TSM on the network of AlignShift: as many parameters. See `align_shift`."""
    predictor = BoxPredictor(fc_channels, num_classes, background=True)
    backbone = DenseSlabBackbone(num_slices, TemporalShift, out_channels=channels, layers=layers, growth=growth)
    return one_map_mask_rcnn(backbone, channels, predictor=predictor, masks=masks, score=1e-3)


def a3d(
    num_slices: int = 3,
    num_classes: int = 1,
    *,
    masks: bool = True,
    layers: Sequence[int] = (6, 12, 24),
    growth: int = 32,
    channels: int = 512,
    fc_channels: int = 2048,
) -> FasterRCNN:
    """A3D: 70,757,775 and 77,257,359 parameters at 3 and 7 slices, including matrices that are never read.

    See `align_shift`.
    """
    predictor = BoxPredictor(fc_channels, num_classes, background=True)
    backbone = DenseSlabBackbone(num_slices, SlicePairs, out_channels=channels, layers=layers, growth=growth)
    return one_map_mask_rcnn(backbone, channels, predictor=predictor, masks=masks, score=5e-5)
