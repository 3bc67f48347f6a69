"""DICOM report and segmentation: they are read without a warning and refer to the right images."""

from __future__ import annotations

import dataclasses
import io
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from scripts.data.scans.scan import read_scan
from scripts.inference.detections import ScanResult
from scripts.inference.outputs.label_map import box_voxels
from support.dicom_checks import read_in_full, validator_lines
from support.fake_dicom import FRAME, SERIES, STUDY, write_ct
from support.fake_results import results_of

pytest.importorskip("highdicom")
from highdicom import seg, sr

from scripts.inference.outputs.dicom.lesion_measurements import SCORE
from scripts.inference.outputs.dicom.structured_report import DicomWriter

SHAPE = (7, 21, 27)
# Two overlap, one is a slice thick.
BOXES = [(3.25, 4.0, 1.0, 12.0, 9.5, 5.0), (10.0, 8.0, 3.0, 16.0, 14.0, 6.0), (20.0, 15.0, 2.0, 24.0, 18.0, 3.0)]
SCORES = (0.93, 0.5, 0.25)


def series(folder: Path, **changes: object) -> Path:
    hu = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    return write_ct(folder, hu, **changes)


def write(results: ScanResult) -> dict[str, bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return DicomWriter(version="1.2.3")(results)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> ScanResult:
    return results_of(read_scan(series(tmp_path_factory.mktemp("series"))), BOXES, SCORES)


@pytest.fixture(scope="module")
def files(results: ScanResult) -> dict[str, bytes]:
    return write(results)


def report_of(content: bytes) -> sr.Comprehensive3DSR:
    read_in_full(content)
    return sr.srread(io.BytesIO(content))


def boxes_of(content: bytes) -> seg.Segmentation:
    read_in_full(content)
    return seg.segread(io.BytesIO(content))


def height_of(files: tuple[Path, ...]) -> dict[str, float]:
    """z of each image by its UID."""
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
    return {header.SOPInstanceUID: float(header.ImagePositionPatient[2]) for header in headers}


def test_both_files_belong_to_the_patient_and_study(files: dict[str, bytes]) -> None:
    assert set(files) == {"lesions_sr.dcm", "lesions_seg.dcm"}
    uids = set()
    for content in files.values():
        dataset = read_in_full(content)
        assert str(dataset.PatientName) == "Müller^Jörg"
        assert (dataset.PatientID, dataset.StudyInstanceUID, dataset.StudyDate) == ("P-1", STUDY, "20260102")
        assert dataset.SeriesInstanceUID != SERIES
        assert "Not a medical device" in dataset.SeriesDescription
        assert dataset.ContentQualification == "RESEARCH"
        assert dataset.SoftwareVersions == "1.2.3"
        uids |= {dataset.SOPInstanceUID, dataset.SeriesInstanceUID}
    assert len(uids) == 4


def test_report_holds_each_lesion(results: ScanResult, files: dict[str, bytes]) -> None:
    report = report_of(files["lesions_sr.dcm"])
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )
    assert report.content.get_subject_contexts() == []
    device = report.content.get_observer_contexts()[0].observer_identifying_attributes
    assert "Not a medical device" in device.name
    assert "Synthetic weights." in device.name
    volumes = report.content.get_volumetric_roi_measurement_groups()
    planes = report.content.get_planar_roi_measurement_groups()
    assert [group.tracking_identifier for group in volumes + planes] == ["Lesion 1", "Lesion 2", "Lesion 3"]
    assert len({group.tracking_uid for group in volumes + planes}) == 3
    heights = height_of(results.scan.files)
    for group, entry in zip(volumes + planes, results.document["lesions"], strict=True):
        assert group.finding_type == codes.SCT.Lesion
        (score,) = group.get_measurements(name=SCORE)
        assert score.value == entry["score"]
        assert score.unit == codes.UCUM.NoUnits
        # The score comes from the best slice.
        (image,) = score.referenced_images
        assert heights[image.referenced_sop_instance_uid] == pytest.approx(entry["key_point_lps_mm"][2])
        items = {item.name.meaning: item.value for item in group[0].ContentSequence if item.ValueType == "TEXT"}
        assert items["Algorithm Name"] == "demo, weights demo.pt"
        assert items["Algorithm Version"] == "1.2.3"


def test_calibrated_score_is_a_certainty_in_percent(results: ScanResult) -> None:
    calibration = {"scores": [0.0, 1.0], "probabilities": [0.0, 0.5]}
    content = write(results_of(results.scan, BOXES, SCORES, calibration, model={}))["lesions_sr.dcm"]
    groups = report_of(content).content.get_volumetric_roi_measurement_groups()
    for group, score in zip(groups, SCORES, strict=False):
        (certainty,) = group.get_measurements(name=codes.DCM.CertaintyOfFinding)
        assert certainty.value == pytest.approx(50 * score)
        assert certainty.unit == codes.UCUM.Percent
    assert len(groups) == 2


def test_report_coordinates_are_the_boxes_in_millimetres(results: ScanResult, files: dict[str, bytes]) -> None:
    report = report_of(files["lesions_sr.dcm"])
    heights = height_of(results.scan.files)
    volumes = report.content.get_volumetric_roi_measurement_groups()
    (plane,) = report.content.get_planar_roi_measurement_groups()
    for group, entry in zip(volumes, results.document["lesions"], strict=False):
        low, high = np.array(entry["box_lps_mm"]).reshape(2, 3)
        assert group.roi.frame_of_reference_uid == FRAME
        points = np.array(group.roi.graphic_data)
        assert points.shape == (len(points), 5, 3)
        np.testing.assert_allclose(points.min(axis=(0, 1))[:2], low[:2], atol=1e-3)
        np.testing.assert_allclose(points.max(axis=(0, 1))[:2], high[:2], atol=1e-3)
        # One rectangle in the plane of each image that the box covers, and those images alone are named.
        covered = sorted(height for height in heights.values() if low[2] <= height < high[2])
        np.testing.assert_allclose(sorted(points[:, 0, 2]), covered, atol=1e-3)
        np.testing.assert_array_equal(points[:, 0], points[:, 4])
        named = [heights[image.referenced_sop_instance_uid] for image in group.roi.source_images_for_segmentation]
        np.testing.assert_allclose(sorted(named), covered)
    region = plane.roi.value
    low, high = np.array(results.document["lesions"][2]["box_lps_mm"]).reshape(2, 3)
    np.testing.assert_allclose(region.min(axis=0), [*low[:2], -95.0], atol=1e-3)
    np.testing.assert_allclose(region.max(axis=0), [*high[:2], -95.0], atol=1e-3)


def test_report_names_every_image_as_evidence(results: ScanResult, files: dict[str, bytes]) -> None:
    (study,) = read_in_full(files["lesions_sr.dcm"]).CurrentRequestedProcedureEvidenceSequence
    (one,) = study.ReferencedSeriesSequence
    assert (study.StudyInstanceUID, one.SeriesInstanceUID) == (STUDY, SERIES)
    named = {item.ReferencedSOPInstanceUID for item in one.ReferencedSOPSequence}
    assert named == set(height_of(results.scan.files))


def masks_of(segmentation: seg.Segmentation, results: ScanResult) -> np.ndarray:
    """``(Z, rows, columns, segments)`` on the images of the scan, each frame at the position of its image."""
    uids = [pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in results.scan.files]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return segmentation.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)


def test_segments_cover_the_voxels_of_the_boxes(results: ScanResult, files: dict[str, bytes]) -> None:
    segmentation = boxes_of(files["lesions_seg.dcm"])
    masks = masks_of(segmentation, results)
    truth = np.zeros((*SHAPE, 3), dtype=np.uint8)
    for number, (i1, j1, k1, i2, j2, k2) in enumerate(box_voxels(results.scan, np.array(BOXES))):
        truth[k1:k2, j1:j2, i1:i2, number] = 1
    np.testing.assert_array_equal(masks, truth)
    assert segmentation.SegmentsOverlap == "YES"
    assert "Not a medical device" in segmentation.ContentDescription
    for number, entry in enumerate(results.document["lesions"], start=1):
        description = segmentation.get_segment_description(number)
        assert description.segment_label == f"Lesion {number} ({entry['score']:.2f})"
        assert description.segmented_property_type == codes.SCT.Lesion
        assert description.algorithm_type == seg.SegmentAlgorithmTypeValues.AUTOMATIC


def test_report_and_segmentation_share_tracking(files: dict[str, bytes]) -> None:
    report, segmentation = report_of(files["lesions_sr.dcm"]), boxes_of(files["lesions_seg.dcm"])
    groups = report.content.get_volumetric_roi_measurement_groups() + report.content.get_planar_roi_measurement_groups()
    in_report = {(group.tracking_identifier, group.tracking_uid) for group in groups}
    assert set(segmentation.get_tracking_ids()) == in_report


def test_frames_of_overlapping_boxes_are_numbered_in_one_order(files: dict[str, bytes]) -> None:
    frames = read_in_full(files["lesions_seg.dcm"]).PerFrameFunctionalGroupsSequence
    places: dict[int, set[float]] = {}
    seen = set()
    for frame in frames:
        segment, place = frame.FrameContentSequence[0].DimensionIndexValues
        assert segment == frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        places.setdefault(place, set()).add(float(frame.PlanePositionSequence[0].ImagePositionPatient[2]))
        seen.add((segment, place))
    assert len(seen) == len(frames) == 4 + 3 + 1
    heights = [height for _, (height,) in sorted(places.items())]
    assert sorted(places) == list(range(1, len(places) + 1))
    assert heights in (sorted(heights), sorted(heights, reverse=True))
    assert len(set(heights)) == len(heights)


@pytest.mark.parametrize(
    ("orientation", "origin"),
    [
        ((1, 0, 0, 0, 1, 0), (-12.0, 30.0, -100.0)),
        ((-1, 0, 0, 0, -1, 0), (-12.0 + 26 * 0.7, 30.0 + 20 * 0.9, -100.0)),
        ((-1, 0, 0, 0, 1, 0), (-12.0 + 26 * 0.7, 30.0, -100.0)),
    ],
)
def test_boxes_stay_in_place_however_rows_and_columns_run(tmp_path: Path, orientation, origin) -> None:
    folder = series(tmp_path / "series", orientation=orientation, origin=origin)
    results = results_of(read_scan(folder), BOXES, SCORES)
    files = write(results)
    masks = masks_of(boxes_of(files["lesions_seg.dcm"]), results)
    for number, entry in enumerate(results.document["lesions"]):
        k, r, c = np.nonzero(masks[..., number])
        positions = []
        for at in (0, len(k) - 1):
            header = pydicom.dcmread(results.scan.files[k[at]], stop_before_pixels=True)
            first = np.array([float(edge) for edge in header.ImagePositionPatient])
            steps = np.array([orientation[0] * 0.7 * c[at], orientation[4] * 0.9 * r[at], 0])
            positions.append(first + steps)
        low, high = np.array(entry["box_lps_mm"]).reshape(2, 3)
        assert (np.array(positions) >= low - 1e-3).all()
        assert (np.array(positions) <= high + 1e-3).all()
    group = report_of(files["lesions_sr.dcm"]).content.get_volumetric_roi_measurement_groups()[0]
    points = np.concatenate(group.roi.graphic_data)
    low, high = np.array(results.document["lesions"][0]["box_lps_mm"]).reshape(2, 3)
    np.testing.assert_allclose(points.min(axis=0)[:2], low[:2], atol=1e-3)
    np.testing.assert_allclose(points.max(axis=0)[:2], high[:2], atol=1e-3)


@pytest.mark.parametrize(
    ("orientation", "stacking"),
    [((1, 0, 0, 0, 0, -1), (0, 1, 0)), ((1, 0, 0, 0, 0, -1), (0, -1, 0)), ((0, 1, 0, 0, 0, -1), (1, 0, 0))],
    ids=["coronal", "coronal from the back", "sagittal"],
)
def test_coronal_and_sagittal_images_show_the_boxes_where_they_are(tmp_path: Path, orientation, stacking) -> None:
    results = results_of(
        read_scan(series(tmp_path / "series", orientation=orientation, stacking=stacking)),
        [(1.2, 1.2, 3.2, 5.2, 4.2, 9.2), (2.2, 4.2, 12.2, 5.2, 6.8, 14.2)],
        (0.9, 0.5),
    )
    files = write(results)
    edges = box_voxels(results.scan, np.array([lesion.box for lesion in results.lesions]))
    truth = np.zeros((*SHAPE, 2), dtype=np.uint8)
    for number, (i1, j1, k1, i2, j2, k2) in enumerate(edges):
        truth[k1:k2, j1:j2, i1:i2, number] = 1
    np.testing.assert_array_equal(masks_of(boxes_of(files["lesions_seg.dcm"]), results), truth)
    groups = report_of(files["lesions_sr.dcm"]).content.get_volumetric_roi_measurement_groups()
    across = int(np.argmax(np.abs(stacking)))
    for group, entry, (_, _, k1, _, _, k2) in zip(groups, results.document["lesions"], edges, strict=True):
        points = np.array(group.roi.graphic_data)
        places = [
            pydicom.dcmread(results.scan.files[k], stop_before_pixels=True).ImagePositionPatient[across]
            for k in range(k1, k2)
        ]
        np.testing.assert_allclose(points[:, 0, across], places, atol=1e-3)
        low, high = (np.delete(corner, across) for corner in np.array(entry["box_lps_mm"]).reshape(2, 3))
        np.testing.assert_allclose(np.delete(points.min(axis=(0, 1)), across), low, atol=1e-3)
        np.testing.assert_allclose(np.delete(points.max(axis=(0, 1)), across), high, atol=1e-3)


def test_no_lesion_is_a_report_without_groups(tmp_path: Path) -> None:
    files = write(results_of(read_scan(series(tmp_path / "series")), [], []))
    assert set(files) == {"lesions_sr.dcm"}
    report = report_of(files["lesions_sr.dcm"])
    assert report.content.get_volumetric_roi_measurement_groups() == []
    (group,) = report.content.get_image_measurement_groups()
    (number,) = group.get_measurements()
    assert (number.name.meaning, number.value) == ("Number of lesions", 0)


def test_other_scans_get_no_dicom(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nifti = tmp_path / "scan.nii"
    nifti.write_bytes(bytes(400))
    folder = series(tmp_path / "series")
    results = results_of(read_scan(folder), BOXES, SCORES)
    scan = type(results.scan)(**{**vars(results.scan), "files": (nifti,), "series": None})
    assert DicomWriter()(dataclasses.replace(results, scan=scan)) == {}
    assert not caplog.records


def test_images_that_nothing_can_refer_to_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = series(tmp_path / "series", FrameOfReferenceUID=None)
    assert write(results_of(read_scan(folder), BOXES, SCORES)) == {}
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "no DICOM results" in record.getMessage()
    assert "FrameOfReferenceUID" in record.getMessage()
    assert str(folder / "IM") in record.getMessage()


def test_anonymised_headers_are_enough(tmp_path: Path) -> None:
    absent = ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "StudyTime", "StudyID", "AccessionNumber")
    folder = series(tmp_path / "series", PatientSex="U", SpecificCharacterSet=None, **dict.fromkeys(absent))
    for content in write(results_of(read_scan(folder), BOXES, SCORES)).values():
        dataset = read_in_full(content)
        assert not dataset.PatientID
        assert not dataset.PatientSex


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_dates_that_are_none_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    invalid = {"StudyDate": "UNKNOWN", "StudyTime": "99:99", "PatientBirthDate": "00000000"}
    folder = series(tmp_path / "series", **invalid)
    files = write(results_of(read_scan(folder), BOXES, SCORES))
    assert set(files) == {"lesions_sr.dcm", "lesions_seg.dcm"}
    for content in files.values():
        dataset = read_in_full(content)
        assert not any(dataset.get(name) for name in invalid)
        assert dataset.PatientID == "P-1"
    for name, value in invalid.items():
        assert f"IM0007.dcm: the DICOM results leave out {name}, which is {value}." in caplog.text
    assert caplog.text.count("the DICOM results leave out") == len(invalid)


def test_names_in_other_scripts_stay(tmp_path: Path) -> None:
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    changes = {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": name}
    for content in write(results_of(read_scan(series(tmp_path / "series", **changes)), BOXES, SCORES)).values():
        assert str(read_in_full(content).PatientName) == name


@pytest.fixture
def written(files: dict[str, bytes], results: ScanResult, tmp_path: Path) -> Path:
    nothing = write(results_of(results.scan, [], []))
    for name, content in {**files, "none_sr.dcm": nothing["lesions_sr.dcm"]}.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("name", ["lesions_sr.dcm", "lesions_seg.dcm", "none_sr.dcm"])
def test_independent_validator_finds_nothing(written: Path, name: str) -> None:
    said = validator_lines(written / name, "-new")
    assert said in (["Comprehensive3DSR"], ["Segmentation"]), said


def test_uids_are_new_each_time(results: ScanResult, files: dict[str, bytes]) -> None:
    again = write(results)
    for name, content in files.items():
        assert read_in_full(content).SOPInstanceUID != read_in_full(again[name]).SOPInstanceUID


def test_a_later_run_refers_to_the_one_before(results: ScanResult, files: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    later = write(dataclasses.replace(results, folder=tmp_path))
    for name, content in files.items():
        old, new = read_in_full(content), read_in_full(later[name])
        assert new.SeriesInstanceUID == old.SeriesInstanceUID
        assert (old.InstanceNumber, new.InstanceNumber) == (1, 2)
        assert new.SOPInstanceUID != old.SOPInstanceUID
    (study,) = read_in_full(later["lesions_sr.dcm"]).PredecessorDocumentsSequence
    (named,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert named.ReferencedSOPInstanceUID == read_in_full(files["lesions_sr.dcm"]).SOPInstanceUID
    assert "PredecessorDocumentsSequence" not in read_in_full(files["lesions_sr.dcm"])
    # Of another study or damaged, an older file is not referred to.
    for change in ("study", "damage"):
        old = read_in_full(files["lesions_sr.dcm"])
        old.StudyInstanceUID = "1.2.3.9"
        old.save_as(tmp_path / "lesions_sr.dcm")
        if change == "damage":
            (tmp_path / "lesions_sr.dcm").write_bytes(b"DICM")
        assert "PredecessorDocumentsSequence" not in read_in_full(
            write(dataclasses.replace(results, folder=tmp_path))["lesions_sr.dcm"]
        )


def test_large_segmentations_are_deflated_and_read_back_the_same(results: ScanResult, files: dict[str, bytes]) -> None:
    plain = boxes_of(files["lesions_seg.dcm"])
    assert plain.file_meta.TransferSyntaxUID.name == "Explicit VR Little Endian"
    content = DicomWriter(deflate_above_megabytes=0)(results)["lesions_seg.dcm"]
    deflated = boxes_of(content)
    assert deflated.file_meta.TransferSyntaxUID.name == "Deflated Explicit VR Little Endian"
    assert len(content) < len(files["lesions_seg.dcm"]) / 2
    np.testing.assert_array_equal(masks_of(deflated, results), masks_of(plain, results))
