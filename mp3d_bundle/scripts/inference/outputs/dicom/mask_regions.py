"""Outlines of a lesion on the images of its scan, in place of the rectangles of its box.

A pixel belongs to a lesion if its centre is in the outline of the slice box that is nearest along the scan's z. So
coronal and sagittal images, through which a box of axial slices passes, are drawn in the same way as axial ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.path import Path

from ...detections import Lesion, SliceBoxes
from ...lesion_outlines import mask_polygon, outline_of
from ...scan_protocol import ScanLike
from .source_images import Rectangle, SourceSlice, pixels_in

# Planes whose normals differ by less than this are one.
_PARALLEL = 1e-4


def outlines_on(
    scan: ScanLike, found: SliceBoxes, lesion: Lesion, rectangles: Sequence[Rectangle], slices: Sequence[SourceSlice]
) -> list[Rectangle]:
    """Draw a lesion's masks on the images that its box meets.

    Args:
        scan: The scan.
        found: Its slice boxes.
        lesion: A lesion with a mask in its best slice.
        rectangles: Rectangles in which its box cuts the images.
        slices: The images.

    Returns:
        The rectangles with ``pixels``, at least one on each image, and the outline as ``corners``.
    """
    rows = list(lesion.members)
    heights = found.positions[found.slices[rows]] + 0.5
    polygons = [_polygon(scan, found, row) for row in rows]
    return [_drawn(scan, slices[one.index], one, heights, polygons) for one in rectangles]


def _polygon(scan: ScanLike, found: SliceBoxes, row: int) -> np.ndarray:
    """The outline of a slice box; the box itself where its mask is empty."""
    outline = outline_of(found, row, scan.spacing)
    if outline is not None and outline.polygon is not None:
        return outline.polygon
    x1, y1, x2, y2 = found.boxes[row]
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _drawn(
    scan: ScanLike, image: SourceSlice, one: Rectangle, heights: np.ndarray, polygons: Sequence[np.ndarray]
) -> Rectangle:
    c1, r1, c2, r2 = pixels_in(one)
    columns, rows = np.meshgrid(np.arange(c1, c2), np.arange(r1, r2))
    centres = np.stack([columns, rows, np.zeros_like(rows), np.ones_like(rows)], axis=-1) @ image.matrix.T
    inverse = np.linalg.inv(scan.affine)
    edges = centres[..., :3].reshape(-1, 3) @ inverse[:3, :3].T + inverse[:3, 3] + 0.5
    nearest = np.abs(edges[:, 2:] - heights).argmin(axis=1)
    inside = np.zeros(len(edges), dtype=bool)
    for number in np.unique(nearest):
        there = nearest == number
        inside[there] = Path(polygons[number]).contains_points(edges[there, :2])
    if not inside.any():
        # An outline between all centres takes the pixel that its middle is nearest to.
        middle = polygons[nearest[0]].mean(axis=0)
        inside[np.linalg.norm(edges[:, :2] - middle, axis=1).argmin()] = True
    pixels = inside.reshape(rows.shape)
    return replace(one, pixels=pixels, corners=_closed(scan, image, edges, polygons[nearest[0]], pixels, (c1, r1)))


def _closed(
    scan: ScanLike,
    image: SourceSlice,
    edges: np.ndarray,
    polygon: np.ndarray,
    pixels: np.ndarray,
    first: tuple[int, int],
) -> np.ndarray:
    """The outline on an image in LPS mm, closed: that of the slice, or around the pixels of an image across slices."""
    normal = np.cross(scan.affine[:3, 0], scan.affine[:3, 1])
    if abs(abs(normal @ image.matrix[:3, 2]) / np.linalg.norm(normal) - 1) < _PARALLEL:
        points = scan.points_to_lps(np.column_stack([polygon, np.full(len(polygon), edges[0, 2])]))
    else:
        # Pixel centres are at whole numbers in the matrix.
        low = np.array(first) - 0.5
        around = mask_polygon(pixels, np.concatenate([low, low + pixels.shape[::-1]]))
        flat = polygon if around is None else around
        points = np.column_stack([flat, np.zeros(len(flat)), np.ones(len(flat))]) @ image.matrix.T
    return np.concatenate([points, points[:1]])[:, :3]
