"""Images that a series holds next to its slices: localizers and pictures of screens that do not say what they are.

An image is set apart only where its header shows that it cannot be a slice of the stack that nearly all others are.
Whatever may be a slice with a wrong header stays, and the reader rejects the series.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom

from .dicom_files import read_numbers, read_text, read_vector
from .enhanced_ct import is_enhanced

Headers = tuple[tuple[Path, pydicom.Dataset], ...]

_SHAPE = (("Rows", 1), ("Columns", 1), ("PixelSpacing", 2), ("ImageOrientationPatient", 6))
# All others are at least this many times as many as the images that are set apart.
_MAJORITY = 4
# Planes this far apart cross: slices of one stack are parallel, and the gantry leans by 30 degrees at most.
_CROSSING_DEGREES = 45.0
# A localizer comes once, or is repeated; more images across the slices may be a scan of their own.
_MOST_LOCALIZERS = 2
# Another kind of image differs from all slices in one of these; a slice with a wrong place or direction does not.
_KIND = (
    "Rows",
    "Columns",
    "PixelSpacing",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "ImageType",
)
_OWNER = ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID")
# Kind and reason.
_LOCALIZER = ("CT localizer", "another kind of image, whose plane crosses the slices of its series: a localizer")
_SCREEN = ("picture of a screen", "another kind of image than the slices of its series, without a place in the patient")


def slice_shapes(headers: Headers) -> list[np.ndarray] | None:
    """Rows, columns, pixel spacing and directions of each slice ``(10,)``; None if one lacks them."""
    shapes = [_shape(path, header) for path, header in headers]
    found = [shape for shape in shapes if shape is not None]
    return found if len(found) == len(shapes) else None


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two shapes are those of slices of one stack."""
    same = np.allclose(one[:4], other[:4], rtol=1e-3, atol=0)
    return bool(same and (one[:2] == other[:2]).all() and np.allclose(one[4:], other[4:], rtol=0, atol=1e-3))


def groups(shapes: Sequence[np.ndarray]) -> list[int]:
    """Number of the group of shapes that are alike, for each, counted in the order in which they come."""
    seen: list[np.ndarray] = []
    of: list[int] = []
    for shape in shapes:
        match = next((index for index, other in enumerate(seen) if alike(shape, other)), None)
        of.append(len(seen) if match is None else match)
        if match is None:
            seen.append(shape)
    return of


def set_apart(headers: Headers) -> tuple[Headers, dict[tuple[str, str], Headers]]:
    """Separate the images that cannot be slices of the stack of nearly all others.

    Args:
        headers: Path and header of each image of a series.

    Returns:
        The others, in their order, and by kind and reason those that were set apart: images that differ from every
        slice in size, pixel spacing, colours, bits or ImageType, and whose plane crosses the slices (at most two), or
        which have neither position nor orientation. Not those that name another patient or study.
    """
    shapes = [_shape(path, header) for path, header in headers]
    known = [at for at, shape in enumerate(shapes) if shape is not None]
    of = groups([shape for shape in shapes if shape is not None])
    if not of:
        return headers, {}
    largest = max(set(of), key=of.count)
    stack = [known[at] for at, group in enumerate(of) if group == largest]
    others = sorted(set(range(len(headers))) - set(stack))
    if not others or len(stack) < _MAJORITY * len(others):
        return headers, {}
    plane, slices = shapes[stack[0]], [headers[at][1] for at in stack]
    odd = [at for at in others if _other_kind(headers[at][1], slices) and not _strange(headers[at][1], slices[0])]
    crossing = [at for at in odd if _crosses(*headers[at], plane)]
    found = {
        _LOCALIZER: crossing if len(crossing) <= _MOST_LOCALIZERS else [],
        _SCREEN: [at for at in odd if _placeless(*headers[at])],
    }
    gone = {at for part in found.values() for at in part}
    kept = tuple(entry for at, entry in enumerate(headers) if at not in gone)
    return kept, {kind: tuple(headers[at] for at in part) for kind, part in found.items() if part}


def _shape(path: Path, header: pydicom.Dataset) -> np.ndarray | None:
    try:
        return np.concatenate([read_vector(header, tag, length, path) for tag, length in _SHAPE])
    except ValueError:
        return None


def _normal(along: Sequence[float] | np.ndarray) -> np.ndarray | None:
    normal = np.cross(along[:3], along[3:])
    length = np.linalg.norm(normal)
    return normal / length if length > 0.5 else None


def _crosses(path: Path, header: pydicom.Dataset, plane: np.ndarray | None) -> bool:
    try:
        along = read_vector(header, "ImageOrientationPatient", 6, path)
    except ValueError:
        return False
    one, other = _normal(along), None if plane is None else _normal(plane[4:])
    return one is not None and other is not None and abs(one @ other) < np.cos(np.radians(_CROSSING_DEGREES))


def _placeless(path: Path, header: pydicom.Dataset) -> bool:
    # A frame without a place may be one of the scan; several frames of another kind have places in tags of their own.
    if read_text(header, "NumberOfFrames") not in ("", "1") or is_enhanced(header):
        return False
    try:
        return not any(read_numbers(header, f"Image{tag}Patient", path) for tag in ("Position", "Orientation"))
    except ValueError:
        return False


def _other_kind(header: pydicom.Dataset, slices: Sequence[pydicom.Dataset]) -> bool:
    return any(read_text(header, tag) not in {read_text(one, tag) for one in slices} for tag in _KIND)


def _strange(header: pydicom.Dataset, other: pydicom.Dataset) -> bool:
    """Whether two images name different patients or studies."""
    pairs = [(read_text(header, tag), read_text(other, tag)) for tag in _OWNER]
    return any(one and two and one != two for one, two in pairs)
