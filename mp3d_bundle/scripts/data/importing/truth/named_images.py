"""The images that a truth names as those it was drawn on: their series, or else the slices themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pydicom

from ....storage.dicom_errors import ODD_CONTENT
from ....storage.printable import one_line
from ...scans.dicom.dicom_files import read_dataset, read_text, uid_name
from .contours import lidc_series


def named_images(path: Path, kind: str) -> tuple[str, frozenset[str]]:
    """What a file says about the images it belongs to.

    Args:
        path: The file.
        kind: One of `scripts.data.importing.truth.truth_files.KINDS`.

    Returns:
        SeriesInstanceUID, ``""`` if it names none; SOPInstanceUIDs of a structure set that names its slices alone.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it names several series.
    """
    if kind == "lidc":
        series = lidc_series(path)
        return (uid_name(series) if series else ""), frozenset()
    if kind not in ("seg", "rtstruct"):
        return "", frozenset()
    dataset = read_dataset(path, tags=["ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence"])
    try:
        # pydicom reads the items of a sequence when they are asked for.
        items = [*(dataset.get("ReferencedSeriesSequence") or ()), *_structure_series(dataset)]
        found = {read_text(item, "SeriesInstanceUID") for item in items} - {""}
    except ODD_CONTENT as error:
        raise OSError(
            f"Expected a complete DICOM file, could not read the series that {path} names ({one_line(error, 200)})."
        ) from error
    if len(found) > 1:
        raise ValueError(f"Expected the images of one series, {path} names {len(found)}: {', '.join(sorted(found))}.")
    if found:
        return uid_name(next(iter(found))), frozenset()
    return "", _slices(path, items) if kind == "rtstruct" else frozenset()


def _structure_series(dataset: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            yield from study.get("RTReferencedSeriesSequence") or ()


def _slices(path: Path, series: list[pydicom.Dataset]) -> frozenset[str]:
    """The slices in every ContourImageSequence of a structure set."""
    try:
        contours = [
            contour
            for roi in read_dataset(path, tags=["ROIContourSequence"]).get("ROIContourSequence") or ()
            for contour in roi.get("ContourSequence") or ()
        ]
        images = [image for item in (*series, *contours) for image in item.get("ContourImageSequence") or ()]
        return frozenset(read_text(image, "ReferencedSOPInstanceUID") for image in images) - {""}
    except ODD_CONTENT:
        # Reading the outlines reports what is wrong with them.
        return frozenset()
