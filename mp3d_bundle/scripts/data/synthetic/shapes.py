"""Soft-edged bodies stacked along z: the one primitive from which anatomy, lesions and tubes are made.

Coordinates: ``x`` and ``y`` in pixels (0-based pixel centres, ``x`` along the columns), ``z`` in mm
increasing from head to feet. A shape has an outline in the plane (an ellipse with harmonics) whose
size and centre are functions of ``z``. A lesion and a vessel differ only in ``half_height``.
"""

from __future__ import annotations

import dataclasses
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
        swell = np.ones_like(offset)
        if self.swell.amplitude:
            swell = (1 + self.swell.at(offset)) / (1 + self.swell.at(np.zeros(1)))
        if not np.isfinite(self.half_height):
            return swell
        return swell * self._profile(offset) / self._profile(np.zeros(1))

    def _profile(self, offset: np.ndarray) -> np.ndarray:
        inside = np.abs((offset - self.z_shift) / self.half_height) ** self.power
        return np.clip(1 - inside, 0, None) ** (1 / self.power)

    def centre_at(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows of the centre at heights ``z`` (n,), px."""
        offset = np.asarray(z, dtype=np.float64) - self.z
        if self.slope == (0.0, 0.0) and not any(wave.amplitude for wave in self.wander):
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
        z: ``(n,)`` heights of the slices, mm.
        shape: The shape.
    """
    scale = shape.scale_at(z)
    live = np.flatnonzero(scale > 0.02)
    if not len(live):
        return
    live = np.arange(live[0], live[-1] + 1)
    x, y = shape.centre_at(z)
    if np.ptp(scale[live]) == 0 and np.ptp(x[live]) == 0 and np.ptp(y[live]) == 0:
        _paint_group(volume, live, (x[live[:1]], y[live[:1]], scale[live[:1]]), shape)
        return
    for start in range(0, len(live), _GROUP):
        group = live[start : start + _GROUP]
        _paint_group(volume, group, (x[group], y[group], scale[group]), shape)


def _paint_group(
    volume: np.ndarray, slices: np.ndarray, place: tuple[np.ndarray, np.ndarray, np.ndarray], shape: Shape
) -> None:
    x, y, scale = place
    bulge = 1 + sum(abs(c) for c in shape.outline)
    reach = max(shape.axes) * float(scale.max()) * bulge + shape.edge + 1
    height, width = volume.shape[1:]
    x_first, x_last = max(int(x.min() - reach), 0), min(int(x.max() + reach) + 2, width)
    y_first, y_last = max(int(y.min() - reach), 0), min(int(y.max() + reach) + 2, height)
    if x_first >= x_last or y_first >= y_last:
        return
    columns = np.arange(x_first, x_last, dtype=np.float32)[None, None, :] - x.astype(np.float32)[:, None, None]
    rows = np.arange(y_first, y_last, dtype=np.float32)[None, :, None] - y.astype(np.float32)[:, None, None]
    cover = _cover(columns, rows, scale.astype(np.float32)[:, None, None], shape)
    if shape.within is not None:
        columns = np.arange(x_first, x_last, dtype=np.float32)[None, None, :] - np.float32(shape.within.x)
        rows = np.arange(y_first, y_last, dtype=np.float32)[None, :, None] - np.float32(shape.within.y)
        cover = cover * _cover(columns, rows, np.ones((1, 1, 1), np.float32), shape.within)
    region = (slice(int(slices[0]), int(slices[-1]) + 1), slice(y_first, y_last), slice(x_first, x_last))
    patch = volume[region]
    patch += cover * (np.float32(shape.value) - patch)


def _cover(columns: np.ndarray, rows: np.ndarray, scale: np.ndarray, shape: Shape) -> np.ndarray:
    """Share of each pixel, 0..1, that the shape covers."""
    cos, sin = np.float32(np.cos(shape.angle)), np.float32(np.sin(shape.angle))
    along = (columns * cos + rows * sin) / np.float32(shape.axes[0])
    across = (rows * cos - columns * sin) / np.float32(shape.axes[1])
    distance = np.sqrt(along * along + across * across)
    radius: np.ndarray = scale
    if shape.outline:
        unit = (along + 1j * across) / np.maximum(distance, np.float32(1e-3))
        power, wave = unit, np.ones((), np.float32)
        for amplitude in shape.outline:
            power = power * unit
            wave = wave + (np.complex64(amplitude) * power).real
        radius = scale * wave
    size = np.float32(np.sqrt(shape.axes[0] * shape.axes[1]))
    cover = np.clip(0.5 + (radius - distance) * (size / np.float32(2 * shape.edge)), 0, 1)
    cover *= cover * (3 - 2 * cover)
    # A tip thinner than its own edge fades instead of staying half visible.
    return cover * np.minimum(scale * (size / np.float32(shape.edge)), 1)
