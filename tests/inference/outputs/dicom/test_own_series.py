"""What the DICOM results of a scan share: a series continues where it is the same, and lesions are on their images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from scripts.data.scans.scan import read_scan
from support.fake_dicom import STUDY, write_ct
from support.fake_results import elliptic, results_of

pytest.importorskip("highdicom")
from scripts.inference.outputs.dicom.own_series import (
    MANUFACTURER,
    OwnSeries,
    earlier_file,
    file_bytes,
    files_or_warning,
    outlined_lesions,
)
from scripts.inference.outputs.dicom.source_images import read_sources


def earlier(**changes: object) -> Dataset:
    dataset = Dataset()
    values = {
        "SeriesInstanceUID": "1.2.9",
        "InstanceNumber": 4,
        "SoftwareVersions": "7",
        "SeriesDescription": OwnSeries(9001, "boxes", "7").equipment()["series_description"],
    }
    for name, value in {**values, **changes}.items():
        setattr(dataset, name, value)
    return dataset


def test_a_file_joins_the_series_of_the_one_before_it_only_if_that_is_the_same() -> None:
    joined = OwnSeries(9001, "boxes", "7", earlier()).equipment()
    assert (joined["series_instance_uid"], joined["instance_number"]) == ("1.2.9", 5)
    for other in ({"SoftwareVersions": "6"}, {"SeriesDescription": "Lesion outlines."}):
        begun = OwnSeries(9001, "boxes", "7", earlier(**other)).equipment()
        assert begun["series_instance_uid"] != "1.2.9"
        assert begun["instance_number"] == 1
    assert joined["series_number"] == 9001
    assert "Not a medical device" in joined["series_description"]
    assert len(joined["series_description"]) <= 64


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({}, True),
        ({"Manufacturer": "scanner"}, False),
        ({"StudyInstanceUID": "1.9"}, False),
        ({"InstanceNumber": 0}, False),
    ],
)
def test_only_our_files_of_the_study_are_earlier_ones(tmp_path: Path, content: dict, found: bool) -> None:
    hu = np.full((1, 8, 9), 40, np.int16)
    folder = write_ct(tmp_path / "ct", hu, Manufacturer=MANUFACTURER, InstanceNumber=2)
    (tmp_path / "ct" / "IM0001.dcm").rename(tmp_path / "lesions_sr.dcm")
    dataset = dcmread(tmp_path / "lesions_sr.dcm")
    for name, value in content.items():
        setattr(dataset, name, value)
    (tmp_path / "lesions_sr.dcm").write_bytes(file_bytes(dataset))
    header = Dataset()
    header.StudyInstanceUID = STUDY
    assert (earlier_file(tmp_path, "lesions_sr.dcm", header) is not None) == found
    assert earlier_file(folder, "lesions_sr.dcm", header) is None
    assert earlier_file(None, "lesions_sr.dcm", header) is None


def test_a_damaged_earlier_file_is_replaced_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "lesions_sr.dcm").write_bytes(b"no DICOM")
    assert earlier_file(tmp_path, "lesions_sr.dcm", Dataset()) is None
    assert "lesions_sr.dcm: an earlier file that cannot be read" in caplog.text


def test_lesions_are_on_the_images_of_their_boxes_or_masks(tmp_path: Path) -> None:
    scan = read_scan(write_ct(tmp_path, np.full((5, 20, 24), 40, np.int16)))
    for fields, drawn in ((None, False), (elliptic, True)):
        results = results_of(scan, [(6.0, 5.0, 1.0, 16.0, 15.0, 4.0)], (0.9,), fields=fields)
        (one,) = outlined_lesions(results, read_sources(scan.files, scan.headers))
        assert [rectangle.index for rectangle in one.rectangles] == [1, 2, 3]
        assert all((rectangle.pixels is not None) == drawn for rectangle in one.rectangles)
        assert (one.key, one.name) == (2, "Lesion 1")


def test_headers_that_do_not_allow_it_cost_the_files_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scan = read_scan(write_ct(tmp_path, np.full((1, 8, 9), 40, np.int16)))

    def broken() -> dict[str, bytes]:
        raise ValueError("Expected another header.")

    assert files_or_warning(scan, broken) == {}
    assert "no DICOM results are written. Expected another header." in caplog.text
    assert files_or_warning(scan, lambda: {"one": b"2"}) == {"one": b"2"}
