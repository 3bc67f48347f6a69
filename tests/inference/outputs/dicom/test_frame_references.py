"""Results on Enhanced CT: the law is that they say of frames what they say of the same slices in files of their own."""

from __future__ import annotations

import csv
import io
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest

from scripts.data.scans.scan import Scan, read_scan
from scripts.data.scans.scan_tensors import scan_of, scan_tensor
from scripts.inference.detections import ScanResult
from scripts.inference.outputs.lesions_document import json_files
from scripts.inference.outputs.lesions_table import lesion_table
from support.dicom_checks import read_in_full, validator_lines
from support.fake_dicom import write_ct
from support.fake_enhanced import read_slices, write_enhanced
from support.fake_results import results_of

pytest.importorskip("highdicom")
from highdicom import seg, sr

from scripts.inference.outputs.dicom.presentation_state import PresentationWriter
from scripts.inference.outputs.dicom.structured_report import DicomWriter

SHAPE = (7, 21, 27)
# Two overlap, one is a slice thick.
BOXES = [(3.25, 4.0, 1.0, 12.0, 9.5, 5.0), (10.0, 8.0, 3.0, 16.0, 14.0, 6.0), (20.0, 15.0, 2.0, 24.0, 18.0, 3.0)]
SCORES = (0.93, 0.5, 0.25)
# Frames of two files by slice, so that neither files nor frames are in the order of the slices.
PARTS = ([4, 0, 6, 2], [5, 1, 3])


def write(results: ScanResult) -> dict[str, pydicom.Dataset]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = {**DicomWriter(version="1")(results), **PresentationWriter(version="1")(results)}
    return {name: read_in_full(content) for name, content in files.items()}


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hu = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    return write_ct(tmp_path_factory.mktemp("classic"), hu)


@pytest.fixture(scope="module", params=["one file", "two files"])
def scans(request: pytest.FixtureRequest, classic: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Scan, Scan]:
    """The same scan as frames and as slices."""
    slices, folder = read_slices(classic), tmp_path_factory.mktemp("enhanced")
    parts = PARTS if request.param == "two files" else ([*PARTS[0], *PARTS[1]],)
    for number, part in enumerate(parts):
        write_enhanced(folder / f"{number}.dcm", [slices[at] for at in part])
    return read_scan(folder), read_scan(classic)


@pytest.fixture(scope="module")
def results(scans: tuple[Scan, Scan]) -> tuple[ScanResult, ScanResult]:
    one, other = scans
    return results_of(one, BOXES, SCORES), results_of(other, BOXES, SCORES)


@pytest.fixture(scope="module")
def written(results: tuple[ScanResult, ScanResult]) -> tuple[dict[str, pydicom.Dataset], dict[str, pydicom.Dataset]]:
    return write(results[0]), write(results[1])


def places(scan: Scan) -> dict[tuple[str, int | None], float]:
    """z of each image by its UID and frame."""
    found: dict[tuple[str, int | None], float] = {}
    for path in set(scan.files):
        file = pydicom.dcmread(path, stop_before_pixels=True)
        groups = file.get("PerFrameFunctionalGroupsSequence")
        if groups is None:
            found[file.SOPInstanceUID, None] = float(file.ImagePositionPatient[2])
        for number, group in enumerate(groups or (), start=1):
            found[file.SOPInstanceUID, number] = float(group.PlanePositionSequence[0].ImagePositionPatient[2])
    return found


def named(dataset: pydicom.Dataset, height: dict[tuple[str, int | None], float]) -> list[tuple[str, list[float]]]:
    """Every reference to an image of the scan in a result: the list that it is in, and the heights in mm."""
    found = []
    for element in dataset:
        if element.VR != "SQ":
            continue
        heights: list[float] = []
        for item in element.value:
            uid = item.get("ReferencedSOPInstanceUID")
            numbers = item.get("ReferencedFrameNumber", [None])
            keys = [(uid, number) for number in ([numbers] if isinstance(numbers, int) else numbers)]
            if uid in {known for known, _ in height}:
                # A file as a whole means all of its frames.
                whole = [at for (known, _), at in height.items() if known == uid]
                heights += whole if keys == [(uid, None)] else [height[key] for key in keys]
            found += named(item, height)
        if heights:
            found.append((element.keyword, sorted(heights)))
    return found


@pytest.mark.parametrize("name", ["lesions_sr.dcm", "lesions_seg.dcm", "lesions_pr.dcm"])
def test_every_reference_names_the_frame_at_the_place_of_the_slice(
    scans: tuple[Scan, Scan], written: tuple[dict[str, pydicom.Dataset], ...], name: str
) -> None:
    (one, other), (frames, slices) = scans, written
    wanted = named(slices[name], places(other))
    found = named(frames[name], places(one))
    whole = ("ReferencedInstanceSequence",)
    assert [entry for entry in found if entry[0] not in whole] == [entry for entry in wanted if entry[0] not in whole]
    assert [keyword for keyword, _ in found] == [keyword for keyword, _ in wanted]


@pytest.mark.parametrize("name", ["lesions_sr.dcm", "lesions_seg.dcm", "lesions_pr.dcm"])
def test_references_are_to_files_that_there_are(
    scans: tuple[Scan, Scan], written: tuple[dict[str, pydicom.Dataset], ...], name: str
) -> None:
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in set(scans[0].files)]
    real = {header.SOPInstanceUID: header.SOPClassUID for header in headers}
    result = written[0][name]

    def check(dataset: pydicom.Dataset) -> None:
        for item in (item for element in dataset if element.VR == "SQ" for item in element.value):
            if "ReferencedSOPInstanceUID" in item and item.ReferencedSOPClassUID.name.endswith("CT Image Storage"):
                assert real[item.ReferencedSOPInstanceUID] == item.ReferencedSOPClassUID
            check(item)

    check(result)
    for series in (*result.get("ReferencedSeriesSequence", ()), *_evidence(result)):
        items = series.get("ReferencedInstanceSequence") or series.get("ReferencedSOPSequence") or ()
        uids = [item.ReferencedSOPInstanceUID for item in items]
        assert len(uids) == len(set(uids))
        assert not any("ReferencedFrameNumber" in item for item in items)


def _evidence(result: pydicom.Dataset) -> list[pydicom.Dataset]:
    studies = result.get("CurrentRequestedProcedureEvidenceSequence", ())
    return [series for study in studies for series in study.ReferencedSeriesSequence]


def test_highdicom_reads_them_back(scans: tuple[Scan, Scan], results: tuple[ScanResult, ScanResult]) -> None:
    files = DicomWriter(version="1")(results[0])
    plain = DicomWriter(version="1")(results[1])
    one, other = (seg.segread(io.BytesIO(each["lesions_seg.dcm"])) for each in (files, plain))
    np.testing.assert_array_equal(one.get_volume().array, other.get_volume().array)
    np.testing.assert_allclose(one.get_volume().affine, other.get_volume().affine)
    report = sr.srread(io.BytesIO(files["lesions_sr.dcm"]))
    groups = report.content.get_volumetric_roi_measurement_groups()
    for image in (image for group in groups for image in group.roi.source_images_for_segmentation):
        (number,) = image.referenced_frame_numbers
        assert (image.referenced_sop_instance_uid, number) in places(scans[0])


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (package dicom3tools) is not installed")
@pytest.mark.parametrize("name", ["lesions_sr.dcm", "lesions_seg.dcm", "lesions_pr.dcm"])
def test_the_validator_says_no_more_than_of_slices(
    results: tuple[ScanResult, ScanResult], tmp_path: Path, name: str
) -> None:
    said = []
    for at, result in enumerate(results):
        (tmp_path / f"{at}.dcm").write_bytes({**DicomWriter()(result), **PresentationWriter()(result)}[name])
        said.append([line for line in validator_lines(tmp_path / f"{at}.dcm") if line.startswith("Error")])
    assert said[0] == said[1]


def test_documents_name_the_frame(scans: tuple[Scan, Scan], results: tuple[ScanResult, ScanResult]) -> None:
    height = places(scans[0])
    files = json_files(results[0])
    for entry in json.loads(files["lesions.json"])["lesions"]:
        image = entry["image"]
        assert image["instance_number"] == 1
        at = height[image["sop_instance_uid"], image["frame_number"]]
        assert at == pytest.approx(entry["key_point_lps_mm"][2])
    rows = list(csv.DictReader(io.StringIO(lesion_table(results[0])["lesions.csv"].decode())))
    assert [row["frame_number"] for row in rows] == [
        str(entry["image"]["frame_number"]) for entry in results[0].entries
    ]
    assert "frame_number" not in lesion_table(results[1])["lesions.csv"].decode()
    assert json.loads(files["lesions.json"])["input"]["files"] == len(set(scans[0].files))


def test_a_scan_that_went_through_a_tensor_names_frames_and_gets_no_dicom(
    scans: tuple[Scan, Scan], caplog: pytest.LogCaptureFixture
) -> None:
    results = results_of(scan_of(scan_tensor(scans[0])), BOXES, SCORES)
    assert [entry["image"] for entry in results.entries] == [
        entry["image"] for entry in results_of(scans[0], BOXES, SCORES).entries
    ]
    assert DicomWriter()(results) == {}
    assert "results cannot refer to frames" in caplog.text
