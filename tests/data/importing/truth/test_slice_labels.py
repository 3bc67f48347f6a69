"""Labels of slices: pixels from 1 or 0, sizes that must agree, empty slices, crowds, outlines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scripts.data.importing.truth.slice_labels import (
    SliceLabels,
    may_be_yolo,
    read_coco_slices,
    read_voc,
    read_yolo,
)
from scripts.data.importing.truth.slice_places import SlicePlaces, SliceRule
from support.fake_scans import scan_of

PLACES = SlicePlaces(scan_of(np.zeros((5, 40, 60), np.int16)), {}, {})
FEET = SliceRule("from_feet", 0)


def labels(boxes: list[list[float]], **options: object) -> SliceLabels:
    return SliceLabels("1", np.array(boxes, float).reshape(-1, 4), ("a",) * len(boxes), "test", **options)  # type: ignore[arg-type]


def test_pixels_of_voc_are_whole_and_counted_from_1_or_0(tmp_path: Path) -> None:
    box = "<object><name>x</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>5</xmax><ymax>4</ymax></bndbox></object>"
    (tmp_path / "a.xml").write_text(f"<annotation>{box}</annotation>")
    assert read_voc(tmp_path / "a.xml", SliceRule(), tmp_path).boxes.tolist() == [[2, 3, 5, 4]]
    found = read_voc(tmp_path / "a.xml", SliceRule(pixels_from=0), tmp_path)
    assert (found.boxes.tolist(), found.size, found.image) == ([[3, 4, 6, 5]], (None, None), "a")
    sized = "<annotation><size><height>7</height></size></annotation>"
    (tmp_path / "b.xml").write_text(sized)
    assert read_voc(tmp_path / "b.xml", SliceRule(), tmp_path).size == (None, 7)
    for text in ("1_0", "7.5", "inf"):
        (tmp_path / "c.xml").write_text(f"<annotation><size><height>{text}</height></size></annotation>")
        with pytest.raises(ValueError, match="whole numbers as size"):
            read_voc(tmp_path / "c.xml", SliceRule(), tmp_path)
    (tmp_path / "a.xml").write_text(f"<annotation>{box.replace('<xmax>5', '<xmax>five')}</annotation>")
    with pytest.raises(ValueError, match="xmin, ymin, xmax and ymax in every bndbox"):
        read_voc(tmp_path / "a.xml", SliceRule(), tmp_path)


def test_an_image_of_another_size_or_a_box_outside() -> None:
    with pytest.raises(
        ValueError, match=r"60 x 40 pixels as in scan.nii, got one of 40 x 60 in test: a picture that was"
    ):
        labels([[1, 1, 5, 5]], size=(40, 60)).lesions_in(PLACES, "1", FEET)
    # A side that is known alone counts as well.
    labels([[1, 1, 5, 5]], size=(60, None)).lesions_in(PLACES, "1", FEET)
    with pytest.raises(ValueError, match=r"60 x 40 pixels as in scan.nii, got one of \? x 60 in test"):
        labels([[1, 1, 5, 5]], size=(None, 60)).lesions_in(PLACES, "1", FEET)
    with pytest.raises(ValueError, match="boxes inside of their image of 60 x 40"):
        labels([[61, 1, 65, 5]]).lesions_in(PLACES, "1", FEET)
    truth = labels([[55, 1, 65, 5]]).lesions_in(PLACES, "1", FEET)
    assert truth.lesions[0].boxes.tolist() == [[55, 1, 60, 5]]
    assert truth.notes == ("A box reaches 5.0 pixels beyond its image: cut at the edge (test).",)
    for box, told in (([-3.0, 1.0, 5.0, 5.0], 1), ([-0.6, 1.0, 60.9, 5.0], 0), ([0.0, 1.0, 60.0, 40.0], 0)):
        assert len(labels([box]).lesions_in(PLACES, "1", FEET).notes) == told


def test_a_slice_without_a_box_says_so() -> None:
    assert labels([]).lesions_in(PLACES, "3", FEET).empty == (3,)
    crowd = labels([], regions=np.array([[1.0, 2, 31, 70]])).lesions_in(PLACES, "3", FEET)
    assert (crowd.empty, crowd.lesions, len(crowd.regions)) == ((3,), (), 1)
    assert crowd.regions[0].boxes.tolist() == [[1, 2, 31, 40]]


def write_coco(path: Path, **change: object) -> Path:
    content = {
        "images": [{"id": 1, "file_name": "s/a.png", "width": 60, "height": 40}, {"id": 2, "file_name": "s/b.png"}],
        "annotations": [
            {"image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 5]},
            {"image_id": 1, "category_id": 3, "bbox": [1, 2, 30, 5], "iscrowd": 1},
        ],
        "categories": [{"id": 3, "name": "cyst"}],
    }
    path.write_text(json.dumps({**content, **change}))
    return path


def test_coco_images_crowds_and_empty_ones(tmp_path: Path) -> None:
    first, second = read_coco_slices(write_coco(tmp_path / "c.json"))
    assert (first.image, first.boxes.tolist(), first.names) == ("s/a", [[1, 2, 11, 7]], ("cyst",))
    assert first.regions.tolist() == [[1, 2, 31, 7]]
    assert (second.size, len(second.regions), len(second.boxes)) == ((None, None), 0, 0)
    images = [{"id": 1, "file_name": "a", "width": 5}, {"id": 2, "file_name": "b", "height": 6}]
    found = read_coco_slices(write_coco(tmp_path / "c.json", images=images, annotations=[]))
    assert [one.size for one in found] == [(5, None), (None, 6)]


@pytest.mark.parametrize(
    "change",
    [
        {"annotations": [{"image_id": 9, "category_id": 3, "bbox": [1, 2, 3, 4]}]},
        {"annotations": [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3]}]},
        {"annotations": [{"image_id": 1, "category_id": 3, "bbox": []}]},
        {"annotations": 2 * [{"image_id": 1, "category_id": 3, "bbox": [1, 2]}]},
        {"annotations": [{"image_id": 1, "category_id": 3}]},
        {"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]},
        {"images": [{"id": 1, "file_name": "a", "width": float("inf"), "height": 5}], "annotations": []},
        {"categories": {}},
        {"categories": [{"id": 3, "name": "cyst"}, {"id": 3, "name": "ignore"}]},
    ],
)
def test_coco_files_that_cannot_be(tmp_path: Path, change: dict) -> None:
    with pytest.raises(ValueError, match=r"c\.json"):
        read_coco_slices(write_coco(tmp_path / "c.json", **change))


def test_rows_of_yolo(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("0 0.5 0.5 0.2 0.4\n\n2 0.1 0.2 0.3 0.2 0.3 0.6\n")
    assert read_yolo(path, tmp_path, {}).names == ("0", "2")
    found = read_yolo(path, tmp_path, {0: "node", 2: "cyst"})
    assert found.names == ("node", "cyst")
    np.testing.assert_allclose(found.boxes, [[0.4, 0.3, 0.6, 0.7], [0.1, 0.2, 0.3, 0.6]])
    (lesion, _) = found.lesions_in(PLACES, "1", FEET).lesions
    np.testing.assert_allclose(lesion.boxes, [[24, 12, 36, 28]])
    for text in ("0 0.5 0.5 0.2", "x 0.5 0.5 0.2 0.4", "0 50 50 20 40", "0 nan 0.5 0.2 0.4", "-1 0.5 0.5 0.2 0.4"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"in line 1 of .*a\.txt"):
            read_yolo(path, tmp_path, {})
    path.write_text("0 0.5 0.5 0.2 0.4\n2 0.5 0.5 0.2 0.4\n")
    with pytest.raises(ValueError, match=r"in line 2 of .*a\.txt: a class that is not among the 1 that have names"):
        read_yolo(path, tmp_path, {0: "node"})


BOX = "0 0.5 0.5 0.2 0.4\n"


@pytest.mark.parametrize("text", [f"\ufeff{BOX}", f"# by hand\n{BOX}", f"\ufeff#\n\n{BOX}", f"{BOX.strip()} # sure\n"])
def test_marks_and_comments_of_yolo_change_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(BOX, encoding="utf-8")
    plain = read_yolo(path, tmp_path, {})
    path.write_text(text, encoding="utf-8")
    found = read_yolo(path, tmp_path, {})
    assert may_be_yolo(path)
    assert (found.boxes.tolist(), found.names) == (plain.boxes.tolist(), plain.names)


def test_what_may_be_yolo(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text, likely in (("", True), ("# nothing here\n", True), ("-1 0.5", True), ("a note", False), ("0.5 1", False)):
        path.write_text(text)
        assert may_be_yolo(path) == likely


@pytest.mark.parametrize(
    ("text", "coding"),
    [
        (BOX, "utf-16"),
        (BOX, "utf-16-le"),
        ("0.0 0.5 0.5 0.2 0.4\n", "utf-8"),
        ("0.5 0.5 0.2 0.4\n", "utf-8"),
        ("0,0.5,0.5,0.2,0.4\n", "utf-8"),
        ("1_0 0.5 0.5 0.2 0.4\n0 0.5 0.5 0.2 0.4\n", "utf-8"),
        ("0 0.5 0.5 0.2 0_4\n", "utf-8"),
    ],
)
def test_labels_of_yolo_that_cannot_be_read_are_not_left_out(tmp_path: Path, text: str, coding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text, encoding=coding)
    assert may_be_yolo(path)
    with pytest.raises(ValueError, match=r"a\.txt"):
        read_yolo(path, tmp_path, {})
    # A note in that coding is not a label.
    path.write_text("made by hand, 5 1 2 3 4\n", encoding=coding)
    assert not may_be_yolo(path)


def test_boxes_of_voc_that_cannot_be(tmp_path: Path) -> None:
    bounds = "<bndbox><xmin>{}</xmin><ymin>4</ymin><xmax>5</xmax><ymax>4</ymax></bndbox>"
    for text, message in (
        (bounds.format(0), r"pixels counted from 1, got .* in .*a\.xml \(--pixels_from 0"),
        (bounds.format(1) + bounds.format(3), r"one bndbox in every object, got 2 in .*a\.xml"),
    ):
        (tmp_path / "a.xml").write_text(f"<annotation><object><name>x</name>{text}</object></annotation>")
        with pytest.raises(ValueError, match=message):
            read_voc(tmp_path / "a.xml", SliceRule(), tmp_path)
    (tmp_path / "a.xml").write_text(f"<annotation><object>{bounds.format(0)}</object></annotation>")
    assert read_voc(tmp_path / "a.xml", SliceRule(pixels_from=0), tmp_path).boxes.tolist() == [[0, 4, 6, 5]]
