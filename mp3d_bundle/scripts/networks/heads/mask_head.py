"""Outlines of lesions: the mask branch of Mask R-CNN as a further head, with the loss of MULAN and AlignShift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...instances import RULES, Instances
from ..whole_batch import mean_count
from .box_rules import at_least_float32
from .roi_heads import PyramidRoIAlign, RoIs

SMOOTHING = 0.01


class Grids(NamedTuple):
    """Outputs of a mask head for R boxes.

    Attributes:
        logits: ``(R, 2, h, w)``, background first.
        boxes: ``(R, 4)`` the boxes that the grids are laid over.
    """

    logits: Tensor
    boxes: Tensor


def dice_loss(logits: Tensor, wanted: Tensor, share: Tensor | None = None) -> Tensor:
    """One minus the Dice coefficient of probabilities, mean over grids, smoothed; 0 without grids.

    Args:
        logits: ``(R, h, w)``.
        wanted: ``(R, h, w)``, 0 or 1.
        share: ``(R, h, w)``, how much of each cell counts; all of it by default.
    """
    found, wanted = at_least_float32(logits).sigmoid().flatten(1), wanted.to(at_least_float32(logits)).flatten(1)
    if share is not None:
        found, wanted = found * share.flatten(1), wanted * share.flatten(1)
    shared = (found * wanted).sum(1)
    ratio = (2 * shared + SMOOTHING) / (found.sum(1) + wanted.sum(1) + SMOOTHING)
    return (1 - ratio).sum() / mean_count(len(ratio), ratio)


class MaskHead(nn.Module):
    """Crop of 14 x 14 cells, four convolutions, twice the resolution: the field ``masks`` of each box.

    Its targets are the lesions' ``masks`` ``(N, h, w)``, grids over their boxes, resampled over the proposals. A
    proposal learns the mask of its own lesion: what else is in it is background, another lesion as well as a region to
    ignore, as in Mask R-CNN.

    Args:
        channels: Channels of the feature maps.
        pool: Crops boxes.
        width: Channels of the convolutions.
        depth: Number of convolutions.
    """

    reads: Sequence[str] = ("masks",)

    def __init__(self, channels: int, pool: PyramidRoIAlign, *, width: int = 256, depth: int = 4) -> None:
        super().__init__()
        self.pool = pool
        inputs = [channels, *[width] * (depth - 1)]
        self.convs = nn.ModuleList(nn.Conv2d(each, width, 3, padding=1) for each in inputs)
        self.upsample = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.logits = nn.Conv2d(width, 2, 1)
        for layer in (*self.convs, self.upsample, self.logits):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, rois: RoIs) -> Grids:
        """Logits of R boxes in grids of 28 x 28."""
        x = self.pool(rois.features, rois.boxes)
        for conv in self.convs:
            x = conv(x).relu()
        return Grids(self.logits(self.upsample(x).relu()), torch.cat(list(rois.boxes)))

    def loss(self, outputs: Grids, lesions: Instances[Tensor]) -> Tensor:
        """Dice loss of the R grids against the masks of the R lesions."""
        masks, boxes = lesions["masks"], lesions["boxes"].to(outputs.boxes)
        read = RULES["masks"].reframe(masks.to(outputs.boxes), boxes, outputs.boxes)
        size = outputs.logits.shape[-2:]
        if read.shape[-2:] != size and len(read):
            read = F.interpolate(read[:, None], size=size, mode="bilinear", antialias=True)[:, 0]
        wanted = read >= 0.5 if len(read) else outputs.logits[:, 1] > 0
        return dice_loss(outputs.logits[:, 1], wanted)

    def predict(self, outputs: Grids) -> Tensor:
        """Probabilities ``(R, 28, 28)``, grids over the boxes."""
        return at_least_float32(outputs.logits[:, 1]).sigmoid()
