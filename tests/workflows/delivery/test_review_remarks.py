"""Remarks of a review: read as the page saved them, and nothing that contradicts itself."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from scripts.workflows.delivery.review_remarks import read_remarks

RULER = {"lesion": 1, "tool": "ruler", "plane": "axial", "slice": 4, "instance_number": 60,
         "points_lps_mm": [[0, 0, 5], [3, 4, 5]], "length_mm": 5.0, "index": 4}  # fmt: skip
DIAMETERS = {"lesion": 2, "tool": "diameters", "plane": "coronal", "long_axis_mm": 10.0, "short_axis_mm": 6.0,
             "points_lps_mm": [[0, 0, 0], [6, 0, 0], [2, 0, 0], [2, 0, 10]]}  # fmt: skip
ROI = {"lesion": None, "tool": "roi", "plane": "axial", "slice": 1, "instance_number": None, "mean_hu": -12.5,
       "sd_hu": 3.0, "area_mm2": 80.0, "pixels": 40, "points_lps_mm": [[0, 0, 0], [9, 9, 0]]}  # fmt: skip
CONTENT: dict[str, Any] = {
    "lesions": [
        {"review": {"decision": "accepted", "comment": " cyst?\x00\nold "}},
        {"review": {"decision": "rejected"}},
    ],
    "measurements": [RULER, DIAMETERS, ROI],
}


def read(content: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    path = folder / "r.json"
    path.write_text(json.dumps(content))
    return [*read_remarks(path, range(1, 1 + len(content["lesions"]))).values()]


def test_remarks_are_those_of_their_lesions(tmp_path: Path) -> None:
    first, second = read(CONTENT, tmp_path)
    assert first["comment"] == "cyst? \nold"
    assert first["measurements"] == [
        {
            "tool": "ruler",
            "plane": "axial",
            "slice": 4,
            "instance_number": 60,
            "points_lps_mm": [[0, 0, 5], [3, 4, 5]],
            "length_mm": 5.0,
        }
    ]
    assert second["comment"] == ""
    (diameters,) = second["measurements"]
    assert (diameters["long_axis_mm"], diameters["short_axis_mm"]) == (10.0, 6.0)
    assert "slice" not in diameters


def test_a_review_without_measurements_has_none(tmp_path: Path) -> None:
    content = {"lesions": CONTENT["lesions"]}
    assert [one["measurements"] for one in read(content, tmp_path)] == [[], []]


def test_remarks_are_found_by_the_number_of_their_lesion(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"lesions": CONTENT["lesions"], "measurements": [{**RULER, "lesion": 7}]}))
    found = read_remarks(path, (3, 7))
    assert [len(found[number]["measurements"]) for number in (3, 7)] == [0, 1]
    with pytest.raises(ValueError, match="number of a lesion of the review or null, got 7"):
        read_remarks(path, (3, 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lesion": 3}, r"number of a lesion of the review or null, got 3 in measurement 1 of .*r\.json"),
        ({"lesion": True}, "number of a lesion"),
        ({"tool": "laser"}, "Expected ruler, diameters, roi in axial"),
        ({"tool": ["ruler"]}, "Expected ruler"),
        ({"plane": "oblique"}, "axial, coronal, sagittal"),
        ({"points_lps_mm": [[0, 0, 5]]}, "Expected 2 points"),
        ({"points_lps_mm": [[0, 0, 5], [3, 4, "x"]]}, "Expected 2 points"),
        ({"points_lps_mm": None}, "Expected 2 points"),
        ({"length_mm": 50.0}, "Expected length_mm 5.00 as its points give, got 50.0"),
        ({"length_mm": "5"}, "Expected a finite number as length_mm"),
        ({"length_mm": -5.0}, "Expected a finite number as length_mm"),
    ],
)
def test_what_the_page_cannot_have_saved_is_rejected(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    content["measurements"][0].update(change)
    with pytest.raises(ValueError, match=message):
        read(content, tmp_path)


@pytest.mark.parametrize("comment", [5, ["a"], "x" * 10_001])
def test_comments_are_texts(comment: Any, tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    content["lesions"][0]["review"]["comment"] = comment
    with pytest.raises(ValueError, match=r"as comment, got .* in lesion 1 of"):
        read(content, tmp_path)


@pytest.mark.parametrize("measurements", [{}, "none", [5]])
def test_measurements_are_a_list_of_objects(measurements: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected (a list of measurements|the number of a lesion)"):
        read({**CONTENT, "measurements": measurements}, tmp_path)
