"""How a detector reads the four numbers of a box, codes them, and assigns boxes to lesions.

Half-open boxes as everywhere in this project, or boxes whose last pixel counts. MSB, MVP-Net, 3DCE, MULAN, AlignShift,
A3D and SATr were written before mmdetection 2.0 and torchvision: they take ``x2`` and ``y2`` for the last pixel of a
box, so that a box is ``x2 - x1 + 1`` pixels wide. Their offsets, overlaps and limits all carry that 1; the numbers here
are those of their released code. A box keeps its four numbers on the way between the two: DeepLesion's boxes, which
pad the ends of a diameter by five pixels, were read either way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from ..whole_batch import draw_generator

# Pixels; decoded sides are above zero, but float32 may lose them.
_LEAST_SIDE = 1 / 256
# Results of `Matching.__call__` for boxes that belong to no ground truth.
BACKGROUND = -1
IGNORED = -2
# A box lies in a region to ignore from this share of its own area on (Lesion Harvester; COCO's rule for crowds at its
# first threshold).
IN_REGION = 0.5


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or unchanged if it is float64: boxes and losses need more than half precision."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def half_open(boxes: Tensor) -> Tensor:
    """The same pixels as half-open boxes: ``x2`` and ``y2`` one further. ``(N, 4)`` -> ``(N, 4)``."""
    return boxes + boxes.new_tensor([0.0, 0.0, 1.0, 1.0])


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
        # Number by number: a tensor of the four would bind an exported graph to the device it was made on.
        scaled = [column * by for column, by in zip(offsets.unbind(-1), self.deviations, strict=True)]
        offsets = torch.stack(scaled, dim=-1)
        sizes = references[..., 2:] - references[..., :2]
        centres = (references[..., 2:] + references[..., :2]) / 2 + offsets[..., :2] * sizes
        half = sizes * offsets[..., 2:].clamp(-self.limit, self.limit).exp() / 2
        return torch.cat([centres - half, centres + half], dim=-1)


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


@dataclass(frozen=True)
class BoxRules:
    """What both stages of a detector do with boxes.

    Attributes:
        inclusive: Whether the last pixel counts.
        deviations: Those of the second stage's offsets; the first stage's are all 1.
        max_ratio: Decoded sizes stay below this factor of the reference, and above its inverse if ``both_ways``.
        both_ways: See `InclusiveBoxCoder`; half-open boxes are always bounded both ways.
    """

    inclusive: bool = False
    deviations: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    max_ratio: float = 1000.0 / 16.0
    both_ways: bool = True

    def coder(self, stage: int) -> BoxCoder:
        """Offsets of the first (1) or the second (2) stage."""
        deviations = self.deviations if stage == 2 else (1.0, 1.0, 1.0, 1.0)
        if self.inclusive:
            return InclusiveBoxCoder(deviations, self.max_ratio, both_ways=self.both_ways)
        return BoxCoder(deviations, self.max_ratio)

    def sides(self, boxes: Tensor) -> Tensor:
        """Widths and heights ``(..., 2)`` in pixels of boxes ``(..., 4)``."""
        sides = boxes[..., 2:] - boxes[..., :2]
        return sides + 1 if self.inclusive else sides

    def iou(self, first: Tensor, second: Tensor) -> Tensor:
        """Intersection over union ``(N, M)`` of boxes ``(N, 4)`` and ``(M, 4)``."""
        return box_iou(half_open(first), half_open(second)) if self.inclusive else box_iou(first, second)

    def in_regions(self, boxes: Tensor, regions: Tensor) -> Tensor:
        """Which boxes ``(N, 4)`` lie with half of their area in one of some regions ``(K, 4)``: ``(N,)`` bool."""
        low = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
        shared = self.sides(torch.cat([low, torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])], dim=-1))
        own = self.sides(boxes).prod(dim=-1)
        return (shared.clamp(min=0).prod(dim=-1) >= IN_REGION * own[:, None]).any(dim=1)

    def without(self, matches: Tensor, boxes: Tensor, regions: Tensor | None) -> Tensor:
        """Matches ``(N,)`` of boxes ``(N, 4)``, in which no background lies in a region ``(K, 4)``: it is ignored."""
        if regions is None or regions.shape[0] == 0:
            return matches
        inside = self.in_regions(boxes, regions.to(boxes))
        return torch.where((matches == BACKGROUND) & inside, IGNORED, matches)

    def nms(self, boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
        """Non-maximum suppression within groups.

        Args:
            boxes: ``(N, 4)``, float.
            scores: ``(N,)``.
            groups: ``(N,)`` int64; boxes of different groups do not suppress each other.
            iou: A box is suppressed by a better one above this overlap.

        Returns:
            Indices of the boxes that are kept, best first.
        """
        return batched_nms(half_open(boxes) if self.inclusive else boxes, scores, groups, iou)

    def clip(self, boxes: Tensor, height: int, width: int) -> Tensor:
        """Boxes ``(..., 4)`` cut to an image; the last coordinate of an inclusive box is that of the last pixel."""
        last = 1 if self.inclusive else 0
        return clip_boxes_to_image(boxes, (height - last, width - last))

    def reported(self, boxes: Tensor) -> Tensor:
        """Boxes ``(N, 4)`` as the detector reports them, which everything behind it reads as half-open.

        Inclusive boxes keep their four numbers, but for sides of at most one pixel: there the last coordinate is not
        behind the first one, so that the box would be empty or inverted. Such a side becomes that of the half-open
        box of the same pixels.
        """
        if not self.inclusive:
            return boxes
        first, last = boxes[..., :2], boxes[..., 2:]
        wider = torch.maximum(last + 1, first + _LEAST_SIDE)
        return torch.cat([first, torch.where(last > first, last, wider)], dim=-1)


HALF_OPEN = BoxRules()
# mmdetection before 2.0 (MSB, AlignShift, A3D, SATr); Detectron (MVP-Net). MULAN's deviations are all 1, 3DCE's too,
# whose sizes have no bound.
MMDETECTION = BoxRules(inclusive=True)
DETECTRON = BoxRules(inclusive=True, both_ways=False)


@dataclass(frozen=True)
class Matching:
    """Rule that assigns boxes to ground truth by intersection over union.

    Attributes:
        positive: A box is positive where its best IoU is at least this.
        negative: A box is background where its best IoU is below this; between the two it is ignored.
        low_quality_floor: If given, every ground truth also claims all boxes that tie for its own best IoU,
            as long as that is at least this floor. If two claim the same box, the later one gets it.
        keep_best: Whether a claimed box belongs to the ground truth of its best IoU, for any claim: older code.
    """

    positive: float
    negative: float
    low_quality_floor: float | None = None
    keep_best: bool = False

    def __call__(self, iou: Tensor) -> Tensor:
        """Assign boxes.

        Args:
            iou: ``(G, N)`` of G ground truths and N boxes.

        Returns:
            ``(N,)`` int64: index of the ground truth, :data:`BACKGROUND` or :data:`IGNORED`.
        """
        if iou.shape[0] == 0:
            return torch.full((iou.shape[1],), BACKGROUND, dtype=torch.int64, device=iou.device)
        best, owners = iou.max(dim=0)
        matches = torch.where(best < self.positive, IGNORED, owners)
        matches = torch.where(best < self.negative, BACKGROUND, matches)
        if self.low_quality_floor is not None and iou.shape[1]:
            claims = iou.max(dim=1).values
            for truth in torch.nonzero(claims >= self.low_quality_floor).flatten().tolist():
                claimed = iou[truth] == claims[truth]
                matches[claimed] = owners[claimed] if self.keep_best else truth
        return matches


# Anchors in Detectron, maskrcnn-benchmark and 3DCE, which have no lower limit above zero overlap.
CLAIMS_AT_ANY_OVERLAP = Matching(0.7, 0.3, low_quality_floor=1e-3, keep_best=True)


@dataclass(frozen=True)
class Sampling:
    """How many boxes of an image enter the loss, and how many of them may be positive.

    Attributes:
        count: Boxes per image.
        positive_fraction: Upper bound of the share of positives; negatives fill the rest.
    """

    count: int
    positive_fraction: float

    def __call__(self, matches: Tensor, row: int = 0) -> tuple[Tensor, Tensor]:
        """Sample with the generator of a slab, or with torch's global one where slabs have none, see `draw_generator`.

        Args:
            matches: ``(N,)`` result of a :class:`Matching`.
            row: Of the slab in its batch.

        Returns:
            Indices of the sampled positives and negatives, two int64 vectors.
        """
        positives = torch.nonzero(matches >= 0).flatten()
        negatives = torch.nonzero(matches == BACKGROUND).flatten()
        generator = draw_generator(row, matches.device)
        positives = _draw(positives, int(self.count * self.positive_fraction), generator)
        return positives, _draw(negatives, self.count - positives.numel(), generator)


def _draw(indices: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    if indices.numel() <= count:
        return indices
    order = torch.randperm(indices.numel(), device=indices.device, generator=generator)
    return indices[order[:count]]
