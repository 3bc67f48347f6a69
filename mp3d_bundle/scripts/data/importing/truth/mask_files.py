"""Masks: NIfTI, NRRD and MetaImage files of labels, and DICOM segmentations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom

from ...scans.scan import META_SUFFIXES, NIFTI_SUFFIXES, NRRD_SUFFIXES, Scan
from ...scans.volume_files.metaimage import read_metaimage
from ...scans.volume_files.nifti import read_nifti
from ...scans.volume_files.nrrd import read_nrrd
from ...scans.volume_files.stored_image import ReadingRules, StoredImage
from ..true_lesions import ScanTruth
from .label_grids import LabelGrid

MASK_SUFFIXES = (*NIFTI_SUFFIXES, *NRRD_SUFFIXES, *META_SUFFIXES)
MASK_FRAMES = ("mm", "voxel")
_READERS: tuple[tuple[tuple[str, ...], Callable[[Path, ReadingRules], StoredImage]], ...] = (
    (NIFTI_SUFFIXES, read_nifti),
    (NRRD_SUFFIXES, read_nrrd),
    (META_SUFFIXES, read_metaimage),
)
# Labels may be anywhere; their overlap with the scan is checked.
_RULES = ReadingRules(any_geometry=True)
# Whole numbers that went through a slope are off by less.
_WHOLE = 1e-3
# Frames nearer to each other than this, in mm, are one slice; and by how much of a gap slices may be off their places.
_SAME_PLACE, _UNEVEN = 0.01, 0.1
# From this share on a fractional segmentation counts as there.
_THERE = 0.5


def read_mask(path: Path, scan: Scan, *, each_value: bool, frame: str) -> ScanTruth:
    """Read the lesions of a mask.

    Args:
        path: NIfTI, NRRD or MetaImage file of whole numbers, 0 where there is nothing.
        scan: The scan it belongs to.
        each_value: Whether each value is a lesion; if not, each connected part of a value is one.
        frame: ``"mm"``: the mask's own geometry says where it is; ``"voxel"``: its voxels are those of the scan's file.

    Raises:
        OSError: If the file is damaged.
        ValueError: If it is not a mask, has no geometry (and ``frame`` is ``"mm"``), or is outside of the scan.
    """
    stored = next(read for suffixes, read in _READERS if path.name.lower().endswith(suffixes))(path, _RULES)
    affine = stored.affine
    if frame == "voxel":
        if stored.values.shape != scan.stored_shape or scan.places is not None:
            raise ValueError(
                f"Expected a mask with the voxels of its scan, {scan.stored_shape}, got {stored.values.shape} in "
                f"{path}."
            )
        affine = scan.affine @ np.linalg.inv(scan.stored_from_canonical)
    elif any("no orientation" in note for note in stored.notes):
        raise ValueError(
            f"Expected a mask with its position, {path} has none (--mask_frame voxel reads its voxels as those "
            "of the scan's file)."
        )
    grid = LabelGrid(_labels(stored, path), affine, path.name, each_value=each_value)
    truth = grid.lesions_in(scan)
    if (grid.values != 0).any() and not truth.lesions:
        raise ValueError(f"Expected a mask inside of its scan {scan.path}, {path} is outside of it.")
    if _ends_inside(grid, scan):
        note = (
            f"Labels reach an edge of the mask that is inside of the scan: a lesion may be cut off there ({path.name})."
        )
        return replace(truth, notes=(*truth.notes, note))
    return truth


def _ends_inside(grid: LabelGrid, scan: Scan) -> bool:
    """Whether the scan holds voxels next to labels where the mask holds none any more."""
    to_scan = np.linalg.inv(scan.affine) @ grid.affine
    extent = np.array(scan.hu.shape[::-1])
    for axis, length in enumerate(grid.values.shape):
        for last, beyond in ((0, -1), (length - 1, length)):
            at = np.insert(np.argwhere(np.take(grid.values, last, axis=axis)), axis, beyond, axis=1)
            places = at @ to_scan[:3, :3].T + to_scan[:3, 3]
            if ((places > -0.5) & (places < extent - 0.5)).all(axis=1).any():
                return True
    return False


def _labels(stored: StoredImage, path: Path) -> np.ndarray:
    """The values as whole numbers, int32."""
    values = stored.values
    if values.dtype.kind not in "iub" or (stored.slope, stored.intercept) != (1.0, 0.0):
        with np.errstate(invalid="ignore"):
            values = values.astype(np.float64) * stored.slope + stored.intercept
        whole = np.rint(values)
        with np.errstate(invalid="ignore"):
            off = ~(np.abs(values - whole) <= _WHOLE)
        if off.any():
            raise ValueError(
                f"Expected whole numbers in a mask, got {float(values[off][0]):g} in {path}: probabilities, or an "
                "image?"
            )
        values = whole
    if values.min() < 0 or values.max() > np.iinfo(np.int32).max:
        raise ValueError(
            f"Expected labels from 0 up in a mask, got values from {values.min():g} to {values.max():g} in {path}: an "
            "image?"
        )
    return values.astype(np.int32)


def read_segmentation(path: Path, scan: Scan, *, each_segment: bool) -> ScanTruth:
    """Read the lesions of a DICOM segmentation (SEG); a segment's label is what its lesions are called.

    Args:
        path: The file.
        scan: The scan it belongs to.
        each_segment: Whether each segment is a lesion; if not, each connected part of one is.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is outside of the scan, or its frames are not slices of one stack.
    """
    try:
        segmentation = highdicom.seg.segread(str(path))
        numbers = [int(number) for number in segmentation.segment_numbers]
        labels = {number: str(segmentation.get_segment_description(number).segment_label) for number in numbers}
        grids = [(*_segment(segmentation, number), labels[number]) for number in numbers]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"Expected a DICOM segmentation of parallel slices, cannot use {path}: {reason}") from error
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


def _segment(segmentation: highdicom.seg.Segmentation, number: int) -> tuple[np.ndarray, np.ndarray]:
    """A segment as ``(I, J, K)`` of 0 and 1, and its affine (index to LPS mm); with a tilted gantry it is sheared."""
    frames = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    groups = segmentation.PerFrameFunctionalGroupsSequence
    if segmentation.SegmentationType == "LABELMAP":
        chosen, there = range(len(frames)), frames == number
    else:
        of = [int(_group(group, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber) for group in groups]
        chosen = [at for at, segment in enumerate(of) if segment == number]
        there = frames >= _THERE * float(segmentation.get("MaximumFractionalValue", 1))
    if not len(chosen):
        return np.zeros((1, 1, 1), dtype=np.int32), np.eye(4)
    along = np.array(_group(groups[chosen[0]], shared, "PlaneOrientationSequence").ImageOrientationPatient, dtype=float)
    measures = _group(groups[chosen[0]], shared, "PixelMeasuresSequence")
    between_rows, between_columns = (float(edge) for edge in measures.PixelSpacing)
    places = np.array(
        [_group(groups[at], shared, "PlanePositionSequence").ImagePositionPatient for at in chosen], dtype=float
    )
    heights = places @ np.cross(along[:3], along[3:])
    order = np.argsort(heights)
    steps = np.diff(heights[order])
    # Slices without a voxel of the segment are left out of many files.
    step = float(steps[steps > _SAME_PLACE].min()) if (steps > _SAME_PLACE).any() else 0.0
    index = np.rint((heights - heights.min()) / step).astype(int) if step else np.zeros(len(chosen), dtype=int)
    if step and np.abs((heights - heights.min()) / step - index).max() > _UNEVEN:
        raise ValueError("its slices are unevenly spaced")
    low, high = places[order[0]], places[order[-1]]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along[:3] * between_columns, along[3:] * between_rows
    depth = float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 1.0)
    affine[:3, 2] = (high - low) / index.max() if index.max() else np.cross(along[:3], along[3:]) * depth
    affine[:3, 3] = low
    values = np.zeros((segmentation.Columns, segmentation.Rows, int(index.max()) + 1), dtype=np.int32)
    for at, k in zip(chosen, index.tolist(), strict=True):
        values[:, :, k] |= there[at].T
    return values, affine


def _group(frame: pydicom.Dataset, shared: pydicom.Dataset, name: str) -> pydicom.Dataset:
    """An item of a functional group of a frame, or of all frames."""
    return (frame if name in frame else shared)[name].value[0]
