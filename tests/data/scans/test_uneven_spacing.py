"""Unevenly spaced slices: interpolated by where they are, and every slice found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from scripts.data.scans.scan import Scan, read_scan
from scripts.data.scans.scan_tensors import scan_of, scan_tensor
from scripts.data.scans.uneven_spacing import even_places, spread, to_places, to_slices
from support.fake_dicom import write_stack

HEAD = [0.0, 4.0, 8.0, 12.0, 16.0, 23.0, 30.0, 37.0]
ROWS, COLUMNS = 10, 12


@pytest.mark.parametrize(
    ("heights", "places", "step"),
    [
        (HEAD, HEAD, 1.0),
        ([10.0, 15.0, 20.0, 30.0, 40.0], [0, 1, 2, 4, 6], 5.0),
        ([0.0, 2.5, 3.75, 5.0, 7.5], [0, 2, 3, 4, 6], 1.25),
        ([0.0, 1.25, 3.75], [0, 1, 3], 1.25),
        ([0.0, 3.01, 6.0, 8.99, 12.5], [0, 6, 12, 18, 25], 0.5),
    ],
)
def test_places_are_the_widest_that_hold_every_slice(heights: list[float], places: list[int], step: float) -> None:
    found, distance = even_places(np.array(heights))
    np.testing.assert_array_equal(found, places)
    assert distance == pytest.approx(step)


def test_slices_anywhere_lie_between_places() -> None:
    heights = np.array([0.0, 3.137, 5.411, 9.873, 14.046, 17.333, 19.021, 23.777])
    places, step = even_places(heights)
    np.testing.assert_allclose(places * step, heights)
    assert 0.9 < step <= 1.0
    assert not np.allclose(places, np.rint(places), atol=0.1)
    assert places[-1] == round(places[-1])


def test_slices_keep_their_values_and_places_between_are_linear() -> None:
    planes = np.random.default_rng(0).integers(-1000, 3000, (3, 4, 8)).astype(np.int16)
    places, _ = even_places(np.array(HEAD))
    found = spread(planes, places)
    assert found.shape == (3, 4, 38)
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found[..., places.astype(int)], planes)
    np.testing.assert_array_equal(found[..., 18], np.rint(planes[..., 4] * 5 / 7 + planes[..., 5] * 2 / 7))


def test_places_and_slices_lead_to_each_other() -> None:
    places = np.array(HEAD)
    assert to_slices(np.array([-2.0, 0.0, 6.0, 19.5, 37.0, 44.0]), places).tolist() == [-0.5, 0, 1.5, 4.5, 7, 8]
    at = np.linspace(-3, 9, 25)
    np.testing.assert_allclose(to_slices(to_places(at, places), places), at)


def check_places(scan: Scan) -> None:
    """The first pixel of every file is where its header says, there and back."""
    for index, path in enumerate(scan.files):
        stored = np.array([[0.5, 0.5, index + 0.5] * 2])
        there = scan.boxes_from_stored(stored)
        np.testing.assert_allclose(
            scan.points_to_lps(there[:, :3])[0], pydicom.dcmread(path).ImagePositionPatient, atol=0.01
        )
        np.testing.assert_allclose(scan.boxes_to_stored(there), stored, atol=1e-9)


def test_spacing_that_changes_once_is_read_with_a_note(tmp_path: Path) -> None:
    scan = read_scan(write_stack(tmp_path, HEAD))
    assert scan.hu.shape == (38, ROWS, COLUMNS)
    assert scan.stored_shape == (COLUMNS, ROWS, 8)
    assert scan.spacing == pytest.approx((0.7, 0.9, 1.0))
    np.testing.assert_array_equal(scan.hu[:, 4, 4], -500 + 10 * np.arange(38))
    assert any("unevenly spaced, 4.00 to 7.00 mm apart" in note for note in scan.notes)
    check_places(scan)
    back = scan_of(scan_tensor(scan))
    check_places(back)
    assert (back.series, back.stored_shape) == (scan.series, scan.stored_shape)


def test_gaps_of_any_size_are_read(tmp_path: Path) -> None:
    scan = read_scan(write_stack(tmp_path, [0.0, 3.137, 5.211, 9.873, 14.046, 16.5]))
    check_places(scan)
    # Rounded to whole HU: 10 HU are a mm.
    middle = scan.points_to_lps(np.column_stack([np.full((len(scan.hu), 2), 4.5), np.arange(len(scan.hu)) + 0.5]))[:, 2]
    np.testing.assert_allclose(scan.hu[:, 4, 4], -500 + 10 * (middle + 100), atol=1.1)


def test_tilted_gantry_and_uneven_slices_together(tmp_path: Path) -> None:
    angle = np.radians(15)
    tags = {"ImageOrientationPatient": [1, 0, 0, 0, np.cos(angle), -np.sin(angle)], "GantryDetectorTilt": 15.0}
    scan = read_scan(write_stack(tmp_path, HEAD, **tags))
    assert any("sheared by 15.0 degrees" in note for note in scan.notes)
    check_places(scan)


def test_feet_first_and_sagittal_stacks(tmp_path: Path) -> None:
    scan = read_scan(write_stack(tmp_path / "down", HEAD, ImageOrientationPatient=[1, 0, 0, 0, -1, 0]))
    check_places(scan)
    sagittal = write_stack(
        tmp_path / "sagittal",
        HEAD,
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
        place=lambda height: (-12 + height, 30, -100),
    )
    scan = read_scan(sagittal)
    check_places(scan)
    assert (scan.hu.shape, scan.slice_axis) == ((ROWS, COLUMNS, 38), 1)


def test_evenly_told_the_places_are_the_slices(tmp_path: Path) -> None:
    scan = read_scan(write_stack(tmp_path, HEAD))
    even = scan.evenly()
    assert even.stored_shape == (COLUMNS, ROWS, 38)
    box = np.array([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    np.testing.assert_allclose(even.boxes_to_stored(box), box)
    assert even.evenly() is even


@pytest.mark.parametrize(
    ("heights", "numbers", "message"),
    [
        # A single wide gap where the numbers skip, or without numbers that would deny it.
        ([0.0, 4.0, 8.0, 16.0, 20.0], [1, 2, 3, 5, 6], r"gap of 8\.00 mm between .*02\.dcm and .*03\.dcm .*missing"),
        ([0.0, 4.0, 8.0, 16.0], [1, 2, 3, 5], r"gap of 8\.00 mm .*missing"),
        # Nothing is made up across a wide gap, whatever the numbers say.
        ([0.0, 4.0, 8.0, 48.0, 52.0], [1, 2, 3, 4, 5], r"gap of 40\.00 mm .*missing"),
        # Two stacks pushed into each other.
        ([0.0, 1.0, 4.0, 5.0, 8.0, 9.0], [1, 101, 2, 102, 3, 103], r"numbers that go back and forth .*two stacks"),
    ],
)
def test_missing_slices_and_mixed_stacks_are_rejected(
    tmp_path: Path, heights: list[float], numbers: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_scan(write_stack(tmp_path, heights, numbers))


def test_single_wide_gap_with_consecutive_numbers_was_acquired_so(tmp_path: Path) -> None:
    check_places(read_scan(write_stack(tmp_path, [0.0, 4.0, 8.0, 16.0, 20.0])))
