"""Boxes whose last pixel counts: the rules of the detectors that were written before mmdetection 2.0 and torchvision.

MSB, MVP-Net, MULAN, AlignShift, A3D and SATr take ``x2`` and ``y2`` for the last pixel of a box, so that a box is
``x2 - x1 + 1`` pixels wide. Their anchors, offsets, overlaps and crops all carry that 1; the numbers here are those of
their released code. Everything else in this project uses half-open boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou, roi_align

from .anchors import BoxCoder, PyramidAnchors, at_least_float32
from .roi_heads import PyramidRoIAlign


def half_open(boxes: Tensor) -> Tensor:
    """The same pixels as half-open boxes: ``x2`` and ``y2`` one further. ``(N, 4)`` -> ``(N, 4)``."""
    return boxes + boxes.new_tensor([0.0, 0.0, 1.0, 1.0])


def inclusive_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union ``(N, M)`` of inclusive boxes ``(N, 4)`` and ``(M, 4)``."""
    return box_iou(half_open(first), half_open(second))


def inclusive_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """Non-maximum suppression of inclusive boxes within groups.

    Args:
        boxes: ``(N, 4)`` inclusive boxes, float.
        scores: ``(N,)``.
        groups: ``(N,)`` int64; boxes of different groups do not suppress each other.
        iou: A box is suppressed by a better one above this overlap.

    Returns:
        Indices of the boxes that are kept, best first.
    """
    return batched_nms(half_open(boxes), scores, groups, iou)


def clip_inclusive(boxes: Tensor, height: int, width: int) -> Tensor:
    """Inclusive boxes ``(..., 4)`` cut to an image: coordinates from 0 to ``width - 1`` and ``height - 1``."""
    x, y = boxes[..., 0::2].clamp(0, width - 1), boxes[..., 1::2].clamp(0, height - 1)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


class InclusiveBoxCoder(BoxCoder):
    """Offsets between inclusive boxes, as Detectron, maskrcnn-benchmark and early mmdetection define them.

    Args:
        deviations: The offsets are divided by these four numbers, (dx, dy, dw, dh).
        max_ratio: Decoded sizes stay below this factor of the reference, and above its inverse if ``both_ways``.
        both_ways: Whether the bound holds for shrinking too (mmdetection) or for growing only (Detectron).
    """

    def __init__(
        self,
        deviations: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        max_ratio: float = 1000.0 / 16.0,
        *,
        both_ways: bool = False,
    ) -> None:
        super().__init__(deviations, max_ratio)
        self.floor = -self.limit if both_ways else -math.inf

    def encode(self, boxes: Tensor, references: Tensor) -> Tensor:
        """Offsets ``(N, 4)`` of inclusive ``boxes`` against inclusive ``references``, both ``(N, 4)``."""
        return super().encode(half_open(boxes), half_open(references))

    def decode(self, offsets: Tensor, references: Tensor) -> Tensor:
        """Inclusive boxes ``(N, ..., 4)`` from offsets ``(N, ..., 4)`` and inclusive references ``(N, 4)``."""
        references = half_open(references).reshape(references.shape[0], *[1] * (offsets.ndim - 2), 4)
        offsets = offsets * offsets.new_tensor(self.deviations)
        sizes = references[..., 2:] - references[..., :2]
        centres = (references[..., 2:] + references[..., :2]) / 2 + offsets[..., :2] * sizes
        half = sizes * offsets[..., 2:].clamp(self.floor, self.limit).exp() / 2
        return torch.cat([centres - half, centres + half - 1], dim=-1)


class FixedAnchors(PyramidAnchors):
    """Anchors with given boxes at every cell of every level.

    Args:
        bases: For each level the ``(A, 4)`` inclusive boxes of the cell at the origin, pixels.
        strides: Pixels between neighbouring cells of each level.

    Raises:
        ValueError: If there are not as many lists of boxes as strides.
    """

    def __init__(self, bases: Sequence[Sequence[Sequence[float]]], strides: Sequence[int]) -> None:
        if len(bases) != len(strides):
            raise ValueError(f"Expected anchors for each of {len(strides)} levels, got {len(bases)} lists.")
        super().__init__(strides)
        for level, boxes in enumerate(bases):
            self.register_buffer(f"base{level}", torch.tensor(boxes, dtype=torch.float32), persistent=False)


def mmdetection_anchors(stride: int, scales: Sequence[float], ratios: Sequence[float]) -> list[list[float]]:
    """Inclusive boxes ``(ratios x scales, 4)`` around the first cell, rounded to pixels, as mmdetection 0.x makes them.

    Args:
        stride: Pixels per cell, the side of the square anchor at scale 1.
        scales: Sides in strides.
        ratios: Heights over widths, the outer loop.
    """
    root = torch.tensor(ratios, dtype=torch.float32).sqrt()
    size = stride * torch.tensor(scales, dtype=torch.float32)
    widths, heights = (size / root[:, None]).flatten(), (size * root[:, None]).flatten()
    centre = (stride - 1) / 2
    corners = [centre - (widths - 1) / 2, centre - (heights - 1) / 2, centre + (widths - 1) / 2]
    return torch.stack([*corners, centre + (heights - 1) / 2], dim=1).round().tolist()


class InclusiveRoIAlign(PyramidRoIAlign):
    """Crop inclusive boxes as mmdetection 0.x does: up to ``(x2 + 1) * scale``, no least size, 2 x 2 samples per cell.

    torchvision's unaligned crop enforces a side of one cell, which moves small boxes; its aligned crop does not, so
    half a pixel is added where it takes half a pixel off.
    """

    samples = 2

    def levels(self, boxes: Tensor) -> Tensor:
        """Level index ``(N,)`` (0 is P2) of ``(N, 4)`` inclusive boxes."""
        return super().levels(half_open(boxes))

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Crops ``(sum N_i, C, output_size, output_size)`` of inclusive boxes, see `PyramidRoIAlign.forward`."""
        rows = torch.cat([torch.full_like(each[:, :1], row) for row, each in enumerate(boxes)])
        rois = torch.cat([rows, torch.cat(list(boxes))], dim=1)
        levels = self.levels(rois[:, 1:])
        crops = at_least_float32(features[0]).new_zeros(
            (rois.shape[0], features[0].shape[1], self.output_size, self.output_size)
        )
        for level, stride in enumerate(self.strides):
            chosen = torch.nonzero(levels == level).flatten()
            moved = torch.cat([rois[chosen, :1], half_open(rois[chosen, 1:]) + stride / 2], dim=1)
            crops[chosen] = roi_align(
                features[level].to(rois), moved, self.output_size, 1 / stride, self.samples, aligned=True
            ).to(crops)
        return crops.to(features[0].dtype)
