"""The header of one slice, a file or a frame: checked to be that of a plain grey CT image; its place and direction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from ..volume_files.stored_image import check_spacing
from .dicom_files import read_number, read_text, read_vector
from .dicom_pixels import check_pixels
from .enhanced_ct import frame_of, image_name

# Directions whose length differs from 1 by more than rounding are normalised; shorter ones are rejected.
_UNIT, _SHORTEST_DIRECTION = 1e-4, 0.1
# The gantry's tilt and the slices' may differ by this much (one of them is rounded to whole degrees).
_TILT_DEGREES = 1.5


@dataclass(frozen=True)
class Slice:
    """Values from the header of one slice, lengths in mm in LPS."""

    path: Path
    header: pydicom.Dataset
    position: np.ndarray
    along_row: np.ndarray
    along_column: np.ndarray
    spacing: tuple[float, float]
    """Between columns, between rows."""
    thickness: float | None
    """SliceThickness; None if the header has none."""
    number: int | None
    """InstanceNumber, of a frame InStackPositionNumber; likewise."""

    def __str__(self) -> str:
        return image_name(self.path, self.header)

    @property
    def height(self) -> float:
        """Position along the normal of the slice."""
        return float(np.dot(self.position, np.cross(self.along_row, self.along_column)))


def parse_slice(path: Path, header: pydicom.Dataset) -> Slice:
    """Check the header of a slice and read its values.

    Args:
        path: Its file.
        header: Its header, of a frame as `scripts.data.scans.dicom.enhanced_ct.split_frames` makes it.

    Raises:
        ValueError: If it is not that of a grey slice in Hounsfield units, or a tag is missing or invalid.
        OSError: If the file ends in its header.
    """
    try:
        return _parse(path, header)
    except ValueError:
        # Tags may be missing because the file ends within its header.
        check_pixels(path)
        raise


def _parse(path: Path, header: pydicom.Dataset) -> Slice:
    where = image_name(path, header)
    _check_picture(where, header)
    _check_rescale(where, header)
    position = read_vector(header, "ImagePositionPatient", 3, where)
    along_row, along_column = _directions(where, header)
    between_rows, between_columns = read_vector(header, "PixelSpacing", 2, where)
    check_spacing((between_columns, between_rows), where)
    instance = read_number(header, "InstanceNumber" if frame_of(header) is None else "InStackPositionNumber", where)
    return Slice(
        path=path,
        header=header,
        position=np.array(position),
        along_row=along_row,
        along_column=along_column,
        spacing=(between_columns, between_rows),
        thickness=read_number(header, "SliceThickness", where),
        number=None if instance is None else int(instance),
    )


def _directions(where: str, header: pydicom.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The directions of a row and of a column, normalised to length 1."""
    along = np.array(read_vector(header, "ImageOrientationPatient", 6, where))
    lengths = np.linalg.norm(along[:3]), np.linalg.norm(along[3:])
    if min(lengths) < _SHORTEST_DIRECTION:
        raise ValueError(f"Expected two directions in ImageOrientationPatient, got {along.tolist()} in {where}.")
    along[:3] /= lengths[0] if abs(lengths[0] - 1) > _UNIT else 1.0
    along[3:] /= lengths[1] if abs(lengths[1] - 1) > _UNIT else 1.0
    return along[:3], along[3:]


def _check_picture(where: str, header: pydicom.Dataset) -> None:
    """Reject everything but one plain grey slice."""
    if frame_of(header) is None and (read_number(header, "NumberOfFrames", where) or 1) != 1:
        raise ValueError(
            f"Expected one slice per DICOM file, got {header.get('NumberOfFrames')} frames in {where}, which is not an "
            "Enhanced CT: convert it to one file per slice or to NIfTI first."
        )
    for tag in ("Rows", "Columns"):
        if read_vector(header, tag, 1, where)[0] < 1:
            raise ValueError(f"Expected a number above zero in the DICOM tag {tag}, got {header.get(tag)} in {where}.")
    kind = read_text(header, "PhotometricInterpretation")
    if (read_number(header, "SamplesPerPixel", where) or 1) != 1 or kind != "MONOCHROME2":
        raise ValueError(f"Expected grey values (MONOCHROME2), got {kind or 'none'} in {where}.")
    if (read_number(header, "BitsAllocated", where) or 0) < 16:
        raise ValueError(f"Expected at least 16 bits per pixel, got {header.get('BitsAllocated')} in {where}.")
    # A file without preamble and meta group has DICOM's default coding.
    if "TransferSyntaxUID" not in header.file_meta and header.preamble is not None:
        raise ValueError(f"Expected the DICOM tag TransferSyntaxUID (how pixels are coded), it is missing in {where}.")


def _check_rescale(where: str, header: pydicom.Dataset) -> None:
    """Reject stored values that cannot be converted to Hounsfield units: unconverted, they may be off by 1024."""
    for tag in ("RescaleIntercept", "RescaleSlope"):
        if read_number(header, tag, where) is None:
            raise ValueError(
                f"Expected the DICOM tag {tag}, which every CT has to have for its Hounsfield units, it is missing in "
                f"{where}."
            )
    if read_number(header, "RescaleSlope", where) == 0:
        raise ValueError(f"Expected a RescaleSlope other than 0, which would make all values equal, got 0 in {where}.")
    kind = read_text(header, "RescaleType")
    if kind.upper() not in ("", "HU"):
        raise ValueError(f"Expected Hounsfield units (RescaleType HU), got {kind} in {where}.")


def check_tilt(one: Slice) -> None:
    """Check that the gantry tilt in the header of a slice shows in its orientation.

    Raises:
        ValueError: If it does not: one of them is wrong.
    """
    tilt = abs(read_number(one.header, "GantryDetectorTilt", str(one)) or 0.0)
    normal = np.cross(one.along_row, one.along_column)
    shown = float(np.degrees(np.arccos(min(1.0, abs(normal[2]) / np.linalg.norm(normal)))))
    if shown < tilt - _TILT_DEGREES:
        raise ValueError(
            f"Expected slices that lean as far as the gantry, got a tilt of {tilt:.1f} degrees and an "
            f"ImageOrientationPatient that leans by {shown:.1f} in {one}: correct the wrong one first."
        )
