"""Attributes inherited from odd headers are valid, and equal those of the images where possible."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from scripts.data.scans.scan import read_scan
from scripts.inference.outputs.dicom.inherited_attributes import UNKNOWN_METHOD, keep_valid
from support.dicom_checks import validator_lines
from support.fake_dicom import write_ct
from support.fake_results import results_of

pytest.importorskip("highdicom")
from scripts.inference.outputs.dicom.structured_report import DicomWriter

ITEM = Dataset()
ITEM.CodeValue = "113100"
HEADERS: dict[str, dict[str, Any]] = {
    "removed": {"PatientIdentityRemoved": "YES"},
    "removed, empty method": {"PatientIdentityRemoved": "YES", "DeidentificationMethod": ""},
    "removed, half a code": {"PatientIdentityRemoved": "YES", "DeidentificationMethodCodeSequence": [ITEM]},
    "removed perhaps": {"PatientIdentityRemoved": "MAYBE"},
    "half a trial": {"ClinicalTrialProtocolID": "LIDC", "ClinicalTrialSubjectID": ""},
    "an animal": {"PatientSpeciesDescription": "", "PatientBreedDescription": "?", "PatientSexNeutered": "PERHAPS"},
    "an age": {"PatientAge": "45", "PatientWeight": "80", "SmokingStatus": "SOMETIMES"},
    "sequences": {"ProcedureCodeSequence": [ITEM], "ReferencedStudySequence": [Dataset()], "RequestingService": ""},
}


def body_in_air() -> np.ndarray:
    """Three slices of 9 x 9: water in air, int16 HU."""
    hu = np.full((3, 9, 9), -1000, dtype=np.int16)
    hu[:, 2:7, 2:7] = -5
    return hu


def header(**values: Any) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def test_removed_identity_says_how_or_that_nobody_knows() -> None:
    for name in ("removed", "removed, empty method", "removed, half a code"):
        dataset = header(**HEADERS[name])
        keep_valid(dataset)
        assert dataset.PatientIdentityRemoved == "YES"
        assert dataset.DeidentificationMethod == UNKNOWN_METHOD
        assert "DeidentificationMethodCodeSequence" not in dataset
    dataset = header(PatientIdentityRemoved="YES", DeidentificationMethod="CTP")
    assert keep_valid(dataset) == []
    assert dataset.DeidentificationMethod == "CTP"


def test_valid_values_stay_and_others_go() -> None:
    dataset = header(
        **{"PatientID": "P", "PatientName": "A^B", "PatientAge": "045Y", "PatientWeight": "80.5"},
        **{"ClinicalTrialSponsorName": "S", "ClinicalTrialProtocolID": "1", "ClinicalTrialSubjectID": "2"},
        **{"Rows": 5, "SliceThickness": 2, "PatientComments": "private", "StudyID": "17"},
    )
    before = dict(dataset.items())
    assert keep_valid(dataset) == []
    assert [name for name in before if name not in dataset] == [0x00104000]
    half = header(**HEADERS["half a trial"])
    keep_valid(half)
    assert len(half) == 0


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize("name", HEADERS)
def test_results_of_odd_headers_are_valid(tmp_path: Path, name: str) -> None:
    folder = write_ct(tmp_path / "series", body_in_air(), **HEADERS[name])
    results = results_of(read_scan(folder), [(2.0, 2.0, 0.0, 5.0, 5.0, 2.0)], (0.9,))
    files = DicomWriter(version="1")(results)
    assert set(files) == {"lesions_sr.dcm", "lesions_seg.dcm"}
    for content in files.values():
        assert pydicom.dcmread(io.BytesIO(content)).PatientID == "P-1"
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
        said = validator_lines(tmp_path / file, "-new")
        assert said in (["Comprehensive3DSR"], ["Segmentation"]), said
