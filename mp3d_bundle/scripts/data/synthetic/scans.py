"""Whole synthetic scans as NIfTI, with the boxes of their lesions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .anatomy import draw_body
from .foci import Focus, Level, add_level
from .series import Series, draw_spacing, render
from .settings import Settings
from .writing import lps_affine, write_json, write_scan

SLICES = 64
INTERVAL = 2.5
LESIONS = 6
_FIRST_HEIGHT = 40.0


def make_scan(rng: np.random.Generator, settings: Settings, path: Path) -> None:
    """Write one scan of the upper abdomen and, beside it, the truth as JSON.

    The JSON names, for every lesion, ``box`` (x1, y1, z1, x2, y2, z2 in voxel indices, half-open edges:
    voxel i spans i to i + 1) and ``box_lps_mm`` (the same box's corners in LPS mm, lowest first).

    Args:
        rng: Source of chance.
        settings: The laws.
        path: Target, ending in ``.nii.gz``.
    """
    spacing = draw_spacing(rng, settings)
    heights = (_FIRST_HEIGHT, _FIRST_HEIGHT + (SLICES - 1) * INTERVAL)
    body = draw_body(rng, settings.image_size, settings.body_fraction, heights)
    margin = max(settings.half_height_mm)
    places = np.linspace(heights[0] + margin, heights[1] - margin, LESIONS)
    foci: list[Focus] = []
    for height in places:
        tubes = int(rng.integers(settings.tubes[0], settings.tubes[1] + 1))
        level = Level(float(height), labelled=1, tubes=tubes)
        foci += add_level(rng, settings, body, foci, level=level, spacing=spacing)
    noise = settings.noise_hu * rng.uniform(0.8, 1.2)
    series = Series(body, tuple(foci), (), ((1, SLICES),), spacing, INTERVAL, heights[0], noise)
    z = heights[0] + np.arange(SLICES) * INTERVAL
    # Heights grow towards the feet, slices of the scan towards the head.
    volume = render(rng, settings, series, z)[::-1]
    affine = lps_affine(spacing, INTERVAL, settings.image_size, SLICES)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_scan(path, volume, affine)
    lesions = [_truth(focus, heights[1], affine) for focus in foci if focus.lesion]
    content = {"image": path.name, "affine_lps": affine.tolist(), "lesions": lesions}
    write_json(path.with_name(path.name.replace(".nii.gz", ".json")), content, indent=2)


def _truth(focus: Focus, last_height: float, affine: np.ndarray) -> dict[str, object]:
    shape = focus.shape
    z = np.linspace(*shape.z_range, 21)
    x, y = (place[:, None] for place in shape.centre_at(z))
    outline = shape.contour()[None] * shape.scale_at(z)[:, None, None]
    columns, rows = outline[..., 0] + x + 0.5, outline[..., 1] + y + 0.5
    top, bottom = shape.z_range
    low, high = ((last_height - height) / INTERVAL + 0.5 for height in (bottom, top))
    box = np.array([columns.min(), rows.min(), low, columns.max(), rows.max(), high])
    # The affine speaks of voxel centres, the box of voxel edges.
    corners = [affine[:3, :3] @ (corner - 0.5) + affine[:3, 3] for corner in (box[:3], box[3:])]
    return {
        "box": np.round(box, 3).tolist(),
        "box_lps_mm": np.round(np.concatenate(corners), 3).tolist(),
        "type": focus.kind,
        "hu": round(float(shape.value), 1),
    }
