"""The images that a truth names: a series, or the slices of a structure set that names no series."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from scripts.data.importing.truth.named_images import named_images
from support.fake_truth import SERIES, name_slices_alone, slice_headers, write_dicom_case, write_rtstruct


def test_a_series_that_is_named_counts(tmp_path: Path) -> None:
    path = write_rtstruct(tmp_path / "rt.dcm", write_dicom_case(tmp_path / "ct"))
    assert named_images(path, "rtstruct") == (SERIES, frozenset())
    assert named_images(path, "mask") == ("", frozenset())


def test_slices_are_named_where_the_series_is_not(tmp_path: Path) -> None:
    series = write_dicom_case(tmp_path / "ct")
    path = name_slices_alone(write_rtstruct(tmp_path / "rt.dcm", series), series)
    known = {header.SOPInstanceUID for header in slice_headers(series)}
    named, slices = named_images(path, "rtstruct")
    assert named == ""
    assert slices
    assert slices < known


def test_several_series_are_an_error(tmp_path: Path) -> None:
    path = write_rtstruct(tmp_path / "rt.dcm", write_dicom_case(tmp_path / "ct"))
    dataset = pydicom.dcmread(path)
    other = Dataset()
    other.SeriesInstanceUID = "1.2.3"
    dataset.ReferencedSeriesSequence = Sequence([other])
    dataset.save_as(path)
    with pytest.raises(ValueError, match=r"the images of one series, .*rt\.dcm names 2: 1\.2\.3, "):
        named_images(path, "rtstruct")


def test_a_damaged_length_of_a_sequence_is_a_line_that_names_the_file(tmp_path: Path) -> None:
    path = write_rtstruct(tmp_path / "rt.dcm", write_dicom_case(tmp_path / "ct"))
    content = bytearray(path.read_bytes())
    # The length of ReferencedFrameOfReferenceSequence, behind its tag and VR.
    content[content.index(b"\x06\x30\x10\x00SQ") + 8] += 1
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"could not read the series that .*rt\.dcm names"):
        named_images(path, "rtstruct")
