"""Boxes out of Slicer's markups: our own ones come back as they were, others' are read as they mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.data.scans.markup_boxes import boxes_in_scan, read_markups, read_named_markups
from scripts.data.scans.scan import Scan
from scripts.inference.detections import Lesion, ScanResult, SliceBoxes
from scripts.inference.outputs.slicer_nodes import slicer_markups
from support.fake_scans import ball_scan

BOX = {"type": "ROI", "roiType": "Box", "coordinateSystem": "LPS", "center": [10.0, -20.0, 30.0], "size": [4, 6, 8]}


def turned_scan(degrees: float) -> Scan:
    """A scan with unequal spacings, off the axes by an angle."""
    angle = np.radians(degrees)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] *= (0.7, 0.8, 2.5)
    affine[:3, 3] = -30, 12, -200
    hu = ball_scan()
    return Scan(hu, affine, np.eye(4), hu.shape[::-1], Path("scan.nii"), ())


def write(path: Path, *markups: Any) -> Path:
    path.write_text(json.dumps({"markups": markups}))
    return path


@pytest.mark.parametrize("degrees", [0.0, 0.9])
def test_our_own_markups_come_back(tmp_path: Path, degrees: float) -> None:
    scan = turned_scan(degrees)
    boxes = np.array([[3.0, 4, 1, 9, 8, 5], [0, 0, 0, 56, 40, 12]])
    found = SliceBoxes(*(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), np.arange(12.0), 1.0, np.ones(12, bool)),
                       shape=scan.hu.shape, scale=(1.0, 1.0))  # fmt: skip
    lesions = [Lesion(box, 0.5, 0, box[[0, 1, 3, 4]], ()) for box in boxes]
    entries = [{"lesion": number, "score": 0.5, "num_slices": 1} for number in (1, 2)]
    files = slicer_markups(ScanResult(scan, found, lesions, {"notices": [], "lesions": entries}))
    path = tmp_path / "lesions.mrk.json"
    path.write_bytes(files["lesions.mrk.json"])
    np.testing.assert_allclose(boxes_in_scan(scan, read_markups(path), "it"), boxes, atol=1e-3)


def test_the_same_box_in_both_systems_and_turned_by_half_a_turn(tmp_path: Path) -> None:
    ras = {**BOX, "coordinateSystem": "RAS", "center": [-10.0, 20.0, 30.0]}
    # Slicer's output for a box that was never turned.
    slicer = {**BOX, "orientation": [-1, 0, 0, 0, -1, 0, 0, 0, 1]}
    corners = read_markups(write(tmp_path / "a.json", BOX, ras, slicer))
    for box in corners:
        assert box.min(axis=0).tolist() == [8, -23, 26]
        assert box.max(axis=0).tolist() == [12, -17, 34]


def test_a_quarter_turn_swaps_the_sides(tmp_path: Path) -> None:
    turned = {**BOX, "orientation": [0, -1, 0, 1, 0, 0, 0, 0, 1]}
    (box,) = read_markups(write(tmp_path / "a.json", turned))
    np.testing.assert_allclose(np.ptp(box, axis=0), [6, 4, 8])


def test_names_are_those_of_the_markup_or_its_point_without_the_number(tmp_path: Path) -> None:
    point = {"controlPoints": [{"label": "tumour-1"}]}
    boxes = [
        BOX,
        {**BOX, **point},
        {**BOX, **point, "name": "Lesion 3 (0.75)"},
        {**BOX, "name": 7, "controlPoints": {}},
    ]
    names, corners = read_named_markups(write(tmp_path / "a.json", *boxes, {**BOX, "name": "GTV2"}))
    assert names == ["", "tumour", "Lesion", "", "GTV2"]
    assert len(corners) == len(names)


def test_no_markups_are_no_boxes(tmp_path: Path) -> None:
    assert read_markups(write(tmp_path / "a.json")).shape == (0, 8, 3)
    assert boxes_in_scan(turned_scan(0), np.zeros((0, 8, 3)), "it").shape == (0, 6)


def test_boxes_are_clipped_to_the_scan_and_rejected_outside(tmp_path: Path) -> None:
    scan = turned_scan(0)
    large = {**BOX, "center": [0, 0, 0], "size": [1e4, 1e4, 1e4]}
    assert boxes_in_scan(scan, read_markups(write(tmp_path / "a.json", large)), "a").tolist() == [[0, 0, 0, 56, 40, 12]]
    away = read_markups(write(tmp_path / "b.json", large, {**BOX, "center": [500, 0, -190]}))
    with pytest.raises(ValueError, match=r"box 2 of b\.json is outside"):
        boxes_in_scan(scan, away, "b.json")


@pytest.mark.parametrize(
    ("markup", "message"),
    [
        ({**BOX, "type": "Fiducial"}, "box ROI, got Fiducial as markup 2"),
        ({**BOX, "roiType": "BoundingBox"}, "box ROI, got BoundingBox as markup 2"),
        ("box", "box ROI, got str"),
        ({**BOX, "center": [1, 2]}, r"3 numbers as center, got \[1, 2\]"),
        ({**BOX, "size": [1, 2, 0]}, "size above zero"),
        ({**BOX, "size": [1, 2, float("nan")]}, "3 numbers as size"),
        ({**BOX, "orientation": [1, 1, 0, 0, 1, 0, 0, 0, 1]}, "right angles"),
        ({**BOX, "coordinateSystem": "IJK"}, "LPS or RAS, got 'IJK'"),
        ({**BOX, "coordinateUnits": "m"}, "millimetres as coordinateUnits, got 'm' as markup 2"),
        ({**BOX, "coordinateUnits": ["mm", "mm", "cm"]}, "millimetres as coordinateUnits"),
    ],
)
def test_what_is_no_box(tmp_path: Path, markup: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_markups(write(tmp_path / "a.json", BOX, markup))


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x00", b"[]", b'{"markups": 3}'])
def test_what_is_no_markups_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"Slicer markups.* in a\.json|in a\.json"):
        read_markups(path)


@pytest.mark.parametrize("units", ["mm", ["mm", "mm", "mm"], "millimeter"])
def test_millimetres_are_what_they_are(tmp_path: Path, units: Any) -> None:
    plain = read_markups(write(tmp_path / "a.json", BOX))
    np.testing.assert_array_equal(read_markups(write(tmp_path / "b.json", {**BOX, "coordinateUnits": units})), plain)
