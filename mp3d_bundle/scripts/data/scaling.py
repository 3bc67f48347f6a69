"""Scale by the size of a pixel, and the shifts, scales and turns that the compared systems are trained with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from monai.transforms import Affine as AffineResampling
from monai.transforms import RandomizableTransform, Transform

from ..boxes import Affine
from ..instances import move, warp
from .records import Sample


def scale_sample(sample: Sample, factor: float) -> Sample:
    """Scale a sample by exactly ``factor``, as OpenCV does: boxes follow the factor, not the rounded sides.

    `scripts.data.transforms.resize_slab` is for a given number of pixels.

    Args:
        sample: ``image`` ``(D, H, W)`` float32, ``instances`` and ``scale_factor`` are changed.
        factor: New pixels for each old one.
    """
    if factor == 1:
        return {**sample}
    slices = [cv2.resize(each.numpy(), None, fx=factor, fy=factor) for each in sample["image"]]
    return {
        **sample,
        "image": torch.from_numpy(np.stack(slices)),
        "instances": move(sample["instances"], Affine(factor, factor)),
        "scale_factor": sample["scale_factor"] * factor,
    }


def pixel_size(sample: Sample) -> tuple[float, float]:
    """Width and height of a sample's pixels in mm.

    Raises:
        ValueError: If it has none, as photographs.
    """
    across, down = sample.get("spacing") or (None, None)
    if across is None or down is None:
        raise ValueError(
            f"Expected pixels with a size in mm to bring to a pixel_spacing, got none in {sample['file_name']}: "
            "photographs, such as COCO's, have none. Give --pixel_spacing None, and no recipe that scales by it."
        )
    return float(across), float(down)


class ScalePixelsd(Transform):
    """Bring every sample to one size of pixels, as 3DCE and MULAN do.

    Args:
        pixel_spacing: mm of a pixel.
        longest_side: Samples that become longer than this many pixels are reduced to it; None for any length.

    Raises:
        ValueError: If one of them is not above zero.
    """

    def __init__(self, pixel_spacing: float = 0.8, longest_side: int | None = 512) -> None:
        for name, value in (("pixel_spacing", pixel_spacing), ("longest_side", longest_side)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"Expected {name} above zero, got {value!r}.")
        self.pixel_spacing, self.longest_side = float(pixel_spacing), longest_side

    def factor(self, sample: Sample) -> float:
        """New pixels for each old one; pixels that are not square count by their x."""
        factor = pixel_size(sample)[0] / self.pixel_spacing
        longest = max(sample["image"].shape[1:]) * factor
        return (
            factor
            if self.longest_side is None or longest <= self.longest_side
            else (factor * self.longest_side / longest)
        )

    def __call__(self, sample: Sample) -> Sample:
        """Return the scaled sample."""
        return scale_sample(sample, self.factor(sample))


class RandScalePixelsd(ScalePixelsd, RandomizableTransform):
    """Bring samples to one size of pixels, times a factor that is drawn for each, as MULAN is trained.

    Args:
        pixel_spacing: As for `ScalePixelsd`.
        longest_side: Likewise; the factor comes first.
        factors: Least and largest factor.

    Raises:
        ValueError: If a size or a factor is not above zero.
    """

    def __init__(
        self, pixel_spacing: float = 0.8, longest_side: int | None = 512, factors: Sequence[float] = (0.8, 1.2)
    ) -> None:
        ScalePixelsd.__init__(self, pixel_spacing, longest_side)
        RandomizableTransform.__init__(self, prob=1.0)
        if len(factors) != 2 or not 0 < factors[0] <= factors[1]:
            raise ValueError(f"Expected the least and the largest factor, above zero, got {factors!r}.")
        self.factors = (float(factors[0]), float(factors[1]))
        self.drawn = 1.0

    def randomize(self, data: Any | None = None) -> None:
        """Draw `drawn`."""
        self.drawn = float(self.R.uniform(*self.factors))

    def factor(self, sample: Sample) -> float:
        """New pixels for each old one."""
        longest = max(sample["image"].shape[1:])
        factor = pixel_size(sample)[0] / self.pixel_spacing * self.drawn
        return factor if self.longest_side is None else min(factor, self.longest_side / longest)

    def __call__(self, sample: Sample, randomize: bool = True) -> Sample:
        """Return the scaled sample; without ``randomize`` the last drawn factor is used again."""
        if randomize:
            self.randomize()
        return scale_sample(sample, self.factor(sample))


class RandAffineSlabd(RandomizableTransform):
    """Shift, scale and turn a sample about its centre; AlignShift, A3D and SATr are trained so.

    The image keeps its size and is mirrored beyond its edge. Boxes become the upright boxes around the turned ones.

    Args:
        shift: Largest shift, as a share of the width and of the height.
        scale: Largest change of the scale: 0.2 for 0.8 to 1.2.
        rotate: Largest angle in degrees.
        prob: Probability in [0, 1].

    Raises:
        ValueError: If a limit is negative, the scale reaches 0, or the probability is not in [0, 1].
    """

    def __init__(self, shift: float = 0.04, scale: float = 0.2, rotate: float = 15.0, prob: float = 0.8) -> None:
        if not (0 <= prob <= 1 and shift >= 0 and 0 <= scale < 1 and rotate >= 0):
            raise ValueError(
                f"Expected limits from 0 on, a scale below 1 and a probability from 0 to 1, got shift {shift!r}, "
                f"scale {scale!r}, rotate {rotate!r} and prob {prob!r}."
            )
        super().__init__(prob=prob)
        self.shift, self.scale, self.rotate = shift, scale, rotate
        self.drawn = np.zeros(4)

    def randomize(self, data: Any | None = None) -> None:
        """Draw whether to move, and `drawn`: shifts in x and y, change of the scale, angle, all from -1 to 1."""
        super().randomize(None)
        self.drawn = self.R.uniform(-1, 1, size=4)

    def matrix(self, height: int, width: int) -> np.ndarray:
        """The drawn movement: ``(2, 3)`` float64 from old to new places ``(x, y, 1)`` in pixels."""
        x, y, change, turn = self.drawn
        angle, factor = math.radians(self.rotate * turn), 1 + self.scale * change
        linear = factor * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        centre = np.array([width / 2, height / 2])
        offset = centre - linear @ centre + self.shift * np.array([x * width, y * height])
        return np.column_stack([linear, offset])

    def __call__(self, sample: Sample, randomize: bool = True) -> Sample:
        """Return the sample, moved or not; without ``randomize`` the last draw is used again."""
        if randomize:
            self.randomize()
        return warp_sample(sample, self.matrix(*sample["image"].shape[1:])) if self._do_transform else {**sample}


def warp_sample(sample: Sample, matrix: np.ndarray) -> Sample:
    """Move a sample within its frame.

    Args:
        sample: ``image`` ``(D, H, W)`` of floats and ``instances`` are changed. A sample that was moved so has no way
            back to the pixels of the file: for training only.
        matrix: ``(2, 3)`` from old to new places ``(x, y, 1)`` in pixels.
    """
    height, width = sample["image"].shape[1:]
    # MONAI needs the inverse, in rows and columns from the centre.
    whole = np.vstack([matrix, [0.0, 0.0, 1.0]])
    to_pixels = np.array([[0.0, 1.0, width / 2], [1.0, 0.0, height / 2], [0.0, 0.0, 1.0]])
    back = np.linalg.inv(to_pixels) @ np.linalg.inv(whole) @ to_pixels
    moving = AffineResampling(affine=back, padding_mode="reflection", image_only=True)
    image = torch.as_tensor(moving(sample["image"])).as_subclass(torch.Tensor)
    return {**sample, "image": image, "instances": warp(sample["instances"], matrix)}
