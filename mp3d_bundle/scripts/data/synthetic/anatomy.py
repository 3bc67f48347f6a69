"""A CT-like torso: body wall, organs, bones, lungs and bowel, sampled for each patient."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from .atlas import ORGANS, Organ
from .shapes import Shape, Wave, paint

# Heights of key slices, mm: from the arch of the aorta to the hips.
FIRST_HEIGHT, LAST_HEIGHT = -200.0, 325.0
DEPTH_RATIO = 0.74
AIR = -1000.0

# Coarse types of DeepLesion.
BONE, ABDOMEN, MEDIASTINUM, LIVER, LUNG, KIDNEY, SOFT_TISSUE, PELVIS = range(1, 9)


@dataclass(frozen=True)
class Body:
    """One patient's torso in one series.

    Attributes:
        size: Rows and columns of a slice, px.
        half_width: Half width, px.
        half_depth: Half depth, px.
        x: Column of the middle, px.
        y: Row of the middle, px.
        rim: Thickness of the fat under the skin, px.
        wall: Thickness of the muscle layer, px.
        shapes: Everything to paint, in this order.
        kept: Heights ``(n,)`` and their rendered slices, for `render` to copy.
    """

    size: int
    half_width: float
    half_depth: float
    x: float
    y: float
    rim: float
    wall: float
    shapes: tuple[Shape, ...]
    kept: tuple[tuple[np.ndarray, np.ndarray], ...] = ()

    def render(self, z: np.ndarray) -> np.ndarray:
        """Noise-free ``(n, size, size)`` float32 HU at rising heights ``z`` (n,) mm."""
        for heights, slices in self.kept:
            first = int(np.searchsorted(heights, z[0]))
            if np.array_equal(heights[first : first + len(z)], z):
                return slices[first : first + len(z)].copy()
        volume = np.full((len(z), self.size, self.size), AIR, dtype=np.float32)
        for shape in self.shapes:
            paint(volume, z, shape)
        return volume

    def keeping(self, *heights: np.ndarray) -> Body:
        """The same torso, which has its slices at each of ``heights`` (n,) mm rendered already."""
        return dataclasses.replace(self, kept=tuple((z, self.render(z)) for z in heights))

    def moved(self, dx: float) -> Body:
        """The torso shifted along the columns by ``dx`` px."""
        shapes = tuple(shape.moved(dx) for shape in self.shapes)
        return dataclasses.replace(self, x=self.x + dx, shapes=shapes, kept=())

    def trunk(self) -> Shape:
        """The region inside the fat under the skin, as the bound of shapes."""
        return Shape(self.x, self.y, 0.0, (self.half_width - self.rim, self.half_depth - self.rim), 0.0)

    def inner_mask(self) -> np.ndarray:
        """``(size, size)`` bool: inside the fat under the skin."""
        rows, columns = np.mgrid[: self.size, : self.size]
        a, b = (side - self.rim for side in (self.half_width, self.half_depth))
        return ((columns - self.x) / a) ** 2 + ((rows - self.y) / b) ** 2 < 1

    def coarse_type(self, x: float, y: float, *, z: float, value: float) -> int:
        """DeepLesion's coarse type of a place: ``x, y`` px, ``z`` mm, ``value`` HU of the tissue."""
        u, v = (x - self.x) / self.half_width, (y - self.y) / self.half_depth
        if value < -400 and z < 60:
            return LUNG
        if value > 180:
            return BONE
        if u * u + v * v > 0.72 or (v > 0.5 and abs(u) < 0.5):
            return SOFT_TISSUE
        if z < 0:
            return MEDIASTINUM
        if z < 150 and ((u + 0.36) / 0.5) ** 2 + ((v + 0.06) / 0.7) ** 2 < 1:
            return LIVER
        if 75 < z < 215 and 0.2 < abs(u) < 0.65 and v > 0.05:
            return KIDNEY
        return PELVIS if z > 265 else ABDOMEN


def draw_body(
    rng: np.random.Generator, size: int, *, fraction: tuple[float, float], heights: tuple[float, float]
) -> Body:
    """Draw a torso.

    Args:
        rng: Random generator.
        size: Rows and columns of a slice, px.
        fraction: Lowest and highest half width of the body over half the field of view.
        heights: First and last height that will be rendered, mm; shapes beyond are left out.

    Returns:
        The torso.
    """
    half_width = rng.uniform(*fraction) * size / 2
    half_depth = min(half_width * DEPTH_RATIO * rng.uniform(0.92, 1.12), size / 2 * 0.97)
    x, y = size / 2 + rng.uniform(-0.02, 0.02, 2) * size
    rim, wall = rng.uniform(0.03, 0.13) * half_width, rng.uniform(0.06, 0.1) * half_width
    body = Body(size, half_width, half_depth, x, y, rim, wall, ())
    jitter = rng.normal(0, 12)
    shapes = [*_couch(rng, body), *_wall(rng, body), *_loops(rng, body)]
    shapes += [_organ(rng, body, organ, jitter) for organ in ORGANS]
    shapes += [*_vessels(rng, body), *_twigs(rng, body, jitter)]
    shapes += [*_spine(rng, body, heights), *_ribs(rng, body, heights)]
    near = [shape for shape in shapes if _near(shape.z, shape.half_height, heights)]
    return dataclasses.replace(body, shapes=tuple(near))


def _near(z: float, half_height: float, heights: tuple[float, float]) -> bool:
    """Whether a shape without shift reaches between two heights, mm."""
    return z - half_height <= heights[1] and z + half_height >= heights[0]


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """The very number of ``rng.uniform``, in a quarter of the time."""
    return low + (high - low) * rng.random()


def draw_outline(rng: np.random.Generator, strength: float, harmonics: int = 3) -> tuple[complex, ...]:
    """Random complex amplitudes of outline harmonics 2.. with a standard deviation of ``strength``."""
    # Python's numbers: an array of six takes NumPy ten times as long.
    drawn = rng.standard_normal(2 * harmonics).tolist()
    limit = 2 * strength
    parts = [min(max(strength * z / ((2 + n % harmonics) / 2), -limit), limit) for n, z in enumerate(drawn)]
    return tuple(complex(re, im) for re, im in zip(parts[:harmonics], parts[harmonics:], strict=True))


def _place(body: Body, u: float, v: float) -> tuple[float, float]:
    """Pixel coordinates of a place in body units; the body cavity is the region inside rim and wall."""
    inner = 1 - (body.rim + body.wall * 0.5) / body.half_width
    return body.x + u * body.half_width * inner, body.y + v * body.half_depth * inner


def _axes(body: Body, a: float, b: float) -> tuple[float, float]:
    inner = 1 - (body.rim + body.wall * 0.5) / body.half_width
    return max(a * body.half_width * inner, 0.5), max(b * body.half_depth * inner, 0.5)


def _organ(rng: np.random.Generator, body: Body, organ: Organ, shift: float) -> Shape:
    grow_a, grow_b, grow_h = (min(max(1 + 0.08 * z, 0.8), 1.2) for z in rng.standard_normal(3).tolist())
    u, v = (place + 0.025 * z for place, z in zip((organ.x, organ.y), rng.standard_normal(2).tolist(), strict=True))
    return Shape(
        *_place(body, u, v),
        organ.z + shift + rng.normal(0, 8),
        _axes(body, organ.a * grow_a, organ.b * grow_b),
        rng.normal(organ.value, organ.spread),
        half_height=organ.half_height * grow_h,
        power=organ.power,
        angle=organ.angle + rng.normal(0, 0.08),
        outline=draw_outline(rng, organ.wobble),
        edge=0.8,
        within=_cavity(body) if organ.bounded else None,
    )


def _cavity(body: Body) -> Shape:
    inset = body.rim + body.wall
    return Shape(body.x, body.y, 0.0, (body.half_width - inset, body.half_depth - inset), 0.0)


def _couch(rng: np.random.Generator, body: Body) -> list[Shape]:
    """The table under the back: a shallow bowl."""
    size = body.size
    axes = (0.9 * body.half_width, 0.09 * size)
    y = body.y + body.half_depth - 0.05 * size * rng.uniform(0.8, 1.2)
    bowl = Shape(body.x, y, 0.0, axes, rng.uniform(-150, 0))
    return [bowl, Shape(body.x, y - 0.018 * size, 0.0, axes, AIR)]


def _wall(rng: np.random.Generator, body: Body) -> list[Shape]:
    """Skin, fat, muscle and the fat of the body cavity."""
    outline = draw_outline(rng, 0.012, 2)
    skin = 0.012 * body.half_width
    insides = ((0.0, 10.0), (skin, -102.0), (body.rim, 55.0), (body.rim + body.wall, rng.uniform(-100, -75)))
    layers = []
    for inset, value in insides:
        axes = (body.half_width - inset, body.half_depth - inset)
        layers.append(Shape(body.x, body.y, 0.0, axes, value, outline=outline))
    return layers


def _loops(rng: np.random.Generator, body: Body) -> list[Shape]:
    """Small bowel between liver and bladder, and the muscles of the back."""
    loops = []
    for _ in range(int(rng.integers(16, 26))):
        u, v = _uniform(rng, -0.58, 0.58), _uniform(rng, -0.72, 0.1)
        loops.append(
            Shape(
                *_place(body, u, v),
                _uniform(rng, 120, 400),
                _axes(body, _uniform(rng, 0.1, 0.24), _uniform(rng, 0.12, 0.26)),
                _uniform(rng, 15, 65),
                half_height=_uniform(rng, 30, 70),
                angle=_uniform(rng, 0, np.pi),
                outline=draw_outline(rng, 0.08),
                slope=(rng.normal(0, 0.1), rng.normal(0, 0.1)),
            )
        )
    for side in (-1, 1):
        place = _place(body, side * 0.25, 0.78)
        loops.append(Shape(*place, 0.0, _axes(body, 0.22, 0.19), rng.normal(58, 4)))
    return loops


def _vessels(rng: np.random.Generator, body: Body) -> list[Shape]:
    blood = _uniform(rng, 60, 180)
    vessels = []
    for u, v, z, half_height, radius in ((0.1, 0.3, 60, 230, 0.085), (-0.12, 0.22, 120, 190, 0.08)):
        along, across = (Wave(0.03 * body.half_width, _uniform(rng, 90, 200), _uniform(rng, 0, 6.28)) for _ in "xy")
        axes = _axes(body, radius * _uniform(rng, 0.85, 1.15), radius / DEPTH_RATIO * _uniform(rng, 0.85, 1.15))
        vessel = Shape(*_place(body, u, v), z, axes, blood, half_height=half_height, power=8)
        vessels.append(dataclasses.replace(vessel, wander=(along, across)))
    return vessels


def _twigs(rng: np.random.Generator, body: Body, shift: float) -> list[Shape]:
    """Thin vessels of lungs and liver, far thinner than a lesion."""
    twigs = []
    for _ in range(60):
        side = (-1, 1)[rng.integers(2)]
        radius = _uniform(rng, 0.008, 0.024) * body.half_width
        place = _place(body, side * _uniform(rng, 0.22, 0.78), _uniform(rng, -0.55, 0.6))
        slope = (0.25 * rng.standard_normal(), 0.25 * rng.standard_normal())
        z = _uniform(rng, -190, 10) + shift
        axes = (radius * _uniform(rng, 1, 2.2), radius)
        turn = _uniform(rng, 0, np.pi)
        half_height, edge = _uniform(rng, 12, 35), min(radius, 0.7)
        twigs.append(Shape(*place, z, axes, 30.0, half_height=half_height, angle=turn, edge=edge, slope=slope))
    for _ in range(12):
        place = _place(body, _uniform(rng, -0.8, -0.1), _uniform(rng, -0.45, 0.4))
        axes = (_uniform(rng, 0.02, 0.05) * body.half_width, _uniform(rng, 0.012, 0.025) * body.half_width)
        z, turn = _uniform(rng, 20, 115) + shift, _uniform(rng, 0, np.pi)
        twigs.append(Shape(*place, z, axes, _uniform(rng, 135, 165), half_height=_uniform(rng, 10, 25), angle=turn))
    return twigs


def _spine(rng: np.random.Generator, body: Body, heights: tuple[float, float]) -> list[Shape]:
    """Vertebrae (a bright rim around a darker body) between discs, arch, canal and spinous process."""
    spine = [Shape(*_place(body, 0, 0.52), 0.0, _axes(body, 0.15, 0.17), 75.0)]
    pitch, offset = rng.uniform(28, 36), rng.uniform(0, 30)
    marrow = rng.uniform(140, 220)
    # Position, size, HU and angle of the parts of a vertebra.
    parts = [
        (0.0, 0.52, 0.16, 0.19, 360.0, 0.0),
        (0.0, 0.52, 0.142, 0.168, marrow, 0.0),
        (0.0, 0.9, 0.03, 0.1, 300.0, 0.0),
    ]
    parts += [(side * 0.17, 0.72, 0.11, 0.05, 280.0, side * -0.5) for side in (-1, 1)]
    for level in range(-9, 16):
        z, half_height = offset + level * pitch, pitch * 0.42
        for u, v, a, b, value, angle in parts if _near(z, half_height, heights) else ():
            axes = _axes(body, a, b)
            spine.append(Shape(*_place(body, u, v), z, axes, value, half_height=half_height, power=6.0, angle=angle))
    ring = Shape(*_place(body, 0, 0.74), 0.0, _axes(body, 0.1, 0.1), 230.0)
    canal = Shape(*_place(body, 0, 0.74), 0.0, _axes(body, 0.07, 0.07), 25.0)
    return [*spine, ring, canal]


def _ribs(rng: np.random.Generator, body: Body, heights: tuple[float, float]) -> list[Shape]:
    """Ribs that wind down along the wall from the spine to the front, in short overlapping pieces."""
    ribs = []
    value, pitch = rng.uniform(300, 480), rng.uniform(26, 32)
    a, b = (side - body.rim - body.wall * 0.5 for side in (body.half_width, body.half_depth))
    axes = (0.15 * (a + b) / 2, max(body.wall * 0.36, 0.7))
    for level in range(12):
        turns = np.arange(0.45, 2.5 if level < 9 else 1.6, 0.26)
        for side in (-1, 1):
            for turn in turns:
                z = -215 + level * pitch + 34 * turn
                if not _near(z, 9, heights):
                    continue
                x, y = body.x + side * a * np.sin(turn), body.y + b * np.cos(turn)
                tangent = float(np.arctan2(-b * np.sin(turn), side * a * np.cos(turn)))
                ribs.append(Shape(x, y, z, axes, value, half_height=9, power=4, angle=tangent))
    return ribs
