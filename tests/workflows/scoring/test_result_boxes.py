"""Boxes of result files: as stored, with the classes of networks that distinguish several."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.data.deeplesion.subvolume_frames import from_edges
from scripts.data.importing.set_records import stored_boxes
from scripts.data.scans.scan import read_scan
from scripts.workflows.scoring.result_boxes import nndetection, own_result
from support.fake_results import results_of
from support.fake_truth import write_nifti_case

BOX = [1.0, 2, 3, 5, 6, 7.5]


def saved(path: Path, lesions: Any, model: Any = None) -> Path:
    content = {"input": {"name": "a.nii.gz", "sha256": "ab"}, "lesions": lesions}
    path.write_text(json.dumps(content | ({} if model is None else {"model": model})))
    return path


def test_our_own_results_of_a_tilted_scan_keep_their_boxes(tmp_path: Path) -> None:
    scan = read_scan(write_nifti_case(tmp_path, turn="tilted"))
    box = [12.5, 20.0, 3.0, 21.0, 31.25, 9.0]
    (tmp_path / "lesions.json").write_text(json.dumps(results_of(scan, [box], (0.9,)).document))
    found = own_result(tmp_path / "lesions.json", "case")
    record = {
        "scan": "case.nii.gz",
        "shape": scan.hu.shape,
        "spacing": scan.spacing,
        "stored_shape": scan.stored_shape,
        "stored_from_canonical": scan.stored_from_canonical.tolist(),
        "places": None,
    }
    x1, y1, z1, x2, y2, z2 = box
    # The volume frame counts slices from the head, from 1, and both ends of a box are of it.
    top = len(scan.hu)
    wanted = from_edges(np.array([[x1, y1, top - z2, x2, y2, top - z1]]), 1, top)
    np.testing.assert_allclose(stored_boxes(record, found.boxes, found.sizes_mm), wanted, atol=1e-3)


def test_our_own_results_tell_classes_where_the_network_knew_several(tmp_path: Path) -> None:
    lesions = [{"box_voxel": BOX, "score": 0.5, "class": "node"}, {"box_voxel": BOX, "score": 0.4, "class": "tumour"}]
    model = {"classes": ["tumour", "node"]}
    found = own_result(saved(tmp_path / "lesions.json", lesions, model), "p/a")
    assert found.boxes.tolist() == [BOX, BOX]
    assert (found.scores.tolist(), found.digest) == ([0.5, 0.4], "ab")
    assert found.names == ["a.nii.gz", "p/a", "a", "a"]
    assert found.classes is not None
    assert found.classes.tolist() == ["node", "tumour"]
    # Also where nothing was found.
    none = own_result(saved(tmp_path / "lesions.json", [], model), "a")
    assert none.classes is not None
    assert none.classes.shape == (0,)


def test_results_of_one_class_tell_none(tmp_path: Path) -> None:
    lesions = [{"box_voxel": BOX, "score": 0.5}]
    for model in (None, {}, {"name": "a"}, "text", {"classes": ["tumour", "node"]}):
        assert own_result(saved(tmp_path / "lesions.json", lesions, model), "a").classes is None


def test_boxes_of_nndetection_become_edges(tmp_path: Path) -> None:
    path = tmp_path / "a_boxes.json"
    path.write_text(json.dumps({"0": {"box": [2, 3, 6, 9, 4, 8], "score": 0.5}}))
    found = nndetection(path, "a")
    assert found.boxes.tolist() == [[5, 4, 3, 8, 9, 6]]
    assert (found.names, found.digest, found.classes) == (["a", "a_0000"], None, None)
    path.write_text("{}")
    assert nndetection(path, "a").boxes.shape == (0, 6)
    for content in ({"0": {"box": [1], "score": 0.5}}, {"pred_boxes": [[2, 3, 6, 9, 4, 8]], "pred_scores": [0.5]}):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"Expected a box and a score for each number.*a_boxes\.json"):
            nndetection(path, "a")
    pickled = tmp_path / "a_boxes.pkl"
    pickled.write_bytes(pickle.dumps({"boxes": []}))
    with pytest.raises(ValueError, match="Expected pred_boxes and pred_scores"):
        nndetection(pickled, "a")


@pytest.mark.parametrize(
    ("settings", "cut_at"),
    [
        ({}, 0.0),
        ({"score_threshold": None}, 0.0),
        ({"score_threshold": 0.5}, 0.5),
        ({"score_threshold": 0.5, "box_threshold": 0.1}, 0.5),
        # Below the least score of a box nothing is left out.
        ({"score_threshold": 0.0, "box_threshold": 0.1}, 0.0),
        ({"score_threshold": 0.1, "box_threshold": 0.1}, 0.0),
    ],
)
def test_the_score_that_results_were_cut_at_is_told(tmp_path: Path, settings: dict[str, Any], cut_at: float) -> None:
    content = {"input": {"name": "a"}, "lesions": [{"box_voxel": BOX, "score": 0.9}], "settings": settings}
    (tmp_path / "lesions.json").write_text(json.dumps(content))
    found = own_result(tmp_path / "lesions.json", "a")
    assert (found.cut_at, found.linked_from) == (cut_at, settings.get("box_threshold", 0.0))
