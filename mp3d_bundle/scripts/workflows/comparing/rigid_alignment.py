"""Align two scans of a patient: the turn and the shift that lay one body onto the other (ITK).

Both are put on a lattice of 4 mm along the patient's axes. The start is where the profiles along z (mean values of
slices) fit best and the middles of the bodies meet, or no motion at all if that fits better: scans of one patient
often cover other parts of the body. From there ITK maximises the mutual information over turns and shifts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import itk
import numpy as np
from scipy import ndimage

LATTICE_MM = 4.0
# Its names appear when they are first used.
_ITK: Any = itk
_LOW, _HIGH = -1000.0, 400.0
_BODY = -300.0
_BINS = 32
_STEPS = 200
# Of a voxel, and of the mean of a mask.
_ROUNDING = 1e-3
# Slices of the shorter profile that have to overlap, as a share, and at least so many.
_SHARE, _LEAST = 0.5, 4
# Points of a lattice at most: 2 m in each direction.
_MOST = 500**3
# Points for the similarity, about.
_POINTS = 200_000


@dataclass(frozen=True)
class Alignment:
    """How two scans lie to each other.

    Attributes:
        matrix: ``(4, 4)`` LPS mm of the scan before to LPS mm of the scan after, rigid.
        similarity: Correlation of the values of both where both are, from -1 to 1, 0 without overlap; None where it
            was not measured.
    """

    matrix: np.ndarray
    similarity: float | None

    @property
    def degrees(self) -> float:
        """Angle of the turn."""
        return float(np.degrees(np.arccos(np.clip((np.trace(self.matrix[:3, :3]) - 1) / 2, -1, 1))))


@dataclass(frozen=True)
class _Lattice:
    """A scan on the lattice.

    Attributes:
        values: ``(Z, Y, X)`` float32 HU.
        origin: LPS mm of the middle of its first voxel.
        covered: ``(Z, Y, X)`` bool, where the scan has values: a scan that is turned leaves corners without any.
    """

    values: np.ndarray
    origin: np.ndarray
    covered: np.ndarray

    @property
    def body(self) -> np.ndarray:
        """``(Z, Y, X)`` bool: the voxels of the body."""
        return (self.values > _BODY) & self.covered

    @property
    def profile(self) -> np.ndarray:
        """``(Z,)`` float64, the mean of each slice where the scan has values; NaN where it has none."""
        counts = self.covered.sum(axis=(1, 2))
        sums = np.where(self.covered, self.values, 0.0).sum(axis=(1, 2))
        return np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def align(before: tuple[np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray]) -> Alignment:
    """Find the rigid motion from one scan to another.

    Args:
        before: ``(Z, H, W)`` HU and the ``(4, 4)`` matrix from index (x, y, z) to LPS mm.
        after: Likewise.

    Returns:
        The best of the start and of what ITK made of it, by the similarity.

    Raises:
        ValueError: If a scan is too short along an axis (less than 4 points of the lattice), or too large.
    """
    fixed, moving = (_on_lattice(*one, name) for one, name in ((before, "before"), (after, "after")))
    starts = [shift for shift in (np.zeros(3), _profile_shift(fixed, moving)) if shift is not None]
    matrices = [_moved(np.eye(3), shift) for shift in starts]
    start = max(matrices, key=lambda matrix: _similarity(fixed, moving, matrix))
    candidates = [start]
    if _similarity(fixed, moving, start):
        candidates.append(_register(fixed, moving, start[:3, 3]))
    best = max(candidates, key=lambda matrix: _similarity(fixed, moving, matrix))
    return Alignment(best, round(_similarity(fixed, moving, best), 4))


def _moved(turn: np.ndarray, shift: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, shift
    return matrix


def _on_lattice(hu: np.ndarray, affine: np.ndarray, name: str) -> _Lattice:
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    # A mean over what a voxel of the lattice covers, against aliasing.
    widths = np.maximum(1, np.round(LATTICE_MM / steps)).astype(int)[::-1]
    smooth = ndimage.uniform_filter(np.clip(hu, _LOW, _HIGH).astype(np.float32), widths.tolist(), mode="nearest")
    ends = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=np.float64)
    corners = (ends * [*(np.array(hu.shape[::-1]) - 1), 1]) @ affine.T
    low, high = corners[:, :3].min(axis=0), corners[:, :3].max(axis=0)
    counts = np.floor((high - low) / LATTICE_MM).astype(int) + 1
    if (counts < _LEAST).any() or counts.prod() > _MOST:
        sides = " x ".join(f"{side:.0f}" for side in high - low)
        raise ValueError(
            f"Expected scans of at least {(_LEAST - 1) * LATTICE_MM:g} mm along each axis to align them, and not of "
            f"many metres, got {sides} mm in the scan {name}. (--aligned takes scans as they are.)"
        )
    inverse = np.linalg.inv(affine)
    # From (z, y, x) on the lattice to (z, y, x) of the scan.
    turn = (inverse[:3, :3] * LATTICE_MM)[::-1, ::-1]
    first: Any = (inverse[:3, :3] @ low + inverse[:3, 3])[::-1]
    shape = tuple(counts[::-1].tolist())
    values = ndimage.affine_transform(smooth, turn, first, shape, order=1, cval=_LOW)
    covered = np.ones(shape, dtype=bool)
    for row, start, size in zip(turn, first, hu.shape, strict=True):
        along = sum(step * index for step, index in zip(row, np.ogrid[tuple(map(slice, shape))], strict=True)) + start
        covered &= (along >= -_ROUNDING) & (along <= size - 1 + _ROUNDING)
    return _Lattice(values, low, covered)


def _profile_shift(fixed: _Lattice, moving: _Lattice) -> np.ndarray | None:
    """The shift in mm at which the profiles along z fit best and the middles of the bodies meet; None without one."""
    one, other = fixed.profile, moving.profile
    least = max(_LEAST, round(_SHARE * min(len(one), len(other))))
    scored = []
    for step in range(least - len(one), len(other) - least + 1):
        # Slice k of the fixed one is slice k + step of the moving one.
        first, last = max(0, -step), min(len(one), len(other) - step)
        a, b = one[first:last], other[first + step : last + step]
        known = np.isfinite(a) & np.isfinite(b)
        a, b = a[known], b[known]
        if len(a) >= least and np.ptp(a) > 0 and np.ptp(b) > 0:
            scored.append((float(np.corrcoef(a, b)[0, 1]), step, first, last))
    if not scored:
        return None
    _, step, first, last = max(scored)
    middles = [
        _middle(lattice, slice(start, stop))
        for lattice, start, stop in ((fixed, first, last), (moving, first + step, last + step))
    ]
    if middles[0] is None or middles[1] is None:
        return None
    z = moving.origin[2] - fixed.origin[2] + step * LATTICE_MM
    return np.array([*(middles[1] - middles[0])[:2], z])


def _middle(lattice: _Lattice, part: slice) -> np.ndarray | None:
    body = lattice.body[part]
    if not body.any():
        return None
    return np.array(ndimage.center_of_mass(body))[::-1] * LATTICE_MM + lattice.origin


def _similarity(fixed: _Lattice, moving: _Lattice, matrix: np.ndarray) -> float:
    """Correlation of the values in the body of the fixed scan, where the moving one has values."""
    body = np.argwhere(fixed.body)
    body = body[:: max(1, len(body) // _POINTS)]
    points = body[:, ::-1] * LATTICE_MM + fixed.origin
    places = ((points @ matrix[:3, :3].T + matrix[:3, 3] - moving.origin) / LATTICE_MM)[:, ::-1]
    inside = _inside(moving, places)
    if inside.sum() < max(10, len(body) // 20):
        return 0.0
    here = fixed.values[tuple(body[inside].T)]
    there = ndimage.map_coordinates(moving.values, places[inside].T, order=1)
    return float(np.corrcoef(here, there)[0, 1]) if np.ptp(here) > 0 and np.ptp(there) > 0 else 0.0


def _inside(lattice: _Lattice, places: np.ndarray) -> np.ndarray:
    """Whether a scan has values at places ``(P, 3)`` (z, y, x) of its lattice, ``(P,)`` bool."""
    covered = lattice.covered.astype(np.float32)
    return ndimage.map_coordinates(covered, places.T, order=1, mode="grid-constant") > 1 - _ROUNDING


def _register(fixed: _Lattice, moving: _Lattice, shift: np.ndarray) -> np.ndarray:
    """ITK's rigid registration from a shift: coarse, then on the lattice itself."""
    kind = _ITK.Image[_ITK.F, 3]
    images = [_image(lattice.values, lattice) for lattice in (fixed, moving)]
    transform = _ITK.Euler3DTransform[_ITK.D].New()
    middle = _middle(fixed, slice(None))
    transform.SetCenter((fixed.origin if middle is None else middle).tolist())
    transform.SetTranslation(shift.tolist())
    metric = _ITK.MattesMutualInformationImageToImageMetricv4[kind, kind].New(NumberOfHistogramBins=_BINS)
    for lattice, mask in ((fixed, metric.SetFixedImageMask), (moving, metric.SetMovingImageMask)):
        if not lattice.covered.all():
            mask(_mask(lattice))
    scales = _ITK.RegistrationParameterScalesFromPhysicalShift[type(metric)].New(Metric=metric)
    optimizer = _ITK.RegularStepGradientDescentOptimizerv4[_ITK.D].New(
        LearningRate=4.0, MinimumStepLength=0.01, NumberOfIterations=_STEPS, ScalesEstimator=scales
    )
    method = _ITK.ImageRegistrationMethodv4[kind, kind].New(
        FixedImage=images[0], MovingImage=images[1], Metric=metric, Optimizer=optimizer, InitialTransform=transform
    )
    method.InPlaceOn()
    method.SetNumberOfLevels(2)
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1])
    try:
        method.Update()
    except RuntimeError:  # nothing overlaps any more
        return _moved(np.eye(3), shift)
    return _moved(_ITK.array_from_matrix(transform.GetMatrix()), np.array(list(transform.GetOffset())))


def _image(values: np.ndarray, lattice: _Lattice) -> Any:
    """An ITK image of values on a lattice."""
    image = _ITK.image_from_array(np.ascontiguousarray(values))
    image.SetSpacing([LATTICE_MM] * 3)
    image.SetOrigin(lattice.origin.tolist())
    return image


def _mask(lattice: _Lattice) -> Any:
    """Where a scan has values, as ITK's mask."""
    mask = _ITK.ImageMaskSpatialObject[3].New()
    mask.SetImage(_image(lattice.covered.astype(np.uint8), lattice))
    mask.Update()
    return mask
