"""Second stage: classify and refine each proposal (paper Figure 1; numbers by the released code)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...instances import STANDARD, Instances, cat, num_instances, select, to
from ..batching import Detections, Targets, check_classes, check_finite
from ..sizes import check_sizes
from ..whole_batch import mean_count
from .box_rules import HALF_OPEN, BoxRules, Matching, Sampling, at_least_float32
from .roi_align import roi_align

# A box of twice this side (in pixels) leaves the first level: boxes below 112 pixels are read from P2, below 224 from
# P3, below 448 from P4, others from P5.
FINEST_SIZE = 56.0


class PyramidRoIAlign(nn.Module):
    """Crop each box from the pyramid level that fits its size: RoIAlign 7x7, half-pixel aligned, adaptive sampling.

    torchvision's ``MultiScaleRoIAlign`` cannot align by half a pixel, which the released code does.

    Args:
        strides: Pixels per cell of the levels P2..P5.
        output_size: Side of the crop in cells.
    """

    def __init__(self, strides: Sequence[int] = (4, 8, 16, 32), output_size: int = 7) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.output_size = output_size

    def levels(self, boxes: Tensor) -> Tensor:
        """Level index ``(N,)`` (0 is P2) for ``(N, 4)`` slab-frame boxes."""
        sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        return torch.log2(sides / FINEST_SIZE + 1e-6).floor().clamp(0, len(self.strides) - 1).long()

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
            self.crop(features[level].to(rois), rois[rows], stride)
            for level, (stride, rows) in enumerate(zip(self.strides, chosen, strict=True))
        ]
        return torch.cat(crops).index_select(0, torch.cat(chosen).argsort()).to(features[0].dtype)

    def crop(self, level_map: Tensor, rois: Tensor, stride: int) -> Tensor:
        """Crops ``(R, C, output_size, output_size)`` from one level ``(B, C, h, w)``: rows and boxes ``(R, 5)``."""
        return roi_align(level_map, rois, self.output_size, 1 / stride)


class BoxPredictor(nn.Module):
    """Class scores (background first) and class-wise box offsets (no background) from a box's feature vector.

    Args:
        channels: Length of the feature vector.
        num_classes: Number of classes without background.
        background: Whether the layer of the offsets has four outputs for the background too, in front, that are
            never read: older code has them.

    Raises:
        ValueError: If ``num_classes`` or ``channels`` is below 1.
    """

    def __init__(self, channels: int, num_classes: int, *, background: bool = False) -> None:
        super().__init__()
        check_classes(num_classes)
        check_sizes(channels=channels)
        self.num_classes = num_classes
        self.background = background
        self.cls_score = nn.Linear(channels, num_classes + 1)
        self.bbox_pred = nn.Linear(channels, 4 * (num_classes + background))
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(R, channels)`` -> logits ``(R, 1 + K)`` with background at 0, offsets ``(R, K, 4)``."""
        offsets = self.bbox_pred(x).reshape(x.shape[0], self.num_classes + self.background, 4)
        return self.cls_score(x), offsets[:, 1:] if self.background else offsets


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


class RoIs(NamedTuple):
    """Inputs of a field head for R boxes, slab after slab.

    Attributes:
        vectors: ``(R, C)`` feature vectors of the box head, of the proposals that the boxes were refined from.
        boxes: ``(R_i, 4)`` slab-frame boxes of each slab: sampled proposals in training, detections in evaluation.
        features: Pyramid levels ``(B, C, h, w)``, for a head that crops for itself.
    """

    vectors: Tensor
    boxes: list[Tensor]
    features: Sequence[Tensor]


class Sampled(NamedTuple):
    """The proposals that enter the losses of a batch, S of all slabs, those of a slab that belong to lesions first.

    Attributes:
        boxes: ``(S_i, 4)`` slab-frame boxes of each slab.
        labels: ``(S,)`` int64, 0 for the background.
        lesions: The P lesions that the proposals with a label belong to, with the fields that are read.
        vectors: ``(S, C)`` feature vectors of the box head.
        logits: ``(S, 1 + K)`` class scores, background first.
    """

    boxes: list[Tensor]
    labels: Tensor
    lesions: Instances[Tensor]
    vectors: Tensor
    logits: Tensor


class Batch(NamedTuple):
    """What the proposals were made from.

    Attributes:
        features: Pyramid levels ``(B, C, h, w)``.
        image_sizes: Height and width in pixels of every slab before padding.
        targets: Those of every slab, in training.
    """

    features: Sequence[Tensor]
    image_sizes: Sequence[tuple[int, int]]
    targets: Targets = ()


class FieldHead(Protocol):
    """A further head of the second stage, a module: gives each box one more field, named by the caller.

    Attributes:
        reads: Fields of the lesions that its loss needs, next to ``boxes`` and ``labels``.
    """

    reads: Sequence[str]

    def __call__(self, rois: RoIs) -> Any:
        """Compute the input of `loss` and `predict` for R boxes."""
        ...

    def loss(self, outputs: Any, lesions: Instances[Tensor]) -> Tensor:
        """A scalar: outputs of R proposals against the R lesions that they belong to; R may be 0."""
        ...

    def predict(self, outputs: Any) -> Tensor:
        """The field ``(R, ...)`` of R detections."""
        ...


class RoIHeads(nn.Module):
    """Crop, two shared fully connected layers, classification and box regression.

    Args:
        pool: Crops boxes from the pyramid.
        box_head: Crops to feature vectors.
        predictor: Feature vectors to scores and offsets.
        matching: Proposal-to-lesion rule of training.
        sampling: Proposals per image that enter the loss.
        limits: Which boxes are reported in evaluation.
        fields: Further heads by the name of the field that each gives. They learn from the sampled proposals that
            belong to a lesion, and see the detections in evaluation.
        rules: How the numbers of a box are read.

    Raises:
        ValueError: If a further head has the name of a field that every detector gives.
    """

    smooth_l1_beta = 1.0
    # Weight of ``loss_box_reg``; 3DCE and MULAN set 10.
    box_weight = 1.0

    def __init__(
        self,
        pool: PyramidRoIAlign,
        box_head: nn.Module,
        predictor: BoxPredictor,
        *,
        matching: Matching = Matching(0.5, 0.5),
        sampling: Sampling = Sampling(512, 0.25),
        limits: DetectionLimits = DetectionLimits(),
        fields: Mapping[str, FieldHead] | None = None,
        rules: BoxRules = HALF_OPEN,
    ) -> None:
        super().__init__()
        for name in set(fields or ()) & set(STANDARD):
            raise ValueError(f"Expected further heads of other names than {', '.join(STANDARD)}, got {name!r}.")
        self.pool = pool
        self.box_head = box_head
        self.predictor = predictor
        self.rules = rules
        self.coder = rules.coder(2)
        self.matching = matching
        self.sampling = sampling
        self.limits = limits
        self.fields: Any = nn.ModuleDict(fields or {})  # type: ignore[arg-type]
        for layer in box_head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(
        self,
        features: Sequence[Tensor],
        proposals: list[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        targets: Targets | None = None,
        regions: Sequence[Tensor] | None = None,
    ) -> tuple[Detections, dict[str, Tensor]]:
        """Detections in evaluation, losses in training.

        Args:
            features: Pyramid levels P2..P6.
            proposals: ``(P, 4)`` slab-frame boxes of each slab.
            image_sizes: Height and width in pixels of every slab before padding.
            targets: ``boxes`` ``(N, 4)``, ``labels`` ``(N,)`` and any fields of every slab; needed in training.
            regions: Boxes ``(K, 4)`` of every slab in which no proposal is background; none by default.

        Returns:
            A list of instances ``boxes``, ``scores``, ``labels`` and the fields of further heads, and an empty dict;
            or, in training, an empty list and a dict with ``loss_classifier``, ``loss_box_reg`` and ``loss_NAME`` of
            each further head.

        Raises:
            ValueError: If scores, offsets or fields are NaN or infinite in evaluation.
        """
        if not self.training or targets is None:
            vectors, logits, offsets = self._predict(features, proposals)
            counts = [boxes.shape[0] for boxes in proposals]
            check_finite(logits, "class scores of the proposals")
            check_finite(offsets, "box offsets of the proposals")
            rows = zip(logits.split(counts), offsets.split(counts), proposals, image_sizes, strict=True)
            found = [self._detect(*row) for row in rows]
            return self._with_fields(found, vectors.split(counts), logits.split(counts), features), {}
        with torch.no_grad():
            names = ("labels", *self.reads, *self.used(targets))
            samples = [
                self._sample(boxes, targets[row], None if regions is None else regions[row], names, row)
                for row, boxes in enumerate(proposals)
            ]
        boxes, labels = [sample[0] for sample in samples], torch.cat([sample[1] for sample in samples])
        lesions = cat([sample[2] for sample in samples])
        vectors, logits, offsets = self._predict(features, boxes)
        wanted = self.coder.encode(lesions["boxes"], torch.cat(boxes)[labels > 0])
        losses = self._losses(logits, offsets, labels, wanted)
        sampled = Sampled(boxes, labels, lesions, vectors, logits)
        return [], losses | self.further_losses(sampled, Batch(features, image_sizes, targets))

    def further_losses(self, sampled: Sampled, batch: Batch) -> dict[str, Tensor]:
        """Losses of the further heads by name, of the proposals that belong to a lesion."""
        positive = sampled.labels > 0
        kept = positive.split([len(boxes) for boxes in sampled.boxes])
        boxes = [boxes[rows] for boxes, rows in zip(sampled.boxes, kept, strict=True)]
        rois = RoIs(sampled.vectors[positive], boxes, batch.features)
        return {f"loss_{name}": head.loss(head(rois), sampled.lesions) for name, head in self.fields.items()}

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields that training targets must have for the further heads."""
        return tuple(name for head in self.fields.values() for name in head.reads)

    def used(self, targets: Targets | None) -> tuple[str, ...]:
        """Fields of these targets that are read too, because all of them have them; none here."""
        del targets
        return ()

    def _predict(self, features: Sequence[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        vectors = self.box_head(self.pool(features, boxes))
        logits, offsets = self.predictor(vectors)
        return vectors, at_least_float32(logits), at_least_float32(offsets)

    def _sample(
        self, proposals: Tensor, target: Instances[Tensor], region: Tensor | None, names: Sequence[str], row: int
    ) -> tuple[Tensor, Tensor, Instances[Tensor]]:
        """Boxes of one slab that enter the loss, positives first, their labels (0: background), the positives' lesions.

        Of the lesions come the fields of these names. The slab is this row of the batch.
        """
        truth = target["boxes"].to(proposals)
        read = {name: target[name] for name in names}
        lesions = {**to(read, proposals.device), "boxes": truth}
        matches = self.rules.without(self.matching(self.rules.iou(truth, proposals)), proposals, region)
        # The lesions themselves are proposals too, each matched to itself.
        candidates = torch.cat([truth, proposals])
        matches = torch.cat([torch.arange(truth.shape[0], device=matches.device), matches])
        positives, negatives = self.sampling(matches, row)
        owners = select(lesions, matches[positives])
        labels = torch.cat([owners["labels"], torch.zeros_like(matches[negatives])])
        return candidates[torch.cat([positives, negatives])], labels, owners

    def _losses(self, logits: Tensor, offsets: Tensor, labels: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        count = mean_count(labels.numel(), logits)
        positives = torch.nonzero(labels > 0).flatten()
        found = offsets[positives, labels[positives] - 1]
        box = F.smooth_l1_loss(found, wanted, beta=self.smooth_l1_beta, reduction="sum") + offsets.sum() * 0
        return {
            "loss_classifier": F.cross_entropy(logits, labels, reduction="sum") / count,
            "loss_box_reg": self.box_weight * box / count,
        }

    @torch.no_grad()
    def _with_fields(
        self, found: Detections, vectors: Sequence[Tensor], logits: Sequence[Tensor], features: Sequence[Tensor]
    ) -> Detections:
        """The detections with the fields of further heads in place of the rows of their proposals."""
        del logits
        rows = [one.pop("proposals") for one in found]
        counts = [num_instances(one) for one in found]
        chosen = torch.cat([each[row] for each, row in zip(vectors, rows, strict=True)])
        rois = RoIs(chosen, [one["boxes"] for one in found], features)
        for name, head in self.fields.items():
            values = head.predict(head(rois))
            check_finite(values, f"{name} of the detections")
            for one, part in zip(found, values.split(counts), strict=True):
                one[name] = part
        return found

    @torch.no_grad()
    def _detect(self, logits: Tensor, offsets: Tensor, proposals: Tensor, size: tuple[int, int]) -> Instances[Tensor]:
        scores = logits.softmax(dim=1)[:, 1:]
        boxes = self.coder.decode(offsets, proposals)
        boxes = self.rules.clip(boxes, *size)
        row, column = torch.nonzero(scores > self.limits.score, as_tuple=True)
        found = {"boxes": boxes[row, column], "scores": scores[row, column], "labels": column + 1, "proposals": row}
        keep = self.rules.nms(found["boxes"], found["scores"], found["labels"], self.limits.nms_iou)
        best = select(found, keep[: self.limits.per_image])
        return {**best, "boxes": self.rules.reported(best["boxes"])}
