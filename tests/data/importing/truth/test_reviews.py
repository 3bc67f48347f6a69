"""Reviews of results: decisions are read as they were saved, and nothing else is taken for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.data.importing.truth.reviews import DECISIONS, decision_of, read_review

BOX = [1.0, 2, 3, 5, 6, 7.5]


def saved(path: Path, lesions: Any, **more: Any) -> Path:
    path.write_text(json.dumps({"input": {"sha256": "ab"}, "lesions": lesions, **more}))
    return path


def test_decisions_and_boxes_are_those_of_the_file(tmp_path: Path) -> None:
    lesions = [{"box_voxel": BOX, "review": {"decision": decision, "comment": "="}} for decision in DECISIONS]
    found = read_review(saved(tmp_path / "r.json", lesions))
    assert (found.sha256, found.decisions) == ("ab", DECISIONS)
    assert found.boxes.tolist() == [BOX] * 4
    assert read_review(saved(tmp_path / "r.json", [])).boxes.shape == (0, 6)


def test_classes_are_those_of_the_model(tmp_path: Path) -> None:
    lesion = {"box_voxel": BOX, "review": {"decision": "accepted"}}
    lesions = [{**lesion, "class": "node"}, {**lesion, "class": "tumour"}]
    model = {"classes": ["tumour", "node"]}
    assert read_review(saved(tmp_path / "r.json", lesions, model=model)).labels == (2, 1)
    assert read_review(saved(tmp_path / "r.json", [lesion])).labels == (None,)
    for other in (None, {}, {"classes": "tumour, node"}, {"classes": ["node"]}):
        with pytest.raises(ValueError, match=r"Expected a class of model\.classes, got '(node|tumour)' in lesion"):
            read_review(saved(tmp_path / "r.json", lesions, model=other))


@pytest.mark.parametrize(
    ("lesions", "message"),
    [
        ([{"box_voxel": BOX}], "decision about every lesion, got none in lesion 1"),
        ([1], "decision about every lesion, got none in lesion 1"),
        ([{"box_voxel": BOX, "review": {"decision": "maybe"}}], "as the decision of a review, got 'maybe'"),
        ([{"box_voxel": BOX, "review": {"decision": ["accepted"]}}], "as the decision of a review"),
        ([{"box_voxel": BOX, "review": "accepted "}], "as the decision of a review"),
        ([{"box_voxel": BOX[:5], "review": {"decision": "accepted"}}], "six finite numbers as box_voxel"),
        ([{"box_voxel": [*BOX[:5], float("nan")], "review": {"decision": "accepted"}}], "six finite numbers"),
        ([{"box_voxel": "box", "review": {"decision": "accepted"}}], "six finite numbers as box_voxel"),
        ({"1": "accepted"}, "a review that the report page saved"),
    ],
)
def test_other_content_is_rejected_in_one_line(tmp_path: Path, lesions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_review(saved(tmp_path / "r.json", lesions))
    assert "r.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_review_of_no_scan_is_rejected(tmp_path: Path) -> None:
    for about in (None, [], {"sha256": 5}, {"name": "scan"}):
        with pytest.raises(ValueError, match="a review that the report page saved"):
            read_review(saved(tmp_path / "r.json", [], input=about))
    (tmp_path / "r.json").write_text("[]")
    with pytest.raises(ValueError, match="a review that the report page saved"):
        read_review(tmp_path / "r.json")


def test_lesion_without_a_review_has_no_decision() -> None:
    assert decision_of({"box_voxel": BOX}, "here") is None
    assert decision_of({"review": {"decision": "rejected"}}, "here") == "rejected"
