"""The scene for 3D Slicer: every node finds its file and its display, and the markups keep the rules of the schema."""

from __future__ import annotations

import csv
import gzip
import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import jsonschema
import nibabel
import numpy as np
import pytest

from scripts.inference.detections import ScanResult
from scripts.inference.outputs.result_writer import ResultWriter
from scripts.inference.outputs.slicer_nodes import slicer_markups
from scripts.inference.outputs.slicer_scene import slicer_scene
from support.fake_results import TAGGED, elliptic, parts, results_of
from support.fake_scans import ball_scan, scan_of
from support.slicer_rules import MARKUPS_RULES

BOXES = [(24.0, 10.0, 4.0, 37.0, 23.0, 9.0), (5.0, 6.0, 8.0, 12.0, 14.0, 10.0)]
RULES = jsonschema.Draft202012Validator(MARKUPS_RULES)


@pytest.fixture(scope="module")
def results() -> ScanResult:
    return results_of(scan_of(ball_scan(), (1.0, 1.0, 2.5)), BOXES, (0.9, 0.4), model=TAGGED, fields=elliptic)


@pytest.fixture(scope="module")
def files(results: ScanResult) -> dict[str, bytes]:
    return slicer_scene(results)


@pytest.fixture(scope="module")
def nodes(files: dict[str, bytes]) -> dict[str, ET.Element]:
    """All nodes of the scene by their ids."""
    listed = [node for node in ET.fromstring(files["lesions.mrml"]) if isinstance(node.tag, str)]
    assert len({node.get("id") for node in listed}) == len(listed)
    return {node.attrib["id"]: node for node in listed}


def references(node: ET.Element) -> dict[str, str]:
    return dict(pair.split(":") for pair in node.get("references", "").split(";") if pair)


def test_every_node_finds_what_it_refers_to(files: dict[str, bytes], nodes: dict[str, ET.Element]) -> None:
    for number, node in nodes.items():
        assert number.startswith(f"vtkMRML{node.tag}Node")
        for other in references(node).values():
            assert other in nodes
    read = [node.attrib["fileName"] for node in nodes.values() if "fileName" in node.attrib]
    assert sorted(read) == sorted(set(files) - {"lesions.mrml"})
    # Both sizes and both axes, the outline, and the box of each lesion.
    assert len([name for name in read if name.startswith("markups/")]) == 2 * 4


def test_each_markup_has_a_file_of_its_own_kind(files: dict[str, bytes], nodes: dict[str, ET.Element]) -> None:
    for node in nodes.values():
        if not node.tag.startswith("Markups") or node.tag.endswith(("Storage", "Display")):
            continue
        content = json.loads(files[nodes[references(node)["storage"]].attrib["fileName"]])
        RULES.validate(content)
        (markup,) = content["markups"]
        assert f"Markups{markup['type']}" == node.tag
        assert markup["name"] == node.get("name")
        assert "Not a medical device" in markup["description"]


def test_all_are_in_one_folder_that_bears_the_notice(nodes: dict[str, ET.Element]) -> None:
    (top,) = nodes["vtkMRMLSubjectHierarchyNode1"]
    (folder,) = top
    assert "Not a medical device" in folder.attrib["name"]
    shown = [item.attrib["dataNode"] for item in folder]
    kinds = [nodes[number].tag for number in shown]
    assert sorted(set(kinds)) == ["LabelMapVolume", "MarkupsClosedCurve", "MarkupsLine", "MarkupsROI", "Table"]
    ids = [item.attrib["id"] for item in top.iter("SubjectHierarchyItem")]
    assert len(set(ids)) == len(ids)
    assert {item.attrib["parent"] for item in folder} == {folder.attrib["id"]}


def test_colours_are_those_of_the_boxes_and_of_the_values_of_the_label_map(
    files: dict[str, bytes], nodes: dict[str, ET.Element]
) -> None:
    notice, *lines = files["lesion_colours.ctbl"].decode().splitlines()
    assert "Not a medical device" in notice
    rows = {int(line.split()[0]): line.split()[1:] for line in lines}
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(files["lesion_boxes.nii.gz"]))
    assert set(np.unique(np.asanyarray(image.dataobj))) == set(rows) == {0, 1, 2}
    assert [row[0] for row in rows.values()] == ["Background", "Lesion_1", "Lesion_2"]
    for number in (1, 2):
        box = next(
            node for node in nodes.values() if node.get("name") == f"Lesion {number} ({[0.9, 0.4][number - 1]:.2f})"
        )
        colour = [float(part) for part in nodes[references(box)["display"]].attrib["color"].split()]
        np.testing.assert_allclose([int(part) / 255 for part in rows[number][1:4]], colour, atol=0.003)
    shown = next(node for node in nodes.values() if node.tag == "LabelMapVolumeDisplay")
    assert nodes[references(shown)["color"]].tag == "ColorTable"
    assert rows[1][1:4] != rows[2][1:4]


def test_table_has_a_row_for_each_lesion(results: ScanResult, files: dict[str, bytes]) -> None:
    rows = list(csv.DictReader(io.StringIO(files["lesion_table.tsv"].decode()), dialect="excel-tab"))
    assert [(row["lesion"], row["axes from"], row["region"]) for row in rows] == [
        ("1", "mask", "abdomen"),
        ("2", "mask", "abdomen"),
    ]
    assert [float(row["long axis mm"]) for row in rows] == [entry["axes"]["long_axis_mm"] for entry in results.entries]
    assert rows[0]["tags"].startswith("nodule (0.90)")


def test_a_scan_without_lesions_has_a_scene_without_markups() -> None:
    files = slicer_scene(results_of(scan_of(ball_scan()), [], []))
    assert not [name for name in files if name.startswith("markups/")]
    assert "MarkupsROI" not in files["lesions.mrml"].decode()


def test_names_of_tags_and_weights_cannot_break_the_scene() -> None:
    odd = {"name": "x", "notice": 'a "quoted" --> <notice> & more\x00\n', "path": "p.pt", "sha256": "0" * 64}
    files = slicer_scene(results_of(scan_of(ball_scan()), BOXES, (0.9, 0.4), model=odd))
    (top,) = ET.fromstring(files["lesions.mrml"]).iter("SubjectHierarchy")
    assert 'a "quoted" --> <notice> & more' in top[0][0].attrib["name"]


def test_files_of_lesions_that_a_later_run_does_not_find_are_removed(results: ScanResult, tmp_path: Path) -> None:
    ResultWriter(tmp_path, outputs=("scene",))(*parts(results))
    (tmp_path / "markups" / "mine.mrk.json").write_text("not ours")
    fewer = results_of(results.scan, BOXES[:1], (0.9,))  # type: ignore[arg-type]
    ResultWriter(tmp_path, outputs=("scene",))(*parts(fewer))
    assert sorted(path.name for path in (tmp_path / "markups").iterdir()) == ["lesion_001_1.mrk.json", "mine.mrk.json"]


@pytest.mark.parametrize("fields", [None, elliptic])
def test_the_file_of_all_markups_keeps_the_rules_too(fields: object) -> None:
    found = results_of(scan_of(ball_scan()), BOXES, (0.9, 0.4), model=TAGGED if fields else {}, fields=fields)  # type: ignore[arg-type]
    content = json.loads(slicer_markups(found)["lesions.mrk.json"])
    RULES.validate(content)
    content["markups"][0]["display"]["opacity"] = 2
    content["markups"][1]["controlPoints"][0]["position"] = [0, 1]
    assert len(list(RULES.iter_errors(content))) == 2
