"""Interpolate unevenly spaced slices onto even positions, and convert positions back to slices.

All later steps (matrices, lattices, pictures, label maps) have one spacing along each axis. The lattice interpolates
linearly between the true positions of the slices in any case.
"""

from __future__ import annotations

import math

import numpy as np

# Slices this close to an even position count as on it.
_ON_A_PLACE_MM = 0.02
_FINEST_MM, _COARSEST_MM = 0.5, 1.0


def even_places(heights: np.ndarray) -> tuple[np.ndarray, float]:
    """Choose even positions for slices.

    Args:
        heights: ``(K,)`` position of each slice in mm, rising, at least two.

    Returns:
        ``(K,)`` float64, the position of each slice (the first is 0, the last a whole number), and the distance of
        positions in mm: the widest one that fits every slice, such as 1 mm for gaps of 4 and 7 mm; if that is less
        than 0.5 mm, 1 mm or the narrowest gap if smaller.
    """
    heights = np.asarray(heights, dtype=np.float64) - heights[0]
    extent, narrowest = float(heights[-1]), float(np.diff(heights).min())
    for parts in range(1, int(narrowest / _FINEST_MM + 0.1) + 1):
        count = max(1, round(extent * parts / narrowest))
        step = extent / count
        places = heights / step
        if np.abs(places - np.rint(places)).max() * step <= _ON_A_PLACE_MM:
            return np.rint(places), step
    step = extent / math.ceil(extent / min(max(narrowest, _FINEST_MM), _COARSEST_MM) - 1e-9)
    return heights / step, step


def spread(planes: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Interpolate slices onto the positions 0, 1, ... up to their last one.

    Args:
        planes: ``(I, J, K)`` int16.
        places: ``(K,)`` from `even_places`.

    Returns:
        ``(I, J, N)`` int16.
    """
    targets = np.arange(round(float(places[-1])) + 1, dtype=np.float64)
    found = np.interp(targets, places, np.arange(len(places), dtype=np.float64))
    near = np.minimum(found.astype(int), len(places) - 1)
    out = np.empty((*planes.shape[:2], len(targets)), dtype=planes.dtype, order="F")
    for target, (low, weight) in enumerate(zip(near.tolist(), (found - near).tolist(), strict=True)):
        out[..., target] = planes[..., low]
        if weight > 0:
            rise = planes[..., low + 1].astype(np.float32) - planes[..., low]
            out[..., target] = np.rint(planes[..., low] + np.float32(weight) * rise)
    return out


def to_slices(at: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Convert positions of any shape to fractional indices of slices; the outermost gaps extend beyond the ends."""
    return _piecewise(at, places, np.arange(len(places), dtype=np.float64))


def to_places(at: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Convert fractional indices of slices, of any shape, to positions: the inverse of `to_slices`."""
    return _piecewise(at, np.arange(len(places), dtype=np.float64), places)


def _piecewise(at: np.ndarray, known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.asarray(at, dtype=np.float64)
    segment = np.clip(np.searchsorted(known, at, side="right") - 1, 0, len(known) - 2)
    low, high = known[segment], known[segment + 1]
    return wanted[segment] + (at - low) / (high - low) * (wanted[segment + 1] - wanted[segment])
