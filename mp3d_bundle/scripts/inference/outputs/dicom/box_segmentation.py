"""Lesions as a DICOM segmentation: a segment for each, in the pixels of the source images.

A pixel belongs to a lesion if its centre is in its mask, or in its box without a mask. Lesions may overlap, and a
stack of one mask per lesion and slice would not fit into memory for a long scan; handed to highdicom in parts, each
part is looked through for every segment. So highdicom makes one segment of all lesions, with all that is said about an
image, and each lesion then has frames like those.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import highdicom as hd
import numpy as np
from highdicom import seg
from pydicom import Dataset
from pydicom.sr.codedict import codes

from ..named_classes import class_text
from .source_images import Outlined, Rectangle, SourceSlice, pixels_in

# Frames of any size fill whole bytes together if there are so many of them.
_BITS = 8
# Letters of a class in the label of a segment, which ends after 64.
_CLASS = 40


def segment_boxes(
    slices: Sequence[SourceSlice],
    outlined: Sequence[Outlined],
    algorithm: hd.AlgorithmIdentificationSequence,
    equipment: Mapping[str, Any],
) -> Dataset:
    """Make the segmentation of a series, to be written: what highdicom knows of it in memory is of one segment only.

    Args:
        slices: The images.
        outlined: The lesions, at least one.
        algorithm: The algorithm that found them.
        equipment: UIDs, numbers and descriptions of the file, as highdicom names them.
    """
    size = np.array([slices[0].header.Columns, slices[0].header.Rows])
    patches = [{one.index: patch for one in lesion.rectangles if (patch := _patch(one, size))} for lesion in outlined]
    used = sorted({index for lesion in patches for index in lesion})
    covered = np.zeros((len(used), size[1], size[0]), dtype=np.uint16)
    for index, (where, mask) in itertools.chain.from_iterable(lesion.items() for lesion in patches):
        covered[used.index(index)][where] += mask
    segments = [_describe(number, one, algorithm) for number, one in enumerate(outlined, start=1)]
    result = seg.Segmentation(
        source_images=[slices[index].header for index in used],
        pixel_array=covered > 0,
        segmentation_type=seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments[:1],
        content_label=f"LESION_{'MASKS' if masked(outlined) else 'BOXES'}",
        content_description=equipment["series_description"],
        **equipment,
    )
    if len(outlined) == 1:
        return result
    overlap = seg.SegmentsOverlapValues.YES if (covered > 1).any() else seg.SegmentsOverlapValues.NO
    result.SegmentsOverlap = overlap.value
    result.SegmentSequence = segments
    # The number of a single segment is written once for all frames, which are then a volume.
    del result.SharedFunctionalGroupsSequence[0].SegmentIdentificationSequence
    result.pop("DimensionOrganizationType", None)
    frame_of = {_source(frame): frame for frame in result.PerFrameFunctionalGroupsSequence}
    frames, pixels = [], []
    for number, lesion in enumerate(patches, start=1):
        placed = [(frame_of[slices[index].header.SOPInstanceUID], patch) for index, patch in lesion.items()]
        for frame, patch in sorted(placed, key=lambda pair: _place(pair[0])):
            frames.append(_of_segment(frame, number))
            pixels.append(patch)
    result.PerFrameFunctionalGroupsSequence = frames
    result.NumberOfFrames = len(frames)
    result.PixelData = _packed(pixels, size)
    return result


def _describe(number: int, one: Outlined, algorithm: hd.AlgorithmIdentificationSequence) -> seg.SegmentDescription:
    return seg.SegmentDescription(
        segment_number=number,
        segment_label=f"{one.name}{class_text(one.entry)[:_CLASS]} ({one.entry['score']:.2f})",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type=seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=one.tracking,
        tracking_id=one.name,
    )


def masked(outlined: Sequence[Outlined]) -> bool:
    """Whether a lesion is drawn by its mask."""
    return any(rectangle.pixels is not None for one in outlined for rectangle in one.rectangles)


def _patch(rectangle: Rectangle, size: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """Rows and columns of an image, and which of their pixels belong to the lesion; None if there are none.

    Args:
        rectangle: On an image.
        size: Columns and rows of the image, where the pixels end.
    """
    edges = pixels_in(rectangle)
    c1, r1 = np.clip(edges[:2], 0, size - 1)
    c2, r2 = np.clip(edges[2:], [c1 + 1, r1 + 1], size)
    mask = np.ones((r2 - r1, c2 - c1), dtype=bool)
    if rectangle.pixels is not None:
        left, top = np.array([c1, r1]) - edges[:2]
        mask = rectangle.pixels[top : top + r2 - r1, left : left + c2 - c1]
    return ((slice(r1, r2), slice(c1, c2)), mask) if mask.any() else None


def _source(frame: Dataset) -> str:
    """SOPInstanceUID of the image of a frame."""
    return frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID


def _place(frame: Dataset) -> int:
    """Which of the images it is, by their order in space."""
    return frame.FrameContentSequence[0].DimensionIndexValues[1]


def _of_segment(frame: Dataset, number: int) -> Dataset:
    """The same frame of another segment; what both say about their image is one object."""
    other, content, segment = Dataset(), Dataset(), Dataset()
    content.DimensionIndexValues = [number, _place(frame)]
    segment.ReferencedSegmentNumber = number
    other.FrameContentSequence = [content]
    other.SegmentIdentificationSequence = [segment]
    for element in frame:
        if element.tag not in other:
            other.add(element)
    return other


def _packed(patches: Sequence[tuple[tuple[slice, slice], np.ndarray]], size: np.ndarray) -> bytes:
    """The pixels of all frames, one bit each, one frame directly after the other.

    Args:
        patches: Of each frame, see `_patch`.
        size: Columns and rows.
    """
    packed = []
    for start in range(0, len(patches), _BITS):
        group = patches[start : start + _BITS]
        frames = np.zeros((len(group), size[1], size[0]), dtype=bool)
        for frame, (where, mask) in zip(frames, group, strict=True):
            frame[where] = mask
        packed.append(np.packbits(frames, bitorder="little").tobytes())
    pixels = b"".join(packed)
    return pixels + b"\0" * (len(pixels) % 2)
