"""The header of a slice: its values, and what messages call it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from scripts.data.scans.dicom.dicom_headers import files_on_disk, read_contents
from scripts.data.scans.dicom.dicom_slices import Slice, check_tilt, parse_slice
from support.fake_dicom import write_ct
from support.fake_enhanced import read_slices, write_enhanced


def slices_of(path: Path) -> list[Slice]:
    (series,) = read_contents(files_on_disk([path])).series
    return [parse_slice(*entry) for entry in series.headers]


def test_a_frame_has_the_values_of_its_slice(tmp_path: Path) -> None:
    folder = write_ct(tmp_path / "ct", np.zeros((3, 6, 8)), spacing=(0.7, 0.9, 2.0))
    path = write_enhanced(tmp_path / "e.dcm", read_slices(folder))
    for number, (frame, file) in enumerate(zip(slices_of(path), sorted(folder.iterdir()), strict=True), start=1):
        (one,) = slices_of(file)
        assert (str(frame), str(one)) == (f"frame {number} of {path}", str(file))
        assert (frame.spacing, frame.thickness, frame.height) == (one.spacing, one.thickness, one.height)
        # InStackPositionNumber, as the InstanceNumber is that of the file.
        assert (frame.number, one.number) == (number, number)
        np.testing.assert_array_equal(frame.position, one.position)
        np.testing.assert_array_equal([frame.along_row, frame.along_column], [one.along_row, one.along_column])


def test_a_file_without_pixels_is_told_before_a_missing_tag(tmp_path: Path) -> None:
    (path,) = write_ct(tmp_path / "ct", np.zeros((1, 6, 8)), PixelSpacing=None, PixelData=None).iterdir()
    with pytest.raises(OSError, match=r"no pixels in .*: it is cut short"):
        parse_slice(path, pydicom.dcmread(path))


def test_a_tilt_that_slices_do_not_show_is_named_with_its_frame(tmp_path: Path) -> None:
    folder = write_ct(tmp_path / "ct", np.zeros((2, 6, 8)), GantryDetectorTilt=12.0)
    path = write_enhanced(tmp_path / "e.dcm", read_slices(folder))
    with pytest.raises(ValueError, match=r"a tilt of 12.0 degrees .* leans by 0.0 in frame 2 of"):
        check_tilt(slices_of(path)[1])
