"""Stored slices and canonical ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from scripts.data.importing.truth.box_lists import ListedDiameters
from scripts.data.importing.truth.slice_labels import SliceLabels
from scripts.data.importing.truth.slice_places import SlicePlaces, SliceRule, slice_ranks
from scripts.data.scans.scan import read_scan
from support.fake_dicom import write_stack
from support.fake_scans import ball_scan, scan_of
from support.fake_truth import SHAPE, slice_headers, write_dicom_case, write_nifti_case


def test_slices_are_known_by_uid_file_and_number(tmp_path: Path) -> None:
    series = write_dicom_case(tmp_path / "CT")
    places = SlicePlaces.of(read_scan(series))
    headers = slice_headers(series)
    assert (places.patient, places.study) == ("P-1", "1.2.3")
    assert [places.number_of(header.SOPInstanceUID, SliceRule()) for header in headers] == list(range(SHAPE[0]))
    # Files are numbered from the head.
    assert places.number_of("IM0001", SliceRule()) == SHAPE[0] - 1
    assert places.number_of("3", SliceRule(first=1)) == 2
    with pytest.raises(ValueError, match="counted from 0 or 1"):
        places.number_of("3", SliceRule())
    with pytest.raises(ValueError, match=r"number, file or UID of a slice .*, got nothing"):
        places.number_of("nothing", SliceRule(first=0))


def test_numbers_that_the_images_count_the_other_way_have_a_note(tmp_path: Path) -> None:
    # As many scanners do, from the head down.
    places = SlicePlaces.of(read_scan(write_dicom_case(tmp_path / "CT")))
    (note,) = places.notes_on("3", SliceRule(first=1))
    assert "count from the lowest position" in note
    for name, frame in (("IM0003", "stored"), (next(iter(places.by_uid)), "stored"), ("3", "from_head")):
        assert places.notes_on(name, SliceRule(frame, 1)) == ()
    ends = ListedDiameters("a", np.array([[5.0, 5, 9, 5, 7, 3, 7, 8]] * 2), ("3", "4"), ("a", "b"), "a.csv")
    assert ends.lesions_in(places, SliceRule(first=1)).notes == (note,)
    label = SliceLabels("3", np.array([[1.0, 2, 3, 4]]), ("a",), "a.xml")
    assert label.lesions_in(places, "3", SliceRule(first=1)).notes == (note,)
    for path in (tmp_path / "CT").iterdir():
        header = pydicom.dcmread(path)
        header.InstanceNumber = SHAPE[0] + 1 - int(header.InstanceNumber)
        header.save_as(path)
    assert SlicePlaces.of(read_scan(tmp_path / "CT")).notes_on("3", SliceRule(first=1)) == ()
    assert SlicePlaces.of(read_scan(write_nifti_case(tmp_path))).notes_on("3", SliceRule(first=1)) == ()


def test_boxes_of_stored_and_of_axial_slices(tmp_path: Path) -> None:
    places = SlicePlaces.of(read_scan(write_nifti_case(tmp_path, turn="flipped")))
    box = np.array([10.0, 5.0, 20.0, 9.0])
    # Columns and slices are stored the other way round, rows are not.
    number, found = places.place(2, box, "stored")
    assert (number, found.tolist()) == (SHAPE[0] - 3, [SHAPE[2] - 20, 5, SHAPE[2] - 10, 9])
    assert places.place(2, box, "from_feet")[0] == 2
    assert places.place(2, box, "from_head")[0] == SHAPE[0] - 3
    points = places.points_on_slice(2, np.array([[10.0, 5.0]]))
    assert points.tolist() == [[SHAPE[2] - 10, 5]]
    for frame in ("stored", "from_feet"):
        with pytest.raises(ValueError, match="a slice from 0 to 13"):
            places.place(14, box, frame)


@pytest.mark.parametrize("turned", [False, True])
def test_images_of_uneven_distances_are_counted_not_the_positions_between_them(tmp_path: Path, turned: bool) -> None:
    heights = [0, 4, 8, 12, 19, 26, 33]
    scan = read_scan(write_stack(tmp_path, [float(height) for height in heights]))
    if turned:
        down = np.diag([1.0, 1.0, -1.0, 1.0])
        down[2, 3] = len(scan.hu) - 1
        scan = replace(scan, stored_from_canonical=scan.stored_from_canonical @ down)
        heights = [33 - height for height in reversed(heights)]
    places, box = SlicePlaces.of(scan), np.array([1.0, 2, 3, 4])
    for frame, wanted in (("from_feet", heights), ("from_head", heights[::-1])):
        found = [places.place(number, box, frame) for number in range(7)]
        assert [number for number, _ in found] == wanted
        assert all(own.tolist() == box.tolist() for _, own in found)
        with pytest.raises(ValueError, match="a slice from 0 to 6"):
            places.place(7, box, frame)


def test_slices_along_another_axis_have_no_number(tmp_path: Path) -> None:
    places = SlicePlaces.of(read_scan(write_nifti_case(tmp_path, turn="sagittal")))
    with pytest.raises(ValueError, match="run along axis 2: give labels as axial slices"):
        places.on_slice(2, np.array([1.0, 1, 2, 2]))
    assert (places.size("from_feet"), places.by_uid) == ((SHAPE[2], SHAPE[1]), {})


def test_ranks_are_those_of_the_stored_slices(tmp_path: Path) -> None:
    heights = [0, 4, 8, 12, 19, 26, 33]
    scan = read_scan(write_stack(tmp_path, [float(height) for height in heights]))
    ranks = slice_ranks(scan)
    assert ranks[heights].tolist() == list(range(7))
    assert set(np.diff(ranks)) == {0, 1}
    # Stored from the head down they still rise with the slices of the scan.
    down = np.diag([1.0, 1.0, -1.0, 1.0])
    down[2, 3] = len(ranks) - 1
    turned = slice_ranks(replace(scan, stored_from_canonical=scan.stored_from_canonical @ down))
    assert turned[[33 - height for height in heights]].tolist() == list(range(7))[::-1]
    assert set(np.diff(turned)) == {0, 1}
    assert slice_ranks(scan_of(ball_scan())).tolist() == list(range(12))
