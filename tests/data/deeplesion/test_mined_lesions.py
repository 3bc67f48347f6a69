"""Mined boxes: regions or lesions where nothing has a label, on every slice that they reach."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.data.coco.coco_instances import Categories
from scripts.data.deeplesion.dl_info import read_csv
from scripts.data.deeplesion.mined_lesions import Mined
from scripts.data.deeplesion.splits import load_records
from scripts.data.records import Record
from scripts.instances import true_rows

WriteCsv = Callable[..., Path]
# In the volume frame: the labelled lesion of slice 109 (225.169, 89.0204, 240.252, 110.977), and one next to it.
LABELLED, OTHER = [226, 90, 107, 239, 110, 111], [30, 40, 108, 49, 59, 112]


@pytest.fixture
def records(write_csv: WriteCsv) -> list[Record]:
    return read_csv(write_csv({}, {"File_name": "000001_01_01_114.png", "Bounding_boxes": "1, 1, 11, 21"}), "")


def labels(path: Path, *boxes: list[int]) -> Path:
    path.write_text(json.dumps({"000001_01_01_103-115": list(boxes)}))
    return path


def detections(path: Path, *rows: tuple[str, list[float], float]) -> Path:
    lines = [",".join(map(str, (name, "000001", *box, score, "false positive"))) for name, box, score in rows]
    path.write_text("\n".join(["id,patient,x1,y1,x2,y2,score,outcome", *lines]))
    return path


def test_boxes_in_3d_become_regions_on_the_slices_that_they_reach(records: list[Record], tmp_path: Path) -> None:
    first, second = Mined(labels(tmp_path / "mined.json", LABELLED, OTHER))(records)
    assert first["instances"]["boxes"].tolist()[1:] == [[30, 40, 50, 60]]
    assert true_rows(first["instances"]).tolist() == [True, False]
    assert true_rows(second["instances"]).tolist() == [True]
    assert {name: len(values) for name, values in first["instances"].items()} == dict.fromkeys(first["instances"], 2)
    # The records that were given are as they were.
    assert "ignored" not in records[0]["instances"]


def test_detections_become_lesions_from_a_score_on(records: list[Record], tmp_path: Path) -> None:
    first, second = (record["file_name"] for record in records)
    rows = [(first, [30.0, 40, 50, 60], 0.95), (first, [225.0, 89, 240, 111], 0.99), (second, [70.0, 70, 90, 90], 0.5)]
    mined = Mined(detections(tmp_path / "detections.csv", *rows), "lesions", 0.9)
    one, other = mined(records)
    assert one["instances"]["boxes"].dtype == np.float32
    assert (one["instances"]["boxes"][1].tolist(), len(other["instances"]["boxes"])) == ([30, 40, 50, 60], 1)
    assert (one["instances"]["lesion_type"].tolist(), one["instances"]["labels"].tolist()) == ([3, -1], [1, 1])
    assert "ignored" not in one["instances"]


@pytest.fixture
def several(records: list[Record]) -> list[Any]:
    return [{**record, "categories": Categories((1, 2), ("tumour", "node"))} for record in records]


def test_detections_become_lesions_of_the_class_that_they_name(several: list[Any], tmp_path: Path) -> None:
    one, other = (record["file_name"] for record in several)
    boxes = [[30.0, 40, 50, 60], [31.0, 40, 50, 60], [70.0, 70, 90, 90], [300.0, 300, 320, 330]]
    # The second is of another class in the place of the first, which scores higher; nobody knows a cyst.
    kinds = [(one, "node", 0.97), (one, "tumour", 0.92), (one, "cyst", 0.95), (other, "tumour", 0.95)]
    path = detections(tmp_path / "d.csv", *((at, box, s) for (at, _, s), box in zip(kinds, boxes, strict=True)))
    head, *rows = path.read_text().splitlines()
    path.write_text(
        "\n".join([f"{head},class", *(f"{row},{kind}" for row, (_, kind, _) in zip(rows, kinds, strict=True))])
    )
    for lines in (path.read_text(), "\n".join([f"{head},class", *path.read_text().splitlines()[:0:-1]])):
        path.write_text(lines)
        first, second = (record["instances"] for record in Mined(path, "lesions")(several))
        assert first["boxes"].tolist()[1:] == [boxes[0], boxes[2]]
        assert (first["labels"].tolist()[1], first["ignored"].tolist()) == (2, [False, False, True])
        assert (second["labels"].tolist()[1], "ignored" in second) == (1, False)
    regions = Mined(path)(several)[0]["instances"]
    assert regions["ignored"].tolist() == [False, True, True, True]


def test_lesions_in_3d_become_those_of_their_class(several: list[Any], tmp_path: Path) -> None:
    lesions = [{"box": [30, 40, 50, 60], "slices": [108, 112], "class": "node"}]
    volume = {"series": "000001_01_01", "slice_range": [103, 115], "spacing": [1, 1, 2.5], "lesions": lesions}
    path = tmp_path / "mined.json"
    path.write_text(json.dumps({"volumes": [volume]}))
    instances = Mined(path, "lesions")(several)[0]["instances"]
    assert (instances["labels"].tolist(), "ignored" in instances) == ([1, 2], False)


def test_boxes_of_no_class_are_no_lesions_of_a_set_of_several(several: list[Any], tmp_path: Path) -> None:
    path = labels(tmp_path / "mined.json", OTHER)
    with pytest.raises(
        ValueError, match=r"boxes of the classes tumour, node, .* got none in .*mined\.json: mined_as ig"
    ):
        Mined(path, "lesions")(several)
    assert Mined(path)(several)[0]["instances"]["ignored"].tolist() == [False, True]


def test_training_reads_them(write_csv: WriteCsv, tmp_path: Path) -> None:
    folder = write_csv({"Train_Val_Test": "1"}).parent
    path = labels(tmp_path / "mined.json", OTHER)
    (record,) = load_records(folder, "train", missing_images="ignore", mined=path)
    assert record["instances"]["ignored"].tolist() == [False, True]
    (record,) = load_records(folder, "train", missing_images="ignore", mined=path, mined_as="lesions")
    assert len(record["instances"]["boxes"]) == 2


def test_files_of_another_set(records: list[Record], tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps({"000009_01_01_103-115": [OTHER]}))
    with pytest.raises(ValueError, match="sub-volumes of the series of this data set, got none"):
        Mined(tmp_path / "other.json")(records)
    with pytest.raises(ValueError, match="detections on the key slices of this data set"):
        Mined(detections(tmp_path / "d.csv", ("strange.png", [1.0, 1, 5, 5], 0.9)))(records)
    (tmp_path / "d.csv").write_text("id,score\n000001_01_01_109.png,0.95\n")
    with pytest.raises(ValueError, match=r"the detections\.csv of an evaluation, got no column x1, y1, x2, y2 in"):
        Mined(tmp_path / "d.csv")(records)
    with pytest.raises(FileNotFoundError, match=r"detections\.csv of an evaluation, found no file .*none\.csv"):
        Mined(tmp_path / "none.csv")(records)
    with pytest.raises(ValueError, match="ignored or lesions as mined_as, got 'truth'"):
        Mined(tmp_path / "d.csv", "truth")


@pytest.mark.parametrize(
    ("box", "score", "what"),
    [
        ([30.0, 40, 50, 60], float("nan"), "a finite score, got nan in line 2"),
        ([30.0, 40, 50, 60], "high", "a score and a box as numbers, got others in line 2"),
        ([30.0, 40, float("inf"), 60], 0.95, "finite box coordinates, .* in line 2"),
        ([30.0, 40, 20, 60], 0.95, "x1 < x2 .* in line 2"),
        ([600.0, 40, 700, 60], 0.95, "a box in an image of 512 x 512 pixels, got .* in line 2"),
        ([-600.0, 40, 900, 60], 0.95, "a box in an image of 512 x 512 pixels, got .* in line 2"),
        ([30.0, 40, 50, "6,0"], 0.95, "8 fields in every row, got 9 in line 2"),
        ([30.0, 40, 50], 0.95, "8 fields in every row, got 7 in line 2"),
    ],
)
def test_detections_that_cannot_be(records: list[Record], tmp_path: Path, box: list, score: Any, what: str) -> None:
    path = detections(tmp_path / "d.csv", (records[0]["file_name"], box, score))
    with pytest.raises(ValueError, match=rf"{what} of .*d\.csv"):
        Mined(path)(records)


def test_a_table_that_a_spreadsheet_saved_is_read(records: list[Record], tmp_path: Path) -> None:
    path = detections(tmp_path / "d.csv", (records[0]["file_name"], [30.0, 40, 50, 60], 0.95))
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert len(Mined(path)(records)[0]["instances"]["boxes"]) == 2


def test_what_is_left_out_is_counted(records: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    first, box = records[0]["file_name"], [30.0, 40, 50, 60]
    rows = [(first, box, 0.95), (first, box, 0.2), ("of_the_test_split_1.png", box, 0.99), (first, box, 0.3)]
    Mined(detections(tmp_path / "d.csv", *rows))(records)
    assert "3 of 4 detections are left out: 2 score below 0.9, 1 are on other images." in caplog.text
    assert not [entry for entry in caplog.records if entry.levelname == "WARNING"]
    Mined(detections(tmp_path / "d.csv", rows[1]))(records)
    Mined(labels(tmp_path / "mined.json", LABELLED, [600, 40, 108, 700, 59, 112]))(records)
    told = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert ["0 mined boxes on 2 key slices" in line for line in told] == [True, False, True]
    assert "1 boxes are left out: they lie outside of their image." in told[1]


@pytest.mark.parametrize("options", [{"mined_as": "lesions"}, {"mined_score": 0.5}])
def test_how_to_mine_without_a_file(write_csv: WriteCsv, options: dict[str, Any]) -> None:
    folder = write_csv({"Train_Val_Test": "1"}).parent
    with pytest.raises(ValueError, match=r"a file of mined boxes .* with mined_as and mined_score, got none"):
        load_records(folder, "train", missing_images="ignore", **options)


def test_lesions_with_masks_cannot_be_mined(records: list[Record], tmp_path: Path) -> None:
    masks = [{**record, "instances": {**record["instances"], "masks": np.ones((1, 4, 4))}} for record in records]
    path = labels(tmp_path / "mined.json", OTHER)
    with pytest.raises(ValueError, match="mined_as ignored where lesions have the fields masks"):
        Mined(path, "lesions")(masks)  # type: ignore[arg-type]
    assert Mined(path)(masks)[0]["instances"]["masks"].shape == (2, 4, 4)  # type: ignore[arg-type]
