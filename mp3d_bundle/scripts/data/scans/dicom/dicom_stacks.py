"""Find out which slices of one SeriesInstanceUID belong together.

DICOM (PS3.3 C.7.1 to C.7.4) gives one patient, one study, one series number, one device and one frame of reference to
all images of a series. Files whose UIDs were wiped to one value, or that a program exported wrongly, break that. So
slices are sorted by the tags that must agree. If a tag does not separate them with certainty, the series gets a
problem that names both values.

Tags that may differ within a scan (such as AcquisitionNumber in a scan of several stacks, one above the other) separate
slices only if they are at the same positions or between each other.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom

from ..volume_files.stored_image import Note
from .dicom_files import Open, read_numbers, read_pixel_bytes, read_text, read_vector
from .enhanced_ct import KINDS as FRAME_KINDS
from .enhanced_ct import frame_of, image_name
from .odd_images import Headers, groups, set_apart, slice_shapes

# Different values mean different scans.
_SPLIT = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "SeriesNumber")
# These must agree too, but one of two values may be an error: it is unknown whose images they are.
_PERSON = ("PatientName", "PatientBirthDate")
_REFUSE = (
    *_PERSON,
    "PatientSex",
    "IssuerOfPatientID",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "Manufacturer",
    "DeviceSerialNumber",
)
# These separate reconstructions, phases and energies, the last one also stacks of one scan.
_KINDS = (
    "ImageType",
    "ConvolutionKernel",
    "KVP",
    "TemporalPositionIdentifier",
    "NominalPercentageOfCardiacPhase",
    "TriggerTime",
    "EchoNumbers",
    "ContrastBolusAgent",
    "FilterType",
    "ReconstructionDiameter",
    "SliceThickness",
    "PatientPosition",
    "SeriesDescription",
    *FRAME_KINDS,
    "AcquisitionNumber",
)
_ACQUISITION = "AcquisitionNumber"
# What makes Hounsfield units at a place of stored pixels: copies of an image agree in these and in their pixels.
_IMAGE = (
    "BitsAllocated",
    "BitsStored",
    "Columns",
    "HighBit",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PixelPaddingRangeLimit",
    "PixelPaddingValue",
    "PixelRepresentation",
    "PixelSpacing",
    "RescaleIntercept",
    "RescaleSlope",
    "Rows",
)
TAGS = (*_SPLIT, *_REFUSE, *_KINDS, *_IMAGE, "SOPInstanceUID")
# Two slices closer than this are at the same position.
SAME_PLACE_MM = 1e-3
# So few positions with so many images each: the images track a contrast agent.
_TIMING_PLACES, _TIMING_TIMES = 4, 3
_TIMING = ("CT images of one place over time", "images of the same place over time (bolus tracking)")


@dataclass(frozen=True)
class Stack:
    """Slices that are one scan.

    Attributes:
        uid: SeriesInstanceUID.
        headers: Path and header of each file.
        notes: How they were separated from others.
        problem: Why they cannot be one scan, or None.
        other: Kind and description if they are not a scan.
    """

    uid: str
    headers: Headers
    notes: tuple[str, ...] = ()
    problem: Exception | None = None
    other: tuple[str, str] | None = None


def split_series(uid: str, headers: Sequence[tuple[Path, pydicom.Dataset]], files: Mapping[Path, Open]) -> list[Stack]:
    """Sort the slices of a series into stacks.

    Args:
        uid: Its SeriesInstanceUID.
        headers: Path and header of each file, with those `TAGS` that the file has.
        files: How to open each file: pixels are read of images that come twice.

    Returns:
        One stack in most cases; several in the order of their first files. A header without a usable position is left
        for the reader to reject.
    """
    stacks = [Stack(uid, tuple(headers))]
    for split in (*_BEFORE_COPIES, functools.partial(_drop_copies, files=files), *_AFTER_COPIES):
        stacks = [part for stack in stacks for part in (split(stack) if _open(stack) else [stack])]
    return stacks


def _open(stack: Stack) -> bool:
    return stack.problem is None and stack.other is None


def _value(header: pydicom.Dataset, tag: str) -> str:
    if tag in FRAME_KINDS and frame_of(header) is None:
        return ""
    text = read_text(header, tag)
    if tag == "PatientName":
        # Only the alphabetic form, which programs write with or without carets at the end.
        return " ".join(text.split("=")[0].replace("^", " ").split()).casefold()
    try:
        return f"{float(text):g}" if tag in _NUMBERS else text
    except ValueError:
        return text


_NUMBERS = ("KVP", "SliceThickness", "ReconstructionDiameter", "NominalPercentageOfCardiacPhase", "TriggerTime")


def _parts(headers: Headers, key: Callable[[pydicom.Dataset], Hashable]) -> dict[Hashable, Headers]:
    parts: dict[Hashable, list[tuple[Path, pydicom.Dataset]]] = defaultdict(list)
    for path, header in headers:
        parts[key(header)].append((path, header))
    return {value: tuple(part) for value, part in parts.items()}


def _disagreement(tag: str, parts: dict[Hashable, Headers], why: str) -> ValueError:
    (first, one), (second, other) = list(parts.items())[:2]
    shown = [
        f"{value!r} in {image_name(*part[0])}" for value, part in ((first or "none", one), (second or "none", other))
    ]
    return ValueError(f"Expected one {tag} in a scan, got {shown[0]} and {shown[1]}: {why}.")


def _by_tag(tag: str) -> Callable[[Stack], list[Stack]]:
    """Split by a tag: different values are different scans."""

    def split(stack: Stack) -> list[Stack]:
        parts = _parts(stack.headers, lambda header: _value(header, tag))
        if len(parts) == 1:
            return [stack]
        if "" in parts:
            return [replace(stack, problem=_disagreement(tag, parts, "it is unknown which scan the others belong to"))]
        if min(len(part) for part in parts.values()) == 1:
            return [replace(stack, problem=_disagreement(tag, parts, "a single slice is not a scan"))]
        return _divide(stack, tag, parts)

    return split


def _divide(stack: Stack, tag: str, parts: dict[Hashable, Headers]) -> list[Stack]:
    values = ", ".join(repr(value) for value in parts)
    text = f"Series {stack.uid} holds {len(parts)} scans that differ in {tag}: each is read separately"
    note = Note(f"{text}.", f"{text} ({values}).")
    return [replace(stack, headers=part, notes=(*stack.notes, note)) for part in parts.values()]


def _agree(stack: Stack) -> list[Stack]:
    """Reject slices that differ in a tag that must agree but does not prove whose they are."""
    for tag in _REFUSE:
        parts = _parts(stack.headers, lambda header, tag=tag: _value(header, tag))
        if tag not in _PERSON:
            parts.pop("", None)
        if len(parts) > 1:
            # As written in the headers; the comparison uses a simpler form.
            written: dict[Hashable, Headers] = {read_text(part[0][1], tag): part for part in parts.values()}
            return [replace(stack, problem=_disagreement(tag, written, "these are not the slices of one scan"))]
    return [stack]


def _drop_copies(stack: Stack, *, files: Mapping[Path, Open]) -> list[Stack]:
    """Leave out copies of an image: same SOPInstanceUID, frame, place, pixels and rescale."""
    first: dict[tuple[str, int | None], tuple[Path, pydicom.Dataset]] = {}
    # Frames share the pixels of their file.
    other_pixels = functools.cache(functools.partial(_other_pixels, files=files))
    kept, notes = [], []
    for path, header in stack.headers:
        # Absent or blank after anonymisation, which does not make files equal.
        uid = read_text(header, "SOPInstanceUID")
        key = (uid, frame_of(header))
        if not uid or key not in first:
            first[key] = (path, header)
            kept.append((path, header))
            continue
        other, same = first[key]
        try:
            what = _difference(header, same) or other_pixels(path, other)
        except OSError as error:
            return [replace(stack, problem=error)]
        if what:
            problem = ValueError(
                f"Expected a UID of its own for each image, got one SOPInstanceUID for different images: "
                f"{image_name(other, same)} and {image_name(path, header)} ({uid}) differ in {what}."
            )
            return [replace(stack, problem=problem)]
        text = f"SOP instance UID {uid}"
        notes.append(
            Note(
                f"Left out a copy of an image ({text}).",
                f"Left out {path.name}: the same image as {other.name} ({text}).",
            )
        )
    return [replace(stack, headers=tuple(kept), notes=tuple(dict.fromkeys((*stack.notes, *notes))))]


def _difference(header: pydicom.Dataset, other: pydicom.Dataset) -> str:
    """The first tag of the image in which two headers differ, ``""`` if they agree."""
    return next((tag for tag in _IMAGE if _comparable(header, tag) != _comparable(other, tag)), "")


def _comparable(header: pydicom.Dataset, tag: str) -> list[float] | str:
    """Numbers of a tag, which may be written in several ways; its text if they are invalid."""
    try:
        return read_numbers(header, tag, Path())
    except ValueError:
        return read_text(header, tag)


def _other_pixels(path: Path, other: Path, *, files: Mapping[Path, Open]) -> str:
    one, two = (read_pixel_bytes(each, files[each]) for each in (path, other))
    # A file may end in a byte that makes its length even.
    return "" if one.rstrip(b"\0") == two.rstrip(b"\0") else "their pixels, or in how these are coded"


def _without_odd(stack: Stack) -> list[Stack]:
    """Set images apart that cannot be slices of the stack of nearly all others."""
    kept, odd = set_apart(stack.headers)
    return [replace(stack, headers=kept), *(Stack(stack.uid, found, other=kind) for kind, found in odd.items())]


def _by_geometry(stack: Stack) -> list[Stack]:
    """Split slices of several sizes, pixel spacings and directions, unless one of them is a single slice."""
    shapes = slice_shapes(stack.headers)
    if shapes is None:
        return [stack]
    parts = _parts_of(stack.headers, groups(shapes))
    # One odd slice among others is an error in the series, which the reader reports.
    if len(parts) == 1 or min(len(part) for part in parts.values()) == 1:
        return [stack]
    return _divide(stack, "size, pixel spacing or orientation", parts)


def _parts_of(headers: Headers, keys: Sequence[Hashable]) -> dict[Hashable, Headers]:
    parts: dict[Hashable, list[tuple[Path, pydicom.Dataset]]] = defaultdict(list)
    for key, entry in zip(keys, headers, strict=True):
        parts[key].append(entry)
    return {key: tuple(part) for key, part in parts.items()}


def _heights(headers: Headers) -> np.ndarray | None:
    """Position of each slice along the normal of the first in mm; None if one lacks it."""
    shapes = slice_shapes(headers)
    if shapes is None:
        return None
    try:
        positions = [read_vector(header, "ImagePositionPatient", 3, path) for path, header in headers]
    except ValueError:
        return None
    return np.array(positions) @ np.cross(shapes[0][4:7], shapes[0][7:])


def _timing(stack: Stack) -> list[Stack]:
    """Detect images of one position over time, which are not a scan."""
    heights = _heights(stack.headers)
    if heights is None or len(heights) < 2:
        return [stack]
    places = 1 + np.count_nonzero(np.diff(np.sort(heights)) >= SAME_PLACE_MM)
    if places == 1 or (places <= _TIMING_PLACES and len(heights) >= places * _TIMING_TIMES):
        return [replace(stack, other=_TIMING)]
    return [stack]


def _by_kind(tag: str) -> Callable[[Stack], list[Stack]]:
    """Split by a tag that may differ within a scan, if slices with its values are at or between each other."""

    def split(stack: Stack) -> list[Stack]:
        parts = _parts(stack.headers, lambda header: _value(header, tag))
        heights = _heights(stack.headers) if len(parts) > 1 else None
        if heights is None:
            return [stack]
        values = [_value(header, tag) for _, header in stack.headers]
        doubled, between = _crossed(heights, values)
        if not doubled and not between:
            return [stack] if tag == _ACQUISITION else [_noted(stack, tag, parts)]
        if min(len(part) for part in parts.values()) > 1:
            return _divide(stack, tag, parts)
        # A repeated slice is one more acquisition; a header error gives one more value of any other tag.
        if tag == _ACQUISITION or doubled:
            return [stack]
        return [replace(stack, problem=_disagreement(tag, parts, "a slice of another kind is between the others"))]

    return split


def _noted(stack: Stack, tag: str, parts: dict[Hashable, Headers]) -> Stack:
    if len(parts) > _TIMING_PLACES:
        return stack
    text = f"The slices differ in {tag}, but follow one another: they were read as one scan"
    values = ", ".join(repr(value) for value in parts)
    return replace(stack, notes=(*stack.notes, Note(f"{text}.", f"{text} ({values}).")))


def _crossed(heights: np.ndarray, values: Sequence[str]) -> tuple[bool, bool]:
    """Whether slices of different values are at the same place, and whether some lie between those of another."""
    order = np.argsort(heights, kind="stable")
    sorted_values = [values[index] for index in order]
    changes = [one != other for one, other in itertools.pairwise(sorted_values)]
    same = np.diff(heights[order]) < SAME_PLACE_MM
    return bool((same & changes).any()), 1 + sum(changes) > len(set(values))


_BEFORE_COPIES: tuple[Callable[[Stack], list[Stack]], ...] = (_without_odd, *map(_by_tag, _SPLIT), _agree)
_AFTER_COPIES: tuple[Callable[[Stack], list[Stack]], ...] = (
    _without_odd,
    _by_geometry,
    _timing,
    *map(_by_kind, _KINDS),
)
