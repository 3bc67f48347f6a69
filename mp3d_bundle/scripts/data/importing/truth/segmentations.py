"""DICOM segmentations (SEG): each frame lies where it says itself, and slices without a frame are empty."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

import highdicom
import numpy as np
import pydicom

from ....storage.dicom_errors import ODD_CONTENT
from ....storage.printable import one_line
from ...scans.scan import Scan
from ..true_lesions import ScanTruth
from .label_grids import LabelGrid
from .slice_places import frame_of_reference

# From this share on a fractional segmentation counts as there.
_THERE = 0.5
# By how much of a pixel, and of the distance of slices, frames may be off their places in a stack; and, as positions of
# slices are rounded, by how much of that distance off the slice of the scan that they belong to.
_OFF, _OFF_SLICE = 0.1, 0.3
# Frames nearer to each other than this, in mm, are one slice.
_SAME_PLACE = 0.01


@dataclass(frozen=True)
class _Frame:
    """A frame of a segment.

    Attributes:
        mask: ``(columns, rows)`` bool.
        affine: ``(4, 4)`` index ``(column, row, slice)`` to LPS mm; the third axis has a length of 1 mm.
        depth: Distance of slices in mm as the file gives it, thickness of slices; None where it gives none.
    """

    mask: np.ndarray
    affine: np.ndarray
    depth: tuple[float | None, float | None]


def read_segmentation(path: Path, scan: Scan, *, each_segment: bool) -> ScanTruth:
    """Read the lesions of a DICOM segmentation (SEG); a segment's label is what its lesions are called.

    Args:
        path: The file.
        scan: The scan it belongs to.
        each_segment: Whether each segment is a lesion; if not, each connected part of one is.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is outside of the scan, in another frame of reference, or its frames are neither on the
            slices of the scan nor slices of one stack.
    """
    try:
        segmentation = highdicom.seg.segread(str(path))
        own, other = str(segmentation.get("FrameOfReferenceUID") or ""), frame_of_reference(scan)
        if own and other and own != other:
            raise ValueError(f"its frame of reference is {own}, that of the scan {other}")
        numbers = [int(number) for number in segmentation.segment_numbers]
        labels = {number: str(segmentation.get_segment_description(number).segment_label) for number in numbers}
        grids = []
        for number in numbers:
            frames = _frames(segmentation, number)
            if frames:
                grids.append((*(_on_slices(frames, scan) or _on_stack(frames, scan)), labels[number]))
    # highdicom keeps what it reads in a table of SQLite.
    except (*ODD_CONTENT, sqlite3.Error) as error:
        reason = one_line(error, 200)
        raise ValueError(f"Expected a DICOM segmentation of parallel slices, cannot use {path}: {reason}.") from error
    found = []
    for values, affine, label in grids:
        grid = LabelGrid(values, affine, path.name, lambda _, label=label: label, each_segment)
        truth = grid.lesions_in(scan)
        if values.any() and not truth.lesions:
            raise ValueError(f"Expected segments inside of the scan {scan.path}, {label!r} of {path} is outside of it.")
        found.append(truth)
    return ScanTruth(
        tuple(lesion for truth in found for lesion in truth.lesions),
        tuple(dict.fromkeys(note for truth in found for note in truth.notes)),
    )


def _frames(segmentation: highdicom.seg.Segmentation, number: int) -> list[_Frame]:
    """The frames of a segment."""
    frames = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    groups = segmentation.PerFrameFunctionalGroupsSequence
    if not len(groups) == len(frames) == int(segmentation.NumberOfFrames):
        raise ValueError(
            f"it says that it has {segmentation.NumberOfFrames} frames, and has {len(frames)} and the places of "
            f"{len(groups)}"
        )
    chosen = list(range(len(frames)))
    if segmentation.SegmentationType == "LABELMAP":
        there = frames == number
    else:
        of = [int(_group(group, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber) for group in groups]
        chosen = [at for at, segment in enumerate(of) if segment == number]
        there = frames >= _THERE * float(segmentation.get("MaximumFractionalValue", 1))
    found = []
    for at in chosen:
        measures = _group(groups[at], shared, "PixelMeasuresSequence")
        along = np.array(_group(groups[at], shared, "PlaneOrientationSequence").ImageOrientationPatient, dtype=float)
        between_rows, between_columns = (float(edge) for edge in measures.PixelSpacing)
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1] = along[:3] * between_columns, along[3:] * between_rows
        affine[:3, 2] = np.cross(along[:3], along[3:])
        affine[:3, 3] = _group(groups[at], shared, "PlanePositionSequence").ImagePositionPatient
        if not np.isfinite(affine).all() or not np.linalg.det(affine):
            raise ValueError(f"frame {at + 1} has no place")
        depth = (measures.get("SpacingBetweenSlices"), measures.get("SliceThickness"))
        found.append(_Frame(there[at].T, affine, depth))
    return found


def _on_slices(frames: list[_Frame], scan: Scan) -> tuple[np.ndarray, np.ndarray] | None:
    """A segment in voxels of the scan's file, ``(I, J, K)`` of 0 and 1 and their affine.

    None where a frame is not on a slice of the scan, pixel by pixel. Each frame may be turned as it likes.
    """
    stored = scan.affine @ np.linalg.inv(scan.stored_from_canonical)
    places = scan.places
    # Of unevenly spaced slices, which one is nearest to each even position.
    evenly = np.arange(scan.evenly().stored_shape[2])
    nearest = None if places is None else np.abs(places[:, None] - evenly).argmin(axis=0)
    limits = np.where(np.arange(3) == scan.slice_axis, _OFF_SLICE, _OFF)
    found = [np.empty((0, 3))]
    for frame in frames:
        to_stored = np.linalg.inv(stored) @ frame.affine
        columns, rows = frame.mask.shape
        corners = np.array([[0, 0], [columns - 1, 0], [0, rows - 1]]) @ to_stored[:3, :2].T + to_stored[:3, 3]
        steps = np.rint(to_stored[:3, :2])
        index = np.argwhere(frame.mask) @ steps.T + np.rint(corners[0])
        if (np.abs(steps).sum(axis=0) != 1).any():
            return None
        if places is None or nearest is None:
            off = corners - np.rint(corners)
            numbers = None
        else:
            own = int(np.abs(places - corners[0, 2]).argmin())
            off = corners - np.column_stack([np.rint(corners[:, :2]), np.full(3, places[own])])
            numbers = np.flatnonzero(nearest == own)
        if (np.abs(off).max(axis=0) > limits).any():
            return None
        found += (
            [index] if numbers is None else [np.column_stack([index[:, :2], np.full(len(index), k)]) for k in numbers]
        )
    voxels = np.concatenate(found).astype(int)
    if not len(voxels):
        return np.zeros((1, 1, 1), dtype=np.int32), stored
    low, high = voxels.min(axis=0), voxels.max(axis=0)
    values = np.zeros(high - low + 1, dtype=np.int32)
    values[tuple((voxels - low).T)] = 1
    shift = np.eye(4)
    shift[:3, 3] = low
    return values, stored @ shift


def _on_stack(frames: list[_Frame], scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """A segment on a grid of its own; with a tilted gantry it is sheared.

    Raises:
        ValueError: If the frames are not slices of one stack.
    """
    first = frames[0]
    linear = np.array([frame.affine[:3, :3] for frame in frames])
    if np.abs(linear - linear[0]).max() * max(first.mask.shape) > _OFF * np.linalg.norm(linear[0], axis=0)[:2].min():
        raise ValueError("its frames have different orientations or sizes of pixels")
    normal = linear[0, :, 2]
    places = np.array([frame.affine[:3, 3] for frame in frames])
    heights = places @ normal
    low, high = places[heights.argmin()], places[heights.argmax()]
    reach = float((high - low) @ normal)
    line = low + np.outer((heights - heights.min()) / reach if reach > _SAME_PLACE else heights * 0, high - low)
    if np.abs((places - line) @ np.linalg.inv(linear[0]).T)[:, :2].max() > _OFF:
        raise ValueError("its frames are shifted against each other in their plane")
    step = _distance(np.unique(heights - heights.min()), first, abs(float(scan.affine[:3, 2] @ normal)))
    index = np.rint((heights - heights.min()) / step).astype(int)
    affine = first.affine.copy()
    affine[:3, 2] = (high - low) / index.max() if index.max() else normal * step
    affine[:3, 3] = low
    values = np.zeros((*first.mask.shape, int(index.max()) + 1), dtype=np.int32)
    for frame, k in zip(frames, index.tolist(), strict=True):
        values[:, :, k] |= frame.mask
    return values, affine


def _distance(heights: np.ndarray, frame: _Frame, of_scan: float) -> float:
    """The distance of slices in mm: what the file says, that of the scan, or the thickness, the first that fits.

    Slices without a voxel of the segment are left out of many files, so that the smallest distance of those that are
    there says nothing.
    """
    between, thickness = (float(value) if value else 0.0 for value in frame.depth)
    for step in (between, of_scan, thickness):
        if step > _SAME_PLACE and np.abs(heights / step - np.rint(heights / step)).max() <= _OFF:
            return step
    raise ValueError("its slices are at other distances than it says, or unevenly spaced")


def _group(frame: pydicom.Dataset, shared: pydicom.Dataset, name: str) -> pydicom.Dataset:
    """An item of a functional group of a frame, or of all frames."""
    return (frame if name in frame else shared)[name].value[0]
