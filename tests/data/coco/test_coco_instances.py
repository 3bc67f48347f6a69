"""COCO's instances JSON: kept entries, entries left out and counted, and rejected files."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scripts.data.coco.coco_instances import load_instances
from scripts.data.records import Record
from scripts.data.training_fraction import Subset

# Ids with gaps and out of order, as users' files have them.
CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}, {"id": 7, "name": "train"}]


def annotation(number: int, image: int, bbox: list[float], category: int = 3, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "iscrowd": 0, **more}


def content() -> dict[str, Any]:
    """Three images of 40 x 30: one with boxes of every kind, one with a crowd alone, one with nothing."""
    names = {12: "b.jpg", 5: "a.jpg", 8: "sub/c.jpg"}
    return {
        "images": [{"id": number, "file_name": name, "width": 40, "height": 30} for number, name in names.items()],
        "annotations": [
            annotation(1, 12, [1.5, 2.0, 10.0, 20.5], area=99.5),
            annotation(2, 12, [30.0, 20.0, 10.4, 10.0], category=90),
            annotation(3, 12, [5.0, 5.0, 20.0, 20.0], category=7, iscrowd=1, area=300.0),
            annotation(4, 12, [5.0, 5.0, 0.0, 7.0], area=0.0),
            annotation(5, 5, [0.0, 0.0, 40.0, 30.0], iscrowd=1),
        ],
        "categories": CATEGORIES,
    }


def write(folder: Path, labels: Any, name: str = "labels.json") -> Path:
    (folder / "images" / "sub").mkdir(parents=True, exist_ok=True)
    for image in ("a.jpg", "b.jpg", "sub/c.jpg"):
        Image.new("RGB", (40, 30)).save(folder / "images" / image)
    (folder / name).write_text(labels if isinstance(labels, str) else json.dumps(labels))
    return folder


def load(folder: Path, **options: Any) -> list[Record]:
    settings = {"annotations": "labels.json", "images": "images", "num_classes": 3, **options}
    return load_instances(folder, **settings)


def test_labels_count_without_gaps_in_the_order_of_the_ids(tmp_path: Path) -> None:
    (first, *_) = load(write(tmp_path, content()))
    assert (first["file_name"], first["image_id"], first["image_size"]) == ("b.jpg", 12, (30, 40))
    assert first["categories"].ids == (3, 7, 90)
    assert first["categories"].names == ("car", "train", "toothbrush")
    assert first["instances"]["labels"].tolist() == [1, 3]
    assert first["instances"]["labels"].dtype == np.int64
    assert [first["categories"].ids[label - 1] for label in first["instances"]["labels"]] == [3, 90]


def test_boxes_to_train_for_leave_out_crowds_and_flat_boxes_but_the_truth_holds_all(tmp_path: Path) -> None:
    (first, *_) = load(write(tmp_path, content()))
    assert first["instances"]["boxes"].dtype == np.float32
    np.testing.assert_allclose(first["instances"]["boxes"], [[1.5, 2, 11.5, 22.5], [30, 20, 40.4, 30]], rtol=1e-6)
    truth = first["truth"]
    assert truth["bbox"].tolist() == [entry["bbox"] for entry in content()["annotations"][:4]]
    assert truth["category_id"].tolist() == [3, 90, 7, 3]
    assert truth["crowd"].tolist() == [False, False, True, False]
    # As stored where it is stored: COCO's areas are those of the outlines.
    np.testing.assert_allclose(truth["area"], [99.5, 104.0, 300.0, 0.0])


@pytest.mark.parametrize(("empty", "kept", "word"), [("keep", [12, 5, 8], "kept"), ("drop", [12], "dropped")])
def test_images_without_boxes_are_kept_or_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, empty: str, kept: list[int], word: str
) -> None:
    with caplog.at_level(logging.INFO):
        records = load(write(tmp_path, content()), empty_images=empty)
    assert [record["image_id"] for record in records] == kept
    assert all(record["instances"]["boxes"].shape == (len(record["instances"]["labels"]), 4) for record in records)
    assert "2 boxes of 2 of 3 categories on 3 images" in caplog.text
    assert "crowd regions, not used in training and ignored in evaluation: 2" in caplog.text
    assert "boxes without area, not used in training: 1" in caplog.text
    assert "boxes that reach out of their image, clipped in training: 1" in caplog.text
    assert f"images without a box, {word}" in caplog.text


def test_crowd_and_area_may_be_missing(tmp_path: Path) -> None:
    labels = content()
    for entry in labels["annotations"]:
        del entry["iscrowd"]
        entry.pop("area", None)
    (first, second, _) = load(write(tmp_path, labels))
    assert not first["truth"]["crowd"].any()
    np.testing.assert_allclose(first["truth"]["area"], [205.0, 104.0, 400.0, 0.0])
    assert len(second["instances"]["boxes"]) == 1


def test_a_share_of_the_images_is_drawn_from_those_with_boxes(tmp_path: Path) -> None:
    folder = write(tmp_path, content())
    assert [record["image_id"] for record in load(folder, subset=Subset(0.2), empty_images="drop")] == [12]
    few, more = ({record["image_id"] for record in load(folder, subset=Subset(share))} for share in (0.34, 0.67))
    assert (len(few), len(more)) == (1, 2)
    assert few < more


def test_a_file_without_a_box_to_train_for_is_rejected(tmp_path: Path) -> None:
    labels = {**content(), "annotations": content()["annotations"][4:]}
    with pytest.raises(ValueError, match=r"boxes to train on, got none in .*labels\.json"):
        load(write(tmp_path, labels), empty_images="drop")
    assert len(load(tmp_path)) == 3


def spoil(table: str, place: int, **changes: Any) -> dict[str, Any]:
    labels = copy.deepcopy(content())
    for key, value in changes.items():
        if value is ...:
            del labels[table][place][key]
        else:
            labels[table][place][key] = value
    return labels


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (spoil("annotations", 1, category_id=4), r"category_id 4 in .*annotation 1"),
        (spoil("annotations", 1, image_id=13), r"image_id 13 in .*annotation 1"),
        (spoil("annotations", 1, id=1), r"annotation id once, got 1 again in .*annotation 1"),
        (spoil("annotations", 0, bbox=[50.0, 2, 3, 4]), r"overlaps its image b\.jpg of 40 x 30.*annotation 0"),
        (spoil("annotations", 0, bbox=[1.0, 2, -3, 4]), r"not negative, got \[1\.0, 2, -3, 4\].*annotation 0"),
        (spoil("annotations", 0, bbox=[1.0, 2, 3]), r"4 finite number.*as bbox.*annotation 0"),
        (spoil("annotations", 0, bbox=[1.0, 2, 3, "4"]), r"4 finite number.*as bbox.*annotation 0"),
        (spoil("annotations", 0, bbox=[float("nan"), 2, 3, 4]), r"4 finite number.*as bbox.*annotation 0"),
        (spoil("annotations", 0, bbox=None), r"as bbox, got None.*annotation 0"),
        (spoil("annotations", 0, bbox=[1.0, 2, True, 4]), r"as bbox.*annotation 0"),
        (spoil("annotations", 0, bbox=[1.0, 2, 1e30, 4]), r"as bbox.*annotation 0"),
        (spoil("annotations", 0, area=float("inf")), r"as area.*annotation 0"),
        (spoil("annotations", 0, iscrowd=2), r"0 or 1 as iscrowd, got 2"),
        (spoil("annotations", 0, bbox=...), r"the key 'bbox'.*annotation 0"),
        (spoil("annotations", 0, id="1"), r"whole number as id, got '1'"),
        (spoil("images", 1, id=12), r"image id once, got 12 again in .*image 1 \(a\.jpg\)"),
        (spoil("images", 1, file_name="b.jpg"), r"each image once, got the file_name b\.jpg again in .*image 1"),
        (spoil("images", 1, width=...), r"the key 'width'.*image 1"),
        (spoil("images", 1, width=0), r"at least 1 x 1 pixels, got 30 x 0"),
        (spoil("images", 1, height="30"), r"whole number as height"),
        (spoil("images", 1, file_name=""), r"name of a file"),
        (spoil("categories", 1, id=90), r"category id once, got 90 again"),
        ({**content(), "categories": CATEGORIES[:2]}, r"Expected 3 categories.*got 2 .*--num_classes 2"),
        ({**content(), "categories": []}, r"at least one entry in the list categories"),
        ({**content(), "images": []}, r"at least one entry in the list images"),
        ({**content(), "annotations": {}}, r"lists images, annotations, categories"),
        ({**content(), "annotations": [7]}, r"JSON object, got int as .*annotation 0"),
        ("[1, 2", r"cannot read .*labels\.json"),
        ("[]", r"lists images, annotations, categories"),
    ],
)
def test_hostile_labels_are_rejected_in_one_line(tmp_path: Path, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load(write(tmp_path, labels))
    assert "labels.json" in str(caught.value)


def test_both_files_must_have_the_same_categories(tmp_path: Path) -> None:
    write(tmp_path, content())
    write(tmp_path, spoil("categories", 2, id=8), "other.json")
    records = load(tmp_path)
    assert load(tmp_path, like=records)[0]["categories"] == records[0]["categories"]
    with pytest.raises(ValueError, match=r"labels\.json.* has id 7 \(train\) where .*other\.json has 8 \(train\)"):
        load(tmp_path, annotations="other.json", like=records)
    # Tools that number categories as they meet them give the same ids to other names.
    write(tmp_path, spoil("categories", 2, name="tram"), "other.json")
    with pytest.raises(ValueError, match=r"has id 7 \(train\) where .*other\.json has 7 \(tram\)"):
        load(tmp_path, annotations="other.json", like=records)


def test_missing_images_are_rejected_or_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path, content())
    (folder / "images" / "sub" / "c.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"c\.jpg.*1 of 3 images have no image"):
        load(folder)
    assert [record["image_id"] for record in load(folder, missing_images="drop")] == [12, 5]
    assert "Images dropped because their image is not there: 1 of 3" in caplog.text
    assert len(load(folder, missing_images="ignore")) == 3
    for options, message in (
        ({"images": "none"}, "images in the folder"),
        ({"annotations": "none.json"}, r"none\.json"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            load(folder, **options)
    with pytest.raises(FileNotFoundError, match="data set folder"):
        load(folder / "elsewhere")
    with pytest.raises(ValueError, match="'throw'"):
        load(folder, empty_images="throw")


def test_the_real_subset(shared: Path) -> None:
    records = load_instances(
        shared / "data" / "coco", annotations="annotations/instances_subset.json", images="val2017"
    )
    assert (len(records), sum(len(record["instances"]["boxes"]) for record in records)) == (40, 271)
    ids = records[0]["categories"].ids
    assert (len(ids), ids[0], ids[11], ids[-1]) == (80, 1, 13, 90)
    assert max(int(record["instances"]["labels"].max()) for record in records) <= 80


def test_labels_with_outlines_and_key_points_as_coco_publishes_them(shared: Path) -> None:
    folder = shared / "data" / "coco_official_style"
    records = load_instances(folder, annotations="test_coco.json", images=".", num_classes=1)
    truth = records[0]["truth"]
    assert sum(len(record["truth"]["bbox"]) for record in records) == 14
    # The area of an outline is smaller than that of its box.
    assert (truth["area"] < truth["bbox"][:, 2:].prod(axis=1)).all()
