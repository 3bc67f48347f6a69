"""Lesions as a DICOM segmentation: a segment for each, in the pixels of the source images.

A pixel belongs to a lesion if its centre lies in its mask, or in its box where it has none. Lesions may overlap, and a
stack of one mask per lesion and slice would not fit into memory for a long scan: they are shared among layers in which
no box overlaps another, and the frames of the layers are put together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import highdicom as hd
import numpy as np
from highdicom import seg
from pydicom import Dataset
from pydicom.sr.codedict import codes

from .source_images import Outlined, SourceSlice, pixels_in


def segment_boxes(
    slices: Sequence[SourceSlice],
    outlined: Sequence[Outlined],
    algorithm: hd.AlgorithmIdentificationSequence,
    equipment: Mapping[str, Any],
) -> seg.Segmentation:
    """Make the segmentation of a series.

    Args:
        slices: The images.
        outlined: The lesions, at least one.
        algorithm: The algorithm that found them.
        equipment: UIDs, numbers and descriptions of the file, as highdicom names them.
    """
    segments = [
        seg.SegmentDescription(
            segment_number=number,
            segment_label=f"{one.name} ({one.entry['score']:.2f})",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Lesion,
            algorithm_type=seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=one.tracking,
            tracking_id=one.name,
        )
        for number, one in enumerate(outlined, start=1)
    ]
    used = sorted({rectangle.index for one in outlined for rectangle in one.rectangles})
    row_of = {index: row for row, index in enumerate(used)}
    layers = [
        seg.Segmentation(
            source_images=[slices[index].header for index in used],
            pixel_array=_paint(layer, row_of, slices[0].header),
            segmentation_type=seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            content_label=f"LESION_{'MASKS' if masked(outlined) else 'BOXES'}",
            content_description=equipment["series_description"],
            **equipment,
        )
        for layer in _layers(outlined)
    ]
    return _merge(layers)


def masked(outlined: Sequence[Outlined]) -> bool:
    """Whether a lesion is drawn by its mask."""
    return any(rectangle.pixels is not None for one in outlined for rectangle in one.rectangles)


def _layers(outlined: Sequence[Outlined]) -> list[dict[int, Outlined]]:
    """Distribute the lesions, by segment number, over as few layers as possible without overlap."""
    layers: list[dict[int, Outlined]] = []
    for number, one in enumerate(outlined, start=1):
        for layer in layers:
            if not any(_overlap(one, other) for other in layer.values()):
                layer[number] = one
                break
        else:
            layers.append({number: one})
    return layers


def _overlap(one: Outlined, other: Outlined) -> bool:
    theirs = {rectangle.index: pixels_in(rectangle) for rectangle in other.rectangles}
    for rectangle in one.rectangles:
        if (there := theirs.get(rectangle.index)) is not None:
            here = pixels_in(rectangle)
            if (np.maximum(here[:2], there[:2]) < np.minimum(here[2:], there[2:])).all():
                return True
    return False


def _paint(layer: Mapping[int, Outlined], row_of: Mapping[int, int], header: Dataset) -> np.ndarray:
    """``(N, Rows, Columns)`` uint16 with the segment numbers of one layer."""
    size = np.array([header.Columns, header.Rows])
    labels = np.zeros((len(row_of), header.Rows, header.Columns), dtype=np.uint16)
    for number, one in layer.items():
        for rectangle in one.rectangles:
            edges = pixels_in(rectangle)
            c1, r1 = np.clip(edges[:2], 0, size - 1)
            c2, r2 = np.clip(edges[2:], [c1 + 1, r1 + 1], size)
            there = labels[row_of[rectangle.index], r1:r2, c1:c2]
            if rectangle.pixels is None:
                there[:] = number
            else:
                left, top = np.array([c1, r1]) - edges[:2]
                there[rectangle.pixels[top : top + r2 - r1, left : left + c2 - c1]] = number
    return labels


def _merge(layers: Sequence[seg.Segmentation]) -> seg.Segmentation:
    """One segmentation with the frames of all layers, which are otherwise equal."""
    merged = layers[0]
    if len(layers) == 1:
        return merged
    frames = [frame for layer in layers for frame in layer.PerFrameFunctionalGroupsSequence]
    # Each layer numbers its own positions.
    heights = [_height(frame, merged) for frame in frames]
    order = {height: place for place, height in enumerate(sorted(set(heights)), start=1)}
    for frame, height in zip(frames, heights, strict=True):
        segment = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        frame.FrameContentSequence[0].DimensionIndexValues = [segment, order[height]]
    merged.PixelData = _join(layers)
    merged.PerFrameFunctionalGroupsSequence = frames
    merged.NumberOfFrames = len(frames)
    merged.SegmentsOverlap = seg.SegmentsOverlapValues.YES.value
    # highdicom's internal state is still that of the first layer.
    return seg.Segmentation.from_dataset(merged, copy=False)


def _height(frame: Dataset, segmentation: seg.Segmentation) -> float:
    """Position of a frame along the normal of all frames, in whole micrometres."""
    shared = segmentation.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    along = np.array([float(number) for number in shared.ImageOrientationPatient])
    position = [float(number) for number in frame.PlanePositionSequence[0].ImagePositionPatient]
    return round(float(np.dot(np.cross(along[:3], along[3:]), position)), 3)


def _join(layers: Sequence[seg.Segmentation]) -> bytes:
    """The pixels of all frames, one bit each, one frame directly after the other."""
    sizes = [int(layer.NumberOfFrames) * layer.Rows * layer.Columns for layer in layers]
    if all(size % 8 == 0 for size in sizes):
        packed = b"".join(layer.PixelData[: size // 8] for layer, size in zip(layers, sizes, strict=True))
    else:
        bits = [
            np.unpackbits(np.frombuffer(layer.PixelData, dtype=np.uint8), count=size, bitorder="little")
            for layer, size in zip(layers, sizes, strict=True)
        ]
        packed = np.packbits(np.concatenate(bits), bitorder="little").tobytes()
    return packed + b"\0" * (len(packed) % 2)
