"""A body that scans see before and after a known motion, with nothing cut off by it."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

SHAPE = (44, 50, 60)


def body(points: np.ndarray) -> np.ndarray:
    """HU of a body at points (..., 3) in mm: an ellipse whose width changes along z, bones, and parts full of air."""
    x, y, z = np.moveaxis(points, -1, 0)
    wide = 75 + 14 * np.sin(z / 18) - z / 15
    hu = np.where((x / wide) ** 2 + (y / (0.7 * wide)) ** 2 < 1, 40.0, -1000.0)
    hu[(x + 30) ** 2 + (y + 10) ** 2 + (z - 20) ** 2 < 22**2] = -800
    hu[(x - 35) ** 2 + (y - 5) ** 2 + (z + 40) ** 2 < 15**2] = -700
    hu[x**2 + (y - 30) ** 2 < 10**2] = 700
    hu[(x - 30) ** 2 + (y + 5) ** 2 + (z - 25) ** 2 < 15**2] = 400
    return hu


def phantom(affine: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """The body as a scan sees it after a motion."""
    z, y, x = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    points = np.stack([x, y, z, np.ones(SHAPE)], axis=-1) @ (np.linalg.inv(motion) @ affine).T
    return body(points[..., :3])


def motion_about(middle: np.ndarray, degrees: list[float], shift: list[float]) -> np.ndarray:
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("zyx", degrees, degrees=True).as_matrix()
    motion[:3, 3] = middle - motion[:3, :3] @ middle + shift
    return motion
