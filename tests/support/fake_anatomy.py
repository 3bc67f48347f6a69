"""A person made of ellipses, with all that the rule of body regions looks for, and none of it in the wrong place."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scripts.data.scans.scan import Scan

# Heights in mm above the soles at which the middle of each region is.
HEIGHTS = {"limbs": 500.0, "pelvis": 850.0, "abdomen": 1080.0, "chest": 1390.0, "head and neck": 1660.0}
TOP, HALF_WIDTH, HALF_DEPTH = 1750.0, 280.0, 150.0
AIR, SOFT, LUNG, CORTEX, CANCELLOUS, MARROW = -1000, 40, -850, 1100, 350, -60


def person(spacing: tuple[float, float, float], first: float = 0.0, last: float = TOP) -> np.ndarray:
    """HU ``(Z, H, W)`` int16 of a person between two heights in mm; slices from the feet up, the back at high rows.

    Args:
        spacing: mm along x, y, z.
        first: Lowest slice.
        last: Above the highest slice.
    """
    x, y = ((np.arange(round(2 * half / edge)) + 0.5) * edge - half
            for half, edge in zip((HALF_WIDTH, HALF_DEPTH), spacing, strict=False))  # fmt: skip
    heights = np.arange(first, last, spacing[2])
    return np.stack([_slice(x[None, :], y[:, None], height) for height in heights])


def person_scan(spacing: tuple[float, float, float]) -> Scan:
    """A whole `person` as if read from a file in canonical orientation."""
    hu = person(spacing)
    return Scan(hu, np.diag([*spacing, 1.0]), np.eye(4), hu.shape[::-1], Path("person.nii"), ())


def _slice(x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
    shape = np.broadcast_shapes(x.shape, y.shape)
    hu = np.full(shape, AIR, dtype=np.int16)
    # What is random in it does not depend on the rest of the scan.
    noise = np.random.default_rng(int(z)).normal(0, 60, shape)

    def fill(value: float, at: tuple[float, float], half: tuple[float, float]) -> np.ndarray:
        inside = ((x - at[0]) / half[0]) ** 2 + ((y - at[1]) / half[1]) ** 2 <= 1
        hu[inside] = value
        return inside

    def tube(at: tuple[float, float], outer: float, inner: float, inside: float) -> None:
        fill(CORTEX, at, (outer, outer))
        fill(inside, at, (inner, inner))

    if z < 780:
        for side in (-1, 1):
            fill(SOFT, (side * 95, 0), (60 + z / 30, 60 + z / 30))
            tube((side * 95, -10), 14, 7, MARROW)
    elif z < 1560:
        fill(SOFT, (0, 0), (160 if 950 <= z < 1200 else 185, 115))
        fill(CANCELLOUS, (0, 70), (19, 22))
    if 780 <= z < 950:
        for side in (-1, 1):
            tube((side * 90, 0), 25, 20, CANCELLOUS)
    if 1200 <= z < 1500:
        # At the bottom a dome is between the lungs, at the top they are small.
        size = min(1.0, (1530 - z) / 110)
        for side in (-1, 1):
            lung = fill(LUNG, (side * 80, 0), (70 * size, 88 * size))
            hu[lung] += noise[lung].astype(np.int16)
        if z < 1300:
            wide = (1 - ((z - 1200) / 100) ** 2) ** 0.5
            fill(SOFT, (0, 0), (130 * wide, 75 * wide))
        fill(CANCELLOUS, (0, 70), (19, 22))
    if 1510 <= z < 1580:
        hu[:] = AIR
        fill(SOFT, (0, 0), (62, 62))
        fill(CANCELLOUS, (0, 25), (16, 16))
        fill(AIR, (0, -15), (9, 9))
    if z >= 1580:
        fill(SOFT, (0, 0), (84, 104))
        fill(CORTEX, (0, 0), (78, 98))
        fill(35, (0, 0), (70, 90))
    if 800 <= z < 1450:
        for side in (-1, 1):
            fill(SOFT, (side * 235, 0), (38, 38))
            tube((side * 235, 0), 12, 6, MARROW)
    return hu
