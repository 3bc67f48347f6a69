"""Masks of lesions by GrabCut, from the ends of their diameters: the targets that AlignShift trains its mask head on.

The box is probable foreground, the rhombus of the four ends is sure foreground, all else is background (Yang et al.,
MICCAI 2020; GrabCut: Rother et al., SIGGRAPH 2004). The released code's window of -1024 to 2050 HU is kept.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from monai.transforms import Transform
from torchvision.ops import roi_align

from .deeplesion.recist import GRID

WINDOW = (-1024.0, 2050.0)
_ROUNDS = 3


@dataclass(frozen=True)
class GrabCutMasksd(Transform):
    """Give every lesion of a sample the field ``masks`` ``(N, 28, 28)`` float32, 0 or 1 over its box.

    To be applied to slabs in Hounsfield units and original pixels; reads the field ``recist``. Of a lesion without
    a measurement a rhombus of half the size of its box is sure foreground.

    Attributes:
        image: Key of the slab ``(D, H, W)``, whose middle slice is cut.
        instances: Key of the lesions.
    """

    image: str = "image"
    instances: str = "instances"

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the field.

        Raises:
            ValueError: If the lesions have no measurements.
        """
        slab, found = data[self.image], data[self.instances]
        if "recist" not in found:
            raise ValueError(f"Expected measurements (recist) to make masks of, got {sorted(found)}.")
        grey = _grey(torch.as_tensor(slab[len(slab) // 2]).float().numpy())
        boxes, ends = (torch.as_tensor(found[name]).double().numpy() for name in ("boxes", "recist"))
        cut = [grab_cut(grey, box, recist) for box, recist in zip(boxes, ends, strict=True)]
        masks = [_over_box(mask, box) for mask, box in zip(cut, boxes, strict=True)]
        stacked = torch.stack(masks) if masks else torch.zeros((0, GRID, GRID))
        made = stacked if isinstance(found["boxes"], torch.Tensor) else stacked.numpy()
        return {**data, self.instances: {**found, "masks": made}}


def _grey(hu: np.ndarray) -> np.ndarray:
    low, high = WINDOW
    return np.clip((hu - low) * (255 / (high - low)), 0, 255).round().astype(np.uint8)


def grab_cut(grey: np.ndarray, box: np.ndarray, recist: np.ndarray) -> np.ndarray:
    """Cut a lesion out of a slice.

    Args:
        grey: ``(H, W)`` uint8.
        box: ``(4,)`` of the lesion in pixels.
        recist: ``(4, 2)`` ends of its diameters, long one first; NaN where it was not measured.

    Returns:
        ``(H, W)`` bool; only the rhombus if GrabCut finds no difference.
    """
    height, width = grey.shape
    x1, y1 = np.clip(np.floor(box[:2]), 0, [width - 1, height - 1]).astype(int)
    x2, y2 = np.clip(np.ceil(box[2:]), [x1 + 1, y1 + 1], [width, height]).astype(int)
    if not np.isfinite(recist).all():
        middle, (wide, high) = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 4
        recist = middle + np.array([[-wide, 0], [wide, 0], [0, -high], [0, high]])
    sure = np.zeros_like(grey)
    # Pixel centres are half a pixel inside their edges.
    rhombus = np.rint(recist[[0, 2, 1, 3]] - 0.5).astype(np.int32)
    cv2.fillPoly(sure, [rhombus], 1)
    labels = np.full(grey.shape, cv2.GC_BGD, dtype=np.uint8)
    labels[y1:y2, x1:x2] = cv2.GC_PR_FGD
    labels[sure > 0] = cv2.GC_FGD
    # Pixels farther from the box than its own size give no information about it.
    reach = max(x2 - x1, y2 - y1)
    view = slice(max(y1 - reach, 0), y2 + reach), slice(max(x1 - reach, 0), x2 + reach)
    part = np.ascontiguousarray(labels[view])
    if (part == cv2.GC_BGD).any():
        cv2.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(
            cv2.cvtColor(grey[view], cv2.COLOR_GRAY2BGR), part, (0, 0, 1, 1), *models, _ROUNDS, cv2.GC_INIT_WITH_MASK
        )
    mask = np.zeros(grey.shape, dtype=bool)
    mask[view] = (part == cv2.GC_FGD) | (part == cv2.GC_PR_FGD)
    return mask


def _over_box(mask: np.ndarray, box: np.ndarray) -> torch.Tensor:
    """A mask ``(H, W)`` as a grid over a box."""
    read = roi_align(
        torch.from_numpy(mask).float()[None, None],
        [torch.from_numpy(box[None]).float()],
        (GRID, GRID),
        sampling_ratio=2,
        aligned=True,
    )
    return (read[0, 0] >= 0.5).float()
