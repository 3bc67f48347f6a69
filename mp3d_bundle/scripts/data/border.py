"""The border of a CT image: the area around the body is cut off before the image is scaled.

3DCE, MULAN and MSB do so (rsummers11/CADLab, ``load_ct_img.py``), so that a small field of view and a large one show
the body at one size.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from monai.transforms import RandomizableTransform, Transform

from ..boxes import Affine
from ..instances import move
from .records import Sample

# Stored values above 32,000 are body.
BODY_HU = -768.0
# Thinner objects, such as the table and its cover, do not count as body.
LEAST_PIXELS = 7


def body_box(image: np.ndarray) -> tuple[int, int, int, int]:
    """The upright box around the body.

    Args:
        image: ``(H, W)`` in Hounsfield units.

    Returns:
        ``x1, y1, x2, y2`` in pixels, half-open; the whole image if it shows no body.
    """
    kernel = np.ones((LEAST_PIXELS, LEAST_PIXELS), np.uint8)
    # Outside of the image there is no body. By default OpenCV would take it for some, and keep thin things at the edge.
    edge: dict[str, Any] = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}
    body = cv2.dilate(cv2.erode((image > BODY_HU).astype(np.uint8), kernel, **edge), kernel, **edge)
    rows, columns = np.flatnonzero(body.any(axis=1)), np.flatnonzero(body.any(axis=0))
    if not len(rows):
        return 0, 0, image.shape[1], image.shape[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def crop_sample(sample: Sample, box: tuple[int, int, int, int]) -> Sample:
    """Cut a sample to a box.

    Args:
        sample: ``image`` ``(D, H, W)``, ``instances`` and ``origin`` are changed.
        box: ``x1, y1, x2, y2`` in pixels, half-open and inside the image.
    """
    x1, y1, x2, y2 = box
    shift = torch.tensor([x1, y1], dtype=torch.float32) / sample["scale_factor"]
    return {
        **sample,
        "image": sample["image"][:, y1:y2, x1:x2],
        "instances": move(sample["instances"], Affine(shift_x=-x1, shift_y=-y1)),
        "origin": sample.get("origin", torch.zeros(2)) + shift,
    }


class CropBorderd(Transform):
    """Cut the border off every sample, by its middle slice; before the HU are windowed."""

    def __call__(self, sample: Sample) -> Sample:
        """Return the sample of the body."""
        return crop_sample(sample, self.box(sample))

    def box(self, sample: Sample) -> tuple[int, int, int, int]:
        """The box ``x1, y1, x2, y2`` that is kept, in pixels."""
        return body_box(sample["image"][len(sample["image"]) // 2].numpy())


class RandCropBorderd(CropBorderd, RandomizableTransform):
    """Cut the border off with a shift of the upper left corner, as MULAN is trained.

    Args:
        pixels: The corner moves by -``pixels`` to ``pixels`` - 1 in x and in y; it stays inside the image.

    Raises:
        ValueError: If ``pixels`` is not a whole number of at least 1.
    """

    def __init__(self, pixels: int = 8) -> None:
        RandomizableTransform.__init__(self, prob=1.0)
        if isinstance(pixels, bool) or not isinstance(pixels, int) or pixels < 1:
            raise ValueError(f"Expected a shift of at least 1 pixel, got {pixels!r}.")
        self.pixels = pixels
        self.shift = (0, 0)

    def randomize(self, data: Any | None = None) -> None:
        """Draw `shift`."""
        x, y = self.R.randint(-self.pixels, self.pixels, size=2)
        self.shift = (int(x), int(y))

    def __call__(self, sample: Sample, randomize: bool = True) -> Sample:
        """Return the sample; without ``randomize`` the last drawn shift is used again."""
        if randomize:
            self.randomize()
        x1, y1, x2, y2 = self.box(sample)
        corner = [min(max(low + by, 0), high - 1) for low, high, by in zip((x1, y1), (x2, y2), self.shift, strict=True)]
        return crop_sample(sample, (corner[0], corner[1], x2, y2))
