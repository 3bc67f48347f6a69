"""Geometry of samples: resizing and flipping image and instances together, as plain functions.

The functions return a new dict and leave their argument alone.
"""

from __future__ import annotations

import torch

from ..boxes import Affine
from ..instances import move
from .records import Sample

AXES = ("horizontal", "vertical", "z")


def checked_scale(scale: int) -> int:
    """Return ``scale`` if it is a whole number of pixels, at least 1; raise ValueError otherwise."""
    if isinstance(scale, bool) or not isinstance(scale, int) or scale < 1:
        raise ValueError(f"Expected a scale of at least 1 pixel, got {scale!r}.")
    return scale


def checked_axis(axis: str) -> str:
    """Return ``axis`` if it is one of `AXES`; raise ValueError otherwise."""
    if axis not in AXES:
        raise ValueError(f"Expected one of the axes {', '.join(AXES)}, got {axis!r}.")
    return axis


def resize_slab(sample: Sample, scale: int, pixel_spacing: float | None = None) -> Sample:
    """Resize a sample so that its longer side has ``scale`` pixels, keeping the aspect ratio, or to one pixel size.

    Sides are rounded to the nearest pixel and boxes follow the rounded sides, as in mmdetection. Bilinear,
    with half-pixel centres and without low-pass filter, slice by slice.

    Args:
        sample: ``image`` ``(D, H, W)`` of floats, ``instances`` and ``scale_factor`` are changed.
        scale: Longer side in pixels, at least 1.
        pixel_spacing: mm of a pixel; ``scale`` has no effect then. The sample must have its ``spacing`` (x, y) in mm.

    Raises:
        ValueError: If the image is not ``(D, H, W)`` floats: integers must be windowed first.
    """
    image = sample["image"]
    if image.ndim != 3 or not image.is_floating_point():
        raise ValueError(f"Expected a slab (D, H, W) of floats to resize, got {tuple(image.shape)} {image.dtype}.")
    height, width = image.shape[-2:]
    across = down = scale / max(height, width)
    if pixel_spacing is not None:
        across, down = (edge / pixel_spacing for edge in sample["spacing"])
    new_height, new_width = max(int(height * down + 0.5), 1), max(int(width * across + 0.5), 1)
    factor_x, factor_y = new_width / width, new_height / height
    if (new_height, new_width) != (height, width):
        image = torch.nn.functional.interpolate(
            image[None], size=(new_height, new_width), mode="bilinear", align_corners=False
        )[0]
    return {
        **sample,
        "image": image,
        "instances": move(sample["instances"], Affine(factor_x, factor_y)),
        "scale_factor": sample["scale_factor"] * torch.tensor([factor_x, factor_y], dtype=torch.float32),
    }


def flip_slab(sample: Sample, axis: str) -> Sample:
    """Flip a sample's ``image`` ``(D, H, W)`` and ``instances``.

    Args:
        sample: The sample.
        axis: ``"horizontal"`` (left to right), ``"vertical"`` (top to bottom) or ``"z"`` (order of slices,
            which leaves instances as they are; the key slice stays in the centre).

    Raises:
        ValueError: If the axis is another one, or the number of slices is even in a flip of z.
    """
    image, instances = sample["image"], sample["instances"]
    depth, height, width = image.shape
    if axis == "horizontal":
        return {**sample, "image": image.flip(-1), "instances": move(instances, Affine(scale_x=-1, shift_x=width))}
    if axis == "vertical":
        return {**sample, "image": image.flip(-2), "instances": move(instances, Affine(scale_y=-1, shift_y=height))}
    if depth % 2 == 0:
        raise ValueError(f"Expected an odd number of slices to flip in z, got {depth}.")
    return {**sample, "image": image.flip(-3)}
