"""A lesion is found again where its images are kept: every output names its image and series."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest

from scripts.data.scans.scan import Scan, read_scan
from scripts.inference.outputs.label_map import prompts
from scripts.inference.outputs.lesions_document import json_files
from scripts.inference.outputs.lesions_table import lesion_table
from scripts.inference.outputs.slicer_nodes import slicer_markups
from scripts.inference.outputs.source_names import name_image, name_series, series_text
from support.fake_dicom import write_ct
from support.fake_results import results_of
from support.fake_scans import ball_scan, scan_of

BOX = (24.0, 10.0, 4.0, 37.0, 23.0, 9.0)
SERIES = {"SeriesNumber": 4, "SeriesDescription": "Thorax 2.5", "StudyDate": "20260102", "AccessionNumber": "A1"}


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    return read_scan(write_ct(tmp_path_factory.mktemp("series"), ball_scan(), spacing=(1.0, 1.0, 2.5), **SERIES))


def image_at(scan: Scan, z: float) -> pydicom.Dataset:
    """The image at a height."""
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in scan.files]
    return min(headers, key=lambda header: abs(float(header.ImagePositionPatient[2]) - z))


def test_every_output_names_image_and_series_of_a_lesion(scan: Scan) -> None:
    results = results_of(scan, [BOX], (0.9,))
    files = json_files(results)
    document = json.loads(files["lesions.json"])
    (entry,) = document["lesions"]
    # Numbered from the head down by `write_ct`, while slices count from the feet.
    image = image_at(scan, entry["key_point_lps_mm"][2])
    wanted = {"instance_number": int(image.InstanceNumber), "sop_instance_uid": image.SOPInstanceUID}
    assert entry["image"] == wanted
    assert wanted["instance_number"] == len(scan.files) - entry["key_slice"]
    series = document["input"]["dicom"]
    assert series == name_series(scan)
    assert {key: series[key] for key in ("series_number", "series_description", "study_date", "accession_number")} == {
        "series_number": "4", "series_description": "Thorax 2.5", "study_date": "20260102", "accession_number": "A1",
    }  # fmt: skip
    assert series["series_instance_uid"] == scan.series
    for detection in json.loads(files["detections.json"])["detections"]:
        assert detection["image"]["instance_number"] == len(scan.files) - detection["slice"]
    (row,) = csv.DictReader(io.StringIO(lesion_table(results)["lesions.csv"].decode()))
    assert row["instance_number"] == str(wanted["instance_number"])
    assert {name: row[name] for name in series} == series
    (prompt,) = json.loads(prompts(results)["prompts.json"])["prompts"]
    assert prompt["image"] == wanted
    markups = json.loads(slicer_markups(results)["lesions.mrk.json"])
    assert markups["series"] == series
    assert f"image {wanted['instance_number']}" in markups["markups"][0]["description"]
    assert series_text(series) == "series 4, Thorax 2.5, study of 20260102, accession number A1"
    for content in (*files.values(), *lesion_table(results).values()):
        assert "Müller" not in content.decode()


def test_images_across_the_slices_are_named_by_the_middle_of_the_box(tmp_path: Path) -> None:
    hu = np.random.default_rng(0).integers(-1000, 1000, (9, 20, 24)).astype(np.int16)
    coronal = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    scan = read_scan(write_ct(tmp_path, hu, orientation=coronal, stacking=(0.0, 1.0, 0.0), spacing=(1.0, 1.0, 2.0)))
    (entry,) = results_of(scan, [(3.0, 2.0, 4.0, 9.0, 6.0, 7.0)], (0.9,)).entries
    header = next(header for header in map(pydicom.dcmread, scan.files)
                  if header.SOPInstanceUID == entry["image"]["sop_instance_uid"])  # fmt: skip
    assert abs(float(header.ImagePositionPatient[1]) - entry["key_point_lps_mm"][1]) <= 1.0


def test_missing_and_odd_values_are_none(tmp_path: Path) -> None:
    changes = {"SeriesNumber": None, "AccessionNumber": None, "SeriesDescription": "a\x07b", "StudyDate": ""}
    scan = read_scan(write_ct(tmp_path, ball_scan(), **changes))
    series = name_series(scan)
    assert series is not None
    assert [series[key] for key in ("series_number", "accession_number", "study_date")] == [None] * 3
    assert series["series_description"] == "a b"
    assert series_text(series) == "a b"


def test_damaged_numbers_are_none(tmp_path: Path) -> None:
    folder = write_ct(tmp_path, ball_scan(), SeriesNumber=1234)
    for path in folder.iterdir():
        # Four bytes of a text as one number of eight bytes, which pydicom notices when the element is asked for.
        path.write_bytes(path.read_bytes().replace(b"\x20\x00\x11\x00IS", b"\x20\x00\x11\x00FD"))
    scan = read_scan(folder)
    assert pydicom.dcmread(scan.files[0]).get_item("SeriesNumber").VR == "FD"
    series = name_series(scan)
    assert series is not None
    assert series["series_number"] is None
    assert series["series_instance_uid"] == scan.series


def test_other_scans_have_no_names() -> None:
    results = results_of(scan_of(ball_scan()), [BOX], (0.9,))
    assert name_series(results.scan) is None
    assert name_image(results.scan, 0) is None
    assert "image" not in results.entries[0]
    assert "dicom" not in results.document["input"]
    assert "instance_number" not in lesion_table(results)["lesions.csv"].decode()
