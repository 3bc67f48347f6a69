"""The classes of lesions in every output: by name, and only of networks that distinguish several."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from scripts.inference.detections import ScanResult
from scripts.inference.outputs import lesions_document, named_classes
from scripts.inference.outputs.label_map import prompts
from scripts.inference.outputs.lesions_document import json_files, no_probability
from scripts.inference.outputs.lesions_table import lesion_table
from scripts.inference.outputs.named_classes import class_text, classes_for, classes_in
from scripts.inference.outputs.pictures import finding_pictures
from scripts.inference.outputs.pictures.finding_pictures import OverlayWriter
from scripts.inference.outputs.slicer_nodes import slicer_markups
from scripts.inference.outputs.slicer_scene import slicer_scene
from support.fake_results import CLASSES, MODEL, classed, results_of
from support.fake_scans import ball_scan, scan_of

SCHEMA = json.loads(
    (Path(lesions_document.__file__).parent / "schema" / "lesions.schema.json").read_text(encoding="utf-8")
)
BOXES = [(24.0, 10.0, 4.0, 37.0, 23.0, 9.0), (5.0, 6.0, 1.0, 9.0, 12.0, 2.0)]
SCORES = (0.9, 0.4)
NAMES = ["tumour", "lymph node"]


def results(model: Any = CLASSES, fields: Any = classed) -> ScanResult:
    return results_of(scan_of(ball_scan()), BOXES, SCORES, model=model, fields=fields)


@pytest.fixture(scope="module")
def several() -> ScanResult:
    return results()


@pytest.fixture(scope="module")
def one() -> ScanResult:
    return results_of(scan_of(ball_scan()), BOXES, SCORES)


def test_documents_name_the_class_of_every_lesion_and_box(several: ScanResult, tmp_path: Path) -> None:
    files = {name: json.loads(content) for name, content in json_files(several).items()}
    lesions, detections = files["lesions.json"], files["detections.json"]
    assert lesions["model"]["classes"] == detections["model"]["classes"] == NAMES
    assert [entry["class"] for entry in lesions["lesions"]] == NAMES
    assert "fields" not in lesions["lesions"][0]
    by_lesion = {entry["lesion"]: entry["class"] for entry in lesions["lesions"]}
    assert all(entry["class"] == by_lesion[entry["lesion"]] for entry in detections["detections"])
    (tmp_path / "scan").write_bytes(b"")
    lesions["input"]["sha256"] = "0" * 64
    jsonschema.Draft202012Validator(SCHEMA).validate(lesions)
    assert json.loads(prompts(several)["prompts.json"])["prompts"][1]["class"] == "lymph node"


def test_tables_have_a_column_for_it(several: ScanResult) -> None:
    rows = list(csv.DictReader(io.StringIO(lesion_table(several)["lesions.csv"].decode())))
    assert [row["class"] for row in rows] == NAMES
    assert "labels" not in rows[0]
    scene = slicer_scene(several)["lesion_table.tsv"].decode()
    assert [row["class"] for row in csv.DictReader(io.StringIO(scene), dialect="excel-tab")] == NAMES


def test_markups_and_captions_say_it(several: ScanResult, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = json.loads(slicer_markups(several)["lesions.mrk.json"])["markups"]
    assert [", tumour, " in node["description"] for node in nodes] == [True, False]
    captions: list[str] = []

    def caption(picture: np.ndarray, title: str, **_: Any) -> np.ndarray:
        captions.append(title)
        return picture

    monkeypatch.setattr(finding_pictures, "add_caption", caption)
    OverlayWriter()(several)
    assert [title.split("\n")[0].split(", slice")[0].rpartition(": ")[2] for title in captions] == [
        "lesion 1, tumour",
        "lesion 2, lymph node",
    ]


def test_one_class_is_named_nowhere(one: ScanResult) -> None:
    for content in json_files(one).values():
        assert b'"class' not in content
    assert b"class" not in lesion_table(one)["lesions.csv"]
    assert b"class" not in slicer_scene(one)["lesion_table.tsv"]
    assert b"class" not in prompts(one)["prompts.json"]
    assert classes_in(one.document) is None
    assert class_text(one.entries[0]) == ""


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ({"recipe": {"classes": ["a", "b"]}}, ("a", "b")),
        ({"classes": ["a\\b", "line\nend"]}, ("a b", "line end")),
        ({"classes": ["a", "a"]}, ("class 1", "class 2")),
        ({"classes": ["lesion"]}, ("class 1", "class 2")),
        ({"recipe": None}, ("class 1", "class 2")),
        ({"classes": ["a", "b", "c"]}, ("a", "b", "c")),
    ],
)
def test_names_are_those_of_the_weights_or_numbers(
    several: ScanResult, model: dict[str, Any], names: tuple[str, ...]
) -> None:
    assert classes_for(several.found, model) == names


def test_another_name_changes_the_name_alone(several: ScanResult) -> None:
    other = results({**MODEL, "classes": ["lymph node", "tumour"]})
    swapped = dict(zip(NAMES, reversed(NAMES), strict=True))
    for entry, before in zip(other.entries, several.entries, strict=True):
        assert entry == {**before, "class": swapped[before["class"]]}


def test_a_calibration_does_not_hold_for_several_classes() -> None:
    calibration = {"scores": [0.0, 1.0], "probabilities": [0.0, 0.5]}
    assert no_probability({"calibration": calibration, "classes": ["lesion"]}) is None
    assert "apart" in (no_probability({"calibration": calibration, "classes": NAMES}) or "")


def test_a_scan_without_lesions_tells_the_classes_that_were_looked_for() -> None:
    nothing = results_of(scan_of(ball_scan()), [], [], model=CLASSES, fields=classed)
    assert nothing.document["model"]["classes"] == NAMES
    assert lesion_table(nothing)["lesions.csv"].decode().startswith("lesion,class,score")
    assert named_classes.describe_class(None, NAMES) == {}
