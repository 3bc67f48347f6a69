"""CT series as scanners write them, small, for tests of what is written next to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

STUDY, SERIES, FRAME = "1.2.3", "1.2.3.4", "1.2.3.5"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def write_slice(path: Path, hu: np.ndarray, **tags: object) -> Path:
    """Write one slice, stored unsigned with an intercept of -1024.

    Args:
        path: The file.
        hu: ``(rows, columns)``.
        tags: Changed attributes; None removes one.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    values: dict[str, object] = {
        "SpecificCharacterSet": "ISO_IR 100",
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": SERIES,
        "FrameOfReferenceUID": FRAME,
        "PatientName": "Müller^Jörg",
        "PatientID": "P-1",
        "PatientBirthDate": "19500131",
        "PatientSex": "M",
        "StudyDate": "20260102",
        "StudyTime": "101500",
        "StudyID": "S1",
        "AccessionNumber": "A1",
        "ReferringPhysicianName": "",
        "PositionReferenceIndicator": "",
        "Manufacturer": "scanner",
        "Modality": "CT",
        "SeriesNumber": 3,
        "InstanceNumber": 1,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SliceThickness": 2.5,
        "ImagePositionPatient": [-12.0, 30.0, -100.0],
        "ImageOrientationPatient": list(AXIAL),
        "PixelSpacing": [0.9, 0.7],
        "Rows": hu.shape[0],
        "Columns": hu.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "RescaleType": "HU",
        "PixelData": (hu.astype(np.int32) + 1024).astype(np.uint16).tobytes(),
    }
    for name, value in {**values, **tags}.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_ct(
    folder: Path,
    hu: np.ndarray,
    *,
    origin: Sequence[float] = (-12.0, 30.0, -100.0),
    spacing: Sequence[float] = (0.7, 0.9, 2.5),
    orientation: Sequence[float] = AXIAL,
    stacking: Sequence[float] = (0.0, 0.0, 1.0),
    **tags: object,
) -> Path:
    """Write a series, one file per slice, numbered from the head down.

    Args:
        folder: Target folder; created if needed.
        hu: ``(Z, rows, columns)``, slices in the order in which they rise.
        origin: LPS mm of the first pixel of slice 0.
        spacing: mm between columns, rows and slices.
        orientation: Direction of the rows and of the columns.
        stacking: Direction from slice to slice.
        tags: Changed attributes; None removes one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index, plane in enumerate(hu):
        number = len(hu) - index
        place = {
            "InstanceNumber": number,
            "SliceThickness": spacing[2],
            "ImagePositionPatient": [
                round(first + along * spacing[2] * index, 6) for first, along in zip(origin, stacking, strict=True)
            ],
            "ImageOrientationPatient": list(orientation),
            "PixelSpacing": [spacing[1], spacing[0]],
        }
        write_slice(folder / f"IM{number:04d}.dcm", plane, **{**place, **tags})
    return folder


def write_stack(
    folder: Path,
    heights: Sequence[float],
    numbers: Sequence[int] | None = None,
    *,
    place: Callable[[float], Sequence[float]] = lambda height: (-12.0, 30.0, -100.0 + height),
    **tags: object,
) -> Path:
    """Write slices of 10 x 12 at any heights, of a block that rises by 10 HU per mm from -500 at 0 mm, in air.

    Args:
        folder: Where to.
        heights: mm of each slice.
        numbers: Instance numbers, rising from 1 by default.
        place: LPS mm of the first pixel by the height.
        tags: As of `write_ct`.
    """
    for index, height in enumerate(heights):
        plane = np.full((1, 10, 12), -1000, dtype=np.int16)
        plane[:, 2:8, 2:9] = -500 + round(10 * height)
        number = index + 1 if numbers is None else numbers[index]
        changed = {"SOPInstanceUID": f"1.9.{index}", "InstanceNumber": number, "SliceThickness": 4.0, **tags}
        write_ct(folder / "one", plane, origin=place(height), **changed)
        (folder / "one" / "IM0001.dcm").rename(folder / f"{index:02d}.dcm")
    (folder / "one").rmdir()
    return folder
