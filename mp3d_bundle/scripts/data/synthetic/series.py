"""One series of a patient: the torso with its lesions and tubes, the slices to store, and their pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from .anatomy import FIRST_HEIGHT, LAST_HEIGHT, Body, draw_body
from .foci import Focus, Level, add_level
from .settings import Settings
from .shapes import paint

# The smooth texture is drawn on a coarse lattice with this step along z, mm, and so many cells across.
_TEXTURE_STEP = 6.0
_TEXTURE_CELLS = 14
HU_RANGE = (-1024, 3071)


@dataclass(frozen=True)
class Series:
    """A series before rendering. Slice ``k`` (1-based) lies at ``first_height + (k - 1) * interval``.

    Attributes:
        body: The torso.
        foci: Lesions and tubes.
        keys: Slice numbers of the key slices, rising.
        blocks: First and last slice number of each stored sub-volume, rising, apart from each other.
        spacing: Pixel spacing, mm.
        interval: Slice interval, mm.
        first_height: Height of slice 1, mm.
        noise: Standard deviation of the noise, HU.
    """

    body: Body
    foci: tuple[Focus, ...]
    keys: tuple[int, ...]
    blocks: tuple[tuple[int, int], ...]
    spacing: float
    interval: float
    first_height: float
    noise: float

    def height(self, number: int) -> float:
        """Height of a slice, mm."""
        return self.first_height + (number - 1) * self.interval

    def block_of(self, number: int) -> tuple[int, int]:
        """First and last slice of the sub-volume that holds a slice."""
        return next(block for block in self.blocks if block[0] <= number <= block[1])


def draw_spacing(rng: np.random.Generator, settings: Settings) -> float:
    """Pixel spacing, mm: two half-normal laws joined at the median, cut just outside the 5 and 95 % points."""
    low, median, high = settings.pixel_spacing
    deviate = rng.normal()
    spacing = median + deviate / 1.645 * ((high - median) if deviate > 0 else (median - low))
    return round(float(np.clip(spacing, low * 0.9, high * 1.0)), 6)


def draw_interval(rng: np.random.Generator, settings: Settings) -> float:
    """Slice interval, mm."""
    weights = np.array([weight for _, weight in settings.slice_intervals])
    return settings.slice_intervals[int(rng.choice(len(weights), p=weights / weights.sum()))][0]


def draw_series(rng: np.random.Generator, settings: Settings, keys: int, interval: float | None = None) -> Series:
    """Draw a series with ``keys`` key slices.

    Args:
        rng: Source of chance.
        settings: The laws.
        keys: Number of key slices.
        interval: Slice interval in mm; drawn if None.

    Returns:
        The series, without pixels.
    """
    interval = draw_interval(rng, settings) if interval is None else interval
    spacing = draw_spacing(rng, settings)
    reach = math.ceil(settings.margin_mm / interval - 1e-6)
    heights = rng.uniform(FIRST_HEIGHT, LAST_HEIGHT, keys)
    before = rng.integers(0, 3 * reach + 40)
    first_height = float(heights.min() - before * interval)
    numbers = sorted({1 + round((height - first_height) / interval) for height in heights})
    last = numbers[-1] + int(rng.integers(0, 3 * reach + 40))
    blocks = merge_blocks([(max(number - reach, 1), min(number + reach, last)) for number in numbers])
    return fill_series(rng, settings, (interval, spacing, first_height), numbers, blocks)


def merge_blocks(blocks: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Join sub-volumes that overlap or touch."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(blocks):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return tuple(joined)


def fill_series(
    rng: np.random.Generator,
    settings: Settings,
    grid: tuple[float, float, float],
    keys: list[int],
    blocks: tuple[tuple[int, int], ...],
) -> Series:
    """Draw the torso, lesions and tubes of a series whose slices are known.

    Args:
        rng: Source of chance.
        settings: The laws.
        grid: Slice interval, pixel spacing and height of slice 1, mm.
        keys: Key slices.
        blocks: Stored sub-volumes.
    """
    interval, spacing, first_height = grid
    heights = (first_height + (blocks[0][0] - 1) * interval, first_height + (blocks[-1][1] - 1) * interval)
    body = draw_body(rng, settings.image_size, settings.body_fraction, heights)
    shares = np.array(settings.lesions_per_slice)
    foci: list[Focus] = []
    for key in keys:
        labelled = 1 + int(rng.choice(len(shares), p=shares / shares.sum()))
        tubes = int(rng.integers(settings.tubes[0], settings.tubes[1] + 1))
        level = Level(first_height + (key - 1) * interval, labelled=labelled, tubes=tubes)
        foci += add_level(rng, settings, body, foci, level=level, spacing=spacing)
    stored = np.concatenate([np.arange(first, last + 1) for first, last in blocks])
    wanted = settings.unlabelled_per_lesion * sum(focus.labelled for focus in foci)
    for _ in range(int(rng.poisson(wanted)) if wanted else 0):
        level = Level(first_height + (int(rng.choice(stored)) - 1) * interval, unlabelled=1)
        foci += add_level(rng, settings, body, foci, level=level, spacing=spacing)
    noise = settings.noise_hu * rng.uniform(0.8, 1.2)
    return Series(body, tuple(foci), tuple(keys), blocks, spacing, interval, first_height, noise)


def render(rng: np.random.Generator, settings: Settings, series: Series, z: np.ndarray) -> np.ndarray:
    """Pixels of a series.

    Args:
        rng: Source of the texture and the noise.
        settings: The laws.
        series: What to show.
        z: ``(n,)`` rising heights of the slices, mm.

    Returns:
        ``(n, H, W)`` int16 HU.
    """
    size = settings.image_size
    volume = series.body.render(z, size)
    order = rng.permutation(len(series.foci))
    for index in order:
        paint(volume, z, series.foci[index].shape)
    volume += _texture(rng, z, size) * (settings.texture_hu * np.clip((volume + 400) / 300, 0, 1))
    volume += _noise(rng, volume.shape) * np.float32(series.noise)
    return np.rint(np.clip(volume, *HU_RANGE)).astype(np.int16)


def _texture(rng: np.random.Generator, z: np.ndarray, size: int) -> np.ndarray:
    """Smooth ``(n, size, size)`` float32 field of mean 0 and standard deviation of about 1."""
    planes = int((z[-1] - z[0]) / _TEXTURE_STEP) + 2
    lattice = rng.standard_normal((planes, _TEXTURE_CELLS, _TEXTURE_CELLS), dtype=np.float32)
    fields = [cv2.resize(plane, (size, size), interpolation=cv2.INTER_CUBIC) for plane in lattice]
    place = (z - z[0]) / _TEXTURE_STEP
    below = np.minimum(place.astype(int), planes - 2)
    weight = (place - below).astype(np.float32)[:, None, None]
    stack = np.stack(fields)
    mixed = stack[below] * (1 - weight) + stack[below + 1] * weight
    return mixed / (0.75 * np.sqrt(weight**2 + (1 - weight) ** 2))


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of standard deviation 1, half of its variance correlated over neighbouring pixels."""
    white = rng.standard_normal(shape, dtype=np.float32)
    grain = rng.standard_normal(shape, dtype=np.float32)
    for plane in grain:
        cv2.GaussianBlur(plane, (0, 0), 1.0, dst=plane)
    # A Gaussian of sigma 1 lowers the standard deviation of white noise to 1 / (2 sqrt(pi)).
    return np.float32(np.sqrt(0.5)) * (white + grain * np.float32(2 * np.sqrt(np.pi)))
