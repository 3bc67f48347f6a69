"""Sizes, outlines and tags in the outputs: as measured, with their origin."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from scripts.inference.detections import ScanResult
from scripts.inference.outputs import lesions_document
from scripts.inference.outputs.lesions_document import json_files
from scripts.inference.outputs.lesions_table import lesion_table
from scripts.inference.outputs.measurements import Tagging, tagging_for
from scripts.inference.outputs.slicer_nodes import slicer_markups
from support.fake_results import TAGGED, elliptic, results_of
from support.fake_scans import ball_scan, scan_of

BOXES = [(24.0, 10.0, 4.0, 40.0, 30.0, 9.0), (5.0, 6.0, 1.0, 13.0, 12.0, 2.0)]
SPACING = (0.8, 1.1, 2.5)


def half_empty(boxes: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of which those of small boxes are empty."""
    fields = elliptic(boxes)
    fields["masks"][boxes[:, 2] - boxes[:, 0] < 10] = 0.1
    return fields


@pytest.fixture(scope="module")
def results() -> ScanResult:
    return results_of(scan_of(ball_scan(), SPACING), BOXES, (0.9, 0.4), model=TAGGED, fields=half_empty)


def test_mask_replaces_the_estimate_and_an_empty_one_does_not(results: ScanResult) -> None:
    masked, boxed = results.entries
    # Of 20 x 1.1 mm and 16 x 0.8 mm, three quarters (and the half cell up to the box's edge).
    assert masked["axes"]["source"] == "mask"
    assert masked["axes"]["long_axis_mm"] == pytest.approx(0.75 * 22.0 * 27 / 28, abs=0.4)
    assert masked["axes"]["short_axis_mm"] == pytest.approx(0.75 * 12.8 * 27 / 28, abs=0.4)
    assert "long_axis_estimate_mm" not in masked
    assert boxed["axes"] == {"source": "box", "long_axis_mm": 6.6, "short_axis_mm": 6.4}
    assert (boxed["long_axis_estimate_mm"], boxed["short_axis_estimate_mm"]) == (6.6, 6.4)
    assert "outline" not in boxed


def test_volume_is_that_of_the_outlines_or_of_the_ellipsoid_in_the_box(results: ScanResult) -> None:
    masked, boxed = results.entries
    half = np.array([16 * 0.8, 20 * 1.1]) / 2 * 0.75 * 27 / 28
    # Five slices of 2.5 mm.
    assert masked["volume"]["source"] == "mask"
    assert masked["volume"]["estimate_ml"] == pytest.approx(np.pi * half.prod() * 5 * 2.5 / 1000, rel=0.03)
    assert boxed["volume"] == {"source": "box", "estimate_ml": round(np.pi / 6 * 6.4 * 6.6 * 2.5 / 1000, 4)}


def test_outline_is_given_in_voxels_and_millimetres_of_the_best_slice(results: ScanResult) -> None:
    entry = results.entries[0]
    voxel, lps = (np.array(entry["outline"][frame]) for frame in ("voxel", "lps_mm"))
    np.testing.assert_allclose((voxel - 0.5) * SPACING, lps, atol=1e-3)
    assert set(voxel[:, 2]) == {entry["key_slice"] + 0.5}
    np.testing.assert_allclose(voxel[:, :2].mean(axis=0), (32.0, 20.0), atol=0.3)
    assert len(voxel) > 30


def test_every_slice_has_its_outline_among_the_detections(results: ScanResult) -> None:
    files = json_files(results)
    detections = json.loads(files["detections.json"])["detections"]
    masked = [entry for entry in detections if entry["lesion"] == 1]
    assert len(masked) == 5
    for entry in masked:
        assert {point[2] for point in entry["outline"]["voxel"]} == {entry["slice"] + 0.5}
        assert entry["axes"]["long_axis_mm"] == results.entries[0]["axes"]["long_axis_mm"]
    assert all("axes" not in entry for entry in detections if entry["lesion"] == 2)


def test_tags_are_named_from_a_threshold_and_the_threshold_is_told(results: ScanResult) -> None:
    document = json.loads(json_files(results)["lesions.json"])
    assert document["model"]["tags"] == ["lung", "nodule", "liver", "cyst"]
    assert document["settings"]["tag_threshold"] == 0.5
    wanted = [{"tag": "nodule", "score": 0.9}, {"tag": "cyst", "score": 0.7}, {"tag": "liver", "score": 0.5}]
    assert all(entry["tags"] == wanted for entry in document["lesions"])
    assert all("fields" not in entry for entry in document["lesions"])
    strict = Tagging(("lung", "nodule", "liver", "cyst"), [0.1, 0.95, 0.5, 0.7])
    assert [tag["tag"] for tag in strict.named(np.array([0.2, 0.9, 0.5, 0.7]))] == ["cyst", "liver", "lung"]


def test_file_is_valid_by_its_schema(results: ScanResult) -> None:
    schema = json.loads((Path(lesions_document.__file__).parent / "schema" / "lesions.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads(json_files(results)["lesions.json"]))


def test_fields_of_other_shapes_stay_fields() -> None:
    other = {"masks": (3,), "axes": (2,), "tag_scores": (), "long_axis_mm": (2, 2)}
    fields = lambda boxes: {name: np.ones((len(boxes), *shape)) for name, shape in other.items()}  # noqa: E731
    results = results_of(scan_of(ball_scan(), SPACING), BOXES, (0.9, 0.4), model=TAGGED, fields=fields)
    for entry in results.entries:
        assert entry["axes"]["source"] == "box"
        assert {name: np.shape(value) for name, value in entry["fields"].items()} == other
    assert set(slicer_markups(results)) == {"lesions.mrk.json"}
    header, *_ = lesion_table(results)["lesions.csv"].decode().splitlines()
    assert header.endswith(",notice,tag_scores")


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ({"tags": ["a", "b"]}, {}, "Expected 4 names of tags, as many as the network scores, got 2."),
        ({}, {"tag_threshold": [0.5] * 3}, "Expected 4 thresholds of tags, as many as the network scores, got 3."),
        ({}, {"tag_threshold": "high"}, "Expected a threshold of tags from 0 to 1, or a list of such, got high."),
        (
            {},
            {"tag_threshold": [0.5, 0.5, 0.5, 2]},
            "Expected a threshold of tags from 0 to 1, or a list of such, got .*",
        ),
    ],
)
def test_other_numbers_of_names_or_thresholds_are_rejected(
    results: ScanResult, recipe: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        tagging_for(results.found, {"recipe": recipe}, settings)


def test_names_of_tags_are_such_as_every_file_can_hold(results: ScanResult) -> None:
    tagging = tagging_for(results.found, {"recipe": {"tags": ["a\\b", "line\nend", "\ud800", "cyst"]}}, {})
    assert tagging is not None
    assert tagging.names == ("a b", "line end", "unnamed", "cyst")


def test_weights_without_names_number_their_tags(results: ScanResult) -> None:
    tagging = tagging_for(results.found, {}, {})
    assert tagging is not None
    assert tagging.names == ("tag 1", "tag 2", "tag 3", "tag 4")


@pytest.mark.parametrize(
    ("model", "settings", "wanted"),
    [
        ({}, {}, 0.5),
        ({"inference": {"tag_threshold": [0.1, 0.2, 0.3, 0.4]}}, {"tag_threshold": None}, [0.1, 0.2, 0.3, 0.4]),
        ({"inference": {"tag_threshold": 0.3}}, {"tag_threshold": 0.7}, 0.7),
    ],
)
def test_threshold_is_the_users_or_the_weights(
    results: ScanResult, model: dict[str, Any], settings: dict[str, Any], wanted: Any
) -> None:
    tagging = tagging_for(results.found, model, settings)
    assert tagging is not None
    assert tagging.threshold == wanted


def test_table_says_which_size_is_measured(results: ScanResult) -> None:
    masked, boxed = csv.DictReader(io.StringIO(lesion_table(results)["lesions.csv"].decode()))
    assert [row["axes_source"] for row in (masked, boxed)] == ["mask", "box"]
    assert float(masked["long_axis_mm"]) == results.entries[0]["axes"]["long_axis_mm"]
    assert masked["long_axis_estimate_mm"] == ""
    assert (boxed["long_axis_mm"], boxed["long_axis_estimate_mm"]) == ("6.6", "6.6")
    assert (boxed["volume_estimate_ml"], boxed["volume_source"]) == (
        str(results.entries[1]["volume"]["estimate_ml"]),
        "box",
    )
    assert masked["tags"] == "nodule 0.90; cyst 0.70; liver 0.50"


def test_known_regions_are_in_the_table_and_in_slicer_and_unknown_ones_are_not_guessed(results: ScanResult) -> None:
    regions = [
        {"name": "chest", "source": "scan", "basis": "a test"},
        {"name": "unknown", "source": "none", "basis": "-"},
    ]
    entries = [{**entry, "region": region} for entry, region in zip(results.entries, regions, strict=False)]
    told = replace(results, document={**results.document, "lesions": entries})
    rows = list(csv.DictReader(io.StringIO(lesion_table(told)["lesions.csv"].decode())))
    assert [(row["region"], row["region_source"]) for row in rows] == [("chest", "scan"), ("unknown", "none")]
    nodes = json.loads(slicer_markups(told)["lesions.mrk.json"])["markups"]
    assert ["chest" in node["description"] for node in nodes if node["type"] == "ROI"] == [True, False]


def test_slicer_gets_the_outline_as_a_curve_and_the_axes_as_lines(results: ScanResult) -> None:
    nodes = json.loads(slicer_markups(results)["lesions.mrk.json"])["markups"]
    assert [node["type"] for node in nodes] == ["ROI", "ROI", "ClosedCurve", "Line", "Line"]
    places = [[point["position"] for point in node["controlPoints"]] for node in nodes]
    entry = results.entries[0]
    assert places[2] == entry["outline"]["lps_mm"]
    assert places[3:] == [entry["axes"]["long_axis_lps_mm"], entry["axes"]["short_axis_lps_mm"]]
    assert "source: mask" in nodes[0]["description"]
    assert "source: box" in nodes[1]["description"]
    assert "nodule (0.90)" in nodes[0]["description"]
    values = {one["name"]: (one["value"], one["units"]) for one in nodes[0]["measurements"]}
    assert values["long axis"] == (entry["axes"]["long_axis_mm"], "mm")
    assert all("Not a medical device" in node["description"] for node in nodes)
