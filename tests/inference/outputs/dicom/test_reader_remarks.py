"""Remarks of a reader in the structured report: with codes and units, and not as the work of the algorithm."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.sr.codedict import codes

from scripts.data.scans.scan import read_scan
from scripts.inference.detections import ScanResult
from support.dicom_checks import validator_lines
from support.fake_dicom import FRAME, write_ct
from support.fake_results import results_of

pytest.importorskip("highdicom")
from highdicom import sr

from scripts.inference.outputs.dicom.reader_remarks import APPROXIMATE, ATTENUATION, reader_measurements
from scripts.inference.outputs.dicom.structured_report import DicomWriter

DIAMETERS = [[-10.0, 32.0, -95.0], [-10.0, 38.0, -95.0], [-9.0, 33.0, -95.0], [1.0, 33.0, -95.0]]
MEASURED = [
    {"tool": "ruler", "plane": "axial", "points_lps_mm": [[-10.0, 32.0, -95.0], [-6.0, 35.0, -95.0]], "length_mm": 5.0},
    {"tool": "diameters", "plane": "axial", "points_lps_mm": DIAMETERS, "long_axis_mm": 10.0, "short_axis_mm": 6.0},
    {"tool": "roi", "plane": "axial", "points_lps_mm": DIAMETERS[:2], "mean_hu": -12.5, "sd_hu": 3.0, "area_mm2": 80.0,
     "pixels": 40.0},
]  # fmt: skip
REVIEW = {"decision": "accepted", "comment": "Zyste?\nalt", "measurements": MEASURED}


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> ScanResult:
    hu = np.random.default_rng(0).integers(-1000, 1000, (7, 21, 27)).astype(np.int16)
    scan = read_scan(write_ct(tmp_path_factory.mktemp("ct"), hu))
    results = results_of(scan, [(3.25, 4.0, 1.0, 12.0, 9.5, 5.0), (20.0, 15.0, 2.0, 24.0, 18.0, 3.0)], (0.9, 0.5))
    results.entries[0]["review"] = REVIEW
    results.entries[1]["review"] = {"decision": "accepted", "comment": "", "measurements": []}
    return results


def texts(group: sr.MeasurementsAndQualitativeEvaluations) -> list[str]:
    return [item.value for item in group[0].ContentSequence if item.name == codes.DCM.Comment]


def test_report_holds_what_the_reader_said_and_measured(reviewed: ScanResult) -> None:
    content: Any = sr.srread(io.BytesIO(DicomWriter(version="1")(reviewed)["lesions_sr.dcm"])).content
    (lesion,), (other,) = content.get_volumetric_roi_measurement_groups(), content.get_planar_roi_measurement_groups()
    (measured,) = content.get_image_measurement_groups()
    assert (texts(lesion), texts(other), texts(measured)) == (["Zyste?\nalt"], [], [APPROXIMATE])
    assert measured.tracking_uid == lesion.tracking_uid
    assert "Algorithm Name" not in measured[0].to_json()
    found = [(one.name.meaning, one.value, one.unit.value) for one in measured.get_measurements()]
    assert found == [
        ("Length", 5.0, "mm"),
        ("Long axis", 10.0, "mm"),
        ("Short axis", 6.0, "mm"),
        (ATTENUATION.meaning, -12.5, "[hnsf'U]"),
        (ATTENUATION.meaning, 3.0, "[hnsf'U]"),
        ("Area", 80.0, "mm2"),
    ]


def test_lines_are_those_of_the_reader_the_longer_one_as_long_axis(reviewed: ScanResult) -> None:
    ruler, long, short, *_ = reader_measurements(reviewed.entries[0], FRAME)
    for one, points in ((ruler, MEASURED[0]["points_lps_mm"]), (long, DIAMETERS[2:]), (short, DIAMETERS[:2])):
        (line,) = one.referenced_coordinates
        np.testing.assert_allclose(line.value, points)


def test_nothing_is_added_where_nobody_reviewed(reviewed: ScanResult) -> None:
    entries = [{name: value for name, value in entry.items() if name != "review"} for entry in reviewed.entries]
    results = replace(reviewed, document={**reviewed.document, "lesions": entries})
    content: Any = sr.srread(io.BytesIO(DicomWriter(version="1")(results)["lesions_sr.dcm"])).content
    assert content.get_image_measurement_groups() == []
    assert reader_measurements(entries[0], FRAME) == []


def test_validator_finds_nothing(reviewed: ScanResult, tmp_path: Path) -> None:
    path = tmp_path / "lesions_sr.dcm"
    path.write_bytes(DicomWriter(version="1")(reviewed)["lesions_sr.dcm"])
    told = [line for line in validator_lines(path) if line.startswith(("Error", "Warning"))]
    assert not told, told
