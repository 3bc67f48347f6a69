"""A DICOM series from its folder: headers checked with pydicom, pixels decoded by ITK (GDCM).

What is wrong with a series is said before its pixels are read: several series in one folder, slices that
are missing, doubled or of another size, a modality that has no Hounsfield units. Files that are no CT
slices (localizers, reports, segmentations, other files) are left out, each with a line in the log and in
the results.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import CTImageStorage

from .stored import StoredImage, check_spacing, read_itk_pixels

logger = logging.getLogger(__name__)

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
# Not worth opening: a folder may hold very many of them.
_OTHER_SUFFIXES = (".png", ".jpg", ".nii", ".nii.gz", ".nrrd", ".mha", ".csv", ".json", ".txt", ".xml", ".zip", ".pdf")
_TAGS = [
    "BitsAllocated",
    "Columns",
    "GantryDetectorTilt",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "ImageType",
    "InstanceNumber",
    "Modality",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelSpacing",
    "Rows",
    "SOPClassUID",
    "SamplesPerPixel",
    "SeriesDescription",
    "SeriesInstanceUID",
    "SliceThickness",
    "SpacingBetweenSlices",
]
# Neighbouring distances of one stack may differ by this fraction plus this many mm (headers are rounded).
_GAP_TOLERANCE = 0.1
_GAP_ROUNDING_MM = 0.02
# Nearer than this two slices are at the same place.
_SAME_PLACE_MM = 1e-3
_MAX_TILT_DEGREES = 1.0


@dataclass(frozen=True)
class _Slice:
    """What the header of one slice says, lengths in mm in LPS."""

    path: Path
    header: pydicom.Dataset
    position: np.ndarray
    along_row: np.ndarray
    along_column: np.ndarray
    spacing: tuple[float, float]
    """Between columns, between rows."""

    @property
    def height(self) -> float:
        """Position along the normal of the slice."""
        return float(np.dot(self.position, np.cross(self.along_row, self.along_column)))


def is_dicom(path: Path) -> bool:
    """Whether a file is named or marked (``DICM`` after 128 bytes) as DICOM."""
    name = path.name.lower()
    if name.endswith(DICOM_SUFFIXES):
        return True
    if name.endswith(_OTHER_SUFFIXES):
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_series(folder: Path) -> StoredImage:
    """Read the one CT series that lies in a folder (its sub-folders are not searched).

    The stored array has the column as ``i``, the row as ``j`` and the slice as ``k``, slices in ascending
    position along the cross product of row and column direction (for plain axial slices: towards the head),
    whatever the file names and instance numbers are. ``values`` are Hounsfield units.

    Raises:
        ValueError: If no CT slice or several series are in the folder, slices differ in size, spacing or
            orientation, one is missing or doubled, the gantry was tilted, or a needed tag is absent.
        OSError: If a file is damaged or cut short.
    """
    headers, notes = _ct_headers(folder)
    series = {str(header.get("SeriesInstanceUID", "none")) for _, header in headers}
    if len(series) > 1:
        raise ValueError(f"Expected one CT series, got {len(series)} in {folder}: {_name_series(headers)}.")
    slices = sorted((_parse(path, header) for path, header in headers), key=lambda one: one.height)
    _check_alike(slices)
    affine = _affine(slices)
    planes = [_pixels(one) for one in slices]
    return StoredImage(np.stack(planes, axis=-1), affine, tuple(one.path for one in slices), notes=tuple(notes))


def _ct_headers(folder: Path) -> tuple[list[tuple[Path, pydicom.Dataset]], list[str]]:
    """The headers of the CT slices in a folder, and a note on everything left out."""
    kept, notes, others = [], [], Counter()
    for path in sorted(entry for entry in folder.iterdir() if entry.is_file()):
        if not is_dicom(path):
            notes.append(f"Left out {path.name}: no DICOM file.")
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
        except (InvalidDicomError, OSError, EOFError, ValueError, KeyError) as error:
            raise OSError(f"Expected a complete DICOM file, could not read the header of {path}.") from error
        modality = str(header.get("Modality", "none"))
        image_type = [str(word).upper() for word in header.get("ImageType", None) or []]
        if header.file_meta.get("MediaStorageSOPClassUID") == CTImageStorage and "Rows" not in header:
            raise OSError(f"Expected a complete DICOM file, the header of {path} is cut short.")
        if modality != "CT" or "Rows" not in header:
            others[modality] += 1
            notes.append(f"Left out {path.name}: modality {modality}, not a CT slice.")
        elif "LOCALIZER" in image_type:
            others["CT localizer"] += 1
            notes.append(f"Left out {path.name}: a localizer.")
        else:
            kept.append((path, header))
    if not kept:
        found = ", ".join(f"{number} {name}" for name, number in sorted(others.items())) or "no DICOM file at all"
        raise ValueError(f"Expected a DICOM series of modality CT, got {found} in {folder}.")
    for note in notes:
        logger.warning("%s: %s", folder, note)
    return kept, notes


def _name_series(headers: list[tuple[Path, pydicom.Dataset]]) -> str:
    """Each series by UID, description and number of slices."""
    count = Counter(
        (str(header.get("SeriesInstanceUID", "none")), str(header.get("SeriesDescription", "no description")))
        for _, header in headers
    )
    return "; ".join(f"{uid} ({text}, {number} slices)" for (uid, text), number in sorted(count.items()))


def _parse(path: Path, header: pydicom.Dataset) -> _Slice:
    """Geometry of one slice; ValueError where a tag is missing or the picture is not a plain grey slice."""
    for tag, length in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
        value = header.get(tag)
        if value is None or len(value) != length:
            raise ValueError(f"Expected {length} numbers in the DICOM tag {tag}, got {value} in {path}.")
    if int(header.get("NumberOfFrames") or 1) != 1:
        raise ValueError(f"Expected one slice per DICOM file, got {header.NumberOfFrames} frames in {path}.")
    if int(header.get("SamplesPerPixel") or 1) != 1 or header.get("PhotometricInterpretation") != "MONOCHROME2":
        raise ValueError(
            f"Expected grey values (MONOCHROME2), got {header.get('PhotometricInterpretation')} in {path}."
        )
    if int(header.get("BitsAllocated") or 0) < 16:
        raise ValueError(f"Expected at least 16 bits per pixel, got {header.get('BitsAllocated')} in {path}.")
    tilt = float(header.get("GantryDetectorTilt") or 0.0)
    if abs(tilt) > _MAX_TILT_DEGREES:
        raise ValueError(
            f"Expected an untilted gantry, got a tilt of {tilt:.1f} degrees in {path}: correct the tilt first."
        )
    between_rows, between_columns = (float(edge) for edge in header.PixelSpacing)
    check_spacing((between_columns, between_rows), path)
    along = np.array([float(number) for number in header.ImageOrientationPatient])
    return _Slice(
        path=path,
        header=header,
        position=np.array([float(number) for number in header.ImagePositionPatient]),
        along_row=along[:3],
        along_column=along[3:],
        spacing=(between_columns, between_rows),
    )


def _check_alike(slices: list[_Slice]) -> None:
    """Refuse a stack whose slices differ in size, spacing or direction."""
    first = slices[0]
    size = (first.header.Rows, first.header.Columns)
    for one in slices[1:]:
        if (one.header.Rows, one.header.Columns) != size:
            raise ValueError(
                f"Expected slices of one size, got {size} in {first.path} and "
                f"{(one.header.Rows, one.header.Columns)} in {one.path}."
            )
        if not np.allclose(one.spacing, first.spacing, rtol=1e-3):
            raise ValueError(
                f"Expected one pixel spacing, got {first.spacing} in {first.path} and {one.spacing} in {one.path}."
            )
        if not np.allclose([*one.along_row, *one.along_column], [*first.along_row, *first.along_column], atol=1e-3):
            raise ValueError(f"Expected slices of one orientation, {first.path} and {one.path} are turned differently.")


def _affine(slices: list[_Slice]) -> np.ndarray:
    """Index (column, row, slice) to LPS mm, after a check that the slices are one regular stack."""
    first, last = slices[0], slices[-1]
    affine = np.eye(4)
    affine[:3, 0] = first.along_row * first.spacing[0]
    affine[:3, 1] = first.along_column * first.spacing[1]
    affine[:3, 3] = first.position
    if len(slices) > 1:
        _check_gaps(slices)
        affine[:3, 2] = (last.position - first.position) / (len(slices) - 1)
        return affine
    thickness = first.header.get("SpacingBetweenSlices") or first.header.get("SliceThickness")
    if thickness is None:
        raise ValueError(f"Expected SliceThickness in the only slice of a series, it is missing in {first.path}.")
    check_spacing((float(thickness),), first.path)
    affine[:3, 2] = np.cross(first.along_row, first.along_column) * float(thickness)
    return affine


def _check_gaps(slices: list[_Slice]) -> None:
    """Refuse doubled and missing slices, naming the gap in mm and the files on either side."""
    gaps = np.diff([one.height for one in slices])
    narrow, wide = int(np.argmin(gaps)), int(np.argmax(gaps))
    if gaps[narrow] < _SAME_PLACE_MM:
        raise ValueError(
            f"Expected one slice per position, got two at the same place: {slices[narrow].path} and "
            f"{slices[narrow + 1].path}."
        )
    if gaps[wide] > gaps[narrow] * (1 + _GAP_TOLERANCE) + _GAP_ROUNDING_MM:
        raise ValueError(
            f"Expected evenly spaced slices, got a gap of {gaps[wide]:.2f} mm between {slices[wide].path} and "
            f"{slices[wide + 1].path} where others are {gaps[narrow]:.2f} mm apart: a slice is missing."
        )
    for lower, upper, gap in zip(slices, slices[1:], gaps, strict=False):
        _check_numbers(lower, upper, float(gap))


def _check_numbers(lower: _Slice, upper: _Slice, gap: float) -> None:
    """Refuse a hole that even spacing hides: numbers skipped, and a gap that the slices do not cover."""
    numbers = [one.header.get("InstanceNumber") for one in (lower, upper)]
    thickness = float(lower.header.get("SliceThickness") or 0.0)
    if None in numbers or thickness <= 0:
        return
    if abs(int(numbers[1]) - int(numbers[0])) > 1 and gap > thickness * (1 + _GAP_TOLERANCE) + _GAP_ROUNDING_MM:
        raise ValueError(
            f"Expected neighbouring slices, got a gap of {gap:.2f} mm between {lower.path} and {upper.path}, instance "
            f"numbers {numbers[0]} and {numbers[1]}, slices {thickness:g} mm thick: a slice is missing."
        )


def _pixels(one: _Slice) -> np.ndarray:
    """Hounsfield units of one slice as int16 ``(columns, rows)``."""
    _, values = read_itk_pixels(one.path)
    if values.shape != (one.header.Columns, one.header.Rows, 1):
        raise OSError(f"Expected {one.header.Columns} x {one.header.Rows} pixels, got {values.shape} in {one.path}.")
    limits = np.iinfo(np.int16)
    return np.clip(np.rint(values[..., 0]), limits.min, limits.max).astype(np.int16)
