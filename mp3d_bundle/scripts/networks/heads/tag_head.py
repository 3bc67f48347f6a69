"""Tags of lesions, such as body part, type and shape: scores of each box, and losses for rare and missing tags.

Numbers by the released code of MULAN (Yan et al., MICCAI 2019); relational hard example mining is LesaNet's (Yan et
al., CVPR 2019).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..whole_batch import mean_count
from .box_rules import at_least_float32
from .roi_heads import PyramidRoIAlign, RoIs

MINED_PAIRS = 10_000


def tag_loss(logits: Tensor, tags: Tensor, weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of every known tag, weighted, over the number of them; 0 if there is none.

    Args:
        logits: ``(R, T)``.
        tags: ``(R, T)``, 1 for a tag that a lesion has, 0 for one that it does not have, -1 if unknown.
        weights: ``(R, T)`` weights of the pairs, for rare tags; all 1 if left out.
    """
    logits = at_least_float32(logits)
    weights = (tags >= 0).to(logits) * (1 if weights is None else weights.to(logits))
    losses = F.binary_cross_entropy_with_logits(logits, tags.clamp(min=0).to(logits), reduction="none")
    return (weights * losses).sum() / mean_count((weights > 0).sum(), logits)


def mining_loss(logits: Tensor, tags: Tensor, sure: Tensor, pairs: int = MINED_PAIRS) -> Tensor:
    """Mean binary cross-entropy of pairs of box and tag that are drawn the more often the more wrong they are.

    The chance of a pair is the square of how far its score is off. Only pairs take part that can be relied on: tags
    that a lesion has, and tags that exclude one of these. Sampling uses torch's global generator.

    Args:
        logits: ``(R, T)``.
        tags: ``(R, T)``, see `tag_loss`.
        sure: ``(R, T)`` bool, tags that a lesion cannot have because of one that it has.
        pairs: Pairs drawn, with replacement.
    """
    logits = at_least_float32(logits)
    wanted = (tags > 0).to(logits)
    with torch.no_grad():
        known = (tags > 0) | ((tags == 0) & sure.bool())
        off = ((logits.sigmoid() - wanted) * known).square().flatten()
    if not bool(off.sum() > 0):
        return logits.sum() * 0
    drawn = torch.multinomial(off, pairs, replacement=True)
    return F.binary_cross_entropy_with_logits(logits.flatten()[drawn], wanted.flatten()[drawn])


class TagHead(nn.Module):
    """A crop of its own, two fully connected layers, and a logit of each tag.

    Args:
        channels: Channels of the feature maps.
        pool: Crops boxes.
        tags: Number of tags, T.
        width: Width of the two fully connected layers.

    Raises:
        ValueError: If there is no tag.
    """

    def __init__(self, channels: int, pool: PyramidRoIAlign, *, tags: int, width: int = 1024) -> None:
        super().__init__()
        if tags < 1:
            raise ValueError(f"Expected at least one tag, got {tags!r}.")
        self.pool = pool
        self.fc1 = nn.Linear(channels * pool.output_size**2, width)
        self.fc2 = nn.Linear(width, width)
        self.logits = nn.Linear(width, tags)
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.normal_(self.logits.weight, std=0.01)
        for layer in (self.fc1, self.fc2, self.logits):
            nn.init.zeros_(layer.bias)

    def forward(self, rois: RoIs) -> Tensor:
        """``(R, T)`` logits of R boxes, in float32 or float64."""
        x = self.pool(rois.features, rois.boxes).flatten(1)
        return at_least_float32(self.logits(self.fc2(self.fc1(x).relu()).relu()))
