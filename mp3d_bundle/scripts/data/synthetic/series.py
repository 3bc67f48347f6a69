"""One series of a patient: its slices, which of them are stored, and the torso with its lesions and tubes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..synthetic_presets import Settings
from .anatomy import FIRST_HEIGHT, LAST_HEIGHT, Body, draw_body
from .foci import Focus, Level, add_level

# Slices over which key slices may spread; keeps slice numbers at three digits.
_MOST_SLICES = 450
# Key slices of a series: standard deviation of their distance, mm, and the relative chance of any other position.
_KEY_SPREAD = 30.0
_FAR_SHARE = 0.08
# Voxels of a torso that are kept from the placement of lesions to the rendering, 16 MB.
_KEPT_VOXELS = 2**22
# A series that is labelled on every slice: its length, the distance of the levels at which lesions and tubes are
# placed, the chances of 0, 1 and 2 lesions at a level, and the least distance of labelled slices, mm.
_WHOLE_LENGTH = 100.0
_LEVEL_DISTANCE = 26.0
_LESIONS_AT_LEVEL = (0.25, 0.65, 0.1)
_LABELLED_DISTANCE = 2.0


@dataclass(frozen=True)
class Grid:
    """The lattice of a series' slices.

    Attributes:
        interval: Distance of neighbouring slices, mm.
        spacing: Pixel spacing, mm.
        first_height: Height of slice 1, mm.
        size: Rows and columns, px.
    """

    interval: float
    spacing: float
    first_height: float
    size: int

    def height(self, number: int) -> float:
        """Height of a slice (counted from 1), mm."""
        return self.first_height + (number - 1) * self.interval

    def heights(self, first: int, last: int) -> np.ndarray:
        """Heights of slices ``first`` to ``last`` inclusive, mm, ``(n,)`` float64."""
        return self.first_height + (np.arange(first, last + 1) - 1) * self.interval


@dataclass(frozen=True)
class Series:
    """A series before rendering.

    Attributes:
        grid: The lattice of slices.
        body: The torso.
        foci: Lesions and tubes.
        keys: Slice numbers of the key slices, rising.
        blocks: First and last slice number of each stored sub-volume, rising and separate.
        noise: Standard deviation of the noise, HU.
        round_field: Whether the scanner's round field of view is padded with -3024 HU.
        labelled: Slice numbers on which every lesion is labelled, rising; none in a series with key slices.
    """

    grid: Grid
    body: Body
    foci: tuple[Focus, ...]
    keys: tuple[int, ...]
    blocks: tuple[tuple[int, int], ...]
    noise: float
    round_field: bool = False
    labelled: tuple[int, ...] = ()

    def block_of(self, number: int) -> tuple[int, int]:
        """First and last slice of the sub-volume that contains a slice."""
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


def draw_series(rng: np.random.Generator, settings: Settings, *, keys: int, body_seed: int) -> Series:
    """Draw a series with ``keys`` key slices.

    Args:
        rng: Random generator.
        settings: The laws.
        keys: Number of key slices.
        body_seed: Seed of the torso, the same for all series of a patient.

    Returns:
        The series, without pixels.
    """
    interval = draw_interval(rng, settings)
    numbers, blocks, first_height = draw_slices(rng, settings, keys=keys, interval=interval)
    grid = Grid(interval, draw_spacing(rng, settings), first_height, settings.image_size)
    return fill_series(rng, settings, grid=grid, keys=numbers, blocks=blocks, body_seed=body_seed)


def draw_slices(
    rng: np.random.Generator, settings: Settings, *, keys: int, interval: float
) -> tuple[list[int], tuple[tuple[int, int], ...], float]:
    """Key slices, stored sub-volumes and height of slice 1 (mm) of a series.

    Key slices of one series are close to each other, like findings of one scan, so that their sub-volumes
    often join; a few series end close to a key slice.
    """
    slots = max(min(int((LAST_HEIGHT - FIRST_HEIGHT) / interval), _MOST_SLICES), keys)
    centre = int(rng.integers(slots))
    distance = (np.arange(slots) - centre) * interval / _KEY_SPREAD
    nearness = np.exp(-0.5 * np.minimum(distance**2, 50)) + _FAR_SHARE
    nearness[centre] = 0.0
    others = rng.choice(slots, keys - 1, replace=False, p=nearness / nearness.sum()) if keys > 1 else []
    places = sorted([centre, *(int(place) for place in others)])
    reach = math.ceil(settings.margin_mm / interval - 1e-6)
    before, after = (reach + int(n) for n in rng.integers(0, 60 + reach, 2))
    if reach and rng.random() < settings.edge_fraction:
        cut = int(rng.integers(0, reach))
        before, after = (cut, after) if rng.random() < 0.8 else (before, cut)
    numbers = [place - places[0] + before + 1 for place in places]
    last = numbers[-1] + after
    blocks = merge_blocks([(max(number - reach, 1), min(number + reach, last)) for number in numbers])
    return numbers, blocks, FIRST_HEIGHT + (places[0] - before) * interval


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
    *,
    grid: Grid,
    keys: list[int],
    blocks: tuple[tuple[int, int], ...],
    body_seed: int,
) -> Series:
    """Draw the torso, lesions and tubes of a series whose slices are known.

    Args:
        rng: Random generator.
        settings: The laws.
        grid: The lattice of slices.
        keys: Key slices.
        blocks: Stored sub-volumes.
        body_seed: Seed of the torso.
    """
    heights = (grid.height(blocks[0][0]), grid.height(blocks[-1][1]))
    body = draw_body(np.random.default_rng(body_seed), grid.size, fraction=settings.body_fraction, heights=heights)
    stored = [grid.heights(first, last) for first, last in blocks]
    if sum(map(len, stored)) * grid.size**2 <= _KEPT_VOXELS:
        # The slices in which foci are placed are among these.
        body = body.keeping(*stored)
    shares = np.array(settings.lesions_per_slice)
    foci: list[Focus] = []
    for key in keys:
        labelled = 1 + int(rng.choice(len(shares), p=shares / shares.sum()))
        tubes = int(rng.integers(settings.tubes[0], settings.tubes[1] + 1))
        level = Level(grid.height(key), labelled=labelled, tubes=tubes)
        foci += add_level(rng, settings, body=body, foci=foci, level=level, spacing=grid.spacing)
    numbers = np.concatenate([np.arange(first, last + 1) for first, last in blocks])
    wanted = settings.unlabelled_per_lesion * sum(focus.labelled for focus in foci)
    for _ in range(int(rng.poisson(wanted)) if wanted else 0):
        level = Level(grid.height(int(rng.choice(numbers))), unlabelled=1)
        foci += add_level(rng, settings, body=body, foci=foci, level=level, spacing=grid.spacing)
    noise = settings.noise_hu * rng.uniform(0.8, 1.2)
    round_field = bool(rng.random() < settings.round_field_fraction)
    return Series(grid, body, tuple(foci), tuple(keys), blocks, noise, round_field)


def draw_whole_series(rng: np.random.Generator, settings: Settings, *, body_seed: int) -> Series:
    """Draw a series of 100 mm that is stored whole and labelled in full on slices 2 mm apart or more.

    Args:
        rng: Random generator.
        settings: The laws.
        body_seed: Seed of the torso.

    Returns:
        The series, without pixels and key slices.
    """
    interval = draw_interval(rng, settings)
    first_height = rng.uniform(FIRST_HEIGHT, LAST_HEIGHT - _WHOLE_LENGTH)
    grid = Grid(interval, draw_spacing(rng, settings), first_height, settings.image_size)
    last = int(_WHOLE_LENGTH / interval) + 1
    heights = (grid.height(1), grid.height(last))
    body = draw_body(np.random.default_rng(body_seed), grid.size, fraction=settings.body_fraction, heights=heights)
    foci: list[Focus] = []
    for height in np.arange(heights[0] + rng.uniform(0, _LEVEL_DISTANCE), heights[1], _LEVEL_DISTANCE):
        lesions = int(rng.choice(len(_LESIONS_AT_LEVEL), p=_LESIONS_AT_LEVEL))
        tubes = int(rng.integers(settings.tubes[0], settings.tubes[1] + 1))
        level = Level(float(height), unlabelled=lesions, tubes=tubes)
        foci += add_level(rng, settings, body=body, foci=foci, level=level, spacing=grid.spacing)
    noise = settings.noise_hu * rng.uniform(0.8, 1.2)
    step = max(round(_LABELLED_DISTANCE / interval), 1)
    return Series(grid, body, tuple(foci), (), ((1, last),), noise, labelled=tuple(range(1, last + 1, step)))
