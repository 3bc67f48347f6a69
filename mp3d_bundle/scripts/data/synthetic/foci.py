"""Lesions and the tubes that look like them: their sampling and placement.

In the key slice both follow one law: size, shape, edge and contrast are sampled before the kind is
chosen, and positions are assigned in random order. Along z a lesion closes within millimetres of
the key slice, while a tube (a vessel or a bowel loop) continues.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import cv2
import numpy as np

from ..synthetic_presets import Settings
from .anatomy import Body, draw_outline
from .shapes import Shape, Wave

# The middle of a lesion is within this share of its half height from the key slice.
_OFF_CENTRE = 0.35
# Liver, spleen, kidney and the like after contrast, HU: here lesions may be darker than the organ.
_ENHANCING = 70.0
# Lungs fill most of the chest, but mediastinal lesions are nearly as common as lesions of the lung.
_LUNG_TISSUE, _LUNG_WEIGHT = -650.0, 0.3
# Nothing grows across the hard shell of a bone, HU.
_CORTICAL = 260.0
_ATTEMPTS = 8


@dataclass(frozen=True)
class Focus:
    """A lesion or a tube.

    Attributes:
        shape: The shape.
        lesion: Whether it is a lesion.
        labelled: Whether the key slice's annotation names it.
        tissue: HU of the tissue around its centre.
        kind: DeepLesion's coarse type (1..8) of its position.
    """

    shape: Shape
    lesion: bool
    labelled: bool
    tissue: float
    kind: int


def draw_diameters(rng: np.random.Generator, settings: Settings, count: int) -> np.ndarray:
    """In-plane diameters (geometric mean of long and short axis) of ``count`` lesions, mm."""
    diameters = settings.diameter_mm * np.exp(rng.normal(0, settings.diameter_sigma, count))
    return np.clip(diameters, *settings.diameter_range_mm)


def draw_profile(rng: np.random.Generator, settings: Settings, *, height: float, spacing: float) -> Shape:
    """A focus without position, intensity or extent along z, at reference height ``height`` (mm).

    Args:
        rng: Random generator.
        settings: The laws.
        height: Height of the key slice, mm.
        spacing: Pixel spacing, mm.
    """
    diameter = float(draw_diameters(rng, settings, 1)[0]) / spacing
    diameter = min(diameter, 0.6 * settings.image_size)
    ratio = rng.uniform(*settings.axis_ratio)
    tilt = np.tan(np.radians(rng.uniform(0, settings.tilt_degrees))) / spacing
    direction = rng.uniform(0, 2 * np.pi)
    waves = []
    for _ in range(2):
        waves.append(Wave(rng.uniform(0, 3.0) / spacing, rng.uniform(25, 60), rng.uniform(0, 2 * np.pi)))
    swell = Wave(rng.uniform(0, settings.modulation), rng.uniform(20, 45), rng.uniform(0, 2 * np.pi))
    return Shape(
        x=0.0,
        y=0.0,
        z=height,
        axes=(diameter / 2 / np.sqrt(ratio), diameter / 2 * np.sqrt(ratio)),
        value=0.0,
        angle=rng.uniform(0, np.pi),
        outline=draw_outline(rng, 0.045),
        edge=rng.uniform(0.6, 1.5),
        slope=(tilt * np.cos(direction), tilt * np.sin(direction)),
        wander=(waves[0], waves[1]),
        swell=swell,
    )


def close(rng: np.random.Generator, settings: Settings, *, shape: Shape, spacing: float) -> Shape:
    """``shape`` with a lesion's extent along z."""
    median, sigma = settings.height_ratio
    if median > 0:
        diameter = 2 * np.sqrt(shape.axes[0] * shape.axes[1]) * spacing
        half_height = np.clip(diameter * median * np.exp(rng.normal(0, sigma)) / 2, 1.5, 100)
    else:
        half_height = np.exp(rng.uniform(*np.log(settings.half_height_mm)))
    shift = rng.uniform(-_OFF_CENTRE, _OFF_CENTRE) * half_height
    return dataclasses.replace(shape, half_height=float(half_height), z_shift=float(shift))


def run_on(rng: np.random.Generator, shape: Shape) -> Shape:
    """``shape`` with a tube's extent along z: it thins out over decimetres."""
    half_height = rng.uniform(90, 170)
    return dataclasses.replace(shape, half_height=half_height, z_shift=rng.uniform(-0.3, 0.3) * half_height)


@dataclass(frozen=True)
class Level:
    """The foci to place at one height of a series.

    Attributes:
        height: Height, mm.
        labelled: Labelled lesions.
        unlabelled: Lesions without a label.
        tubes: Tubes that cross the slice, those of other levels included.
    """

    height: float
    labelled: int = 0
    unlabelled: int = 0
    tubes: int = 0


def branch(rng: np.random.Generator, tube: Shape, spacing: float) -> Shape:
    """A branch that leaves ``tube`` some millimetres above or below its reference height."""
    side = float(rng.choice((-1, 1)))
    start = np.array([tube.z + side * rng.uniform(3, 10)])
    (x,), (y,), (scale,) = *tube.centre_at(start), tube.scale_at(start)
    half_height, size = rng.uniform(30, 60), 0.55 * scale
    tilt, direction = np.tan(np.radians(rng.uniform(25, 50))) / spacing, rng.uniform(0, 2 * np.pi)
    # The blunt near end is hidden inside the tube.
    return dataclasses.replace(
        tube,
        x=x,
        y=y,
        z=float(start[0]),
        axes=(tube.axes[0] * size, tube.axes[1] * size),
        half_height=half_height,
        z_shift=side * 0.98 * half_height,
        power=8.0,
        slope=(tilt * np.cos(direction), tilt * np.sin(direction)),
    )


class Sites:
    """Free places in one slice.

    Args:
        body: The torso.
        tissue: ``(H, W)`` float32 HU of the slice without foci and noise.
        height: Height of the slice, mm.
        foci: Foci that are already there.
    """

    def __init__(self, body: Body, tissue: np.ndarray, *, height: float, foci: list[Focus]) -> None:
        self._tissue = tissue
        self._closed = ~body.inner_mask() | (tissue > _CORTICAL)
        self._taken = np.zeros(tissue.shape, dtype=bool)
        rows, columns = np.mgrid[: tissue.shape[0], : tissue.shape[1]]
        self._rows, self._columns = rows.astype(np.float32), columns.astype(np.float32)
        z = np.array([height])
        for focus in foci:
            scale = float(focus.shape.scale_at(z)[0])
            if scale > 0:
                (x,), (y,) = focus.shape.centre_at(z)
                self._block(x, y, scale * max(focus.shape.axes) + 1)

    def _block(self, x: float, y: float, radius: float) -> None:
        self._taken |= (self._columns - x) ** 2 + (self._rows - y) ** 2 < radius**2

    def take(
        self, rng: np.random.Generator, radius: float, spread_limit: float = 60.0
    ) -> tuple[float, float, float] | None:
        """Reserve a disc.

        Args:
            rng: Random generator.
            radius: Radius, px.
            spread_limit: Largest standard deviation of the tissue below, HU.

        Returns:
            Its column, row and mean tissue HU, or None if nothing is free.
        """
        width = 2 * int(radius) + 1
        mean = cv2.blur(self._tissue, (width, width), borderType=cv2.BORDER_REFLECT)
        square = cv2.blur(self._tissue * self._tissue, (width, width), borderType=cv2.BORDER_REFLECT)
        spread = np.sqrt(np.maximum(square - mean * mean, 0))
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * int(radius + 2) + 1,) * 2)
        blocked = cv2.dilate((self._taken | self._closed).astype(np.uint8), kernel, borderValue=1)
        calm = (spread < spread_limit) & (mean < 230) & ((mean > -140) | (mean < _LUNG_TISSUE))
        rows, columns = np.nonzero((blocked == 0) & calm)
        if not len(rows):
            return None
        weights = np.where(mean[rows, columns] < _LUNG_TISSUE, _LUNG_WEIGHT, 1.0)
        pick = int(rng.choice(len(rows), p=weights / weights.sum()))
        x, y = columns[pick] + rng.uniform(-0.5, 0.5), rows[pick] + rng.uniform(-0.5, 0.5)
        self._block(x, y, radius + 1)
        return float(x), float(y), float(mean[rows[pick], columns[pick]])


def draw_value(rng: np.random.Generator, settings: Settings, tissue: float) -> float:
    """HU of a focus in tissue of ``tissue`` HU; soft tissue if it is surrounded by lung or fat."""
    if tissue < -400:
        return rng.uniform(-60, 70)
    contrast = rng.uniform(*settings.contrast_hu)
    if tissue < -30:
        return tissue + contrast + 40
    dark = tissue > _ENHANCING and rng.random() < settings.dark_fraction
    return tissue - contrast if dark else tissue + contrast


def add_level(
    rng: np.random.Generator, settings: Settings, *, body: Body, foci: list[Focus], level: Level, spacing: float
) -> list[Focus]:
    """Lesions and tubes of one slice, in random order.

    Args:
        rng: Random generator.
        settings: The laws.
        body: The torso.
        foci: Foci that the series already has; their area is kept free.
        level: Height and numbers.
        spacing: Pixel spacing, mm.

    Returns:
        The new foci. Fewer than requested if space runs out, but always with a labelled lesion
        if one was requested.

    Raises:
        ValueError: If there is no space even for one labelled lesion.
    """
    tissue = body.render(np.array([level.height]))[0]
    crossing = sum(not f.lesion and float(f.shape.scale_at(np.array([level.height]))[0]) > 0.3 for f in foci)
    roles = [(True, True)] * level.labelled + [(True, False)] * level.unlabelled
    roles += [(False, False)] * max(level.tubes - crossing, 0)
    for attempt in range(_ATTEMPTS):
        sites = Sites(body, tissue, height=level.height, foci=foci)
        new = []
        for index in rng.permutation(len(roles)):
            profile = draw_profile(rng, settings, height=level.height, spacing=spacing)
            shape, around = _settle(rng, sites, _shrunk(profile, 0.8**attempt))
            if shape is None:
                continue
            lesion, labelled = roles[index]
            # Far from its slice a tilted tube would leave the body.
            shape = dataclasses.replace(shape, value=draw_value(rng, settings, around), within=body.trunk())
            shape = close(rng, settings, shape=shape, spacing=spacing) if lesion else run_on(rng, shape)
            kind = body.coarse_type(shape.x, shape.y, z=level.height, value=around)
            new.append(Focus(shape, lesion, labelled, around, kind))
            if not lesion and rng.random() < settings.fork_fraction:
                new.append(Focus(branch(rng, shape, spacing), False, False, around, kind))
        if not level.labelled or any(focus.labelled for focus in new):
            return new
    raise ValueError(
        f"Expected space for a lesion in a body of {body.half_width:.0f} px half width, found none: "
        "lower diameter_mm or tubes, or raise body_fraction or image_size."
    )


def _shrunk(shape: Shape, factor: float) -> Shape:
    return dataclasses.replace(shape, axes=(shape.axes[0] * factor, shape.axes[1] * factor))


def _settle(rng: np.random.Generator, sites: Sites, shape: Shape) -> tuple[Shape | None, float]:
    """Place a shape on a free site, smaller if needed, before its kind is known."""
    # A shape that is too large for one organ may overlap several.
    for factor, spread_limit in ((1.0, 60.0), (1.0, 160.0), (0.8, 60.0), (0.64, 60.0), (0.5, 60.0)):
        smaller = _shrunk(shape, factor)
        site = sites.take(rng, max(smaller.axes), spread_limit)
        if site is not None:
            return dataclasses.replace(smaller, x=site[0], y=site[1]), site[2]
    return None, 0.0
