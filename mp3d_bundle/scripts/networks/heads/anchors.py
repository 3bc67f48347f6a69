"""Anchors, their coding against boxes, matching and sampling (paper section 3.1; numbers by the released code)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Results of `Matching.__call__` for boxes that belong to no ground truth.
BACKGROUND = -1
IGNORED = -2


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or unchanged if it is float64: boxes and losses need more than half precision."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def per_anchor(level_map: Tensor, values: int) -> Tensor:
    """``(B, A * values, h, w)`` -> ``(B, h * w * A, values)``, float32 or float64: the order of PyramidAnchors."""
    return at_least_float32(level_map.permute(0, 2, 3, 1).reshape(level_map.shape[0], -1, values))


class PyramidAnchors(nn.Module):
    """Anchors of one size and several shapes at every cell of every pyramid level.

    Unlike torchvision's generator, base anchors are not rounded to whole pixels and the strides are fixed, so
    that slabs of any size get the anchors of the released code; cells are centred on multiples of the stride.

    Args:
        strides: Pixels between neighbouring cells of each level.
        scale: Side of the square anchor in units of the stride: 4 in the paper (16 to 256 pixels), 2 for small images.
        ratios: Heights over widths; the area is the same for all.
    """

    def __init__(
        self, strides: Sequence[int] = (4, 8, 16, 32, 64), scale: float = 4.0, ratios: Sequence[float] = (0.5, 1.0, 2.0)
    ) -> None:
        super().__init__()
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
        return [self._grid(level, *feature.shape[-2:]) for level, feature in enumerate(features)]

    def _grid(self, level: int, height: int, width: int) -> Tensor:
        base, stride = at_least_float32(self.base(level)), self.strides[level]
        y, x = torch.meshgrid(
            torch.arange(height, device=base.device, dtype=base.dtype) * stride,
            torch.arange(width, device=base.device, dtype=base.dtype) * stride,
            indexing="ij",
        )
        shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
        return (shifts + base).reshape(-1, 4)


class BoxCoder:
    """Boxes as offsets against reference boxes: centre shifts in reference sizes, logarithms of size ratios.

    Args:
        deviations: The offsets are divided by these four numbers, (dx, dy, dw, dh).
        max_ratio: Decoded sizes stay within this factor of the reference, both up and down.
    """

    def __init__(self, deviations: Sequence[float] = (1.0, 1.0, 1.0, 1.0), max_ratio: float = 1000.0 / 16.0) -> None:
        self.deviations = tuple(float(value) for value in deviations)
        self.limit = abs(math.log(max_ratio))

    def encode(self, boxes: Tensor, references: Tensor) -> Tensor:
        """Offsets ``(N, 4)`` of ``boxes`` against ``references``, both ``(N, 4)`` slab-frame boxes."""
        sizes = references[:, 2:] - references[:, :2]
        centres = (references[:, 2:] + references[:, :2]) / 2
        shifts = ((boxes[:, 2:] + boxes[:, :2]) / 2 - centres) / sizes
        ratios = torch.log((boxes[:, 2:] - boxes[:, :2]) / sizes)
        return torch.cat([shifts, ratios], dim=1) / boxes.new_tensor(self.deviations)

    def decode(self, offsets: Tensor, references: Tensor) -> Tensor:
        """Boxes in the slab frame from offsets.

        Args:
            offsets: ``(N, ..., 4)``.
            references: ``(N, 4)`` slab-frame boxes.

        Returns:
            ``(N, ..., 4)`` boxes, not clipped to the image.
        """
        references = references.reshape(references.shape[0], *[1] * (offsets.ndim - 2), 4)
        # Number by number: a tensor of the four would tie an exported graph to the device that it was made on.
        scaled = [column * by for column, by in zip(offsets.unbind(-1), self.deviations, strict=True)]
        offsets = torch.stack(scaled, dim=-1)
        sizes = references[..., 2:] - references[..., :2]
        centres = (references[..., 2:] + references[..., :2]) / 2 + offsets[..., :2] * sizes
        half = sizes * offsets[..., 2:].clamp(-self.limit, self.limit).exp() / 2
        return torch.cat([centres - half, centres + half], dim=-1)


@dataclass(frozen=True)
class Matching:
    """Rule that assigns boxes to ground truth by intersection over union.

    Attributes:
        positive: A box is positive where its best IoU is at least this.
        negative: A box is background where its best IoU is below this; between the two it is ignored.
        low_quality_floor: If given, every ground truth also claims all boxes that tie for its own best IoU,
            as long as that is at least this floor. Where two claim the same box, the later one has it.
    """

    positive: float
    negative: float
    low_quality_floor: float | None = None

    def __call__(self, iou: Tensor) -> Tensor:
        """Assign boxes.

        Args:
            iou: ``(G, N)`` of G ground truths and N boxes.

        Returns:
            ``(N,)`` int64: index of the ground truth, :data:`BACKGROUND` or :data:`IGNORED`.
        """
        if iou.shape[0] == 0:
            return torch.full((iou.shape[1],), BACKGROUND, dtype=torch.int64, device=iou.device)
        best, matches = iou.max(dim=0)
        matches = torch.where(best < self.positive, IGNORED, matches)
        matches = torch.where(best < self.negative, BACKGROUND, matches)
        if self.low_quality_floor is not None and iou.shape[1]:
            claims = iou.max(dim=1).values
            for truth in torch.nonzero(claims >= self.low_quality_floor).flatten().tolist():
                matches[iou[truth] == claims[truth]] = truth
        return matches


@dataclass(frozen=True)
class Sampling:
    """How many boxes of an image enter the loss, and how many of them may be positive.

    Attributes:
        count: Boxes per image.
        positive_fraction: Upper bound of the share of positives; negatives fill the rest.
    """

    count: int
    positive_fraction: float

    def __call__(self, matches: Tensor) -> tuple[Tensor, Tensor]:
        """Draw from torch's global generator.

        Args:
            matches: ``(N,)`` result of a :class:`Matching`.

        Returns:
            Indices of the sampled positives and negatives, two int64 vectors.
        """
        positives = torch.nonzero(matches >= 0).flatten()
        negatives = torch.nonzero(matches == BACKGROUND).flatten()
        positives = _draw(positives, int(self.count * self.positive_fraction))
        return positives, _draw(negatives, self.count - positives.numel())


def _draw(indices: Tensor, count: int) -> Tensor:
    if indices.numel() <= count:
        return indices
    return indices[torch.randperm(indices.numel(), device=indices.device)[:count]]
