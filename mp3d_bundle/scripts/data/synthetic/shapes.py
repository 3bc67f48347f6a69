"""Soft-edged bodies stacked along z: the one primitive from which anatomy, lesions and tubes are made.

Coordinates: ``x`` and ``y`` in pixels (0-based pixel centres, ``x`` along the columns), ``z`` in mm
increasing from head to feet. A shape has an outline in the plane (an ellipse with harmonics) whose
size and centre are functions of ``z``. A lesion and a vessel differ only in ``half_height``.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field

import numpy as np

# Slices painted at once: shapes move along z, and a patch must contain all positions of the group.
_GROUP = 12


@dataclass(frozen=True)
class Wave:
    """A sine wave along z, ``amplitude * sin(2 pi (z - z0) / length + phase)`` (``length`` in mm)."""

    amplitude: float = 0.0
    length: float = 40.0
    phase: float = 0.0

    def at(self, offset: np.ndarray) -> np.ndarray:
        """Value at ``offset`` mm from the shape's reference height."""
        if not self.amplitude:
            return np.zeros_like(offset)
        return self.amplitude * np.sin(2 * np.pi * offset / self.length + self.phase)


@dataclass(frozen=True)
class Shape:
    """One body.

    Attributes:
        x: Column of the centre at the reference height ``z``, px.
        y: Row of the centre at the reference height, px.
        z: Reference height, mm: size and position are exactly ``axes`` and ``(x, y)`` there.
        axes: Semi-axes at the reference height, px.
        value: Intensity, HU.
        half_height: Half extent along z, mm.
        z_shift: Offset of the middle of the extent from the reference height, mm.
        power: Exponent of the profile along z: 2 is an ellipsoid, more is flatter with blunt ends.
        angle: Direction of the first semi-axis, rad from the x axis towards the y axis.
        outline: Complex amplitudes of the outline's harmonics 2, 3, ..., relative to the radius.
        edge: Half width of the soft edge, px.
        slope: Drift of the centre at the reference height, px per mm, as ``(x, y)``.
        bend: Distance over which the drift saturates, mm.
        wander: Waves added to the centre, px, as ``(x, y)``.
        swell: Relative wave of the radius.
        within: Shape, the same at all heights, beyond which this one is cut off.
    """

    x: float
    y: float
    z: float
    axes: tuple[float, float]
    value: float
    half_height: float = np.inf
    z_shift: float = 0.0
    power: float = 2.0
    angle: float = 0.0
    outline: tuple[complex, ...] = ()
    edge: float = 0.7
    slope: tuple[float, float] = (0.0, 0.0)
    bend: float = 30.0
    wander: tuple[Wave, Wave] = field(default=(Wave(), Wave()))
    swell: Wave = field(default=Wave())
    within: Shape | None = None

    @property
    def z_range(self) -> tuple[float, float]:
        """First and last height that the shape reaches, mm."""
        middle = self.z + self.z_shift
        return middle - self.half_height, middle + self.half_height

    def scale_at(self, z: np.ndarray) -> np.ndarray:
        """Radius at heights ``z`` (n,) over the radius at the reference height; 0 outside."""
        offset = np.asarray(z, dtype=np.float64) - self.z
        scale = np.ones_like(offset)
        if self.swell.amplitude:
            scale = (1 + self.swell.at(offset)) / (1 + self.swell.at(np.zeros(1)))
        if not np.isfinite(self.half_height):
            return scale
        profile = self._profile(offset)
        if self.swell.amplitude:
            profile = scale * profile
        # The profile is 1 at its middle.
        return profile / self._profile(np.zeros(1)) if self.z_shift else profile

    def _profile(self, offset: np.ndarray) -> np.ndarray:
        inside = np.abs((offset - self.z_shift) / self.half_height) ** self.power
        return np.maximum(1 - inside, 0) ** (1 / self.power)

    @property
    def upright(self) -> bool:
        """Whether the centre is the same at all heights."""
        return self.slope == (0.0, 0.0) and not any(wave.amplitude for wave in self.wander)

    def centre_at(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows of the centre at heights ``z`` (n,), px."""
        offset = np.asarray(z, dtype=np.float64) - self.z
        if self.upright:
            return np.full(offset.shape, self.x), np.full(offset.shape, self.y)
        drift = self.bend * np.sin(np.clip(offset / self.bend, -np.pi / 2, np.pi / 2))
        start = np.zeros(1)
        columns, rows = (
            place + slope * drift + wave.at(offset) - wave.at(start)
            for place, slope, wave in zip((self.x, self.y), self.slope, self.wander, strict=True)
        )
        return columns, rows

    def moved(self, dx: float) -> Shape:
        """The shape, with its bound, shifted along the columns by ``dx`` px."""
        within = self.within and self.within.moved(dx)
        return dataclasses.replace(self, x=self.x + dx, within=within)

    def contour(self, points: int = 72) -> np.ndarray:
        """Outline at the reference height as ``(points, 2)`` px offsets from the centre, x first."""
        turns = 2 * np.pi * np.arange(points) / points
        radius = np.ones(points)
        for order, amplitude in enumerate(self.outline, start=2):
            radius += (amplitude * np.exp(1j * order * turns)).real
        along, across = radius * self.axes[0] * np.cos(turns), radius * self.axes[1] * np.sin(turns)
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return np.stack([along * cos - across * sin, along * sin + across * cos], axis=1)


def paint(volume: np.ndarray, z: np.ndarray, shape: Shape) -> None:
    """Blend a shape into a volume in place.

    Args:
        volume: ``(n, H, W)`` float32 HU.
        z: ``(n,)`` rising heights of the slices, mm.
        shape: The shape.
    """
    first, last = shape.z_range
    if first > z[-1] or last < z[0]:
        return
    scale = shape.scale_at(z)
    live = (scale > 0.02).nonzero()[0].tolist()
    if not live:
        return
    first, last = live[0], live[-1] + 1
    if shape.upright:
        x, y = np.array([shape.x]), np.array([shape.y])
        alike = not np.isfinite(shape.half_height) and not shape.swell.amplitude
        step = last - first if alike else _GROUP
    else:
        (x, y), alike, step = shape.centre_at(z), False, _GROUP
    for start in range(first, last, step):
        group = slice(start, min(start + step, last))
        places = (x, y) if shape.upright else (x[group], y[group])
        _paint_group(volume[group], (*places, scale[:1] if alike else scale[group]), shape)


def _paint_group(volume: np.ndarray, place: tuple[np.ndarray, np.ndarray, np.ndarray], shape: Shape) -> None:
    """Paint slices; ``place`` is column and row of the centre and scale, each one for all slices or one for each."""
    x, y, scale = place
    bulge = 1 + sum(abs(c) for c in shape.outline)
    reach = max(shape.axes) * max(scale.tolist()) * bulge + shape.edge + 1
    patch = []
    offsets = []
    for centres, size in ((y, volume.shape[1]), (x, volume.shape[2])):
        values = centres.tolist()
        first, last = max(int(min(values) - reach), 0), min(int(max(values) + reach) + 2, size)
        if first >= last:
            return
        patch.append(slice(first, last))
        offsets.append(_pixels(size)[first:last] - centres.astype(np.float32)[:, None])
    rows, columns = offsets[0][:, :, None], offsets[1][:, None, :]
    cover = _cover(columns, rows, scale.astype(np.float32)[:, None, None], shape)
    if shape.within is not None:
        cover *= _whole_cover(shape.within, volume.shape[1:])[tuple(patch)]
    region = volume[:, patch[0], patch[1]]
    cover = cover * (np.float32(shape.value) - region)
    region += cover


@functools.lru_cache(maxsize=8)
def _pixels(size: int) -> np.ndarray:
    """``(size,)`` float32 numbers of the pixels of a row or column."""
    return np.arange(size, dtype=np.float32)


@functools.lru_cache(maxsize=8)
def _whole_cover(shape: Shape, size: tuple[int, ...]) -> np.ndarray:
    """Share of each pixel of ``(H, W)`` that a shape of the same outline at all heights covers."""
    columns = _pixels(size[1])[None, None, :] - np.float32(shape.x)
    rows = _pixels(size[0])[None, :, None] - np.float32(shape.y)
    return _cover(columns, rows, np.ones((1, 1, 1), np.float32), shape)[0]


def _cover(columns: np.ndarray, rows: np.ndarray, scale: np.ndarray, shape: Shape) -> np.ndarray:
    """Share of each pixel, 0..1, that the shape covers.

    Args:
        columns: ``(1 or n, 1, W)`` distance of each pixel from the centre.
        rows: ``(1 or n, H, 1)``.
        scale: ``(1 or n, 1, 1)``.
        shape: The shape.

    Returns:
        ``(1 or n, H, W)`` float32. The order of the operations decides its last bits, and so the pixels' bytes.
    """
    cos, sin = np.float32(np.cos(shape.angle)), np.float32(np.sin(shape.angle))
    along = columns * cos + rows * sin
    along /= np.float32(shape.axes[0])
    across = rows * cos - columns * sin
    across /= np.float32(shape.axes[1])
    distance = along * along
    distance += across * across
    np.sqrt(distance, out=distance)
    radius: np.ndarray = scale
    if shape.outline:
        unit = (along + 1j * across) / np.maximum(distance, np.float32(1e-3))
        power, wave = unit, np.ones((), np.float32)
        for amplitude in shape.outline:
            power = power * unit
            wave = wave + (np.complex64(amplitude) * power).real
        radius = scale * wave
    size = np.float32(np.sqrt(shape.axes[0] * shape.axes[1]))
    cover = radius - distance
    cover *= size / np.float32(2 * shape.edge)
    cover += np.float32(0.5)
    np.maximum(cover, 0, out=cover)
    np.minimum(cover, 1, out=cover)
    slope = 2 * cover
    np.subtract(3, slope, out=slope)
    slope *= cover
    cover *= slope
    # A tip thinner than its own edge fades instead of staying half visible.
    cover *= np.minimum(scale * (size / np.float32(shape.edge)), 1)
    return cover
