"""Localizers and pictures of screens among slices: left out where the header is certain, rejected otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import EnhancedCTImageStorage

from scripts.data.scans.dicom.dicom_headers import folder_files, read_contents
from scripts.data.scans.dicom.dicom_series import read_series
from support.fake_dicom import write_ct, write_slice

SIDE = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]
FRONT = [1.0, 0.0, 0.0, 0.0, 0.0, -1.0]
SCOUT = {"ImageOrientationPatient": FRONT, "PixelSpacing": [1.0, 1.0]}
NO_PLACE = {"ImageOrientationPatient": None, "ImagePositionPatient": None, "PixelSpacing": None}
LOCALIZER, SCREEN = "crosses the slices of its series: a localizer", "without a place in the patient"


def make(folder: Path, count: int = 9) -> Path:
    return write_ct(folder, np.arange(count)[:, None, None] * 10 + np.zeros((1, 8, 12), np.int16))


def add(folder: Path, name: str = "odd.dcm", shape: tuple[int, int] = (20, 30), **tags: object) -> None:
    write_slice(folder / name, np.full(shape, 900, np.int16), **{"InstanceNumber": 99, **tags})


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        (SCOUT, LOCALIZER),
        # Neither the size nor the spacing of the pixels tells it, and it names no frame of reference.
        ({**SCOUT, "shape": (8, 12), "FrameOfReferenceUID": None}, LOCALIZER),
        ({**SCOUT, "shape": (8, 12), "PixelSpacing": None, "ImageOrientationPatient": SIDE}, LOCALIZER),
        (NO_PLACE, SCREEN),
        ({**NO_PLACE, "shape": (8, 12), "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, SCREEN),
        ({**NO_PLACE, "RescaleSlope": None, "RescaleIntercept": None, "Manufacturer": "another"}, SCREEN),
    ],
)
def test_what_cannot_be_a_slice_is_left_out_by_name(tmp_path: Path, tags: dict, reason: str) -> None:
    plain = read_series(make(tmp_path / "plain"))
    add(make(tmp_path / "ct"), **tags)
    image = read_series(tmp_path / "ct")
    np.testing.assert_array_equal(image.values, plain.values)
    np.testing.assert_array_equal(image.affine, plain.affine)
    (note,) = image.notes
    assert reason in note
    # The log names the file, the notes of the results do not.
    assert "Left out odd.dcm: another kind of image" in note.log  # type: ignore[attr-defined]
    assert read_contents(folder_files(tmp_path / "ct")).others


def test_two_localizers_are_left_out_and_a_stack_across_the_slices_is_not(tmp_path: Path) -> None:
    folder = make(tmp_path / "ct", 20)
    add(folder, "a.dcm", **SCOUT)
    add(folder, "b.dcm", **{**SCOUT, "ImageOrientationPatient": SIDE})
    (series,) = read_contents(folder_files(folder)).series
    assert (len(series.headers), series.problem) == (20, None)
    for number in range(3):
        add(folder, f"c{number}.dcm", **SCOUT, ImagePositionPatient=[0.0, 2.0 * number, 0.0])
    found = [len(series.headers) for series in read_contents(folder_files(folder)).series]
    assert sum(found) == 25, found


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        # A slice with a wrong direction or without its place would leave a hole, or a shorter scan.
        ({"shape": (8, 12), "PixelSpacing": [0.9, 0.7], "ImageOrientationPatient": FRONT}, "turned differently"),
        ({**NO_PLACE, "shape": (8, 12), "PixelSpacing": [0.9, 0.7]}, "ImagePositionPatient"),
        # Slices of another size or spacing may be those of another reconstruction.
        ({"ImagePositionPatient": [-12.0, 30.0, -60.0]}, "slices of one size"),
        # Several frames are a scan of their own, with places of their own.
        ({**NO_PLACE, "NumberOfFrames": 1, "SOPClassUID": EnhancedCTImageStorage}, "functional groups of 0 frames"),
        ({**NO_PLACE, "NumberOfFrames": 2}, "one slice per DICOM file"),
        ({**SCOUT, "PatientID": "P-2"}, "one PatientID"),
        ({**SCOUT, "StudyInstanceUID": "1.2.9"}, "one StudyInstanceUID"),
    ],
)
def test_what_may_be_a_slice_is_rejected(tmp_path: Path, tags: dict, message: str) -> None:
    add(make(tmp_path / "ct"), **tags)
    with pytest.raises((OSError, ValueError), match=rf"{message}.*odd\.dcm|odd\.dcm.*{message}"):
        read_series(tmp_path / "ct")


def test_only_the_large_majority_of_a_series_says_what_is_odd(tmp_path: Path) -> None:
    add(make(tmp_path / "few", 3), **SCOUT)
    with pytest.raises(ValueError, match=r"odd\.dcm"):
        read_series(tmp_path / "few")
    add(make(tmp_path / "enough", 4), **SCOUT)
    assert read_series(tmp_path / "enough").values.shape == (12, 8, 4)
