"""Pixels of a series: torso, lesions and tubes, smooth texture, noise, field of view."""

from __future__ import annotations

import cv2
import numpy as np

from ..synthetic_presets import Settings
from .series import Series
from .shapes import paint

HU_RANGE = (-1024, 3071)
# Value of some scanners outside their round field of view, HU.
OUTSIDE = -3024
# The smooth texture is drawn on a coarse lattice with this step along z, mm, and so many cells across.
_TEXTURE_STEP = 6.0
_TEXTURE_CELLS = 14
# Voxels rendered at once, which bounds the memory.
_CHUNK = 2**23


def render(rng: np.random.Generator, settings: Settings, *, series: Series, z: np.ndarray) -> np.ndarray:
    """Pixels of a series.

    Args:
        rng: Source of the texture and the noise.
        settings: The laws.
        series: The series.
        z: ``(n,)`` rising heights of the slices, mm.

    Returns:
        ``(n, H, W)`` int16 HU.
    """
    size = series.grid.size
    foci = [series.foci[index] for index in rng.permutation(len(series.foci))]
    planes = int((z[-1] - z[0]) / _TEXTURE_STEP) + 2
    lattice = rng.standard_normal((planes, _TEXTURE_CELLS, _TEXTURE_CELLS), dtype=np.float32)
    pixels = np.empty((len(z), size, size), dtype=np.int16)
    step = max(_CHUNK // size**2, 1)
    for start in range(0, len(z), step):
        part = z[start : start + step]
        volume = series.body.render(part)
        for focus in foci:
            paint(volume, part, focus.shape)
        strength = np.clip((volume + np.float32(400)) / np.float32(300), 0, 1) * np.float32(settings.texture_hu)
        volume += _texture(lattice, part - z[0], size) * strength
        volume += _noise(rng, volume.shape) * np.float32(series.noise)
        pixels[start : start + step] = np.rint(np.clip(volume, *HU_RANGE))
    if series.round_field:
        pixels[:, ~_field_of_view(size)] = OUTSIDE
    return pixels


def _field_of_view(size: int) -> np.ndarray:
    """``(size, size)`` bool, true inside the circle that touches the image's sides."""
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    return rows**2 + columns**2 <= (size / 2) ** 2


def _texture(lattice: np.ndarray, depth: np.ndarray, size: int) -> np.ndarray:
    """Smooth ``(n, size, size)`` float32 field of mean 0 and standard deviation of about 1 at depths in mm."""
    place = depth / _TEXTURE_STEP
    below = np.minimum(place.astype(int), len(lattice) - 2)
    weight = (place - below).astype(np.float32)[:, None, None]
    mixed = lattice[below] * (1 - weight) + lattice[below + 1] * weight
    # Mixing planes and spreading cells both lower the standard deviation.
    mixed /= 0.75 * np.sqrt(weight**2 + (1 - weight) ** 2)
    return np.stack([cv2.resize(plane, (size, size), interpolation=cv2.INTER_CUBIC) for plane in mixed])


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of standard deviation 1, half of its variance correlated over neighbouring pixels."""
    white = rng.standard_normal(shape, dtype=np.float32)
    grain = rng.standard_normal(shape, dtype=np.float32)
    for plane in grain:
        cv2.GaussianBlur(plane, (0, 0), 1.0, dst=plane)
    # A Gaussian of sigma 1 lowers the standard deviation of white noise to 1 / (2 sqrt(pi)).
    return np.float32(np.sqrt(0.5)) * (white + grain * np.float32(2 * np.sqrt(np.pi)))
