"""Markups for 3D Slicer: the same boxes, in the form that Slicer reads."""

from __future__ import annotations

import itertools
import json
import re

import nibabel
import numpy as np
import pytest
from nibabel import orientations

from scripts.data.scans.scan import Scan, read_scan
from scripts.data.scans.volume_files.stored_image import LPS_FROM_RAS
from scripts.inference.detections import ScanResult
from scripts.inference.outputs.slicer_nodes import box_axes, slicer_markups
from support.fake_results import results_of
from support.fake_scans import ball_scan, scan_of

BOXES = [(31.25, 10.0, 3.0, 44.5, 21.75, 8.0), (5.0, 6.0, 1.0, 9.0, 12.0, 2.0)]


def written(results: ScanResult) -> dict:
    (name, content), *rest = slicer_markups(results).items()
    assert name == "lesions.mrk.json"
    assert not rest
    return json.loads(content)


def corners(node: dict) -> np.ndarray:
    """The eight corners of a node as Slicer works them out: centre + orientation * half the size."""
    axes = np.array(node["orientation"]).reshape(3, 3)
    signs = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    return np.array(node["center"]) + (signs * node["size"]) @ axes.T


def test_nodes_hold_the_boxes_names_and_scores() -> None:
    results = results_of(scan_of(ball_scan(), (0.8, 1.1, 2.5)), BOXES, (0.93, 0.4))
    content = written(results)
    # Slicer reads a file whose schema ends so (any minor version of 1).
    assert re.fullmatch(r".*markups-schema-v1\.0\.3\.json#", content["@schema"])
    assert content["notices"] == results.document["notices"]
    assert [node["name"] for node in content["markups"]] == ["Lesion 1 (0.93)", "Lesion 2 (0.40)"]
    for node, entry in zip(content["markups"], results.document["lesions"], strict=True):
        assert (node["type"], node["roiType"]) == ("ROI", "Box")
        assert (node["coordinateSystem"], node["coordinateUnits"]) == ("LPS", "mm")
        low, high = corners(node).min(axis=0), corners(node).max(axis=0)
        np.testing.assert_allclose([*low, *high], entry["box_lps_mm"], atol=1e-3)
        (point,) = node["controlPoints"]
        assert point["position"] == node["center"]
        assert point["positionStatus"] == "defined"
        assert "Not a medical device" in point["description"]
        (measurement,) = node["measurements"]
        assert (measurement["name"], measurement["value"]) == ("score", entry["score"])


def test_node_is_the_same_however_the_scan_is_stored(tmp_path) -> None:
    values = ball_scan().transpose(2, 1, 0)
    affine = np.diag([0.8, 1.1, 2.5, 1.0])
    affine[:3, 3] = (-20, 35, -310)
    nodes = []
    for axes, flips in (((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1)), ((1, 2, 0), (-1, -1, -1))):
        turn = np.column_stack([axes, flips]).astype(float)
        stored = orientations.apply_orientation(values, turn)
        stored_affine = affine @ orientations.inv_ornt_aff(turn, values.shape)
        nibabel.save(nibabel.Nifti1Image(stored, LPS_FROM_RAS @ stored_affine), tmp_path / "scan.nii")
        nodes.append(written(results_of(read_scan(tmp_path / "scan.nii"), BOXES, (0.9, 0.4)))["markups"])
    for other in nodes[1:]:
        assert other == nodes[0]


def test_slightly_turned_scan_gives_turned_boxes() -> None:
    straight = scan_of(ball_scan(), (0.8, 1.1, 2.5))
    angle = np.radians(0.8)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = straight.affine.copy()
    affine[:3, :3] = turn @ affine[:3, :3]
    scan = Scan(straight.hu, affine, np.eye(4), straight.stored_shape, straight.path, ())
    np.testing.assert_allclose(box_axes(scan), turn, atol=1e-12)
    (node, _) = written(results_of(scan, BOXES, (0.9, 0.4)))["markups"]
    picks = np.array(list(itertools.product(*zip(BOXES[0][:3], BOXES[0][3:], strict=True))))
    np.testing.assert_allclose(corners(node), scan.points_to_lps(picks), atol=1e-3)


def test_axes_are_a_rotation_where_a_header_rounds() -> None:
    scan = scan_of(ball_scan())
    affine = scan.affine.copy()
    affine[:3, 1] += (0.004, 0, 0.003)
    axes = box_axes(Scan(scan.hu, affine, np.eye(4), scan.stored_shape, scan.path, ()))
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1.0)


def test_probability_is_a_measurement_where_there_is_one() -> None:
    calibration = {"scores": [0.0, 1.0], "probabilities": [0.0, 0.5]}
    (node,) = written(results_of(scan_of(ball_scan()), BOXES[:1], (0.9,), calibration, model={}))["markups"]
    assert {one["name"]: one["value"] for one in node["measurements"]} == {"score": 0.9, "probability": 0.45}


def test_no_lesion_is_an_empty_list() -> None:
    assert written(results_of(scan_of(ball_scan()), [], []))["markups"] == []
