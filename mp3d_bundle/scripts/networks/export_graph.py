"""The two-stage detector as one graph of tensor operations: the form that other runtimes take.

:class:`FasterRCNN` returns lists whose lengths depend on the data. Here each slab of a batch has the same rows,
padded with zeros, so that neither the batch nor the size of the slabs is fixed; boxes and scores are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from .heads.box_rules import at_least_float32
from .heads.rpn import anchor_grid, per_anchor
from .two_stage import FasterRCNN

# Score of a row that holds no box; scores of boxes are at least 0.
EMPTY = -1.0


def pad_to_stride(slabs: Tensor, num_slices: int) -> Tensor:
    """``(B, D, H, W)``, padded at the right and the bottom with zeros to multiples of 32.

    Raises:
        ValueError: If D is not ``num_slices``: a traced crop to the key slice would take another slice for it.
    """
    if slabs.shape[1] != num_slices:
        raise ValueError(f"Expected slabs of {num_slices} slices, got {slabs.shape[1]}.")
    return F.pad(slabs, [0, -slabs.shape[3] % 32, 0, -slabs.shape[2] % 32])


def clip_to_slab(boxes: Tensor, slabs: Tensor) -> Tensor:
    """Boxes ``(..., 4)`` in the slab frame, clipped to the height and width of ``slabs`` ``(B, D, H, W)``."""
    x = boxes[..., 0::2].clamp(0, slabs.shape[3])
    y = boxes[..., 1::2].clamp(0, slabs.shape[2])
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def with_row(boxes: Tensor) -> Tensor:
    """Boxes ``(B, P, 4)`` as ``(B * P, 5)``, the row of the batch in front."""
    rows = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)
    rows = rows[:, None, None].expand(boxes.shape[0], boxes.shape[1], 1)
    return torch.cat([rows, boxes], dim=-1).reshape(-1, 5)


def suppress(boxes: Tensor, scores: Tensor, max_iou: float) -> Tensor:
    """Non-maximum suppression in each of G groups.

    Args:
        boxes: ``(G, N, 4)``.
        scores: ``(G, N)``.
        max_iou: A box is suppressed by a better one of its group above this IoU.

    Returns:
        ``(G, N)`` bool: which boxes stay.
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for group in range(boxes.shape[0]):
        keep[group, torch.ops.torchvision.nms(boxes[group], scores[group], max_iou)] = True
    return keep


class Operations(NamedTuple):
    """The steps that depend on sizes or data: plain functions, or an exporter's replacements for them."""

    pad: Callable[[Tensor, int], Tensor] = pad_to_stride
    clip: Callable[[Tensor, Tensor], Tensor] = clip_to_slab
    grid: Callable[[Tensor, Tensor, int], Tensor] = anchor_grid
    with_row: Callable[[Tensor], Tensor] = with_row
    suppress: Callable[[Tensor, Tensor, float], Tensor] = suppress


class DetectionGraph(nn.Module):
    """A detector whose results have a fixed number of rows.

    Args:
        detector: Its parts and weights are used; it is put into evaluation mode.
        operations: The steps that depend on sizes or data.

    Raises:
        ValueError: If the detector has further heads, whose fields the graph would lose, or reads boxes whose last
            pixel counts, which the graph does not.
    """

    def __init__(self, detector: FasterRCNN, operations: Operations = Operations()) -> None:  # noqa: B008
        super().__init__()
        if len(detector.roi_heads.fields):
            raise ValueError(
                "Expected a detector of boxes, scores and labels, got one with the further heads "
                f"{', '.join(detector.roi_heads.fields)}, which the graph does not return."
            )
        if detector.rpn.rules.inclusive or detector.roi_heads.rules.inclusive:
            raise ValueError(
                "Expected a detector of half-open boxes, got one whose boxes count their last pixel: the graph of "
                "operations does not support these."
            )
        self.detector = detector.eval()
        self.operations = operations
        self.num_slices = int(detector.backbone.num_slices)  # type: ignore[arg-type]

    def forward(self, slabs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect lesions in the middle slices.

        Args:
            slabs: ``(B, D, H, W)`` normalised slabs of any number, height and width.

        Returns:
            ``boxes`` ``(B, R, 4)`` in slab pixels, ``scores`` ``(B, R)`` and ``labels`` ``(B, R)`` int64, best box
            first; rows without a box are zero, in ``labels`` too. R is the head's limit of boxes per image. Where the
            detector would raise because a value is NaN or infinite, all scores of that slab are NaN.
        """
        first, second = self.detector.features(self.operations.pad(slabs, self.num_slices))
        boxes, usable, doubt = self._propose(first, slabs)
        return self._refine(second, boxes, usable, doubt, slabs)

    def _propose(self, features: Sequence[Tensor], slabs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Proposals ``(B, P, 4)``, which rows hold one ``(B, P)``, and zeros ``(B,)``, NaN where values are bad."""
        rpn = self.detector.rpn
        limits = rpn.test_limits
        boxes, scores, doubts = [], [], []
        logits_by_level, offsets_by_level = rpn.head(list(features))
        for level, stride in enumerate(rpn.anchors.strides):
            logits, offsets = per_anchor(logits_by_level[level], 1).squeeze(-1), per_anchor(offsets_by_level[level], 4)
            doubts.append((logits.sum(dim=1) + offsets.sum(dim=(1, 2))) * 0)
            anchors = self.operations.grid(features[level], at_least_float32(rpn.anchors.base(level)), stride)
            score, order = _best(logits.sigmoid(), limits.per_level)
            found = rpn.coder.decode(_rows(offsets, order).reshape(-1, 4), anchors[order].reshape(-1, 4))
            found = self.operations.clip(found.reshape(-1, limits.per_level, 4), slabs)
            solid = ((found[..., 2:] - found[..., :2]) > 0).all(dim=-1)
            kept = self.operations.suppress(found, score, limits.nms_iou) & solid
            boxes.append(found)
            scores.append(torch.where(kept, score, EMPTY))
        score, order = _best(torch.cat(scores, dim=1), limits.per_image)
        return _rows(torch.cat(boxes, dim=1), order), score >= 0, torch.stack(doubts).sum(dim=0)

    def _refine(
        self, features: Sequence[Tensor], proposals: Tensor, usable: Tensor, doubt: Tensor, slabs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.detector.roi_heads
        classes, count = heads.predictor.num_classes, self.detector.rpn.test_limits.per_image
        logits, offsets = heads.predictor(heads.box_head(self._crop(features, proposals)))
        logits, offsets = at_least_float32(logits), at_least_float32(offsets)
        doubt = doubt + (logits.sum(dim=1) + offsets.sum(dim=(1, 2))).reshape(-1, count).sum(dim=1) * 0
        boxes = self.operations.clip(heads.coder.decode(offsets, proposals.reshape(-1, 4)), slabs)
        scores = logits.softmax(dim=1)[:, 1:].reshape(-1, count, classes)
        scores = torch.where((scores > heads.limits.score) & usable[..., None], scores, EMPTY)
        # Classes are groups of their own, with boxes of their own.
        boxes = boxes.reshape(-1, count, classes, 4).transpose(1, 2).reshape(-1, count, 4)
        scores = scores.transpose(1, 2).reshape(-1, count)
        kept = self.operations.suppress(boxes, scores, heads.limits.nms_iou)
        scores = torch.where(kept, scores, EMPTY).reshape(-1, classes * count)
        score, order = _best(scores, heads.limits.per_image)
        found = score >= 0
        labels = torch.where(found, torch.div(order, count, rounding_mode="floor") + 1, 0)
        boxes = torch.where(found[..., None], _rows(boxes.reshape(-1, classes * count, 4), order), 0.0)
        return boxes, torch.where(found, score, 0.0) + doubt[:, None], labels

    def _crop(self, features: Sequence[Tensor], proposals: Tensor) -> Tensor:
        """RoIAlign of each proposal on its level, ``(B * P, C, output_size, output_size)``."""
        pool = self.detector.roi_heads.pool
        rois = self.operations.with_row(proposals)
        levels = pool.levels(rois[:, 1:])
        crops = features[0].new_zeros((rois.shape[0], features[0].shape[1], pool.output_size, pool.output_size))
        for level, stride in enumerate(pool.strides):
            rows = torch.nonzero(levels == level).flatten()
            crop = roi_align(features[level], rois[rows], pool.output_size, 1 / stride, sampling_ratio=0, aligned=True)
            crops = crops.index_copy(0, rows, crop)
        return crops


def _best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best ``count`` of ``scores`` ``(B, N)``, best first, and their columns; of equals the first comes first.

    If there are fewer, the rest is EMPTY: a length that depends on N would fix an exported graph to one size.
    """
    values, columns = F.pad(scores, [0, count], value=EMPTY).sort(dim=1, descending=True, stable=True)
    return values[:, :count], columns[:, :count].clamp(max=scores.shape[1] - 1)


def _rows(values: Tensor, order: Tensor) -> Tensor:
    """``(B, N, 4)`` in the order ``(B, M)``."""
    return values.gather(1, order[..., None].expand(-1, -1, 4))
