"""A DICOM series from its folder: headers checked, slices put in order, pixels read.

Problems of a series are reported before its pixels are read: several series in one folder, slices that
are missing, doubled or of another size, a modality without Hounsfield units. Files that are not CT
slices (localizers, reports, segmentations, other files) are left out, each with a line, see
`scripts.data.scans.dicom.dicom_headers`.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom

from ....storage.atomic_files import hash_into
from ..uneven_spacing import even_places, spread
from ..volume_files.stored_image import Note, StoredImage, check_spacing
from .dicom_files import bytes_before_pixels, read_bytes, read_number
from .dicom_headers import ImageKey, Series, file_contents, files_on_disk, folder_files, read_contents
from .dicom_pixels import read_hounsfield
from .dicom_slices import Slice, check_tilt, parse_slice
from .dicom_stacks import SAME_PLACE_MM
from .enhanced_ct import frame_files, frame_of

# Neighbouring distances of one stack may differ by this fraction plus this many mm (headers are rounded).
_GAP_TOLERANCE = 0.1
_GAP_ROUNDING_MM = 0.02
# Unequal gaps are accepted if all slices are this close to even positions, as with positions rounded to 0.1 mm.
_PLACE_ROUNDING_MM = 0.06
# A gap this many times as wide as those next to it is a hole, unless the numbers of the slices are consecutive.
_HOLE = 1.5
# A gap this many times as wide as most is never filled, even if the numbers are consecutive.
_WIDEST = 3.0
# Runs of instance numbers that alternate in one stack, and the slices of each.
_MOST_RUNS, _SHORTEST_RUN = 4, 3
# Positions of one stack are on a straight line within this many mm.
_LINE_MM = 0.5


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


def read_file(path: Path) -> StoredImage | None:
    """Read the CT series of a single file, like `read_series`; None if the file is not an Enhanced CT."""
    contents = file_contents(path)
    return None if contents is None else read_found(contents.choose(None, path), contents.notes)


def read_slices(
    images: Sequence[ImageKey], where: Path, notes: Sequence[str] = (), uid: str | None = None
) -> StoredImage:
    """Read the CT series of some images, like `read_series`.

    Args:
        images: The slices of one series, see `scripts.data.scans.dicom.dicom_headers.Series.images`.
        where: Name of the place in messages.
        notes: Earlier notes about the place of the series.
        uid: SeriesInstanceUID that was found in them, which names the results; None for any.

    Raises:
        ValueError: As `read_series` does, and if the images are those of another series now.
        OSError: As `read_series` does.
    """
    contents = read_contents(files_on_disk(dict.fromkeys(path for path, _ in images)))
    # A file may hold frames of several.
    same = [one for one in contents.series if one.images == tuple(images) and uid in (None, one.uid)]
    return read_found(same[0] if len(same) == 1 else contents.choose(uid, where), (*notes, *contents.notes))


def read_found(series: Series, notes: Sequence[str] = ()) -> StoredImage:
    """Read a series whose headers are known, like `read_series`; each file is opened once.

    Args:
        series: The series.
        notes: Earlier notes about the place of the series.
    """
    if series.problem is not None:
        raise series.problem
    slices = sorted((parse_slice(path, header) for path, header in series.headers), key=lambda one: one.height)
    _check_alike(slices)
    for one in slices:
        check_tilt(one)
    affine, uneven = _affine(slices)
    told = (*notes, *series.notes, *_check_numbers(slices), *([] if uneven is None else [uneven]))
    image = replace(_read_images(slices), affine=affine, notes=told, series=series.uid)
    if uneven is None:
        return image
    # The slices are interpolated onto even positions right away; the way back is kept.
    places, _ = even_places(np.array([one.height for one in slices]))
    affine[:3, 2] *= (len(slices) - 1) / places[-1]
    return replace(image, values=spread(image.values, places), places=places)


def _read_images(slices: Sequence[Slice]) -> StoredImage:
    """The pixels of slices in their order, their files and headers; the affine is that of no place."""
    of_file: dict[Path, list[int]] = defaultdict(list)
    for index, one in enumerate(slices):
        of_file[one.path].append(index)
    digest = hashlib.sha256()
    planes: dict[int, np.ndarray] = {}
    headers: dict[int, bytes | None] = {}
    for path, own in of_file.items():
        for at, content in _contents(path, [slices[index].header for index in own], digest):
            planes[own[at]] = read_hounsfield(path, slices[own[at]].header, content)
            headers[own[at]] = bytes_before_pixels(path, content, slices[own[at]].header)
    order = range(len(slices))
    frames = tuple(frame_of(one.header) for one in slices)
    return StoredImage(
        np.stack([planes.pop(index) for index in order], axis=-1),
        np.eye(4),
        tuple(one.path for one in slices),
        sha256=digest.hexdigest(),
        headers=tuple(headers[index] for index in order),
        frames=frames if any(frames) else (),
    )


def _contents(path: Path, headers: Sequence[pydicom.Dataset], digest: hashlib._Hash) -> Iterator[tuple[int, bytes]]:
    """Index of the header and content of a file, for each slice in one; the file goes into the digest."""
    if frame_of(headers[0]) is None:
        content = read_bytes(path)
        digest.update(content)
        yield 0, content
        return
    hash_into(digest, path)
    yield from frame_files(path, headers)


def _check_alike(slices: list[Slice]) -> None:
    """Reject a stack whose slices differ in size, spacing or direction."""
    first = slices[0]
    size = (first.header.Rows, first.header.Columns)
    for one in slices[1:]:
        if (one.header.Rows, one.header.Columns) != size:
            raise ValueError(
                f"Expected slices of one size, got {size} in {first} and "
                f"{(one.header.Rows, one.header.Columns)} in {one}."
            )
        if not np.allclose(one.spacing, first.spacing, rtol=1e-3):
            raise ValueError(f"Expected one pixel spacing, got {first.spacing} in {first} and {one.spacing} in {one}.")
        if not np.allclose([*one.along_row, *one.along_column], [*first.along_row, *first.along_column], atol=1e-3):
            raise ValueError(f"Expected slices of one orientation, {first} and {one} are turned differently.")


def _affine(slices: list[Slice]) -> tuple[np.ndarray, str | None]:
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
    tag = "SpacingBetweenSlices" if read_number(first.header, "SpacingBetweenSlices", str(first)) else "SliceThickness"
    thickness = read_number(first.header, tag, str(first))
    if thickness is None:
        raise ValueError(f"Expected SliceThickness in the only slice of a series, it is missing in {first}.")
    if thickness <= 0:
        raise ValueError(f"Expected {tag} above zero in the only slice of a series, got {thickness:g} in {first}.")
    check_spacing((thickness,), str(first))
    affine[:3, 2] = np.cross(first.along_row, first.along_column) * thickness
    return affine, None


def _check_gaps(slices: list[Slice]) -> str | None:
    """Reject doubled and missing slices, naming the gap in mm and the files on either side.

    Returns:
        A note if the slices are unevenly spaced, but none is missing.
    """
    heights = np.array([one.height for one in slices])
    gaps = np.diff(heights)
    narrow, wide = int(np.argmin(gaps)), int(np.argmax(gaps))
    if gaps[narrow] < SAME_PLACE_MM:
        raise ValueError(
            f"Expected one slice per position, got two at the same place: {slices[narrow]} and {slices[narrow + 1]}."
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
            f"numbers that go back and forth in the series of {slices[0]}: two stacks in one?"
        )
    for at in np.flatnonzero(_holes(gaps, steps)):
        raise ValueError(
            f"Expected evenly spaced slices, got a gap of {gaps[at]:.2f} mm between {slices[at]} and "
            f"{slices[at + 1]} where others are {gaps[narrow]:.2f} mm apart: a slice is missing."
        )
    return (
        f"The slices are unevenly spaced, {gaps[narrow]:.2f} to {gaps[wide]:.2f} mm apart: they were interpolated onto "
        "even positions by where they are."
    )


def _number_steps(slices: list[Slice]) -> np.ndarray | None:
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


def _check_line(slices: list[Slice], affine: np.ndarray, *, even: bool) -> None:
    """Reject slices that are shifted sideways by different amounts."""
    rise = slices[-1].height - slices[0].height
    for index, one in enumerate(slices):
        place = index if even else (one.height - slices[0].height) / rise * (len(slices) - 1)
        aside = one.position - affine[:3, 3] - place * affine[:3, 2]
        inside = np.array([aside @ one.along_row, aside @ one.along_column])
        if np.abs(inside).max() > _LINE_MM:
            raise ValueError(
                f"Expected the first pixels of all slices on a straight line, {one} is {np.abs(inside).max():.1f} "
                "mm off it."
            )


def _check_runs(slices: list[Slice], numbers: list[int]) -> None:
    """Reject slices whose numbers are two runs or more that alternate: reconstructions or phases between each other."""
    for count in range(2, min(_MOST_RUNS, len(numbers) // _SHORTEST_RUN) + 1):
        runs = sorted((numbers[at::count] for at in range(count)), key=min)
        signs = {float(sign) for run in runs for sign in np.sign(np.diff(run))}
        if len(signs) == 1 and all(max(one) < min(other) for one, other in itertools.pairwise(runs)):
            shown = " and ".join(f"{min(run)} to {max(run)}" for run in runs)
            raise ValueError(
                f"Expected slices of one scan, got instance numbers that alternate between {shown} in the series of "
                f"{slices[0]}: {count} stacks in one?"
            )


def _check_numbers(slices: list[Slice]) -> list[str]:
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
            f"Expected neighbouring slices, got a gap of {gap:.2f} mm between {lower} and {upper}, instance "
            f"numbers {lower.number} and {upper.number}, slices {lower.thickness:g} mm thick: a slice is missing."
        )
    at = int(np.argmax(open_gaps))
    return [
        f"The slices are evenly spaced, {gaps[at]:.2f} mm, but thinner than that, and their instance numbers skip some "
        f"({slices[at].number} to {slices[at + 1].number}): they were read without change."
    ]
