"""Region proposal network: which anchors hold a lesion, and where (paper Figure 1; numbers by the released code).

torchvision's head and NMS with the rules of the released code, which differ from torchvision's own class
in the floor under low-quality matches, the anchors at the border, the loss and its normaliser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.rpn import RPNHead

from ..batching import check_finite
from ..sizes import check_anchors
from ..whole_batch import mean_count
from .box_rules import HALF_OPEN, BoxRules, Matching, Sampling, at_least_float32


def per_anchor(level_map: Tensor, values: int) -> Tensor:
    """``(B, A * values, h, w)`` -> ``(B, h * w * A, values)``, float32 or float64: the order of PyramidAnchors."""
    return at_least_float32(level_map.permute(0, 2, 3, 1).reshape(level_map.shape[0], -1, values))


def anchor_grid(level_map: Tensor, base: Tensor, stride: int) -> Tensor:
    """Anchors ``(h * w * A, 4)`` of a map ``(B, C, h, w)`` from the ``(A, 4)`` of a cell, row after row."""
    y = torch.arange(level_map.shape[2], device=base.device, dtype=base.dtype) * stride
    x = torch.arange(level_map.shape[3], device=base.device, dtype=base.dtype) * stride
    rows = y[:, None].expand(y.shape[0], x.shape[0])
    columns = x[None].expand(y.shape[0], x.shape[0])
    shifts = torch.stack([columns, rows, columns, rows], dim=-1).reshape(-1, 1, 4)
    return (shifts + base).reshape(-1, 4)


class PyramidAnchors(nn.Module):
    """Anchors of one size and several shapes at every cell of every pyramid level.

    Unlike torchvision's generator, base anchors are not rounded to whole pixels and the strides are fixed, so
    that slabs of any size get the anchors of the released code; cells are centred on multiples of the stride.

    Args:
        strides: Pixels between neighbouring cells of each level.
        scale: Side of the square anchor in units of the stride: 4 in the paper (16 to 256 pixels), 2 for small images.
        ratios: Heights over widths; the area is the same for all.

    Raises:
        ValueError: If ``ratios`` is empty, or a number is not finite and above 0.
    """

    def __init__(
        self, strides: Sequence[int] = (4, 8, 16, 32, 64), scale: float = 4.0, ratios: Sequence[float] = (0.5, 1.0, 2.0)
    ) -> None:
        super().__init__()
        check_anchors([scale], ratios)
        self.strides = tuple(strides)
        heights = torch.tensor(ratios, dtype=torch.float32).sqrt()
        shapes = torch.stack([-1 / heights, -heights, 1 / heights, heights], dim=1) / 2
        for level, stride in enumerate(self.strides):
            self.register_buffer(f"base{level}", shapes * (scale * stride), persistent=False)

    @property
    def per_cell(self) -> int:
        """Number of anchors at each cell."""
        return self.base(0).shape[0]

    def base(self, level: int) -> Tensor:
        """``(A, 4)`` anchors of a level, centred on the origin, in pixels of the slab."""
        return self.get_buffer(f"base{level}")

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Anchors of every level.

        Args:
            features: One ``(B, C, h, w)`` map per level.

        Returns:
            One ``(h * w * A, 4)`` tensor per level in the slab frame, cell by cell, row after row.
        """
        bases = [at_least_float32(self.base(level)) for level in range(len(features))]
        return [anchor_grid(*level) for level in zip(features, bases, self.strides, strict=False)]


@dataclass(frozen=True)
class AnchorShapes:
    """Anchors other than the usual ones of a one-stage head.

    Attributes:
        scales: Sides of the square anchors of a level, in units of the head's ``anchor_scale`` strides.
        ratios: Heights over widths; the area is the same for all.
        strides: Pixels between neighbouring cells of each level; the first sets the first level of the pyramid.
    """

    scales: Sequence[float]
    ratios: Sequence[float] = (0.5, 1.0, 2.0)
    strides: Sequence[int] = (4, 8, 16, 32, 64)

    def __post_init__(self) -> None:
        """Reject anchors without a size or a shape.

        Raises:
            ValueError: If ``scales`` or ``ratios`` is empty, or a number is not finite and above 0.
        """
        check_anchors(self.scales, self.ratios)

    @classmethod
    def of(cls, sizes_per_octave: int) -> AnchorShapes:
        """The usual ones: so many sizes from one level to the next, in three shapes."""
        return cls([2 ** (index / sizes_per_octave) for index in range(sizes_per_octave)])


@dataclass(frozen=True)
class ProposalLimits:
    """Limits on the number of proposals.

    Attributes:
        per_level: Best anchors of each pyramid level that enter NMS.
        per_image: Best boxes of all levels kept after it.
        nms_iou: A box is suppressed by a better one of the same level above this IoU.
        min_side: Boxes with a shorter side in pixels are left out; boxes without an area always are.
    """

    per_level: int
    per_image: int = 1000
    nms_iou: float = 0.7
    min_side: float = 0.0


class RegionProposalNetwork(nn.Module):
    """Shared 3x3 convolution with an objectness and a box branch on every pyramid level.

    Args:
        head: Gives objectness ``(B, A, h, w)`` and offsets ``(B, 4 A, h, w)`` per level.
        anchors: Makes the anchors of the levels.
        matching: Anchor-to-lesion rule of training.
        sampling: Anchors per image that enter the loss.
        train_limits: Limits on the proposals passed to the second stage in training.
        test_limits: The same in evaluation.
        rules: How the numbers of a box are read.
    """

    smooth_l1_beta = 1.0 / 9.0

    def __init__(
        self,
        head: RPNHead,
        anchors: PyramidAnchors,
        *,
        matching: Matching = Matching(0.7, 0.3, low_quality_floor=0.3),
        sampling: Sampling = Sampling(256, 0.5),
        train_limits: ProposalLimits = ProposalLimits(per_level=2000),
        test_limits: ProposalLimits = ProposalLimits(per_level=1000),
        rules: BoxRules = HALF_OPEN,
    ) -> None:
        super().__init__()
        self.head = head
        self.anchors = anchors
        self.rules = rules
        self.coder = rules.coder(1)
        self.matching = matching
        self.sampling = sampling
        self.train_limits = train_limits
        self.test_limits = test_limits

    def forward(
        self,
        features: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        truths: Sequence[Tensor] | None = None,
        regions: Sequence[Tensor] | None = None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals and, in training, the losses.

        Args:
            features: One ``(B, C, h, w)`` map per level.
            image_sizes: Height and width in pixels of every slab before padding.
            truths: Lesion boxes ``(N, 4)`` of every slab; needed in training.
            regions: Boxes ``(K, 4)`` of every slab in which no anchor is background; none by default.

        Returns:
            For every slab proposals ``(P, 4)`` in slab pixels, best first and without gradient; and a dict with
            ``loss_objectness`` and ``loss_rpn_box_reg`` in training, empty otherwise.

        Raises:
            ValueError: If objectness or offsets are NaN or infinite in evaluation.
        """
        logits_by_level, offsets_by_level = self.head(list(features))
        logits = [per_anchor(level, 1).squeeze(-1) for level in logits_by_level]
        offsets = [per_anchor(level, 4) for level in offsets_by_level]
        if not self.training:
            check_finite(torch.cat(logits, 1), "objectness of the anchors")
            check_finite(torch.cat(offsets, 1), "offsets of the anchors")
        anchors = self.anchors(features)
        limits = self.train_limits if self.training else self.test_limits
        proposals = [
            self._propose([level[row] for level in logits], [level[row] for level in offsets], anchors, size, limits)
            for row, size in enumerate(image_sizes)
        ]
        if not self.training or truths is None:
            return proposals, {}
        flat = torch.cat(anchors)
        assigned = [
            self._assign(flat, size, truths[row], None if regions is None else regions[row], row)
            for row, size in enumerate(image_sizes)
        ]
        return proposals, self._losses(torch.cat(logits, 1), torch.cat(offsets, 1), assigned)

    @torch.no_grad()
    def _propose(
        self,
        logits: list[Tensor],
        offsets: list[Tensor],
        anchors: list[Tensor],
        size: tuple[int, int],
        limits: ProposalLimits,
    ) -> Tensor:
        boxes, scores, levels = [], [], []
        for level, (logit, offset, anchor) in enumerate(zip(logits, offsets, anchors, strict=True)):
            score = logit.sigmoid()
            if score.numel() > limits.per_level:
                order = score.sort(descending=True, stable=True).indices[: limits.per_level]
                score, offset, anchor = score[order], offset[order], anchor[order]
            boxes.append(self.coder.decode(offset, anchor))
            scores.append(score)
            levels.append(torch.full_like(score, level, dtype=torch.int64))
        candidates = self.rules.clip(torch.cat(boxes), *size)
        score, level = torch.cat(scores), torch.cat(levels)
        sides = self.rules.sides(candidates)
        solid = ((sides > 0) & (sides >= limits.min_side)).all(dim=1)
        candidates, score, level = candidates[solid], score[solid], level[solid]
        return candidates[self.rules.nms(candidates, score, level, limits.nms_iou)[: limits.per_image]]

    @torch.no_grad()
    def _assign(
        self, anchors: Tensor, size: tuple[int, int], truth: Tensor, region: Tensor | None, row: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sampled positive anchors, sampled negative anchors (indices) and the offsets of the positives."""
        height, width = size
        inside = torch.nonzero(
            (anchors[:, 0] >= 0) & (anchors[:, 1] >= 0) & (anchors[:, 2] < width) & (anchors[:, 3] < height)
        ).flatten()
        matches = self.matching(self.rules.iou(truth.to(anchors), anchors[inside]))
        matches = self.rules.without(matches, anchors[inside], region)
        positives, negatives = self.sampling(matches, row)
        chosen = inside[positives]
        offsets = self.coder.encode(truth.to(anchors)[matches[positives]], anchors[chosen])
        return chosen, inside[negatives], offsets

    def _losses(
        self, logits: Tensor, offsets: Tensor, assigned: Sequence[tuple[Tensor, Tensor, Tensor]]
    ) -> dict[str, Tensor]:
        objectness, box, normaliser = logits.sum() * 0, offsets.sum() * 0, 0
        for row, (positives, negatives, wanted) in enumerate(assigned):
            sampled = torch.cat([positives, negatives])
            labels = torch.zeros_like(logits[row, sampled])
            labels[: positives.numel()] = 1.0
            objectness = objectness + F.binary_cross_entropy_with_logits(logits[row, sampled], labels, reduction="sum")
            box = box + F.smooth_l1_loss(offsets[row, positives], wanted, beta=self.smooth_l1_beta, reduction="sum")
            # The released code counts an image without positives (or negatives) as having one.
            normaliser += max(positives.numel(), 1) + max(negatives.numel(), 1)
        number = mean_count(normaliser, logits)
        return {"loss_objectness": objectness / number, "loss_rpn_box_reg": box / number}
