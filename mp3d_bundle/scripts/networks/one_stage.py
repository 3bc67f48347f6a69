"""One-stage detectors: MONAI's ``RetinaNetDetector`` on the paper's backbone, and on a 2D network of three slices.

The second is the paper's reference [3] (Table 1) as far as MONAI's detector goes. The first is not in the paper: the
alternative to the two-stage head for comparison and for tools that expect MONAI's detector. The recipe is the
original RetinaNet's: three anchor sizes an octave in three shapes, IoU 0.5 / 0.4, focal loss, prior 0.01. The levels
are the paper's, so that anchors run from 16 to 406 pixels; DeepLesion's boxes at 512 pixels run from 15 to 77 (5th to
95th percentile) and up to 327.

MONAI's boxes name the rows first. Everything inside the detector is in that order; this module swaps the axes of
targets, anchors and detections, and nothing else in the project does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.networks.retinanet_network import RetinaNet
from monai.apps.detection.utils.box_selector import BoxSelector
from monai.data.box_utils import clip_boxes_to_image
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, sigmoid_focal_loss

from ..boxes import swap_axes
from ..instances import IGNORED
from .backbones.resnet2d import ResNet2d
from .backbones.resnet3d import ResNet3d
from .backbones.slab_backbone import SIZE_DIVISIBLE, GroupTransform, SlabBackbone
from .batching import (
    Detections,
    Targets,
    check_classes,
    check_finite,
    check_targets,
    detect_by_size,
    pad_slabs,
    split_regions,
)
from .detectors import TwoStageHead
from .heads.box_rules import HALF_OPEN, at_least_float32
from .heads.rpn import AnchorShapes, PyramidAnchors, per_anchor
from .late_fusion import TripletBackbone
from .sizes import check_sizes
from .whole_batch import common_size, mean_count


@dataclass(frozen=True)
class OneStageHead:
    """Numbers of the one-stage head.

    Attributes:
        anchor_scale: Side of the smallest square anchor of a level in strides.
        sizes_per_octave: Anchor sizes between one level and the next.
        positive: Anchors train as lesions from this IoU on; every lesion has its best anchors in any case.
        negative: Anchors train as background below this IoU.
        score: Only boxes that score higher are reported.
        per_level: Best anchors of each level that enter NMS.
        nms_iou: A box is suppressed by a better one of its class above this IoU.
        detections: Boxes reported per image, at most.
    """

    anchor_scale: float = 4.0
    sizes_per_octave: int = 3
    positive: float = 0.5
    negative: float = 0.4
    score: float = 0.0
    per_level: int = 1000
    nms_iou: float = 0.5
    detections: int = 100

    def __post_init__(self) -> None:
        """Reject sizes and counts of which nothing could be built or found.

        Raises:
            ValueError: If a count is not a whole number above 0.
        """
        check_sizes(sizes_per_octave=self.sizes_per_octave, per_level=self.per_level, detections=self.detections)

    @classmethod
    def like(cls, head: TwoStageHead) -> OneStageHead:
        """Read the numbers of a two-stage head: anchor size, anchors before NMS, score limit, number of boxes.

        Raises:
            ValueError: If the head has further heads, which only a second stage can read.
        """
        if head.fields:
            raise ValueError(f"Expected no further heads for a one-stage detector, got {', '.join(head.fields)}.")
        return cls(head.anchor_scale, score=head.score, per_level=head.test_per_level, detections=head.detections)


class RowFirstAnchors(nn.Module):
    """Anchors of several sizes in MONAI's axis order, in place of MONAI's ``AnchorGenerator``.

    MONAI's own rounds the sides, and takes the stride from the sizes of slab and map: wrong where P6 is rounded up.

    Args:
        shapes: Sizes and shapes of a cell's anchors.
        anchor_scale: Strides that a scale of 1 stands for.
    """

    def __init__(self, shapes: AnchorShapes, anchor_scale: float) -> None:
        super().__init__()
        self.sizes = nn.ModuleList(
            PyramidAnchors(shapes.strides, anchor_scale * scale, shapes.ratios) for scale in shapes.scales
        )

    def num_anchors_per_location(self) -> list[int]:
        """Anchors at each cell of each level (a method of MONAI's generator)."""
        first = self.sizes[0]
        return [len(self.sizes) * first.per_cell] * len(first.strides)  # type: ignore[arg-type, operator]

    def forward(self, images: Tensor, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """Anchors of each image.

        Args:
            images: ``(B, D, H, W)``.
            feature_maps: One ``(B, C, h, w)`` map per level.

        Returns:
            B times the same ``(N, 4)`` row-first boxes: level by level, cell by cell.
        """
        levels = []
        for grids in zip(*(anchors(feature_maps) for anchors in self.sizes), strict=True):
            cells = [grid.reshape(-1, self.sizes[0].per_cell, 4) for grid in grids]  # type: ignore[arg-type]
            levels.append(torch.cat(cells, dim=1).reshape(-1, 4))
        return [swap_axes(torch.cat(levels))] * images.shape[0]


class FastBoxSelector(BoxSelector):
    """MONAI's selection of boxes with torchvision's NMS: the same boxes, some hundred times faster."""

    def select_boxes_per_image(
        self, boxes_list: list[Tensor], logits_list: list[Tensor], spatial_size: list[int] | tuple[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Select the boxes of one image.

        Args:
            boxes_list: ``(N_i, 4)`` row-first boxes of each level.
            logits_list: ``(N_i, K)`` of each level.
            spatial_size: Height and width of the image.

        Returns:
            Boxes ``(P, 4)``, scores ``(P,)`` and labels ``(P,)`` from 0 on, best first.
        """
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        for boxes, logits in zip(boxes_list, logits_list, strict=True):
            rows, scores, labels = self.select_top_score_idx_per_level(logits)
            inside, solid = clip_boxes_to_image(boxes[rows], spatial_size, remove_empty=True)
            kept.append((inside, scores[solid], labels[solid]))  # type: ignore[arg-type, index]
        boxes, scores, labels = (torch.cat(part) for part in zip(*kept, strict=True))
        best = batched_nms(boxes.float(), scores, labels, self.nms_thresh)[: self.detections_per_img]
        return boxes[best], scores[best].to(logits_list[0].dtype), labels[best]


class RetinaNetOnSlabs(RetinaNet):
    """MONAI's RetinaNet on a backbone of ours; its outputs are in full precision for any precision of the layers."""

    def forward(self, images: Tensor) -> dict[str, list[Tensor]]:
        """Slabs ``(B, D, H, W)`` to class logits ``(B, A K, h, w)`` and offsets ``(B, 4 A, h, w)`` of each level."""
        return self.read(self.feature_extractor(images))

    def read(self, levels: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Levels ``(B, C, h, w)`` to the same."""
        # Layer by layer, because the forward of MONAI's heads raises on NaN before the loss can name the images.
        scores, boxes = self.classification_head, self.regression_head
        return {
            self.cls_key: [at_least_float32(scores.cls_logits(scores.conv(level))) for level in levels],
            self.box_reg_key: [at_least_float32(boxes.bbox_reg(boxes.conv(level))) for level in levels],
        }


class FocalLoss(nn.Module):
    """Sum of the focal loss over anchors and classes (MONAI's takes the mean over one-dimensional input)."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits and 0/1 targets ``(N, K)`` to a scalar."""
        return sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2.0, reduction="sum")


class OneStageDetector(RetinaNetDetector):
    """MONAI's detector behind the interface of :class:`.FasterRCNN`.

    Args:
        backbone: Slabs to pyramid levels.
        num_classes: Classes without background.
        head: Numbers of the head.
        anchors: Anchors of a cell, if not the usual ones of the head.

    Raises:
        ValueError: If ``num_classes`` is below 1.
    """

    # What is plain tensor code: see `scripts.engines`.
    engine_parts: ClassVar[tuple[str, ...]] = ("network",)

    def __init__(
        self,
        backbone: SlabBackbone | TripletBackbone,
        num_classes: int = 1,
        *,
        head: OneStageHead | None = None,
        anchors: AnchorShapes | None = None,
    ) -> None:
        check_classes(num_classes)
        head = head or OneStageHead()
        generator = RowFirstAnchors(anchors or AnchorShapes.of(head.sizes_per_octave), head.anchor_scale)
        network = RetinaNetOnSlabs(
            2, num_classes, generator.num_anchors_per_location()[0], backbone, size_divisible=SIZE_DIVISIBLE
        )
        super().__init__(network, generator)  # type: ignore[arg-type]
        self.set_regular_matcher(head.positive, head.negative, allow_low_quality_matches=True)
        self.set_cls_loss(FocalLoss())
        self.set_box_regression_loss(
            nn.SmoothL1Loss(beta=1.0 / 9.0, reduction="sum"), encode_gt=True, decode_pred=False
        )
        self.box_selector = FastBoxSelector(
            score_thresh=head.score,
            topk_candidates_per_level=head.per_level,
            nms_thresh=head.nms_iou,
            detections_per_img=head.detections,
        )

    @property
    def backbone(self) -> SlabBackbone | TripletBackbone:
        """The backbone, under the name that it has in :class:`.FasterRCNN`."""
        return self.network.feature_extractor  # type: ignore[return-value]

    def forward(  # type: ignore[override]
        self, slabs: Tensor | Sequence[Tensor], targets: Targets | None = None
    ) -> dict[str, Tensor] | Detections:
        """Losses in training, detections in evaluation; shapes and errors as in :class:`.FasterRCNN`.

        Returns:
            In training a dict of ``loss_classifier`` and ``loss_box_reg``, both divided by the number of positive
            anchors of the batch. In evaluation a list of dicts ``boxes``, ``scores``, ``labels``.
        """
        if not self.training:
            return detect_by_size(self._detect, slabs)
        images = pad_slabs(slabs, common_size)
        checked = check_targets(targets, len(images.image_sizes), self.num_classes)
        outputs, anchors, counts = self._outputs(images)
        return self.compute_loss(outputs, self._row_first(images, checked), anchors, counts)

    @staticmethod
    def _row_first(images: ImageList, targets: Targets) -> list[dict[str, Tensor]]:
        """Lesions in MONAI's axis order, and where there are some the regions to ignore."""
        lesions, regions = split_regions(targets)
        found = [
            {"boxes": swap_axes(target["boxes"].to(images.tensors)), "labels": target["labels"].long() - 1}
            for target in lesions
        ]
        for target, region in zip(found, regions or (), strict=regions is not None):
            target[IGNORED] = swap_axes(region.to(images.tensors))
        return found

    def _detect(self, images: ImageList) -> Detections:
        outputs, anchors, counts = self._outputs(images)
        for value in outputs.values():
            check_finite(value, "class scores and box offsets of the anchors")
        sizes = [list(size) for size in images.image_sizes]
        return [
            {
                "boxes": swap_axes(found[self.target_box_key]),
                "scores": found[self.pred_score_key],
                "labels": found[self.target_label_key] + 1,
            }
            for found in self.postprocess_detections(outputs, anchors, sizes, counts)
        ]

    def _outputs(
        self, images: ImageList, maps: dict[str, list[Tensor]] | None = None
    ) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
        """Logits and offsets of every anchor, the anchors of each image, and the cells of each level."""
        found: dict[str, list[Tensor]] = self.network(images.tensors) if maps is None else maps
        anchors = self.anchor_generator(images.tensors, found[self.cls_key])
        flat = {
            key: torch.cat([per_anchor(level, level.shape[1] // self.num_anchors_per_loc) for level in levels], dim=1)
            for key, levels in found.items()
        }
        return flat, anchors, [level.shape[-2:].numel() for level in found[self.cls_key]]

    def compute_loss(
        self,
        head_outputs_reshape: dict[str, Tensor],
        targets: list[dict[str, Tensor]],
        anchors: list[Tensor],
        num_anchor_locs_per_level: Sequence[int],
    ) -> dict[str, Tensor]:
        """Focal loss over all anchors but the ignored ones, smooth L1 over the positive ones; see MONAI's method."""
        logits, offsets = head_outputs_reshape[self.cls_key], head_outputs_reshape[self.box_reg_key]
        touched = {"loss_classifier": logits.sum() * 0, "loss_box_reg": offsets.sum() * 0}
        if not (logits.isfinite().all() and offsets.isfinite().all()):
            return touched  # NaN, for the training loop to name; MONAI would raise without the images' names
        matched = self.compute_anchor_matched_idxs(anchors, targets, num_anchor_locs_per_level)
        matches = [
            HALF_OPEN.without(match, grid, target.get(IGNORED))
            for match, grid, target in zip(matched, anchors, targets, strict=True)
        ]
        positives = mean_count(sum(int((match >= 0).sum()) for match in matches), logits)
        losses = {
            "loss_classifier": self.compute_cls_loss(logits, targets, matches),
            "loss_box_reg": self.compute_box_loss(offsets, targets, anchors, matches),
        }
        return {name: touched[name] + loss / positives for name, loss in losses.items()}


def mp3d_retinanet(
    num_slices: int = 9,
    num_classes: int = 1,
    *,
    body: ResNet3d | None = None,
    conversion: Callable[[int, int], nn.Module] = GroupTransform,
    fpn_channels: int = 256,
    head: OneStageHead | TwoStageHead | None = None,
) -> OneStageDetector:
    """One-stage detector with the arguments of :func:`.mp3d_fpn`, so that a config changes one line.

    Args:
        num_slices: Slices of a slab, odd.
        num_classes: Classes without background.
        body: 3D body; MP3D ResNet-63 if left out.
        conversion: 3D-to-2D module, made from (channels, num_slices).
        fpn_channels: Channels of the pyramid and the head, a multiple of 8.
        head: Numbers of the head; those of a two-stage head as far as they apply, so that one overlay that narrows
            the network serves both heads.

    Raises:
        ValueError: If ``num_slices`` is not an odd number >= 1, or ``num_classes`` is below 1.
    """
    backbone = SlabBackbone(body or ResNet3d(), num_slices, conversion=conversion, out_channels=fpn_channels)
    return OneStageDetector(backbone, num_classes, head=one_stage_head(head))


def one_stage_head(head: OneStageHead | TwoStageHead | None) -> OneStageHead | None:
    """The numbers of a one-stage head, from those of either kind; None stays None.

    Raises:
        ValueError: If a two-stage head has further heads.
    """
    return OneStageHead.like(head) if isinstance(head, TwoStageHead) else head


def retinanet_2d(
    num_slices: int = 3,
    num_classes: int = 1,
    *,
    body: ResNet2d | None = None,
    fpn_channels: int = 256,
    head: OneStageHead | TwoStageHead | None = None,
    anchors: AnchorShapes | None = None,
) -> OneStageDetector:
    """RetinaNet on three slices as colours: the paper's reference [3] (Table 1) without its mask branch and attention.

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
    backbone = TripletBackbone(body or ResNet2d(), num_slices, out_channels=fpn_channels, first_level=first)
    return OneStageDetector(backbone, num_classes, head=one_stage_head(head), anchors=anchors)


def pyramid_start(num_slices: int, anchors: AnchorShapes | None) -> int:
    """The first level, 2 or 3, of a pyramid on three slices as colours that these anchors fit.

    Args:
        num_slices: Slices of a slab.
        anchors: Anchors of a cell; None for the usual ones.

    Raises:
        ValueError: If ``num_slices`` is not 3, or the strides do not fit a pyramid.
    """
    if num_slices != 3:
        raise ValueError(f"Expected 3 slices for RetinaNet on slices as colours, got {num_slices!r}.")
    first = 2 if anchors is None else {4: 2, 8: 3}.get(anchors.strides[0], 0)
    if first == 0 or (anchors is not None and list(anchors.strides) != [2 ** (first + level) for level in range(5)]):
        raise ValueError(f"Expected anchor strides 4 to 64 or 8 to 128, each twice the last, got {anchors}.")
    return first
