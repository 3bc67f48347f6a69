"""Whole synthetic scans as NIfTI, with the boxes of their lesions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..synthetic_presets import Settings
from .anatomy import draw_body
from .foci import Focus, Level, add_level
from .rendering import render
from .series import Grid, Series, draw_spacing
from .writing import lps_affine, write_json, write_scan

SLICES = 64
INTERVAL = 2.5
LESIONS = 6
_FIRST_HEIGHT = 40.0


def make_scan(rng: np.random.Generator, settings: Settings, path: Path) -> None:
    """Write one scan of the upper abdomen and, next to it, the truth as JSON.

    The JSON names, for every lesion, ``box`` (x1, y1, z1, x2, y2, z2 in voxel indices, half-open edges:
    voxel i spans i to i + 1) and ``box_lps_mm`` (the same box's corners in LPS mm, lowest first).

    Args:
        rng: Random generator.
        settings: The laws.
        path: Target, ending in ``.nii.gz``.
    """
    grid = Grid(INTERVAL, draw_spacing(rng, settings), _FIRST_HEIGHT, settings.image_size)
    heights = grid.heights(1, SLICES)
    body = draw_body(rng, grid.size, fraction=settings.body_fraction, heights=(heights[0], heights[-1]))
    # Lesions are wholly inside the scan.
    margin = 1.5 * max(settings.half_height_mm)
    foci: list[Focus] = []
    for height in np.linspace(heights[0] + margin, heights[-1] - margin, LESIONS):
        tubes = int(rng.integers(settings.tubes[0], settings.tubes[1] + 1))
        level = Level(float(height), labelled=1, tubes=tubes)
        foci += add_level(rng, settings, body=body, foci=foci, level=level, spacing=grid.spacing)
    series = Series(grid, body, tuple(foci), (), ((1, SLICES),), settings.noise_hu)
    # Heights grow towards the feet, slices of the scan towards the head.
    volume = render(rng, settings, series=series, z=heights)[::-1]
    affine = lps_affine(grid.spacing, INTERVAL, size=grid.size, slices=SLICES)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_scan(path, volume, affine)
    lesions = [_truth(focus, grid, affine) for focus in foci if focus.lesion]
    content = {"image": path.name, "affine_lps": affine.tolist(), "lesions": lesions}
    write_json(path.with_name(path.name.replace(".nii.gz", ".json")), content, indent=2)


def _truth(focus: Focus, grid: Grid, affine: np.ndarray) -> dict[str, object]:
    shape = focus.shape
    z = np.linspace(*shape.z_range, 21)
    x, y = (place[:, None] for place in shape.centre_at(z))
    outline = shape.contour()[None] * shape.scale_at(z)[:, None, None]
    columns, rows = outline[..., 0] + x + 0.5, outline[..., 1] + y + 0.5
    top, bottom = shape.z_range
    low, high = ((grid.height(SLICES) - height) / INTERVAL + 0.5 for height in (bottom, top))
    limits = np.array([grid.size, grid.size, SLICES])
    box = np.array([columns.min(), rows.min(), low, columns.max(), rows.max(), high]).clip(0, np.tile(limits, 2))
    # The affine refers to voxel centres, the box to voxel edges.
    corners = [affine[:3, :3] @ (corner - 0.5) + affine[:3, 3] for corner in (box[:3], box[3:])]
    return {
        "box": np.round(box, 3).tolist(),
        "box_lps_mm": np.round(np.concatenate(corners), 3).tolist(),
        "type": focus.kind,
        "hu": round(float(shape.value), 1),
    }
