"""Second stage: classify and refine each proposal (paper Figure 1; numbers by the released code)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.ops import batched_nms, box_iou, roi_align

from ..boxes import clip
from .anchors import BoxCoder, Matching, Sampling, at_least_float32
from .batching import check_finite


class PyramidRoIAlign(nn.Module):
    """Crop each box from the pyramid level that fits its size: RoIAlign 7x7, half-pixel aligned, adaptive sampling.

    torchvision's ``MultiScaleRoIAlign`` cannot align by half a pixel, which the released code does.

    Args:
        strides: Pixels per cell of the levels P2..P5.
        finest_size: A box of twice this side (in pixels) leaves the first level. With 56, boxes below 112 pixels are
            read from P2, below 224 from P3, below 448 from P4, others from P5.
        output_size: Side of the crop in cells.
    """

    def __init__(
        self, strides: Sequence[int] = (4, 8, 16, 32), finest_size: float = 56.0, output_size: int = 7
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.finest_size = finest_size
        self.output_size = output_size

    def levels(self, boxes: Tensor) -> Tensor:
        """Level index ``(N,)`` (0 is P2) for ``(N, 4)`` slab-frame boxes."""
        sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        return torch.log2(sides / self.finest_size + 1e-6).floor().clamp(0, len(self.strides) - 1).long()

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Crops.

        Args:
            features: P2..P5 and perhaps more levels, which are left out; each ``(B, C, h, w)``.
            boxes: ``(N_i, 4)`` slab-frame boxes of each of the B slabs.

        Returns:
            ``(sum N_i, C, output_size, output_size)``, slab after slab.
        """
        rows = torch.cat([torch.full_like(each[:, :1], row) for row, each in enumerate(boxes)])
        rois = torch.cat([rows, torch.cat(list(boxes))], dim=1)
        levels = self.levels(rois[:, 1:])
        chosen = [torch.nonzero(levels == level).flatten() for level in range(len(self.strides))]
        # In the precision of the boxes, because half precision would move a box by up to a pixel.
        crops = [
            roi_align(
                features[level].to(rois), rois[rows], self.output_size, 1 / stride, sampling_ratio=0, aligned=True
            )
            for level, (stride, rows) in enumerate(zip(self.strides, chosen, strict=True))
        ]
        return torch.cat(crops)[torch.cat(chosen).argsort()].to(features[0].dtype)


class BoxPredictor(nn.Module):
    """Class scores (background first) and class-wise box offsets (no background) from a box's feature vector.

    Args:
        channels: Length of the feature vector.
        num_classes: Number of classes without background.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.cls_score = nn.Linear(channels, num_classes + 1)
        self.bbox_pred = nn.Linear(channels, 4 * num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(R, channels)`` -> logits ``(R, 1 + K)`` with background at 0, offsets ``(R, K, 4)``."""
        return self.cls_score(x), self.bbox_pred(x).reshape(x.shape[0], self.num_classes, 4)


@dataclass(frozen=True)
class DetectionLimits:
    """Which boxes are reported.

    Attributes:
        score: Only boxes with a higher score.
        nms_iou: A box is suppressed by a better one of its class above this IoU.
        per_image: At most so many, the best ones.
    """

    score: float = 0.0
    nms_iou: float = 0.5
    per_image: int = 100


class RoIHeads(nn.Module):
    """Crop, two shared fully connected layers, classification and box regression.

    Args:
        pool: Crops boxes from the pyramid.
        box_head: Crops to feature vectors.
        predictor: Feature vectors to scores and offsets.
        matching: Proposal-to-lesion rule of training.
        sampling: Proposals per image that enter the loss.
        limits: Which boxes are reported in evaluation.
    """

    smooth_l1_beta = 1.0

    def __init__(
        self,
        pool: PyramidRoIAlign,
        box_head: TwoMLPHead,
        predictor: BoxPredictor,
        *,
        matching: Matching = Matching(0.5, 0.5),
        sampling: Sampling = Sampling(512, 0.25),
        limits: DetectionLimits = DetectionLimits(),
    ) -> None:
        super().__init__()
        self.pool = pool
        self.box_head = box_head
        self.predictor = predictor
        self.coder = BoxCoder((0.1, 0.1, 0.2, 0.2))
        self.matching = matching
        self.sampling = sampling
        self.limits = limits
        for layer in (box_head.fc6, box_head.fc7):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        features: Sequence[Tensor],
        proposals: list[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        targets: Sequence[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections in evaluation, losses in training.

        Args:
            features: Pyramid levels P2..P6.
            proposals: ``(P, 4)`` slab-frame boxes of each slab.
            image_sizes: Height and width in pixels of every slab before padding.
            targets: ``boxes`` ``(N, 4)`` and ``labels`` ``(N,)`` of every slab; needed in training.

        Returns:
            A list of dicts ``boxes``, ``scores``, ``labels``, and an empty dict; or, in training, an empty list and
            a dict with ``loss_classifier`` and ``loss_box_reg``.

        Raises:
            ValueError: If scores or offsets are NaN or infinite in evaluation.
        """
        if not self.training or targets is None:
            logits, offsets = self._predict(features, proposals)
            counts = [boxes.shape[0] for boxes in proposals]
            check_finite(logits, "class scores of the proposals")
            check_finite(offsets, "box offsets of the proposals")
            rows = zip(logits.split(counts), offsets.split(counts), proposals, image_sizes, strict=True)
            return [self._detect(*row) for row in rows], {}
        with torch.no_grad():
            samples = [self._sample(boxes, target) for boxes, target in zip(proposals, targets, strict=True)]
        boxes, labels, wanted = (list(part) for part in zip(*samples, strict=True))
        logits, offsets = self._predict(features, boxes)
        return [], self._losses(logits, offsets, torch.cat(labels), torch.cat(wanted))

    def _predict(self, features: Sequence[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        logits, offsets = self.predictor(self.box_head(self.pool(features, boxes)))
        return at_least_float32(logits), at_least_float32(offsets)

    def _sample(self, proposals: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes of one slab that enter the loss, their labels (0 for background), and offsets of the positives."""
        truth, classes = target["boxes"].to(proposals), target["labels"].to(proposals.device)
        matches = self.matching(box_iou(truth, proposals))
        # The lesions themselves are proposals too, each matched to itself.
        candidates = torch.cat([truth, proposals])
        matches = torch.cat([torch.arange(truth.shape[0], device=matches.device), matches])
        positives, negatives = self.sampling(matches)
        boxes = candidates[torch.cat([positives, negatives])]
        labels = torch.cat([classes[matches[positives]], torch.zeros_like(matches[negatives])])
        return boxes, labels, self.coder.encode(truth[matches[positives]], candidates[positives])

    def _losses(self, logits: Tensor, offsets: Tensor, labels: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        count = max(labels.numel(), 1)
        positives = torch.nonzero(labels > 0).flatten()
        found = offsets[positives, labels[positives] - 1]
        box = F.smooth_l1_loss(found, wanted, beta=self.smooth_l1_beta, reduction="sum") + offsets.sum() * 0
        return {
            "loss_classifier": F.cross_entropy(logits, labels, reduction="sum") / count,
            "loss_box_reg": box / count,
        }

    @torch.no_grad()
    def _detect(self, logits: Tensor, offsets: Tensor, proposals: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        scores = logits.softmax(dim=1)[:, 1:]
        boxes = self.coder.decode(offsets, proposals)
        boxes = clip(boxes, *size)
        row, column = torch.nonzero(scores > self.limits.score, as_tuple=True)
        boxes, scores, labels = boxes[row, column], scores[row, column], column + 1
        keep = batched_nms(boxes, scores, labels, self.limits.nms_iou)[: self.limits.per_image]
        return {"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]}
