"""Detections of other programs: the same boxes in every form are the same cases, and strangers are named."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.data.deeplesion.splits import load_records
from scripts.data.importing.patient_splits import SplitRule
from scripts.data.importing.set_records import read_records
from scripts.data.importing.set_tables import write_set
from scripts.data.scans.scan import read_scan
from scripts.metrics.bootstrap import Bootstrap
from scripts.metrics.matching import match_detections
from scripts.metrics.subgroups import short_diameter_mm
from scripts.metrics.volume.volume_evaluation import evaluate_volumes
from scripts.storage.atomic_files import sha256
from scripts.workflows.importing.import_scans import ImportRules, Sources, import_scans
from scripts.workflows.outside_detections import OutsideDetections
from scripts.workflows.outside_detections import flat_cases as cases_on_slices
from scripts.workflows.outside_detections import solid_cases as cases_in_volumes
from support.fake_truth import Ball, write_nifti_case

BOX = [3.0, 4.0, 9.0, 12.0]
RECORD = {
    "patient": "p",
    "shape": [20, 40, 60],
    "spacing": [0.7, 0.7, 2.5],
    "keys": [
        {"slice": 6, "boxes": [BOX], "classes": ["lesion"], "doubtful": [False], "window": [-175, 275]},
        {"slice": 15, "boxes": [], "classes": [], "doubtful": [], "window": [-175, 275]},
    ],
    "lesions": [],
}
NAMES = ["000001_01_01_006.png", "000001_01_01_015.png"]


def flat_cases(truth: Path, predictions: Path, split: str | None, *rest: str) -> list[dict[str, Any]]:
    split = None if truth.suffix == ".json" else split
    return cases_on_slices(truth, OutsideDetections.read(predictions), split, *rest)


def solid_cases(truth: Path, predictions: Path, split: str, **rules: bool) -> list[dict[str, Any]]:
    return cases_in_volumes(truth, OutsideDetections.read(predictions), split, **rules)


def coco_truth(path: Path, **change: Any) -> Path:
    x1, y1, x2, y2 = BOX
    content = {
        "images": [
            {"id": n, "file_name": name, "width": 60, "height": 40, "patient": "000001"} for n, name in enumerate(NAMES)
        ],
        "annotations": [
            {"image_id": 0, "category_id": 5, "bbox": [x1, y1, x2 - x1, y2 - y1]},
            {"image_id": 1, "category_id": 6, "bbox": [0, 0, 5, 5]},
            {"image_id": 1, "category_id": 5, "bbox": [0, 0, 50, 5], "iscrowd": 1},
        ],
        "categories": [{"id": 5, "name": "node"}, {"id": 6, "name": "cyst"}],
    }
    path.write_text(json.dumps({**content, **change}))
    return path


def plain(cases: list[dict]) -> list[tuple]:
    return [
        (case["id"], case["boxes"].tolist(), case["scores"].tolist(), case["true_boxes"].tolist()) for case in cases
    ]


def test_flat_detections_in_every_form(tmp_path: Path) -> None:
    write_set(tmp_path / "set", {"000001_01_01": RECORD}, [{"p": 3}], {"classes": ["lesion"]})
    results = [
        {"image_id": 0, "category_id": 5, "bbox": [3, 4, 6, 8], "score": 0.9},
        {"image_id": 1, "category_id": 6, "bbox": [1, 1, 2, 2], "score": 0.2},
    ]
    by_id, by_name, table = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c.csv"
    by_id.write_text(json.dumps(results))
    by_name.write_text(json.dumps([{**one, "image_id": NAMES[one["image_id"]]} for one in results]))
    table.write_text(f"Image,x1,y1,x2,y2,score\n{NAMES[0]},3,4,9,12,0.9\n{NAMES[1]},1,1,3,3,0.2\n")
    wanted = [(NAMES[0], [BOX], [0.9], [BOX]), (NAMES[1], [[1, 1, 3, 3]], [0.2], [])]
    for predictions in (by_name, table):
        assert plain(flat_cases(tmp_path / "set", predictions, "test")) == wanted
        assert plain(flat_cases(tmp_path / "set" / "DL_info.csv", predictions, "test")) == wanted
        assert OutsideDetections.read(predictions).flat
    truth = coco_truth(tmp_path / "truth.json")
    both = plain(flat_cases(truth, by_id, "test"))
    assert both == plain(flat_cases(truth, by_name, "test"))
    assert both[1][3] == [[0, 0, 5, 5]]
    assert plain(flat_cases(truth, by_id, "test", "node")) == [wanted[0], (NAMES[1], [], [], [])]
    assert plain(flat_cases(truth, by_id, "test", "6"))[0] == (NAMES[0], [], [], [])


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ([{"image_id": 7, "bbox": [1, 2, 3, 4], "score": 1}], "got 1 of others: '7' in entry 0 of"),
        ([{"image_id": 0, "bbox": [1, 2, 3], "score": 1}], "in entry 0 of"),
        ([{"image_id": 0, "bbox": [1, 2, 3, 4]}], "image_id, score and a bbox of four numbers"),
        ([{"image_id": 0, "bbox": [1, 2, "3", 4], "score": 1}], "in entry 0 of"),
        ([{"image_id": 0, "bbox": [1, 2, 3, 4], "score": True}], "in entry 0 of"),
        ([3], "in entry 0 of"),
    ],
)
def test_results_that_cannot_be(tmp_path: Path, content: Any, what: str) -> None:
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=what):
        flat_cases(coco_truth(tmp_path / "t.json"), tmp_path / "r.json", "test")


@pytest.mark.parametrize(
    "change",
    [
        {"annotations": [{"image_id": 9, "category_id": 5, "bbox": [1, 2, 3, 4]}]},
        {"annotations": [{"image_id": 0, "category_id": 5}]},
        {"annotations": [{"image_id": 0, "category_id": 5, "bbox": ["1", 2, 3, 4]}]},
        {"images": []},
        {"images": [{"id": 0, "width": "96", "height": 96}]},
        {"images": [{"id": 0, "width": 96, "height": True}]},
        {"images": [{"id": 0, "width": 96}]},
        {"images": [{"id": 0, "width": 1, "height": 1}, {"id": 0, "width": 1, "height": 1}]},
        {"images": [{"id": n, "file_name": str(1 - n), "width": 60, "height": 40} for n in (0, 1)]},
        {"annotations": [{"image_id": 0, "category_id": 9, "bbox": [1, 2, 3, 4]}]},
        {"categories": [{"id": 5, "name": "node"}, {"id": 5, "name": "cyst"}, {"id": 6, "name": "scar"}]},
    ],
)
def test_truth_that_cannot_be(tmp_path: Path, change: dict) -> None:
    (tmp_path / "r.json").write_text("[]")
    with pytest.raises(ValueError, match=r"t\.json"):
        flat_cases(coco_truth(tmp_path / "t.json", **change), tmp_path / "r.json", "test")
    with pytest.raises(ValueError, match=r"one of the categories node \(5\), cyst \(6\), got 'liver' for .*t\.json"):
        flat_cases(coco_truth(tmp_path / "t.json"), tmp_path / "r.json", "test", "liver")
    with pytest.raises(ValueError, match="got --split train with labels in COCO style"):
        cases_on_slices(tmp_path / "t.json", OutsideDetections.read(tmp_path / "r.json"), "train")


def test_categories_of_detections_are_those_of_the_truth(tmp_path: Path) -> None:
    truth, path = coco_truth(tmp_path / "t.json"), tmp_path / "r.json"

    def scores(*kinds: object) -> list[list[float]]:
        results = [{"image_id": 0, "category_id": kind, "bbox": [3, 4, 6, 8], "score": 0.9} for kind in kinds]
        path.write_text(json.dumps(results))
        return [case["scores"].tolist() for case in flat_cases(truth, path, "test", "node")]

    assert scores(5, "5", "node", 6, "6", "cyst") == [[0.9, 0.9, 0.9], []]
    for kind in (0, "0", "liver", True):
        with pytest.raises(ValueError, match=rf"Expected one of the categories .*, got {kind!r} in entry 1 of"):
            scores(5, kind)
    with pytest.raises(ValueError, match="Expected a category of every detection, as --category is given, got none in"):
        scores(5, None)
    for column in ("category_id", "Label", "class"):
        table = tmp_path / "r.csv"
        table.write_text(f"image,{column},x1,y1,x2,y2,score\n0,node,3,4,9,12,0.9\n0,6,1,1,3,3,0.2\n")
        assert [case["scores"].tolist() for case in flat_cases(truth, table, "test", "node")] == [[0.9], []]
    table.write_text("image,x1,y1,x2,y2,score\n0,3,4,9,12,0.9\n")
    with pytest.raises(ValueError, match="Expected a category of every detection"):
        flat_cases(truth, table, "test", "node")


@pytest.mark.parametrize("image", [f"C:\\x\\{NAMES[0]}", f"{NAMES[0]} "])
def test_the_row_of_a_strange_image_is_named(tmp_path: Path, image: str) -> None:
    (tmp_path / "r.csv").write_text(f"image,x1,y1,x2,y2,score\n\n{NAMES[0]},1,2,3,4,1\n{image},1,2,3,4,1\n")
    with pytest.raises(ValueError, match=r"got 1 of others: '.*' in line 4 of .*r\.csv is the first") as raised:
        flat_cases(coco_truth(tmp_path / "t.json"), tmp_path / "r.csv", "test")
    assert repr(image) in str(raised.value)
    assert f"such as {NAMES[0]}" in str(raised.value)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cases")
    for number, turn in enumerate(("plain", "flipped", "sagittal")):
        write_nifti_case(root, turn, turn, Ball((-8.2, 40.3, -122.0 + 2 * number)))
    rules = ImportRules(splits=SplitRule((0.4, 0, 0.6)))
    import_scans(Sources(root / "images", root / "masks"), rules, root / "set", progress=False)
    return root


def stored(root: Path) -> dict[str, np.ndarray]:
    """The true boxes of each scan in the voxels of its file, by its name."""
    found = {}
    for record in read_records(root / "set").values():
        scan = read_scan(root / "images" / f"{record['scan']}.nii.gz")
        (lesion,) = record["lesions"]
        slices = record["shape"][0]
        x1, y1, x2, y2 = lesion["box"]
        canonical = np.array([[x1, y1, slices - lesion["slices"][1], x2, y2, slices - lesion["slices"][0] + 1]])
        found[record["scan"]] = scan.boxes_to_stored(canonical)
    return found


def check_perfect(found: list[dict]) -> None:
    assert found
    for case in found:
        np.testing.assert_allclose(case["boxes"], case["true_boxes"], atol=1e-6)
        assert case["scores"].tolist() == [0.75]


def test_folders_of_our_own_results(tmp_path: Path, cases: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = {"score_threshold": 0.5, "box_threshold": 0.02}
    for name, boxes in stored(cases).items():
        (tmp_path / name).mkdir()
        lesions = [{"box_voxel": boxes[0].tolist(), "score": 0.75}]
        (tmp_path / name / "lesions.json").write_text(
            json.dumps({"input": {"name": f"{name}.nii.gz"}, "lesions": lesions, "settings": settings})
        )
    check_perfect(solid_cases(cases / "set", tmp_path, "all"))
    assert "hold no lesion with a score below 0.5: curves end there" in caplog.text
    # A lower threshold would link other boxes, and so score other lesions than a reader sees.
    assert "Detect with --score_threshold 0.02 to score" in caplog.text
    assert 1 <= len(solid_cases(cases / "set", tmp_path, "test")) <= 2


def test_results_of_other_files_with_the_same_name_are_rejected(tmp_path: Path, cases: Path) -> None:
    name, digest = "", ""
    about: dict[str, Any] = {}
    content: dict[str, Any] = {}
    for name, boxes in stored(cases).items():
        digest = sha256(cases / "images" / f"{name}.nii.gz")
        about = {"name": f"{name}.nii.gz", "sha256": digest}
        content = {"input": about, "lesions": [{"box_voxel": boxes[0].tolist(), "score": 0.75}]}
        (tmp_path / name).mkdir()
        (tmp_path / name / "lesions.json").write_text(json.dumps(content))
    check_perfect(solid_cases(cases / "set", tmp_path, "all"))
    about["sha256"] = "0" * 64
    (tmp_path / name / "lesions.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"of the scan {name} \(SHA-256 {digest[:12]}\) .*other files \('0000"):
        solid_cases(cases / "set", tmp_path, "all")


@pytest.mark.parametrize("ending", ["pkl", "json"])
def test_folders_of_nndetection(tmp_path: Path, cases: Path, ending: str) -> None:
    for name, ((i1, j1, k1, i2, j2, k2),) in stored(cases).items():
        # Its boxes end at the centres of the voxels around the lesion: voxels i1 to i2 - 1 are i1 - 1 to i2.
        box, path = [k1 - 1, j1 - 1, k2, j2, i1 - 1, i2], tmp_path / f"{name}_boxes.{ending}"
        if ending == "json":
            path.write_text(json.dumps({"0": {"score": 0.75, "label": 0, "box": box}}))
        else:
            content = {
                "pred_boxes": np.array([box]),
                "pred_scores": np.array([0.75]),
                "pred_labels": np.array([0]),
                "restore": True,
            }
            path.write_bytes(pickle.dumps(content))
    check_perfect(solid_cases(cases / "set", tmp_path, "all"))
    assert not OutsideDetections.read(tmp_path).flat
    # A folder of links to results elsewhere.
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "fold0").symlink_to(tmp_path, target_is_directory=True)
    check_perfect(solid_cases(cases / "set", tmp_path / "links", "all"))


def test_results_that_do_not_belong_to_the_set(tmp_path: Path, cases: Path) -> None:
    with pytest.raises(ValueError, match="got neither"):
        solid_cases(cases / "set", tmp_path, "all")
    with pytest.raises(ValueError, match=r"a list of COCO results or a CSV .*truth\.json\), got"):
        solid_cases(coco_truth(tmp_path / "truth.json"), tmp_path, "all")
    (tmp_path / "plain_boxes.json").write_text("{}")
    with pytest.raises(ValueError, match="results for every scan, got none for 2"):
        solid_cases(cases / "set", tmp_path, "all")
    found = solid_cases(cases / "set", tmp_path, "all", missing_is_empty=True)
    assert [len(case["boxes"]) for case in found] == [0, 0, 0]
    (tmp_path / "other_boxes.json").write_text("{}")
    with pytest.raises(ValueError, match="the result of one scan of the set, got other"):
        solid_cases(cases / "set", tmp_path, "all")
    (tmp_path / "other_boxes.json").unlink()
    (tmp_path / "plain_boxes.pkl").write_bytes(
        pickle.dumps({"pred_boxes": np.zeros((2, 6)), "pred_scores": np.zeros(1)})
    )
    with pytest.raises(ValueError, match="a score for each of 2 boxes, got 1"):
        solid_cases(cases / "set", tmp_path, "all")


@pytest.mark.parametrize(
    ("boxes", "what"),
    [
        ([[5, 1, 2, 4, 1, 4]], "expected boxes that end after they begin"),
        ([[1, 1, 3, 3, 4, 1]], "expected boxes that end after they begin"),
        (np.ones((6, 2)), r"expected six numbers for each box, got a table of shape \(6, 2\)"),
        ([[5000, 1, 5002, 4, 1, 4]], r"Expected boxes in the scan of \d+ x \d+ x \d+ voxels"),
        ([[1, 1, 3, -5000, 1, 4]], "plain_boxes"),
        ([[1, 1, 3, 9000, 1, 4]], "Expected boxes in the scan"),
        ([[np.nan, 1, 3, 4, 1, 4]], "Expected finite numbers as boxes and scores, got NaN or infinity in"),
    ],
)
def test_boxes_of_nndetection_that_cannot_be(tmp_path: Path, cases: Path, boxes: Any, what: str) -> None:
    content = {"pred_boxes": np.array(boxes, dtype=float), "pred_scores": np.full(len(boxes), 0.5)}
    (tmp_path / "plain_boxes.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=what) as told:
        solid_cases(cases / "set", tmp_path, "all", missing_is_empty=True)
    assert f"{tmp_path / 'plain_boxes.pkl'}" in str(told.value)


@pytest.mark.parametrize("box", [[9, 4, 2, 3, 9, 5], [3, 4, 2, 9, 9, 1], [3, 4, 9, 9], [-900, 0, 0, -890, 5, 5]])
def test_own_boxes_that_cannot_be(tmp_path: Path, cases: Path, box: list[float]) -> None:
    path = tmp_path / "lesions.json"
    path.write_text(json.dumps({"input": {"name": "plain.nii.gz"}, "lesions": [{"box_voxel": box, "score": 0.5}]}))
    with pytest.raises(ValueError, match=r"Expected boxes |Expected lesions with box_voxel") as told:
        solid_cases(cases / "set", tmp_path, "all", missing_is_empty=True)
    assert str(path) in str(told.value)


def test_nndetections_boxes_are_those_of_its_own_code(tmp_path: Path, cases: Path) -> None:
    """The box that ``instances_to_boxes`` of nnDetection gives for a mask in SimpleITK's order of axes."""
    for name, ((i1, j1, k1, i2, j2, k2),) in stored(cases).items():
        low, high = np.floor([k1, j1, i1]).astype(int), np.ceil([k2, j2, i2]).astype(int)
        mask = np.zeros(high + 2, dtype=bool)
        mask[tuple(slice(first, last) for first, last in zip(low, high, strict=True))] = True
        inside = np.stack(np.nonzero(mask), axis=1)
        first, last = inside.min(axis=0) - 1, inside.max(axis=0) + 1
        box = [first[0], first[1], last[0], last[1], first[2], last[2]]
        content = {"pred_boxes": np.array([box], dtype=float), "pred_scores": np.array([0.75])}
        (tmp_path / f"{name}_boxes.pkl").write_bytes(pickle.dumps(content))
    check_perfect(solid_cases(cases / "set", tmp_path, "all"))


def test_crowds_are_regions_to_ignore(tmp_path: Path) -> None:
    results = [{"image_id": 1, "category_id": 5, "bbox": [10, 1, 20, 3], "score": 0.5}]
    (tmp_path / "results.json").write_text(json.dumps(results))
    first, second = flat_cases(coco_truth(tmp_path / "truth.json"), tmp_path / "results.json", "test", "node")
    assert (len(first["ignored_boxes"]), second["ignored_boxes"].tolist()) == (0, [[0, 0, 50, 5]])
    assert match_detections([first, second]).outcomes.tolist() == ["ignored"]
    others = flat_cases(tmp_path / "truth.json", tmp_path / "results.json", "test", "cyst")
    assert not any("ignored_boxes" in case for case in others)


def test_classes_of_coco_files_and_tables_are_told_by_number_or_name(tmp_path: Path) -> None:
    results = [
        {"image_id": 0, "category_id": 6, "bbox": [3, 4, 6, 8], "score": 0.9},
        {"image_id": 1, "category_id": 7, "bbox": [1, 1, 2, 2], "score": 0.2},
    ]
    truth = coco_truth(tmp_path / "truth.json")
    (tmp_path / "results.json").write_text(json.dumps(results))
    table = "image,x1,y1,x2,y2,score,class\n"
    (tmp_path / "results.csv").write_text(f"{table}{NAMES[0]},3,4,9,12,0.9,cyst\n{NAMES[1]},1,1,3,3,0.2,other\n")
    for name in ("results.json", "results.csv"):
        found = flat_cases(truth, tmp_path / name, "test")
        assert [case["class_names"] for case in found] == [("node", "cyst")] * 2
        assert [case["true_classes"].tolist() for case in found] == [["node"], ["cyst"]]
        # A class that the truth does not know is none of its classes.
        assert [case["classes"].tolist() for case in found] == [["cyst"], [""]]
    (tmp_path / "results.csv").write_text(f"image,x1,y1,x2,y2,score\n{NAMES[0]},3,4,9,12,0.9\n")
    assert "classes" not in flat_cases(truth, tmp_path / "results.csv", "test")[0]
    (tmp_path / "results.json").write_text(json.dumps(results[:1]))
    assert "classes" not in flat_cases(truth, tmp_path / "results.json", "test", "node")[0]


def test_classes_of_a_set_count_from_one(tmp_path: Path) -> None:
    keys = [{**RECORD["keys"][0], "classes": ["cyst"]}, RECORD["keys"][1]]
    write_set(tmp_path / "set", {"000001_01_01": {**RECORD, "keys": keys}}, [{"p": 3}], {"classes": ["node", "cyst"]})
    results = [{"image_id": NAMES[0], "category_id": 2, "bbox": [3, 4, 6, 8], "score": 0.9}]
    (tmp_path / "results.json").write_text(json.dumps(results))
    first, second = flat_cases(tmp_path / "set", tmp_path / "results.json", "test")
    assert (first["true_classes"].tolist(), first["classes"].tolist()) == (["cyst"], ["cyst"])
    assert (second["true_classes"].tolist(), second["classes"].tolist()) == ([], [])


def test_classes_of_our_own_results_meet_those_of_the_set(tmp_path: Path, cases: Path) -> None:
    labels = json.loads((cases / "set" / "lesions_3d.json").read_text())
    for number, volume in enumerate(labels["volumes"]):
        volume["lesions"][0]["class"] = ("node", "cyst")[number % 2]
    path = cases / "set" / "two_classes.json"
    path.write_text(json.dumps(labels))
    about = json.loads((cases / "set" / "set.json").read_text())
    (cases / "set" / "set.json").write_text(json.dumps({**about, "classes": ["node", "cyst"]}))
    for name, boxes in stored(cases).items():
        (tmp_path / name).mkdir()
        lesions = [{"box_voxel": boxes[0].tolist(), "score": 0.75, "class": "node"}]
        content = {"input": {"name": f"{name}.nii.gz"}, "model": {"classes": ["node", "x"]}, "lesions": lesions}
        (tmp_path / name / "lesions.json").write_text(json.dumps(content))
    found = solid_cases(path, tmp_path, "all")
    (cases / "set" / "set.json").write_text(json.dumps(about))
    metrics, _ = evaluate_volumes(found, bootstrap=Bootstrap(resamples=0))
    assert metrics["protocols"]["3D IoU 0.5"]["mean_sensitivity"] == 1
    classes = metrics["classes"]
    assert [classes[name]["lesions"] for name in ("node", "cyst")] == [2, 1]
    assert [classes[name]["detections"] for name in ("node", "cyst")] == [3, 0]
    assert classes["cyst"]["protocols"]["3D IoU 0.5"]["mean_sensitivity"] == 0
    assert classes["node"]["protocols"]["3D IoU 0.5"]["sensitivity"]["1"] == 1
    assert "classes" not in evaluate_volumes(solid_cases(cases / "set", tmp_path, "all"))[0]


@pytest.mark.parametrize(("kinds", "padding"), [(["mask"], 0.0), (["recist"], 5.0), (["mask", "recist"], 0.0)])
def test_boxes_of_a_set_are_padded_only_if_they_are_of_diameters(
    tmp_path: Path, kinds: list[str], padding: float
) -> None:
    write_set(tmp_path / "set", {"000001_01_01": RECORD}, [{"p": 3}], {"classes": ["lesion"], "kinds": kinds})
    (tmp_path / "none.json").write_text("[]")
    # A side of 6 pixels of 0.7 mm.
    for truth in (tmp_path / "set", tmp_path / "set" / "DL_info.csv"):
        first, _ = flat_cases(truth, tmp_path / "none.json", "test")
        assert short_diameter_mm(first) == pytest.approx([max(6 - 2 * padding, 0) * 0.7])
    assert {
        record.get("box_padding") for record in load_records(tmp_path / "set", "test", missing_images="ignore")
    } == {padding}
