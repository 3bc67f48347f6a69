"""Enhanced CT: the frames of one file, each as the slice that a file of its own would hold.

What frames share and what each has of its own is in functional groups (PS3.3 C.7.6.16). They become one header like
that of a single slice, so that whatever is checked of slices is checked of frames. Of a file's other tags none stands
in for a place or a rescale that the groups lack.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pydicom
from pydicom import encaps
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.tag import BaseTag
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
)

from ....storage.dicom_errors import ODD_CONTENT
from ....storage.printable import one_line
from .dicom_files import check_same_image, is_raw, missing_pixels, read_dataset, read_number, read_text

ENHANCED = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
# The tag of a frame's header with its number in the file, from 1; images themselves have none at this place.
FRAME_TAG = "ReferencedFrameNumber"
_SHARED, _PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
_CONCATENATION = (
    "ConcatenationFrameOffsetNumber",
    "ConcatenationUID",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
)
# Place and values of a frame are in these groups alone.
_REQUIRED = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
}
# What else tells frames apart, or shows them.
_OTHERS = {
    "CardiacSynchronizationSequence": ("NominalCardiacTriggerDelayTime", "NominalPercentageOfCardiacPhase"),
    "CTAcquisitionDetailsSequence": ("GantryDetectorTilt",),
    "CTImageFrameTypeSequence": ("FrameType", "VolumeBasedCalculationTechnique", "VolumetricProperties"),
    "CTReconstructionSequence": ("ConvolutionKernel", "ReconstructionDiameter"),
    "CTXRayDetailsSequence": ("FilterType", "KVP"),
    "FrameContentSequence": ("FrameAcquisitionNumber", "InStackPositionNumber", "StackID", "TemporalPositionIndex"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth"),
    "RespiratorySynchronizationSequence": (
        "NominalPercentageOfRespiratoryPhase",
        "NominalRespiratoryTriggerDelayTime",
    ),
    # A converter keeps here what the headers of single slices had; of that a frame has no tag of its own.
    **dict.fromkeys(
        ("UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence"),
        (
            *("AcquisitionNumber", "ContrastBolusAgent", "ConvolutionKernel", "EchoNumbers", "FilterType"),
            *("GantryDetectorTilt", "InstanceNumber", "KVP", "NominalPercentageOfCardiacPhase"),
            *("ReconstructionDiameter", "TemporalPositionIdentifier", "TriggerTime", "WindowCenter", "WindowWidth"),
        ),
    ),
}
# Tags of groups by their name in the header of a frame. Gaps in the numbers of converted slices show what is missing.
_RENAMED = {
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameType": "ImageType",
    "InstanceNumber": "InStackPositionNumber",
}
_OFFSETS = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
# What of a file is not in the header of a frame, unless the groups give it.
_GROUPS = (_SHARED, _PER_FRAME, *(tag for tags in _REQUIRED.values() for tag in tags))
TAGS = (
    *_CONCATENATION,
    _SHARED,
    _PER_FRAME,
    "NumberOfFrames",
    "VolumeBasedCalculationTechnique",
    "VolumetricProperties",
)
# Of the sequences of a file results have this one; others list all images of a series.
_KEPT_SEQUENCE = "DeidentificationMethodCodeSequence"
# No other tag of a file that is read or shown with a frame has more bytes.
_LONGEST = 4096
# Only frames are told apart by these: slices of their own may have kept them of the file that they came from.
KINDS = (
    "StackID",
    "TemporalPositionIndex",
    "NominalCardiacTriggerDelayTime",
    "NominalPercentageOfRespiratoryPhase",
    "NominalRespiratoryTriggerDelayTime",
)
# Values of VolumeBasedCalculationTechnique whose pixels are those of planes.
_PLANES = ("", "NONE", "MPR")


def is_enhanced(header: pydicom.Dataset) -> bool:
    """Whether a file is an Enhanced CT, or one converted from single slices."""
    return read_text(header, "SOPClassUID") in ENHANCED


def frame_of(header: pydicom.Dataset) -> int | None:
    """Number of the frame that a header of `split_frames` describes, from 1; None for any other header."""
    number = read_text(header, FRAME_TAG)
    return int(number) if number.isdecimal() and is_enhanced(header) else None


def image_name(name: object, header: pydicom.Dataset) -> str:
    """What messages call an image: its file, or the frame of it."""
    frame = frame_of(header)
    return str(name) if frame is None else f"frame {frame} of {name}"


def not_a_plane(header: pydicom.Dataset) -> str:
    """Why the pixels of a frame are not those of a plane of the patient; ``""`` if they are, and of a whole file."""
    if frame_of(header) is None:
        return ""
    technique = read_text(header, "VolumeBasedCalculationTechnique").upper()
    if technique not in _PLANES:
        return f"a projection or curved plane ({technique})"
    return "a curved plane" if read_text(header, "VolumetricProperties").upper() == "DISTORTED" else ""


def split_frames(path: Path, header: pydicom.Dataset) -> list[pydicom.Dataset]:
    """Make a header like that of a slice for each frame of a file.

    Args:
        path: Name of the file in messages.
        header: Its header with `TAGS`.

    Returns:
        In the order of the frames. Each has the file's tags and those of its groups, its number under `FRAME_TAG`, and
        no groups.

    Raises:
        OSError: If groups are missing, contradict each other or the number of frames, or cannot be read.
    """
    try:
        number = int(read_number(header, "NumberOfFrames", path) or 0)
        frames = list(header.get(_PER_FRAME) or ())
        shared = list(header.get(_SHARED) or (pydicom.Dataset(),))
        if len(shared) != 1:
            raise ValueError(f"{len(shared)} items of {_SHARED}")
        if number < 1 or len(frames) != number:
            raise ValueError(f"NumberOfFrames {number} and functional groups of {len(frames)} frames")
        bare = _copied(header)
        _drop(bare, _GROUPS)
        return [_frame_header(bare, shared[0], own, at) for at, own in enumerate(frames, start=1)]
    except ODD_CONTENT as error:
        raise OSError(
            f"Expected an Enhanced CT whose functional groups describe each frame, cannot use {path}: "
            f"{one_line(error, 200)}."
        ) from error


def _copied(header: pydicom.Dataset) -> pydicom.FileDataset:
    """A data set of its own with the same elements: a copy of Python's would share them."""
    copied = pydicom.FileDataset("", {}, preamble=header.preamble, file_meta=header.file_meta)
    copied.set_original_encoding(*header.original_encoding, header.original_character_set)
    _add(copied, header)
    return copied


def _add(header: pydicom.Dataset, other: pydicom.Dataset) -> None:
    """Add the elements of another data set, as they were read."""
    for tag in list(other.keys()):
        header[tag] = other.get_item(tag)


def _drop(header: pydicom.Dataset, tags: Iterable[str | BaseTag]) -> None:
    for tag in tags:
        header.pop(tag, None)


def _frame_header(bare: pydicom.Dataset, shared: pydicom.Dataset, own: pydicom.Dataset, number: int) -> pydicom.Dataset:
    header = _copied(bare)
    for group, tags in {**_OTHERS, **_REQUIRED}.items():
        items = _items(group, shared, own, number)
        if len(items) > 1 and group in _REQUIRED:
            raise ValueError(f"{len(items)} items of {group} for frame {number}")
        # Two tubes have an item each: what is not the same for a frame does not tell frames apart.
        for tag in tags if len(items) == 1 else ():
            if tag in items[0] and (name := _RENAMED.get(tag)):
                # The element of the file is that of all frames.
                header.pop(name, None)
                setattr(header, name, items[0][tag].value)
            elif tag in items[0]:
                header[tag] = items[0].get_item(tag)
    setattr(header, FRAME_TAG, number)
    return header


def _items(group: str, shared: pydicom.Dataset, own: pydicom.Dataset, number: int) -> Sequence[pydicom.Dataset]:
    """The items of a functional group of a frame: its own, or those of all frames."""
    found = [groups[group].value for groups in (shared, own) if group in groups]
    if group in _REQUIRED and len(found) == 2 and found[0] != found[1]:
        raise ValueError(f"{group} twice for frame {number}, for all frames and for itself, with other values")
    return found[-1] if found else ()


def missing_part(headers: Sequence[tuple[Path, pydicom.Dataset]]) -> ValueError | None:
    """What is missing of frames that were stored in several files (a concatenation), None if nothing is.

    Args:
        headers: Path and header of each image of a series.
    """
    try:
        _check_parts(headers)
    except ValueError as error:
        return error
    return None


def _check_parts(headers: Sequence[tuple[Path, pydicom.Dataset]]) -> None:
    parts: dict[str, dict[str, tuple[Path, pydicom.Dataset]]] = defaultdict(dict)
    for path, header in headers:
        uid = read_text(header, "ConcatenationUID")
        if uid and frame_of(header) is not None:
            parts[uid].setdefault(read_text(header, "InConcatenationNumber"), (path, header))
    for found in parts.values():
        files = dict(sorted((int(number) if number.isdecimal() else 0, file) for number, file in found.items()))
        path, header = next(iter(files.values()))
        total = read_number(header, "InConcatenationTotalNumber", path)
        wanted = range(1, int(total or max(files)) + 1)
        if list(files) != list(wanted):
            got = ", ".join(map(str, files))
            raise ValueError(f"Expected parts 1 to {wanted[-1]} of a scan in several files, got {got} ({path}).")
        end = 0.0
        for number, (path, header) in files.items():
            start = read_number(header, "ConcatenationFrameOffsetNumber", path)
            if start is None or start != end:
                raise ValueError(
                    f"Expected {end:g} frames before part {number} of a scan in several files, got {start} "
                    f"(ConcatenationFrameOffsetNumber) in {path}."
                )
            end = start + (read_number(header, "NumberOfFrames", path) or 0)


def frame_files(path: Path, headers: Sequence[pydicom.Dataset]) -> Iterator[tuple[int, bytes]]:
    """Write frames of a file as the files of single slices.

    Args:
        path: The file.
        headers: A header of `split_frames` for each wanted frame.

    Yields:
        Index of the header, and the content of a file with the tags of the enhanced file that say something of a frame,
        those of the header, and the pixels of the frame as they are coded. In the order of the file.

    Raises:
        OSError: If the file cannot be read, holds fewer or more pixels than it has frames, or was replaced since the
            headers were read.
    """
    whole = read_dataset(path)
    check_same_image(path, headers[0], whole)
    _drop(whole, (*_GROUPS, *_OFFSETS, *(tag for tag in list(whole.keys()) if _of_no_frame(whole, tag))))
    # ITK looks for the rescale of an enhanced file in groups.
    whole.file_meta.MediaStorageSOPClassUID = CTImageStorage
    implicit, little = (value is not False for value in whole.original_encoding)
    if is_raw(headers[0]):
        # What was deflated is not any more, and a coding that was named wrongly is named rightly.
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        whole.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    wanted = {frame_of(header): at for at, header in enumerate(headers)}
    for frame, pixels in enumerate(_frame_pixels(path, headers[0]), start=1):
        if (at := wanted.get(frame)) is not None:
            yield at, _file_of(whole, headers[at], pixels)


def _of_no_frame(whole: pydicom.Dataset, tag: BaseTag) -> bool:
    """Whether a tag of a file is of no use with a frame; with each of n frames, a list of all takes n² bytes."""
    try:
        element = whole.get_item(tag)
    except ODD_CONTENT:
        # Damaged, as it may be in a file of one slice: what is needed is in the header of the frame.
        return True
    if tag.is_private or element is None:
        return True
    if (element.VR or (dictionary_VR(tag) if dictionary_has_tag(tag) else "UN")) == "SQ":
        return keyword_for_tag(tag) != _KEPT_SEQUENCE
    return isinstance(element.value, bytes) and len(element.value) > _LONGEST


def _frame_pixels(path: Path, header: pydicom.Dataset) -> Iterator[bytes]:
    """The pixels of every frame of a file, as they are coded."""
    number, size = int(header.NumberOfFrames), header.Rows * header.Columns * header.BitsAllocated // 8
    stored = read_dataset(path, tags=["PixelData", *_OFFSETS])
    element = stored.get_item("PixelData")
    pixels = None if element is None else element.value
    if not isinstance(pixels, bytes):
        raise missing_pixels(path)
    if not is_raw(header):
        yield from _coded_frames(path, pixels, number, stored)
        return
    if len(pixels) < number * size or pixels[number * size :].strip(b"\0"):
        raise OSError(
            f"Expected {number * size} bytes of pixels for {number} frames, got {len(pixels)} in {path}: it is cut "
            "short, or its size differs from the header."
        )
    yield from (pixels[at * size : (at + 1) * size] for at in range(number))


def _coded_frames(path: Path, pixels: bytes, number: int, stored: pydicom.Dataset) -> Iterator[bytes]:
    """The pixels of every frame, compressed."""
    count = 0
    try:
        offsets = tuple(stored[tag].value for tag in _OFFSETS) if all(tag in stored for tag in _OFFSETS) else None
        for frame in encaps.generate_frames(pixels, number_of_frames=number, extended_offsets=offsets):
            count += 1
            yield frame
    except ODD_CONTENT as error:
        raise OSError(
            f"Expected the compressed pixels of {number} frames, cannot use those of {path}: {one_line(error, 200)}."
        ) from error
    if count != number:
        raise OSError(f"Expected the compressed pixels of {number} frames, got those of {count} in {path}.")


def _file_of(whole: pydicom.Dataset, header: pydicom.Dataset, pixels: bytes) -> bytes:
    """The content of a file with a frame, see `frame_files`."""
    image = _copied(whole)
    _add(image, header)
    _drop(image, (FRAME_TAG, "NumberOfFrames"))
    coded = not is_raw(header)
    image.add_new("PixelData", "OB" if coded else "OW", encaps.encapsulate([pixels]) if coded else pixels)
    image["PixelData"].is_undefined_length = coded
    file = DicomBytesIO()
    file.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(file, whole.file_meta, enforce_standard=False)
    file.is_implicit_VR, file.is_little_endian = (value is not False for value in whole.original_encoding)
    write_dataset(file, image)
    return file.getvalue()
