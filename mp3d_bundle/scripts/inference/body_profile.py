"""What the slices of a scan show of the body, measured every few millimetres: lungs, bones, skull, pieces of the body.

Pure measurements in millimetres, of one slice each; `scripts.inference.body_regions` draws conclusions. They do not
depend on which side of a slice is the left or the front one. The limits are those of adults.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

# Pixels of the measured slices, and their distance along z.
PIXEL_MM, STEP_MM = 2.0, 5.0
CM2 = 100.0 / PIXEL_MM**2
# Below: padding that scanners write outside of the reconstructed circle.
_PADDING = -1100
_SOFT, _BONE = -300, 250
# Lungs: the median in HU, and the least spread, which foam of the same density below a patient does not have.
_LUNG, _LUNG_SPREAD = (-930.0, -500.0), 35.0
_PIECE_CM2, _LUNG_CM2, _BONE_CM2 = 8.0, 15.0, 1.0
# A long bone: area in cm² with its marrow, share of the marrow, roundness, and mean HU of the wall.
_SHAFT_CM2, _MARROW, _ROUND, _CORTEX = (1.2, 14.0), (0.04, 0.55), 0.85, 500.0
# A skull: area in cm² inside of a ring of bone, and the median HU and the spread of what is in it.
_BRAIN_CM2, _BRAIN, _BRAIN_SPREAD = 50.0, (5.0, 70.0), 45.0
# An airway: area in cm², and distance from the middle of the body in mm.
_AIRWAY_CM2, _AIRWAY_MM = (0.8, 6.0), 25.0
_DISK = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))


@dataclass(frozen=True)
class Bone:
    """A piece of bone in a slice.

    Attributes:
        x: Its middle, pixels.
        y: The same.
        area: With what it encloses, cm².
        radius: Of the largest circle in it, mm.
        shaft: Whether it is a round tube of compact bone with marrow inside, as the long bones of limbs are.
        spongy: Whether its rim is denser than its inside, as bone is and a bowel or a kidney full of contrast is not.
    """

    x: float
    y: float
    area: float
    radius: float
    shaft: bool
    spongy: bool


@dataclass(frozen=True)
class SliceFacts:
    """What one slice shows.

    Attributes:
        pieces: ``(H, W)`` uint16, connected pieces of the body, 0 outside.
        lung: ``(H, W)`` bool.
        bones: The pieces of bone of at least 1 cm².
        skull: Whether a ring of bone encloses a brain.
        airway: Whether there is a tube of air in the middle of the largest piece, as a trachea is.
        cut: Share of the edge of the picture that cuts the body.
    """

    pieces: np.ndarray
    lung: np.ndarray
    bones: tuple[Bone, ...]
    skull: bool
    airway: bool
    cut: float

    @cached_property
    def areas(self) -> np.ndarray:
        """``(N + 1,)`` cm² of each piece; that of 0 is 0."""
        areas = np.bincount(self.pieces.ravel()) / CM2
        areas[0] = 0
        return areas

    @cached_property
    def trunk(self) -> int:
        """The largest piece; 0 without any."""
        return int(self.areas.argmax())

    @cached_property
    def extent(self) -> tuple[float, float]:
        """Middle and width of the largest piece along x, in pixels."""
        columns = np.flatnonzero((self.pieces == self.trunk).any(axis=0)) if self.trunk else np.zeros(1)
        return float(columns[0] + columns[-1]) / 2, float(columns[-1] - columns[0] + 1)

    @cached_property
    def lung_share(self) -> float:
        """Area of the lungs as a share of that of the largest piece."""
        return float(self.lung.sum() / CM2 / max(self.areas.max(), 1.0))

    def piece_at(self, x: float, y: float) -> int:
        """The piece at, or nearest to, a place in pixels; 0 if none is within 3 cm."""
        reach = 15
        column, row = int(np.floor(x)), int(np.floor(y))
        rows = slice(max(row - reach, 0), row + reach + 1)
        columns = slice(max(column - reach, 0), column + reach + 1)
        ys, xs = np.nonzero(self.pieces[rows, columns])
        if not len(xs):
            return 0
        ys, xs = ys + rows.start, xs + columns.start
        nearest = int(np.hypot(xs + 0.5 - x, ys + 0.5 - y).argmin())
        return int(self.pieces[ys[nearest], xs[nearest]])

    def bones_of(self, piece: int) -> list[Bone]:
        """The bones in a piece."""
        return [bone for bone in self.bones if self.pieces[int(bone.y), int(bone.x)] == piece]


def sampled(depth: int, step: float) -> np.ndarray:
    """``(N,)`` slices to measure of a scan of ``depth`` slices ``step`` mm apart, about `STEP_MM` apart, rising."""
    every = max(STEP_MM / step, 1.0)
    return np.unique(np.minimum(np.floor(np.arange(0.5, max(depth / every, 1.0)) * every), depth - 1).astype(int))


def measure_slice(hu: np.ndarray, spacing: tuple[float, float]) -> SliceFacts:
    """Measure one slice.

    Args:
        hu: ``(H, W)`` int16 HU.
        spacing: Pixel edges along x and y in mm.
    """
    size = [max(round(count * edge / PIXEL_MM), 1) for count, edge in zip(hu.shape[::-1], spacing, strict=True)]
    # Not what noise makes of single pixels of air.
    padding = _opened(cv2.resize((hu < _PADDING).astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5)
    small = cv2.resize(np.clip(hu, -1000, 2000).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    soft = small > _SOFT
    lung = _lung(small, soft, padding)
    whole = _opened(soft | lung)
    pieces = _large(whole, _PIECE_CM2)
    bone = (small > _BONE) & (pieces > 0)
    return SliceFacts(
        pieces=pieces,
        lung=lung & (pieces > 0),
        bones=_bones(small, bone),
        skull=_skull(small, bone),
        airway=_airway(~soft & ~padding, pieces),
        cut=_cut(pieces > 0, padding),
    )


def _opened(mask: np.ndarray) -> np.ndarray:
    """A mask without what is thinner than a centimetre, such as a table."""
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, _DISK).astype(bool)


def _large(mask: np.ndarray, least: float) -> np.ndarray:
    """``(H, W)`` uint16 numbers of the connected pieces of at least ``least`` cm², from 1 without gaps."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] / CM2 >= least
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0).astype(np.uint16)[np.asarray(labels, dtype=np.intp)]


def _lung(small: np.ndarray, soft: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """Spaces inside of the picture with the density of lungs; that of air around the body and in bowels is lower."""
    spaces = _large(~soft & ~padding, _LUNG_CM2)
    at_edge = np.unique(spaces[_edge(~padding)])
    found = np.zeros(soft.shape, dtype=bool)
    for number in sorted(set(range(1, int(spaces.max(initial=0)) + 1)) - set(at_edge.tolist())):
        space = _opened(spaces == number)
        values = small[cv2.erode(space.astype(np.uint8), _DISK).astype(bool)]
        if len(values) and _LUNG[0] < np.median(values) < _LUNG[1] and values.std() > _LUNG_SPREAD:
            # With its vessels.
            found |= cv2.morphologyEx(space.astype(np.uint8), cv2.MORPH_CLOSE, _DISK).astype(bool)
    return found


def _filled(mask: np.ndarray) -> np.ndarray:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros(mask.shape, np.uint8), contours, -1, 1, cv2.FILLED).astype(bool)


def _bones(small: np.ndarray, bone: np.ndarray) -> tuple[Bone, ...]:
    labels = _large(_filled(bone), _BONE_CM2)
    return tuple(_bone(small, bone, labels == number) for number in range(1, int(labels.max(initial=0)) + 1))


def _bone(small: np.ndarray, bone: np.ndarray, whole: np.ndarray) -> Bone:
    ys, xs = np.nonzero(whole)
    wall, marrow = whole & bone, whole & ~bone
    hull = cv2.contourArea(cv2.convexHull(_outer(whole)))
    area, share = len(xs) / CM2, marrow.sum() / len(xs)
    shaft = (
        _SHAFT_CM2[0] <= area <= _SHAFT_CM2[1]
        and _MARROW[0] <= share <= _MARROW[1]
        # The hull goes through the middles of the outer pixels.
        and cv2.contourArea(_outer(whole)) >= _ROUND * hull
        and float(small[wall].mean()) > _CORTEX
    )
    inner = cv2.erode(whole.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))).astype(bool)
    spongy = inner.any() and float(small[inner].mean()) < float(small[whole & ~inner].mean()) + 100
    distance = cv2.distanceTransform(np.pad(whole, 1).astype(np.uint8), cv2.DIST_L2, 5)
    return Bone(float(xs.mean()), float(ys.mean()), area, float(distance.max()) * PIXEL_MM, bool(shaft), bool(spongy))


def _outer(whole: np.ndarray) -> np.ndarray:
    contours, _ = cv2.findContours(whole.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return max(contours, key=len)


def _skull(small: np.ndarray, bone: np.ndarray) -> bool:
    spaces = _large(_filled(bone) & ~bone, _BRAIN_CM2)
    for number in range(1, int(spaces.max(initial=0)) + 1):
        inside = cv2.erode((spaces == number).astype(np.uint8), _DISK).astype(bool)
        low, middle, high = np.percentile(small[inside], (10, 50, 90)) if inside.any() else (0, 0, 0)
        if _BRAIN[0] < middle < _BRAIN[1] and high - low < 2 * _BRAIN_SPREAD:
            return True
    return False


def _airway(air: np.ndarray, pieces: np.ndarray) -> bool:
    largest = int(np.bincount(pieces.ravel(), minlength=2)[1:].argmax()) + 1
    columns = np.flatnonzero((pieces == largest).any(axis=0))
    if not len(columns):
        return False
    middle = (columns[0] + columns[-1]) / 2
    _, _, stats, centres = cv2.connectedComponentsWithStats(
        (air & _filled(pieces == largest)).astype(np.uint8), connectivity=4
    )
    areas = stats[1:, cv2.CC_STAT_AREA] / CM2
    near = np.abs(centres[1:, 0] - middle) * PIXEL_MM <= _AIRWAY_MM
    return bool((near & (areas >= _AIRWAY_CM2[0]) & (areas <= _AIRWAY_CM2[1])).any())


def _edge(seen: np.ndarray) -> np.ndarray:
    """The outermost pixels of what was reconstructed, a mask of both."""
    whole = np.pad(seen, 1).astype(np.uint8)
    return seen & (cv2.erode(whole, np.ones((3, 3), np.uint8)) == 0)[1:-1, 1:-1]


def _cut(body: np.ndarray, padding: np.ndarray) -> float:
    """Share of the edge of what was reconstructed at which there is body."""
    edge = _edge(~padding)
    return float(body[edge].mean()) if edge.any() else 0.0
