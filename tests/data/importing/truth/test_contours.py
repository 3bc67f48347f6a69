"""Outlines that cannot be used are rejected; XML defines nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from scripts.data.importing.truth.contours import lidc_series, read_lidc, read_structures
from scripts.data.scans.scan import Scan, read_scan
from scripts.storage.safe_xml import read_xml
from support.fake_truth import pixel_boxes, write_dicom_case, write_lidc, write_nifti_case, write_rtstruct


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dicom_case(tmp_path_factory.mktemp("dicom") / "CT")


@pytest.fixture(scope="module")
def scan(series: Path) -> Scan:
    return read_scan(series)


def change(
    path: Path, move: tuple[float, float, float] = (0, 0, 0), tilt: float = 0.0, kind: str = "CLOSED_PLANAR"
) -> Path:
    """Move or tilt the first outline of a structure set."""
    dataset = pydicom.dcmread(path)
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    points = np.array(contour.ContourData, dtype=float).reshape(-1, 3) + move
    points[:, 2] += tilt * (points[:, 0] - points[0, 0])
    contour.ContourData = [f"{value:.4f}" for value in points.ravel()]
    contour.ContourGeometricType = kind
    dataset.save_as(path)
    return path


def test_outlines_across_slices_or_elsewhere(tmp_path: Path, series: Path, scan: Scan) -> None:
    path = write_rtstruct(tmp_path / "a.dcm", series)
    with pytest.raises(ValueError, match=r"outlines on slices .* GTV 1 of"):
        read_structures(change(path, tilt=1.0), scan, each_structure=False)
    path = write_rtstruct(tmp_path / "b.dcm", series)
    with pytest.raises(ValueError, match="outlines inside of the scan"):
        read_structures(change(path, (0, 0, -300)), scan, each_structure=False)


def test_open_lines_are_left_out_with_a_note(tmp_path: Path, series: Path, scan: Scan) -> None:
    path = change(write_rtstruct(tmp_path / "a.dcm", series), kind="POINT")
    truth = read_structures(path, scan, each_structure=False)
    assert "an outline that is not closed" in truth.notes[0]
    assert len(truth.lesions) == 1


def test_the_box_of_lidc_is_within_its_outline(tmp_path: Path, series: Path, scan: Scan) -> None:
    (lesion,) = read_lidc(write_lidc(tmp_path / "r.xml", series), scan).lesions
    found = dict(zip(lesion.slices.tolist(), lesion.boxes.tolist(), strict=True))
    assert found == {z: box.tolist() for z, box in pixel_boxes(series).items()}
    assert lidc_series(tmp_path / "r.xml") == "1.2.3.4"


def test_marks_that_are_no_nodules_are_counted(tmp_path: Path, series: Path, scan: Scan) -> None:
    path = write_lidc(tmp_path / "r.xml", series)
    uid = pydicom.dcmread(series / "IM0003.dcm").SOPInstanceUID
    point = "<edgeMap><xCoord>5</xCoord><yCoord>6</yCoord></edgeMap>"
    small = f"<unblindedReadNodule><roi><imageSOP_UID>{uid}</imageSOP_UID>{point}</roi></unblindedReadNodule>"
    lost = f"<unblindedReadNodule><roi><imageSOP_UID>9.9</imageSOP_UID>{point}</roi></unblindedReadNodule>"
    text = path.read_text().replace("</readingSession>", f"{small}{lost}<nonNodule/></readingSession>", 1)
    path.write_text(text)
    notes = " ".join(read_lidc(path, scan).notes)
    for words in (
        "1 outline(s) on slices",
        "2 mark(s) of nodules under 3 mm",
        "1 mark(s) that the readers call no nodule",
    ):
        assert words in notes
    assert 11 in read_lidc(path, scan).unsure


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ('<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', "XML without definitions of its own"),
        ("<a><b></a>", "Expected XML, cannot read"),
        ("", "Expected XML, cannot read"),
    ],
)
def test_xml_that_is_not_read(tmp_path: Path, content: str, what: str) -> None:
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(ValueError, match=what):
        read_xml(tmp_path / "a.xml")


def test_outlines_need_slices_with_uids_and_whole_numbers(tmp_path: Path, series: Path, scan: Scan) -> None:
    path = write_lidc(tmp_path / "r.xml", series)
    with pytest.raises(ValueError, match="DICOM slices"):
        read_lidc(path, read_scan(write_nifti_case(tmp_path)))
    path.write_text(path.read_text().replace("<xCoord>", "<xCoord>x", 1))
    with pytest.raises(ValueError, match="whole numbers as xCoord"):
        read_lidc(path, scan)


def test_a_structure_set_that_lacks_its_parts(tmp_path: Path, series: Path, scan: Scan) -> None:
    path = write_rtstruct(tmp_path / "a.dcm", series)
    dataset = pydicom.dcmread(path)
    del dataset.StructureSetROISequence[0].ROINumber
    dataset.save_as(path)
    with pytest.raises(ValueError, match="a DICOM structure set, cannot use"):
        read_structures(path, scan, each_structure=False)
