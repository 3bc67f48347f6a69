"""The presentation state: every line is where its lesion is, on its image, with name, score and notices."""

from __future__ import annotations

import dataclasses
import io
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest

from scripts.data.scans.scan import read_scan
from scripts.inference.detections import ScanResult
from support.dicom_checks import read_in_full, validator_lines
from support.fake_dicom import SERIES, STUDY, write_ct
from support.fake_results import elliptic, results_of

pytest.importorskip("highdicom")
from scripts.inference.outputs.dicom.presentation_state import PresentationWriter
from scripts.inference.outputs.dicom.structured_report import DicomWriter

SHAPE = (7, 21, 27)
# Two overlap, the last one is a slice thick and reaches beyond the image.
BOXES = [(3.25, 4.0, 1.0, 12.0, 9.5, 5.0), (10.0, 8.0, 3.0, 16.0, 14.0, 6.0), (20.0, 15.0, 2.0, 27.0, 21.0, 3.0)]
SCORES = (0.93, 0.5, 0.25)


def written(results: ScanResult) -> pydicom.Dataset:
    """The file, read with a warning being an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (content,) = PresentationWriter(version="1.2.3")(results).values()
    return read_in_full(content)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> ScanResult:
    hu = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    return results_of(read_scan(write_ct(tmp_path_factory.mktemp("series"), hu)), BOXES, SCORES)


@pytest.fixture(scope="module")
def state(results: ScanResult) -> pydicom.Dataset:
    return written(results)


def uid_of(results: ScanResult, index: int) -> str:
    return pydicom.dcmread(results.scan.files[index], stop_before_pixels=True).SOPInstanceUID


def by_image(state: pydicom.Dataset) -> dict[str, pydicom.Dataset]:
    """The annotation of each image by its UID."""
    return {one.ReferencedImageSequence[0].ReferencedSOPInstanceUID: one for one in state.GraphicAnnotationSequence}


def test_it_belongs_to_the_patient_and_refers_to_each_image_with_a_lesion(
    results: ScanResult, state: pydicom.Dataset
) -> None:
    assert state.SOPClassUID.name == "Grayscale Softcopy Presentation State Storage"
    assert (str(state.PatientName), state.StudyInstanceUID, state.SeriesNumber) == ("Müller^Jörg", STUDY, 9003)
    assert "Not a medical device" in state.SeriesDescription
    (series,) = state.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == SERIES
    wanted = {uid_of(results, index) for index in range(1, 6)}
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedImageSequence} == wanted
    assert set(by_image(state)) == wanted


def test_lines_are_the_boxes_in_pixels_and_stay_inside_the_image(results: ScanResult, state: pydicom.Dataset) -> None:
    covered = {(lesion, index) for lesion, box in enumerate(BOXES, 1) for index in range(int(box[2]), int(box[5]))}
    found = set()
    for index in range(SHAPE[0]):
        annotation = by_image(state).get(uid_of(results, index))
        for line in () if annotation is None else annotation.GraphicObjectSequence:
            number = int(line.TrackingID.removeprefix("Lesion "))
            found.add((number, index))
            points = np.array(line.GraphicData).reshape(-1, 2)
            x1, y1, _, x2, y2, _ = BOXES[number - 1]
            np.testing.assert_allclose([*points.min(axis=0), *points.max(axis=0)], [x1, y1, x2, y2], atol=1e-3)
            np.testing.assert_array_equal(points[0], points[-1])
            assert (line.GraphicType, line.GraphicAnnotationUnits) == ("POLYLINE", "PIXEL")
            assert (points >= 0).all()
            assert (points <= [SHAPE[2], SHAPE[1]]).all()
    assert found == covered


def test_a_lesion_has_the_same_tracking_as_in_report_and_segmentation(
    results: ScanResult, state: pydicom.Dataset
) -> None:
    segmentation = pydicom.dcmread(io.BytesIO(DicomWriter(version="1")(results)["lesions_seg.dcm"]))
    wanted = {(one.TrackingID, one.TrackingUID) for one in segmentation.SegmentSequence}
    lines = [line for one in state.GraphicAnnotationSequence for line in one.GraphicObjectSequence]
    assert {(line.TrackingID, line.TrackingUID) for line in lines} == wanted
    assert len({uid for _, uid in wanted}) == len(BOXES)


def test_every_image_has_names_scores_and_the_notices(state: pydicom.Dataset) -> None:
    for annotation in state.GraphicAnnotationSequence:
        *names, notice = [text.UnformattedTextValue for text in annotation.TextObjectSequence]
        numbers = [int(line.TrackingID.removeprefix("Lesion ")) for line in annotation.GraphicObjectSequence]
        assert names == [f"Lesion {number} ({SCORES[number - 1]:.2f})" for number in numbers]
        assert notice == "Not a medical device. For research use only. Synthetic weights."


def test_outlines_take_the_place_of_boxes(tmp_path: Path) -> None:
    scan = read_scan(write_ct(tmp_path, np.full((5, 30, 34), 40, np.int16)))
    results = results_of(scan, [(6.0, 5.0, 1.0, 26.0, 21.0, 4.0)], (0.9,), fields=elliptic)
    state = written(results)
    assert state.SeriesDescription.startswith("Lesion outlines.")
    for annotation in state.GraphicAnnotationSequence:
        points = np.array(annotation.GraphicObjectSequence[0].GraphicData).reshape(-1, 2)
        assert len(points) > 8
        voxels = np.array(results.entries[0]["outline"]["voxel"])[:, :2]
        np.testing.assert_allclose(points[:-1], voxels, atol=1e-2)


def test_pixels_that_are_not_square_are_shown_as_they_are(state: pydicom.Dataset) -> None:
    (area,) = state.DisplayedAreaSelectionSequence
    assert list(area.PresentationPixelSpacing) == [0.9, 0.7]
    assert "PresentationPixelAspectRatio" not in area
    assert (state.RescaleIntercept, state.RescaleSlope) == (-1024, 1)


def test_a_second_run_joins_the_series(results: ScanResult, tmp_path: Path) -> None:
    first = PresentationWriter(version="1")(results)["lesions_pr.dcm"]
    (tmp_path / "lesions_pr.dcm").write_bytes(first)
    there = pydicom.dcmread(io.BytesIO(first))
    second = written(dataclasses.replace(results, folder=tmp_path))
    assert second.SeriesInstanceUID != there.SeriesInstanceUID
    again = PresentationWriter(version="1")(dataclasses.replace(results, folder=tmp_path))["lesions_pr.dcm"]
    joined = pydicom.dcmread(io.BytesIO(again))
    assert (joined.SeriesInstanceUID, joined.InstanceNumber) == (there.SeriesInstanceUID, 2)
    assert joined.SOPInstanceUID != there.SOPInstanceUID


def test_no_lesion_and_other_scans_give_no_file(results: ScanResult, caplog: pytest.LogCaptureFixture) -> None:
    assert PresentationWriter()(dataclasses.replace(results, lesions=[])) == {}
    scan = read_scan(results.scan.path)
    scan = dataclasses.replace(scan, series=None)
    assert PresentationWriter()(dataclasses.replace(results, scan=scan)) == {}
    assert not caplog.records


def test_validator_finds_nothing_wrong(results: ScanResult, tmp_path: Path) -> None:
    path = tmp_path / "lesions_pr.dcm"
    path.write_bytes(PresentationWriter(version="1")(results)["lesions_pr.dcm"])
    told = [line for line in validator_lines(path) if line.startswith(("Error", "Warning"))]
    # Which side it is nobody knows, and the standard wants it said.
    assert not [line for line in told if "<Laterality>" not in line], told
    assert not [line for line in told if line.startswith("Error")], told
