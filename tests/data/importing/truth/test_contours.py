"""Outlines that cannot be used are rejected; XML defines nothing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from scripts.data.importing.true_lesions import ScanTruth
from scripts.data.importing.truth.contours import lidc_series, read_lidc, read_structures
from scripts.data.scans.scan import Scan, read_scan
from scripts.storage.safe_xml import read_xml
from support.fake_dicom import write_stack
from support.fake_truth import (
    BALL,
    lidc_outline,
    pixel_boxes,
    slice_headers,
    write_lidc,
    write_nifti_case,
    write_rtstruct,
)


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


def test_outlines_on_slices_of_a_tilted_gantry(tmp_path: Path) -> None:
    ct = write_nifti_case(tmp_path, turn="tilted")
    scan = read_scan(ct)
    truth = read_structures(write_rtstruct(tmp_path / "a.dcm", ct), scan, each_structure=False)
    # They are on the slices of the scan: nothing was put on another grid.
    assert truth.notes == ()
    (lesion,) = truth.lesions
    for number, box in zip(lesion.slices.tolist(), lesion.boxes, strict=True):
        np.testing.assert_allclose(box, BALL.box(scan, number), atol=0.51)


def test_outlines_on_every_slice_of_uneven_distances_are_one_lesion(tmp_path: Path) -> None:
    series = write_stack(tmp_path / "ct", [0.0, 4.0, 8.0, 12.0, 19.0, 26.0, 33.0])
    path = write_rtstruct(tmp_path / "a.dcm", series)
    dataset = pydicom.dcmread(path)
    for height in (4.0, 8.0, 12.0, 19.0, 26.0):
        contour = Dataset()
        contour.ContourGeometricType = "CLOSED_PLANAR"
        z = height - 100
        contour.ContourData = [-10.0, 33.0, z, -7.0, 33.0, z, -7.0, 36.0, z, -10.0, 36.0, z]
        dataset.ROIContourSequence[0].ContourSequence.append(contour)
    dataset.save_as(path)
    truth = read_structures(path, read_scan(series), each_structure=False)
    assert truth.notes == ()
    # A place is a millimetre; each takes the outline of the nearest slice.
    (lesion,) = truth.lesions
    assert lesion.slices.tolist() == list(range(3, 30))
    assert np.unique(lesion.boxes, axis=0).tolist() == [[3, 4, 8, 7]]


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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<xCoord>", "<xCoord>9", r"outlines inside of the scan .*, got one from \[9"),
        ("<yCoord>", "<yCoord>-9", r"outlines inside of the scan .*, got one from \["),
        ("readingSession", "session", "readings of 1 to 4 readers, got 0"),
        ("<imageSOP_UID>", "<imageSOP_UID>7.", "on slices that it does not have and no other"),
    ],
)
def test_a_reading_that_does_not_fit_its_scan(
    tmp_path: Path, series: Path, scan: Scan, old: str, new: str, message: str
) -> None:
    path = write_lidc(tmp_path / "r.xml", series)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=rf"{message}.*r\.xml"):
        read_lidc(path, scan)


def test_more_readers_than_lidc_has(tmp_path: Path, series: Path, scan: Scan) -> None:
    with pytest.raises(ValueError, match=r"readings of 1 to 4 readers, got 5 in .*r\.xml"):
        read_lidc(write_lidc(tmp_path / "r.xml", series, readers=5), scan)


def test_a_reading_that_repeats_another_is_no_further_reader(tmp_path: Path, series: Path, scan: Scan) -> None:
    path = write_lidc(tmp_path / "r.xml", series, readers=2)
    text = path.read_text()
    session = text[text.index("<readingSession>") : text.index("</readingSession>") + len("</readingSession>")]
    empty = "<readingSession/>"
    path.write_text(text.replace(session, f"{empty}{session}{session.replace('<noduleID>1', '<noduleID>9')}{empty}", 1))
    with pytest.raises(ValueError, match="got 5"):
        read_lidc(path, scan)
    path.write_text(path.read_text().replace(empty, "", 1))
    truth = read_lidc(path, scan)
    assert not truth.lesions
    assert truth.notes[:2] == (
        "Left out 1 reading(s) whose outlines are those of another one, point for point (r.xml).",
        "1 nodule(s) that fewer than 3 readers outlined: regions to ignore (r.xml).",
    )
    # Neither a lesion nor background: the same box as that of a nodule.
    (region,), agreed = truth.regions, read_lidc(path, scan, readers=2)
    (lesion,) = agreed.lesions
    assert not agreed.regions
    assert region.slices.tolist() == lesion.slices.tolist()
    np.testing.assert_array_equal(region.boxes, lesion.boxes)
    assert set(region.slices.tolist()) <= set(truth.unsure)
    path.write_text(text.replace(session, f"{empty}{empty}", 1))
    assert not [note for note in read_lidc(path, scan).notes if "point for point" in note]


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
    whole = path.read_text()
    for wrong in ("x", "9" * 25):
        path.write_text(whole.replace("<xCoord>", f"<xCoord>{wrong}", 1))
        with pytest.raises(ValueError, match="whole numbers of pixels as xCoord"):
            read_lidc(path, scan)


def test_a_structure_set_that_lacks_its_parts(tmp_path: Path, series: Path, scan: Scan) -> None:
    path = write_rtstruct(tmp_path / "a.dcm", series)
    dataset = pydicom.dcmread(path)
    del dataset.StructureSetROISequence[0].ROINumber
    dataset.save_as(path)
    with pytest.raises(ValueError, match="a DICOM structure set, cannot use"):
        read_structures(path, scan, each_structure=False)


@pytest.mark.parametrize(("offset", "damage"), [(4, b"HS"), (8, b"\n+")])
def test_a_damaged_number_of_a_structure(tmp_path: Path, series: Path, scan: Scan, offset: int, damage: bytes) -> None:
    path = write_rtstruct(tmp_path / "a.dcm", series)
    content = bytearray(path.read_bytes())
    at = content.index(b"\x06\x30\x22\x00IS") + offset
    content[at : at + 2] = damage
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a DICOM structure set, cannot use .*a\.dcm") as caught:
        read_structures(path, scan, each_structure=False)
    assert "\n" not in str(caught.value)


def copies(path: Path, *offsets: float, turned: bool = False) -> Path:
    """Write every outline of a structure set again at each of these distances in mm, from another point on."""
    dataset = pydicom.dcmread(path)
    drawn = list(dataset.ROIContourSequence[0].ContourSequence)
    for offset, contour in itertools.product(offsets, drawn):
        points = np.array(contour.ContourData, dtype=float).reshape(-1, 3) + np.array([0, 0, offset])
        other = Dataset()
        other.ContourGeometricType = "CLOSED_PLANAR"
        other.ContourData = [
            f"{value:.4f}" for value in (points[::-1] if turned else np.roll(points, 5, axis=0)).ravel()
        ]
        dataset.ROIContourSequence[0].ContourSequence.append(other)
    dataset.save_as(path)
    return path


def boxes_of(truth: ScanTruth) -> list[dict[int, list[float]]]:
    """Boxes of each lesion by slice."""
    return [dict(zip(one.slices.tolist(), one.boxes.tolist(), strict=True)) for one in truth.lesions]


@pytest.mark.parametrize(
    ("offsets", "turned"), [((0.0,), False), ((0.0,), True), ((0.5, -0.5, 1.0, -1.0), False), ((0.8,), True)]
)
def test_outlines_drawn_twice_or_closer_than_slices_give_the_same_boxes(
    tmp_path: Path, series: Path, scan: Scan, offsets: tuple[float, ...], turned: bool
) -> None:
    once = read_structures(write_rtstruct(tmp_path / "a.dcm", series), scan, each_structure=False)
    path = copies(write_rtstruct(tmp_path / "b.dcm", series), *offsets, turned=turned)
    assert boxes_of(read_structures(path, scan, each_structure=False)) == boxes_of(once)


def write_squares(
    path: Path, series: Path, scan: Scan, squares: Sequence[tuple[float, float, float, float, int]]
) -> Path:
    """A structure of squares ``x1, y1, x2, y2`` in pixels on slices."""
    dataset = pydicom.dcmread(write_rtstruct(path, series))
    items = []
    for x1, y1, x2, y2, z in squares:
        corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
        lps = scan.points_to_lps(np.column_stack([corners, np.full(4, z + 0.5)]))
        item = Dataset()
        item.ContourGeometricType = "CLOSED_PLANAR"
        item.ContourData = [f"{value:.4f}" for value in lps.ravel()]
        items.append(item)
    dataset.ROIContourSequence[0].ContourSequence = items
    dataset.save_as(path)
    return path


@pytest.mark.parametrize(
    ("squares", "slices"),
    [
        # Every second slice, as a structure's own spacing, is filled.
        ([(5, 5, 15, 15, z) for z in (2, 4, 6)], [[2, 3, 4, 5, 6]]),
        # Two lesions far apart in slices, or next to each other in the plane, stay two.
        ([(5, 5, 15, 15, z) for z in (1, 12)], [[1], [12]]),
        ([(5, 5, 15, 15, 2), (25, 25, 35, 35, 4)], [[2], [4]]),
        ([(5, 5, 15, 15, z) for z in (2, 4, 9)], [[2, 3, 4], [9]]),
        # One outline of two on a slice goes on.
        ([(5, 5, 15, 15, 2), (25, 25, 35, 35, 2), (5, 5, 15, 15, 4)], [[2, 3, 4], [2]]),
        # Four slices apart are 10 mm: two outlines alone say nothing of their spacing.
        ([(5, 5, 15, 15, z) for z in (1, 5)], [[1], [5]]),
        ([(5, 5, 15, 15, z) for z in (1, 5, 9)], [list(range(1, 10))]),
    ],
)
def test_only_between_outlines_of_one_lesion_slices_are_filled(
    tmp_path: Path, series: Path, scan: Scan, squares: list[tuple[float, float, float, float, int]], slices: list
) -> None:
    truth = read_structures(write_squares(tmp_path / "a.dcm", series, scan, squares), scan, each_structure=False)
    assert sorted(one.slices.tolist() for one in truth.lesions) == sorted(slices)
    assert bool(truth.notes) == any(len(one) > 1 for one in slices)


def test_outlines_next_to_the_image_and_a_hole_in_one(tmp_path: Path, series: Path, scan: Scan) -> None:
    squares = [(5, 5, 15, 15, 3), (8, 8, 12, 12, 3)]
    (lesion,) = read_structures(
        write_squares(tmp_path / "a.dcm", series, scan, squares), scan, each_structure=True
    ).lesions
    assert lesion.boxes.tolist() == [[5, 5, 15, 15]]
    path = write_squares(tmp_path / "b.dcm", series, scan, [(5, 5, 15, 15, 3), (105, 5, 115, 15, 3)])
    with pytest.raises(ValueError, match="outlines inside of the scan"):
        read_structures(path, scan, each_structure=False)


def test_a_structure_of_points_alone_is_no_scan_without_a_lesion(tmp_path: Path, series: Path, scan: Scan) -> None:
    path = write_squares(tmp_path / "a.dcm", series, scan, [(5, 5, 15, 15, 3)])
    with pytest.raises(ValueError, match=r"closed outlines, got only points or open lines in .*a\.dcm"):
        read_structures(change(path, kind="POINT"), scan, each_structure=False)
    path = change(write_squares(tmp_path / "b.dcm", series, scan, [(5, 5, 15, 15, 3), (5, 5, 15, 15, 8)]), kind="POINT")
    truth = read_structures(path, scan, each_structure=False)
    assert (truth.unsure, [one.slices.tolist() for one in truth.lesions]) == ((3,), [[8]])


def lidc_of(path: Path, series: Path, nodules: Sequence[Sequence[tuple[int, tuple[int, int, int, int], str]]]) -> Path:
    """Four readers' nodules: outlines of boxes on slices, and whether what is within belongs to them."""
    headers = slice_headers(series)
    text = ""
    for reader in range(4):
        text += "<readingSession>"
        for nodule in nodules:
            rois = [lidc_outline(headers[z].SOPInstanceUID, box, reader, inclusion) for z, box, inclusion in nodule]
            text += f"<unblindedReadNodule>{''.join(rois)}</unblindedReadNodule>"
        text += "</readingSession>"
    path.write_text(f"<LidcReadMessage>{text}</LidcReadMessage>")
    return path


@pytest.mark.parametrize("turned", [False, True])
def test_several_outlines_of_a_nodule_on_a_slice_are_one_area(
    tmp_path: Path, series: Path, scan: Scan, turned: bool
) -> None:
    drawn = [(4, (5, 5, 15, 15), "TRUE"), (4, (20, 8, 25, 18), "TRUE"), (4, (7, 7, 9, 9), "FALSE")]
    path = lidc_of(tmp_path / "r.xml", series, [drawn[::-1] if turned else drawn])
    (lesion,) = read_lidc(path, scan).lesions
    assert boxes_of(read_lidc(path, scan)) == [{4: [5, 5, 25, 18]}]
    assert len(lesion.outlines[4]) == 8


def test_two_nodules_on_the_same_slices_are_two(tmp_path: Path, series: Path, scan: Scan) -> None:
    nodules = [[(z, box, "TRUE") for z in (4, 5)] for box in ((5, 5, 15, 15), (30, 20, 38, 28))]
    path = lidc_of(tmp_path / "r.xml", series, nodules)
    found = sorted(one.bounds.tolist() for one in read_lidc(path, scan).lesions)
    assert found == [[5, 5, 15, 15], [30, 20, 38, 28]]


def test_outlines_without_anything_within_are_counted(tmp_path: Path, series: Path, scan: Scan) -> None:
    truth = read_lidc(lidc_of(tmp_path / "r.xml", series, [[(4, (6, 5, 6, 15), "TRUE")]]), scan)
    assert truth.notes == ("Left out 4 outline(s) without a pixel within (r.xml).",)
    assert truth.unsure == (4,)


@pytest.mark.parametrize("kind", ["EXTERNAL", "SUPPORT"])
def test_outlines_of_the_patient_and_of_devices_are_no_lesions(
    tmp_path: Path, series: Path, scan: Scan, kind: str
) -> None:
    path = write_rtstruct(tmp_path / "rt.dcm", series, "GTV")
    dataset = pydicom.dcmread(path)
    body, outline, observation = (pydicom.Dataset() for _ in range(3))
    body.ROINumber = outline.ReferencedROINumber = observation.ReferencedROINumber = 9
    body.ROIName, observation.RTROIInterpretedType = "BODY", kind
    outline.ContourSequence = dataset.ROIContourSequence[0].ContourSequence
    dataset.StructureSetROISequence.append(body)
    dataset.ROIContourSequence.append(outline)
    dataset.RTROIObservationsSequence = [observation]
    dataset.save_as(path)
    truth = read_structures(path, scan, each_structure=False)
    assert [lesion.name for lesion in truth.lesions] == ["GTV"]
    assert truth.notes == (f"Left out structure BODY, which is {kind} and no lesion (rt.dcm).",)
    # A file with only such structures does not mean that the scan has no lesion.
    del dataset.ROIContourSequence[0]
    dataset.save_as(path)
    with pytest.raises(ValueError, match="Expected outlines of lesions, got none but those of the patient"):
        read_structures(path, scan, each_structure=False)
