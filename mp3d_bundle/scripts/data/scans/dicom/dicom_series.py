"""A DICOM series from its folder: headers checked, slices put in order, pixels read.

Problems of a series are reported before its pixels are read: several series in one folder, slices that
are missing, doubled or of another size, a modality without Hounsfield units. Files that are not CT
slices (localizers, reports, segmentations, other files) are left out, each with a line, see
`scripts.data.scans.dicom.dicom_headers`.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom

from ..uneven_spacing import even_places, spread
from ..volume_files.stored_image import Note, StoredImage, check_spacing
from .dicom_files import bytes_before_pixels, read_bytes, read_number, read_text, read_vector
from .dicom_headers import Series, files_on_disk, folder_files, read_contents
from .dicom_pixels import check_pixels, read_hounsfield
from .dicom_stacks import SAME_PLACE_MM
from .odd_images import ENHANCED

# Neighbouring distances of one stack may differ by this fraction plus this many mm (headers are rounded).
_GAP_TOLERANCE = 0.1
_GAP_ROUNDING_MM = 0.02
# Unequal gaps are accepted if all slices are this close to even positions, as with positions rounded to 0.1 mm.
_PLACE_ROUNDING_MM = 0.06
# A gap this many times as wide as those next to it is a hole, unless the numbers of the slices are consecutive.
_HOLE = 1.5
# A gap this many times as wide as most is never filled, even if the numbers are consecutive.
_WIDEST = 3.0
# Directions whose length differs from 1 by more than rounding are normalised; shorter ones are rejected.
_UNIT, _SHORTEST_DIRECTION = 1e-4, 0.1
# The gantry's tilt and the slices' may differ by this much (one of them is rounded to whole degrees).
_TILT_DEGREES = 1.5
# Runs of instance numbers that alternate in one stack, and the slices of each.
_MOST_RUNS, _SHORTEST_RUN = 4, 3
# Positions of one stack are on a straight line within this many mm.
_LINE_MM = 0.5


@dataclass(frozen=True)
class _Slice:
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
    """InstanceNumber, likewise."""

    @property
    def height(self) -> float:
        """Position along the normal of the slice."""
        return float(np.dot(self.position, np.cross(self.along_row, self.along_column)))


def read_series(folder: Path, series: str | None = None) -> StoredImage:
    """Read a CT series from a folder (its sub-folders are not searched).

    The stored array has the column as ``i``, the row as ``j`` and the slice as ``k``, slices in ascending
    position along the cross product of row and column direction (for plain axial slices: towards the head),
    for any file names and instance numbers. ``values`` are Hounsfield units.

    Args:
        folder: The folder.
        series: SeriesInstanceUID of the one to read; None if the folder has only one.

    Raises:
        ValueError: If no CT slice or several series are in the folder, slices differ in size, spacing or
            orientation, one is missing or doubled, the gantry's tilt does not show in the slices, or a needed
            tag is absent or invalid.
        OSError: If a file is damaged or cut short.
    """
    contents = read_contents(folder_files(folder))
    chosen = contents.choose(series, folder)
    others = (
        Note(f"Left out series {one.uid}.", f"Left out series {one}.") for one in contents.series if one is not chosen
    )
    return read_found(chosen, (*contents.notes, *others))


def read_slices(files: Sequence[Path], where: Path, notes: Sequence[str] = ()) -> StoredImage:
    """Read the CT series of some files, like `read_series`.

    Args:
        files: The files of one series.
        where: Name of the place in messages.
        notes: Earlier notes about the place of the series.
    """
    contents = read_contents(files_on_disk(files))
    return read_found(contents.choose(None, where), (*notes, *contents.notes))


def read_found(series: Series, notes: Sequence[str] = ()) -> StoredImage:
    """Read a series whose headers are known, like `read_series`; each file is opened once.

    Args:
        series: The series.
        notes: Earlier notes about the place of the series.
    """
    if series.problem is not None:
        raise series.problem
    slices = sorted((_parse(path, header) for path, header in series.headers), key=lambda one: one.height)
    _check_alike(slices)
    for one in slices:
        _check_tilt(one)
    affine, uneven = _affine(slices)
    told = (*notes, *series.notes, *_check_numbers(slices), *([] if uneven is None else [uneven]))
    digest = hashlib.sha256()
    planes, headers = [], []
    for one in slices:
        content = read_bytes(one.path)
        digest.update(content)
        planes.append(read_hounsfield(one.path, one.header, content))
        headers.append(bytes_before_pixels(one.path, content))
    image = StoredImage(
        np.stack(planes, axis=-1),
        affine,
        tuple(one.path for one in slices),
        notes=told,
        series=series.uid,
        sha256=digest.hexdigest(),
        headers=tuple(headers),
    )
    if uneven is None:
        return image
    # The slices are interpolated onto even positions right away; the way back is kept.
    places, _ = even_places(np.array([one.height for one in slices]))
    affine[:3, 2] *= (len(slices) - 1) / places[-1]
    return replace(image, values=spread(image.values, places), places=places)


def _parse(path: Path, header: pydicom.Dataset) -> _Slice:
    """Values from the header of one slice; ValueError if a tag is missing or invalid, OSError without pixels."""
    try:
        return _parse_header(path, header)
    except ValueError:
        # Tags may be missing because the file ends within its header.
        check_pixels(path)
        raise


def _parse_header(path: Path, header: pydicom.Dataset) -> _Slice:
    _check_picture(path, header)
    _check_rescale(path, header)
    position = read_vector(header, "ImagePositionPatient", 3, path)
    along_row, along_column = _directions(path, header)
    between_rows, between_columns = read_vector(header, "PixelSpacing", 2, path)
    check_spacing((between_columns, between_rows), path)
    instance = read_number(header, "InstanceNumber", path)
    return _Slice(
        path=path,
        header=header,
        position=np.array(position),
        along_row=along_row,
        along_column=along_column,
        spacing=(between_columns, between_rows),
        thickness=read_number(header, "SliceThickness", path),
        number=None if instance is None else int(instance),
    )


def _directions(path: Path, header: pydicom.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The directions of a row and of a column, normalised to length 1."""
    along = np.array(read_vector(header, "ImageOrientationPatient", 6, path))
    lengths = np.linalg.norm(along[:3]), np.linalg.norm(along[3:])
    if min(lengths) < _SHORTEST_DIRECTION:
        raise ValueError(f"Expected two directions in ImageOrientationPatient, got {along.tolist()} in {path}.")
    along[:3] /= lengths[0] if abs(lengths[0] - 1) > _UNIT else 1.0
    along[3:] /= lengths[1] if abs(lengths[1] - 1) > _UNIT else 1.0
    return along[:3], along[3:]


def _check_picture(path: Path, header: pydicom.Dataset) -> None:
    """Reject everything but one plain grey slice."""
    if (read_number(header, "NumberOfFrames", path) or 1) != 1 or read_text(header, "SOPClassUID") in ENHANCED:
        raise ValueError(
            f"Expected one slice per DICOM file, got {header.get('NumberOfFrames')} frames (enhanced CT) in {path}: "
            "convert it to one file per slice (such as dcm4che's emf2sf does) or to NIfTI first."
        )
    for tag in ("Rows", "Columns"):
        if read_vector(header, tag, 1, path)[0] < 1:
            raise ValueError(f"Expected a number above zero in the DICOM tag {tag}, got {header.get(tag)} in {path}.")
    kind = read_text(header, "PhotometricInterpretation")
    if (read_number(header, "SamplesPerPixel", path) or 1) != 1 or kind != "MONOCHROME2":
        raise ValueError(f"Expected grey values (MONOCHROME2), got {kind or 'none'} in {path}.")
    if (read_number(header, "BitsAllocated", path) or 0) < 16:
        raise ValueError(f"Expected at least 16 bits per pixel, got {header.get('BitsAllocated')} in {path}.")
    # A file without preamble and meta group has DICOM's default coding.
    if "TransferSyntaxUID" not in header.file_meta and header.preamble is not None:
        raise ValueError(f"Expected the DICOM tag TransferSyntaxUID (how pixels are coded), it is missing in {path}.")


def _check_rescale(path: Path, header: pydicom.Dataset) -> None:
    """Reject stored values that cannot be converted to Hounsfield units: unconverted, they may be off by 1024."""
    for tag in ("RescaleIntercept", "RescaleSlope"):
        if read_number(header, tag, path) is None:
            raise ValueError(
                f"Expected the DICOM tag {tag}, which every CT has to have for its Hounsfield units, it is missing in "
                f"{path}."
            )
    if read_number(header, "RescaleSlope", path) == 0:
        raise ValueError(f"Expected a RescaleSlope other than 0, which would make all values equal, got 0 in {path}.")
    kind = read_text(header, "RescaleType")
    if kind.upper() not in ("", "HU"):
        raise ValueError(f"Expected Hounsfield units (RescaleType HU), got {kind} in {path}.")


def _check_tilt(one: _Slice) -> None:
    """Reject a series if the gantry tilt in its header contradicts its orientation: one of them is wrong."""
    tilt = abs(read_number(one.header, "GantryDetectorTilt", one.path) or 0.0)
    normal = np.cross(one.along_row, one.along_column)
    shown = float(np.degrees(np.arccos(min(1.0, abs(normal[2]) / np.linalg.norm(normal)))))
    if shown < tilt - _TILT_DEGREES:
        raise ValueError(
            f"Expected slices that lean as far as the gantry, got a tilt of {tilt:.1f} degrees and an "
            f"ImageOrientationPatient that leans by {shown:.1f} in {one.path}: correct the wrong one first."
        )


def _check_alike(slices: list[_Slice]) -> None:
    """Reject a stack whose slices differ in size, spacing or direction."""
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


def _affine(slices: list[_Slice]) -> tuple[np.ndarray, str | None]:
    """Index (column, row, slice) to LPS mm, after a check that the slices are one stack; a note if it is uneven.

    The last column of an uneven stack is the mean step.
    """
    first, last = slices[0], slices[-1]
    affine = np.eye(4)
    affine[:3, 0] = first.along_row * first.spacing[0]
    affine[:3, 1] = first.along_column * first.spacing[1]
    affine[:3, 3] = first.position
    if len(slices) > 1:
        uneven = _check_gaps(slices)
        affine[:3, 2] = (last.position - first.position) / (len(slices) - 1)
        _check_line(slices, affine, even=uneven is None)
        return affine, uneven
    tag = "SpacingBetweenSlices" if read_number(first.header, "SpacingBetweenSlices", first.path) else "SliceThickness"
    thickness = read_number(first.header, tag, first.path)
    if thickness is None:
        raise ValueError(f"Expected SliceThickness in the only slice of a series, it is missing in {first.path}.")
    if thickness <= 0:
        raise ValueError(f"Expected {tag} above zero in the only slice of a series, got {thickness:g} in {first.path}.")
    check_spacing((thickness,), first.path)
    affine[:3, 2] = np.cross(first.along_row, first.along_column) * thickness
    return affine, None


def _check_gaps(slices: list[_Slice]) -> str | None:
    """Reject doubled and missing slices, naming the gap in mm and the files on either side.

    Returns:
        A note if the slices are unevenly spaced, but none is missing.
    """
    heights = np.array([one.height for one in slices])
    gaps = np.diff(heights)
    narrow, wide = int(np.argmin(gaps)), int(np.argmax(gaps))
    if gaps[narrow] < SAME_PLACE_MM:
        raise ValueError(
            f"Expected one slice per position, got two at the same place: {slices[narrow].path} and "
            f"{slices[narrow + 1].path}."
        )
    # Rounding positions to 0.1 mm makes the gaps of thin slices unequal, but moves each slice only a little.
    places = np.arange(len(slices))
    line = np.polyval(np.polyfit(places, heights, 1), places)
    allowed = max(_GAP_TOLERANCE * (heights[-1] - heights[0]) / (len(slices) - 1), _PLACE_ROUNDING_MM)
    unequal = gaps[wide] > gaps[narrow] * (1 + _GAP_TOLERANCE) + _GAP_ROUNDING_MM
    if not unequal or np.abs(heights - line).max() <= allowed:
        return None
    steps = _number_steps(slices)
    if steps is not None and len(np.unique(np.sign(steps))) > 1:
        raise ValueError(
            f"Expected evenly spaced slices, got gaps of {gaps[narrow]:.2f} to {gaps[wide]:.2f} mm and instance "
            f"numbers that go back and forth in the series of {slices[0].path}: two stacks in one?"
        )
    for at in np.flatnonzero(_holes(gaps, steps)):
        raise ValueError(
            f"Expected evenly spaced slices, got a gap of {gaps[at]:.2f} mm between {slices[at].path} and "
            f"{slices[at + 1].path} where others are {gaps[narrow]:.2f} mm apart: a slice is missing."
        )
    return (
        f"The slices are unevenly spaced, {gaps[narrow]:.2f} to {gaps[wide]:.2f} mm apart: they were interpolated onto "
        "even positions by where they are."
    )


def _number_steps(slices: list[_Slice]) -> np.ndarray | None:
    """Steps of the instance numbers from slice to slice; None if some slice has none."""
    numbers = [one.number for one in slices if one.number is not None]
    return np.diff(numbers) if len(numbers) == len(slices) else None


def _holes(gaps: np.ndarray, steps: np.ndarray | None) -> np.ndarray:
    """Which gaps are missing slices: far wider than both neighbours with skipped numbers, or far wider than most."""
    around = np.concatenate([[0.0], gaps, [0.0]])
    wider = gaps > _HOLE * np.maximum(around[:-2], around[2:])
    usual = 1 if steps is None else np.min(np.abs(steps))
    skipped = np.ones(len(gaps), dtype=bool) if steps is None else np.abs(steps) > usual
    return (wider & skipped) | (gaps > _WIDEST * np.median(gaps))


def _check_line(slices: list[_Slice], affine: np.ndarray, *, even: bool) -> None:
    """Reject slices that are shifted sideways by different amounts."""
    rise = slices[-1].height - slices[0].height
    for index, one in enumerate(slices):
        place = index if even else (one.height - slices[0].height) / rise * (len(slices) - 1)
        aside = one.position - affine[:3, 3] - place * affine[:3, 2]
        inside = np.array([aside @ one.along_row, aside @ one.along_column])
        if np.abs(inside).max() > _LINE_MM:
            raise ValueError(
                f"Expected the first pixels of all slices on a straight line, {one.path} is {np.abs(inside).max():.1f} "
                "mm off it."
            )


def _check_runs(slices: list[_Slice], numbers: list[int]) -> None:
    """Reject slices whose numbers are two runs or more that alternate: reconstructions or phases between each other."""
    for count in range(2, min(_MOST_RUNS, len(numbers) // _SHORTEST_RUN) + 1):
        runs = sorted((numbers[at::count] for at in range(count)), key=min)
        signs = {float(sign) for run in runs for sign in np.sign(np.diff(run))}
        if len(signs) == 1 and all(max(one) < min(other) for one, other in itertools.pairwise(runs)):
            shown = " and ".join(f"{min(run)} to {max(run)}" for run in runs)
            raise ValueError(
                f"Expected slices of one scan, got instance numbers that alternate between {shown} in the series of "
                f"{slices[0].path}: {count} stacks in one?"
            )


def _check_numbers(slices: list[_Slice]) -> list[str]:
    """Look for missing slices in an evenly spaced stack: skipped instance numbers and a gap that slices do not cover.

    Returns:
        A note if numbers are skipped in a way that does not point to a missing slice.

    Raises:
        ValueError: If all numbers run in one direction in equal steps except for one, or are runs that alternate.
    """
    numbers = [one.number for one in slices if one.number is not None]
    if len(slices) < 2 or len(numbers) < len(slices):
        return []
    _check_runs(slices, numbers)
    steps = np.diff(numbers)
    gaps = np.diff([one.height for one in slices])
    thick = np.array([one.thickness if one.thickness and one.thickness > 0 else np.inf for one in slices[:-1]])
    open_gaps = (np.abs(steps) > 1) & (gaps > thick * (1 + _GAP_TOLERANCE) + _GAP_ROUNDING_MM)
    if not open_gaps.any():
        return []
    sizes, counts = np.unique(np.abs(steps), return_counts=True)
    # Two slices have a single step; it is compared with the usual step of 1.
    usual = sizes[np.argmax(counts)] if len(steps) > 1 else 1
    odd = np.flatnonzero((np.abs(steps) != usual) & open_gaps)
    if len(np.unique(np.sign(steps))) == 1 and len(odd) == 1 and np.count_nonzero(np.abs(steps) != usual) == 1:
        lower, upper, gap = slices[odd[0]], slices[odd[0] + 1], gaps[odd[0]]
        raise ValueError(
            f"Expected neighbouring slices, got a gap of {gap:.2f} mm between {lower.path} and {upper.path}, instance "
            f"numbers {lower.number} and {upper.number}, slices {lower.thickness:g} mm thick: a slice is missing."
        )
    at = int(np.argmax(open_gaps))
    return [
        f"The slices are evenly spaced, {gaps[at]:.2f} mm, but thinner than that, and their instance numbers skip some "
        f"({slices[at].number} to {slices[at + 1].number}): they were read without change."
    ]
