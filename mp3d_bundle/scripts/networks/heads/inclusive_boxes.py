"""Anchors and crops of boxes whose last pixel counts (`.box_rules`), as the released codes of the field make them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from .box_rules import half_open
from .roi_heads import FINEST_SIZE, PyramidRoIAlign
from .rpn import PyramidAnchors


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


def mmdetection_anchors(
    stride: int, scales: Sequence[float], ratios: Sequence[float], centre: float | None = None
) -> list[list[float]]:
    """Inclusive boxes ``(ratios x scales, 4)`` around the first cell, rounded to pixels, as mmdetection 0.x makes them.

    Args:
        stride: Pixels per cell, the side of the square anchor at scale 1.
        scales: Sides in strides.
        ratios: Heights over widths, the outer loop.
        centre: Centre of the first cell in pixels; in the middle of the cell if left out.
    """
    # On the CPU even where a network is built without memory.
    root = torch.tensor(ratios, dtype=torch.float32, device="cpu").sqrt()
    size = stride * torch.tensor(scales, dtype=torch.float32, device="cpu")
    widths, heights = (size / root[:, None]).flatten(), (size * root[:, None]).flatten()
    centre = (stride - 1) / 2 if centre is None else centre
    corners = [centre - (widths - 1) / 2, centre - (heights - 1) / 2, centre + (widths - 1) / 2]
    return torch.stack([*corners, centre + (heights - 1) / 2], dim=1).round().tolist()


def detectron_anchors(base: int, scales: Sequence[float], ratios: Sequence[float]) -> list[list[float]]:
    """Inclusive boxes ``(ratios x scales, 4)`` around the first cell, as Detectron and its forerunners make them.

    Widths and heights of a ratio are rounded to pixels at scale 1, so that their areas differ a little.

    Args:
        base: Side of the square anchor at scale 1, pixels; its first pixel is the image's.
        scales: Sides in units of ``base``.
        ratios: Heights over widths, the outer loop.
    """
    ratio = torch.tensor(ratios, dtype=torch.float64, device="cpu")
    widths = (base * base / ratio).sqrt().round()
    sizes = (
        torch.stack([widths, (widths * ratio).round()], dim=1)[:, None] * torch.tensor(scales, device="cpu")[:, None]
    )
    half = (sizes.flatten(0, 1) - 1) / 2
    return torch.cat([(base - 1) / 2 - half, (base - 1) / 2 + half], dim=1).tolist()


class InclusiveRoIAlign(PyramidRoIAlign):
    """Crop inclusive boxes as mmdetection 0.x does: up to ``(x2 + 1) * scale``, no least size, 2 x 2 samples per cell.

    torchvision's unaligned crop enforces a side of one cell, which moves small boxes. Its aligned crop does not, but it
    subtracts half a pixel, which is added here first.
    """

    samples = 2

    def levels(self, boxes: Tensor) -> Tensor:
        """Level index ``(N,)`` (0 is P2) of ``(N, 4)`` inclusive boxes."""
        return super().levels(half_open(boxes))

    def crop(self, level_map: Tensor, rois: Tensor, stride: int) -> Tensor:
        """Crops ``(R, C, output_size, output_size)`` of ``(R, 5)`` rows and inclusive boxes."""
        moved = torch.cat([rois[:, :1], half_open(rois[:, 1:]) + stride / 2], dim=1)
        return roi_align(level_map, moved, self.output_size, 1 / stride, self.samples, aligned=True)


class UnalignedRoIAlign(PyramidRoIAlign):
    """Crop inclusive boxes as Detectron and maskrcnn-benchmark do: from ``x1`` to ``x2``, a side of one cell at least.

    Only the choice of the level counts the last pixel.
    """

    samples = 2

    def levels(self, boxes: Tensor) -> Tensor:
        """Level index ``(N,)`` (0 is P2) of ``(N, 4)`` inclusive boxes: level 4 at 224 pixels by default."""
        sides = (half_open(boxes)[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
        level = torch.log2(sides / (4 * FINEST_SIZE) + 1e-6).floor() + 2
        return level.clamp(0, len(self.strides) - 1).long()

    def crop(self, level_map: Tensor, rois: Tensor, stride: int) -> Tensor:
        """Crops ``(R, C, output_size, output_size)`` of ``(R, 5)`` rows and inclusive boxes."""
        return roi_align(level_map, rois, self.output_size, 1 / stride, self.samples, aligned=False)
