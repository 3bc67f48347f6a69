"""A detector with the further fields of MULAN: masks and scores of tags next to boxes, without training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align

from scripts.data.intensity import IntensityWindow
from support.fake_scans import BlobDetector

GRID = 28
# Pixels by which a box is larger than what it encloses, as boxes of DeepLesion are.
MARGIN = 5


class OutlinedDetector(BlobDetector):
    """Boxes around everything brighter than 300 HU, each with the mask of what it encloses and four scores of tags."""

    def _one(self, slab: Tensor) -> dict[str, Tensor]:
        found = super()._one(slab)
        hu = IntensityWindow().inverse(slab[len(slab) // 2].float().cpu().numpy())
        size = torch.tensor([hu.shape[1], hu.shape[0]] * 2)
        boxes = found["boxes"] + torch.tensor([-MARGIN, -MARGIN, MARGIN, MARGIN])
        boxes = torch.minimum(boxes.clamp(min=0), size)
        bright = torch.from_numpy(np.clip((hu - 40.0) / 360.0, 0, 1)).float()[None, None]
        masks = roi_align(bright, [boxes], (GRID, GRID), sampling_ratio=2, aligned=True)[:, 0]
        # Those of `fake_results.TAGS`.
        tags = torch.tensor([0.2, 0.9, 0.5, 0.7]).expand(len(boxes), 4)
        return {**found, "boxes": boxes, "masks": masks, "tag_scores": tags}
