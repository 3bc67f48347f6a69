"""Windows of one size at random places: for images that were cropped around their lesions.

The edge of such an image tells where the lesion is. Windows inside of it do not show the edge, and their place is drawn
so that the lesion may be anywhere in them, cut off at a side as well.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from monai.transforms import RandomizableTransform

from ..boxes import Affine
from ..instances import clip, move, select, true_rows
from .border import crop_sample
from .records import Sample

logger = logging.getLogger(__name__)

# The share of a lesion's width, and of its height, that has to be in a window for the lesion to count there.
LEAST_VISIBLE = 0.5


def least_lengths(boxes: torch.Tensor, pixels: int) -> torch.Tensor:
    """How much of each lesion has to be visible.

    Args:
        boxes: ``(N, 4)`` in pixels.
        pixels: Side of the window.

    Returns:
        ``(N, 2)``, along x and y: half of the side, or half of the window where that is shorter.
    """
    return LEAST_VISIBLE * (boxes[:, 2:] - boxes[:, :2]).clamp(max=pixels)


def first_and_last(low: float, high: float, least: float, side: int, pixels: int) -> tuple[int, int]:
    """Between which places a window may begin so that it shows enough of a lesion, along one axis.

    Args:
        low: Where the lesion begins.
        high: Where it ends.
        least: How much of it has to be visible.
        side: Length of the image.
        pixels: Length of the window, at most that of the image.

    Returns:
        The first and the last whole pixel, both from 0 to ``side - pixels``; the nearest one where no place shows
        enough, as for a lesion that is mostly outside of its image.
    """
    most = side - pixels
    first = min(max(math.ceil(low + least - pixels), 0), most)
    last = min(max(math.floor(high - least), 0), most)
    return min(first, last), max(first, last)


class RandWindowd(RandomizableTransform):
    """Cut a window of one size out of each sample, at random, before it is scaled.

    In an image with lesions one of them is drawn, and all places of the window that show at least half of its width and
    half of its height (or fill half of the window) have equal chances; without lesions, all places inside the image.
    Lesions are cut at the edge of the window, and those of which less is visible are left out; regions to ignore are
    cut alone. In validation and tests `scripts.data.transforms.SampleDataset` draws the same windows each time, and
    lesions count as far as they are visible.

    Args:
        pixels: Side of the window in pixels of the stored image. An image that is shorter than this along an axis
            is used in its whole length there, and logged once.

    Raises:
        ValueError: If ``pixels`` is not a whole number of at least 1.
    """

    def __init__(self, pixels: int) -> None:
        super().__init__(prob=1.0)
        if isinstance(pixels, bool) or not isinstance(pixels, int) or pixels < 1:
            raise ValueError(f"Expected a window of at least 1 pixel, got {pixels!r}.")
        self.pixels = pixels
        self.drawn = (0.0, 0.0, 0.0)
        self._told = False

    def randomize(self, data: Any | None = None) -> None:
        """Draw `drawn`: which lesion, and where along x and y, each from 0 to 1."""
        which, x, y = self.R.random_sample(3)
        self.drawn = (float(which), float(x), float(y))

    def box(self, sample: Sample) -> tuple[int, int, int, int]:
        """The drawn window ``x1, y1, x2, y2`` of a sample, in pixels."""
        height, width = sample["image"].shape[1:]
        boxes = sample["instances"]["boxes"][true_rows(sample["instances"])]
        sides = [min(self.pixels, width), min(self.pixels, height)]
        which = min(int(self.drawn[0] * len(boxes)), len(boxes) - 1)
        start = []
        for axis, side in enumerate((width, height)):
            first, last = 0, side - sides[axis]
            if len(boxes):
                low, high = float(boxes[which, axis]), float(boxes[which, axis + 2])
                least = LEAST_VISIBLE * min(high - low, self.pixels)
                first, last = first_and_last(low, high, least, side, sides[axis])
            start.append(first + min(int(self.drawn[1 + axis] * (last - first + 1)), last - first))
        return start[0], start[1], start[0] + sides[0], start[1] + sides[1]

    def __call__(self, sample: Sample, randomize: bool = True) -> Sample:
        """Return the window, without ``randomize`` at the last drawn place; ``visible_truth``: its lesions, as cut."""
        if randomize:
            self.randomize()
        height, width = sample["image"].shape[1:]
        if min(height, width) < self.pixels and not self._told:
            self._told = True
            logger.warning(
                "%s has %d x %d pixels, less than the window of %d: such images are used in their whole length, which "
                "may show where their lesions are.",
                *(sample["file_name"], height, width, self.pixels),
            )
        window = crop_sample(sample, self.box(sample))
        whole, seen = window["instances"]["boxes"], clip(window["instances"], *window["image"].shape[1:])
        visible = seen["boxes"][:, 2:] - seen["boxes"][:, :2]
        enough = (visible >= least_lengths(whole, self.pixels) - 1e-3) | ~true_rows(seen)[:, None]
        kept = select(seen, (enough & (visible > 0)).all(dim=1))
        back = [1 / float(factor) for factor in sample["scale_factor"]]
        truth = move(kept, Affine(back[0], back[1], *map(float, window["origin"])))  # type: ignore[typeddict-item]
        return {**window, "instances": kept, "visible_truth": truth}
