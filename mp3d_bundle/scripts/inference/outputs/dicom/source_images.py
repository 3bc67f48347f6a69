"""The DICOM images that a scan was read from, and the position of a box on each of them.

Boxes come in the frame of the scan that the network saw. They are converted to the images through the
patient's millimetres, so rotation and resampling of the scan have no effect.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.multival import MultiValue

from ...scan_protocol import ScanLike
from .frame_references import Frame, as_image
from .inherited_attributes import drop_damaged, keep_valid

logger = logging.getLogger(__name__)

# Attributes required to refer to an image, and attributes that a result inherits; the latter may be empty.
_NEEDED = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPClassUID",
    "SOPInstanceUID",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
)
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_SEXES = ("M", "F", "O")
# Tolerance in mm for rounded planes and edges.
_TOUCH = 1e-3
# A pixel centre this close to an edge, in pixels, counts as on it.
_CENTRE = 1e-6
_EDGES = tuple((first, first | 1 << axis) for first in range(8) for axis in range(3) if not first >> axis & 1)


@dataclass(frozen=True)
class SourceSlice:
    """One image of the series.

    Attributes:
        header: Its attributes without pixels; of a frame those of an image of its own, see
            `scripts.inference.outputs.dicom.frame_references`.
        matrix: ``(4, 4)``, centre of a pixel (column, row) and distance from the plane in mm to LPS mm.
        frame: What references to it name in the place of its header's UIDs; None for a file of one slice.
    """

    header: Dataset
    matrix: np.ndarray
    frame: Frame | None = None

    @cached_property
    def inverse(self) -> np.ndarray:
        """``(4, 4)``, LPS mm to column, row and distance from the plane."""
        return np.linalg.inv(self.matrix)


@dataclass(frozen=True)
class Rectangle:
    """The rectangle in which a box cuts an image.

    Attributes:
        index: Index of the image.
        edges: ``(4,)`` float64, column and row edges ``c1, r1, c2, r2``; pixel ``c`` covers ``[c, c + 1)``.
        corners: ``(5, 3)`` float64, the rectangle in LPS mm, closed (the last corner is the first); of a lesion with a
            mask ``(P + 1, 3)``, its outline.
        pixels: Of a lesion with a mask ``(h, w)`` bool, which of the pixels that `pixels_in` gives belong to it.
    """

    index: int
    edges: np.ndarray
    corners: np.ndarray
    pixels: np.ndarray | None = None


@dataclass(frozen=True)
class Outlined:
    """A lesion on the images of its scan.

    Attributes:
        entry: Its entry in ``lesions.json``.
        rectangles: Rectangles of its box, or of its masks if it has any, on the images.
        tracking: Its UID in both files.
        key: Index of the image nearest to its best slice.
    """

    entry: Mapping[str, Any]
    rectangles: Sequence[Rectangle]
    tracking: str
    key: int

    @property
    def name(self) -> str:
        """The name shown to readers."""
        return f"Lesion {self.entry['lesion']}"


def read_sources(
    files: Sequence[Path], headers: Sequence[bytes | None] = (), frames: Sequence[int | None] = ()
) -> list[SourceSlice]:
    """Read the headers of a series.

    Args:
        files: The file of each slice.
        headers: The bytes of each file before its pixels; a file is opened if they are unknown.
        frames: Of Enhanced CT the number of each slice in its file, see `scripts.data.scans.scan.Scan`.

    Returns:
        The slices in the same order.

    Raises:
        ValueError: If an attribute is missing that is required to refer to an image.
        OSError: If a file cannot be read.
    """
    slices = []
    told: set[str] = set()
    unknown = [None] * len(files)
    for path, known, number in zip(files, headers or unknown, frames or unknown, strict=True):
        if number is not None and known is None:
            raise ValueError(f"Expected the scan as it was read, results cannot refer to frames of {path} otherwise.")
        # Files that were read as a scan are DICOM, with or without preamble.
        header = pydicom.dcmread(path if known is None else io.BytesIO(known), stop_before_pixels=True, force=True)
        lines = drop_damaged(header)
        missing = [name for name in _NEEDED if header.get(name) in (None, "")]
        if missing:
            raise ValueError(f"Expected the attribute {missing[0]}, which results need to refer to {path}.")
        for name in _MAY_BE_EMPTY:
            if header.get(name) is None:
                setattr(header, name, "")
        if header.PatientSex not in _SEXES:
            header.PatientSex = ""
        for line in (*lines, *keep_valid(header)):
            if line not in told:
                told.add(line)
                logger.warning("%s: the DICOM results leave out %s.", path, line)
        if slices:
            # Equal up to rounding (the reader ensures it); a result has a single orientation.
            header.ImageOrientationPatient = slices[0].header.ImageOrientationPatient
        frame = None if number is None else as_image(header, number)
        slices.append(SourceSlice(header, _matrix(header), frame))
    return slices


def _matrix(header: Dataset) -> np.ndarray:
    along = np.array(_floats(header.ImageOrientationPatient)).reshape(2, 3)
    between_rows, between_columns = _floats(header.PixelSpacing)
    matrix = np.eye(4)
    matrix[:3, 0] = along[0] * between_columns
    matrix[:3, 1] = along[1] * between_rows
    matrix[:3, 2] = np.cross(along[0], along[1])
    matrix[:3, 3] = _floats(header.ImagePositionPatient)
    return matrix


def _floats(values: MultiValue) -> list[float]:
    return [float(value) for value in values]


def cut(scan: ScanLike, box: np.ndarray, slices: Sequence[SourceSlice]) -> list[Rectangle]:
    """The position of a box on the images of its scan.

    Args:
        scan: The scan.
        box: ``(6,)`` canonical edges.
        slices: The images.

    Returns:
        One rectangle for each image whose plane the box meets. Along the stacking axis the face at the low end
        belongs to the box, the other does not. If the box is between two planes, one rectangle on the nearest
        image.
    """
    picks = np.array([[box[3 * (corner >> axis & 1) + axis] for axis in range(3)] for corner in range(8)])
    lps = np.column_stack([scan.points_to_lps(picks), np.ones(8)])
    axes = scan.affine[:3, :3] / np.linalg.norm(scan.affine[:3, :3], axis=0)
    found, distances, local = [], [], []
    for index, one in enumerate(slices):
        corners = (lps @ one.inverse.T)[:, :3]
        # Images may be stacked along any axis of the scan: coronal ones along y, sagittal ones along x.
        along = one.matrix[:3, 2] @ axes
        heights = corners[:, 2] * np.sign(along[np.argmax(np.abs(along))])
        local.append(corners)
        distances.append(abs(heights.mean()))
        if heights.min() - _TOUCH <= 0 < heights.max() - _TOUCH:
            found.append(_rectangle(index, one, _crossings(corners)))
    if not found:
        nearest = int(np.argmin(distances))
        found.append(_rectangle(nearest, slices[nearest], local[nearest][:, :2]))
    return found


def _crossings(corners: np.ndarray) -> np.ndarray:
    """Columns and rows ``(N, 2)`` at which the edges of a box cross the plane at height 0."""
    points = [corners[np.abs(corners[:, 2]) <= _TOUCH, :2]]
    for first, second in _EDGES:
        low, high = corners[first], corners[second]
        if (low[2] < 0) != (high[2] < 0):
            points.append((low + (high - low) * (low[2] / (low[2] - high[2])))[None, :2])
    return np.concatenate(points)


def _rectangle(index: int, one: SourceSlice, points: np.ndarray) -> Rectangle:
    low, high = points.min(axis=0), points.max(axis=0)
    outline = np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]], [low[0], low[1]]])
    corners = np.column_stack([outline, np.zeros(5), np.ones(5)]) @ one.matrix.T
    # In the matrix, pixel centres are at whole numbers and edges half a pixel before.
    return Rectangle(index, np.concatenate([low, high]) + 0.5, corners[:, :3])


def pixels_in(rectangle: Rectangle) -> np.ndarray:
    """``c1, r1, c2, r2`` of the pixels whose centres are in a rectangle, half-open, at least one each way."""
    low, high = rectangle.edges[:2], rectangle.edges[2:]
    first, end = np.ceil(low - 0.5 - _CENTRE), np.ceil(high - 0.5 - _CENTRE)
    thin = end <= first
    middle = np.floor((low + high) / 2)
    return np.concatenate([np.where(thin, middle, first), np.where(thin, middle + 1, end)]).astype(int)


def nearest(slices: Sequence[SourceSlice], point: Sequence[float]) -> int:
    """Index of the image whose plane is nearest to a point in LPS mm."""
    distances = [abs((one.inverse @ [*point, 1.0])[2]) for one in slices]
    return int(np.argmin(distances))
