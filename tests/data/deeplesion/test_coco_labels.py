"""The COCO-style labels: the same boxes as ``DL_info.csv``, and rejected files."""

from __future__ import annotations

import json
import logging
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.data.deeplesion.coco_labels import read_coco
from scripts.data.deeplesion.dl_info import read_csv

CONTENT = {
    "images": [
        {
            "id": 7,
            "file_name": "000001_01_01/109.png",
            "height": 512,
            "width": 512,
            "slice_no": 109,
            "spacing": 0.488281,
            "slice_intv": 5.0,
            "z_position": 0.43,
            "windows": [-175.0, 275.0],
        },
        {"id": 9, "file_name": "000002_01_01/020.png", "height": 768, "width": 768, "spacing": 0.5, "slice_intv": 1},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [225.169, 89.0204, 15.083, 21.9566], "noisy": 0, "area": 3},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [500, 10, 17.6, 30], "noisy": 1, "area": 528},
    ],
    "categories": [{"id": 1, "name": "Lesion"}],
}


def write(folder: Path, content: Any) -> Path:
    path = folder / "deeplesion_val.json"
    path.write_text(json.dumps(content))
    return path


def changed(*steps: str | int, value: Any) -> dict:
    """The example with one value replaced, or removed if it is None."""
    content: Any = deepcopy(CONTENT)
    entry = content
    for step in steps[:-1]:
        entry = entry[step]
    if value is None:
        del entry[steps[-1]]
    else:
        entry[steps[-1]] = value
    return content


def test_records(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first, second = read_coco(write(tmp_path, CONTENT), tmp_path)
    assert first["image"] == str(tmp_path / "000001_01_01" / "109.png")
    assert (first["file_name"], first["series"], first["patient"]) == ("000001_01_01_109.png", "000001_01_01", "000001")
    assert (first["key_slice"], first["slice_range"], first["slice_interval"]) == (109, None, 5.0)
    assert (first["spacing"], first["image_size"]) == ((0.488281, 0.488281), (512, 512))
    np.testing.assert_allclose(first["instances"]["boxes"][0], [225.169, 89.0204, 240.252, 110.977], atol=1e-4)
    assert first["instances"]["noisy"].tolist() == [False, True]
    assert first["instances"]["lesion_type"].tolist() == [-1, -1]
    # An image without boxes is legal.
    assert second["instances"]["boxes"].shape == (0, 4)
    assert second["instances"]["labels"].shape == (0,)
    text = caplog.text
    assert "stored area is not width times height, not used: 1." in text
    assert "reach out of their image" in text


def test_noisy_boxes_can_be_dropped_and_images_born_empty_stay(tmp_path: Path) -> None:
    first, second = read_coco(write(tmp_path, CONTENT), tmp_path, keep_noisy=False)
    assert len(first["instances"]["boxes"]) == 1
    assert len(second["instances"]["boxes"]) == 0


@pytest.mark.parametrize("interval", [None, float("nan")])
def test_missing_interval_is_one_millimetre(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, interval: float | None
) -> None:
    records = read_coco(write(tmp_path, changed("images", 0, "slice_intv", value=interval)), tmp_path)
    assert records[0]["slice_interval"] == 1.0
    assert "without a slice interval" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed("annotations", 0, "bbox", value=[10, 10, -5, 5]), r"annotation 0 \(000001_01_01_109\.png\)"),
        (changed("annotations", 0, "bbox", value=[10, 10, 5, float("nan")]), "4 finite number"),
        (changed("annotations", 0, "bbox", value=[600, 10, 5, 5]), "overlaps its image"),
        (changed("annotations", 0, "bbox", value=[10, 10, 5]), "4 finite number"),
        (changed("annotations", 0, "bbox", value=None), "'bbox'"),
        (changed("annotations", 1, "image_id", value=8), "image_id 8"),
        (changed("annotations", 1, "category_id", value=3), "category 1, got 3"),
        (changed("images", 1, "id", value=7), "each image id once"),
        (
            changed("images", 1, "file_name", value="000001_01_01_109.png"),
            "each key slice once, got that of image id 7",
        ),
        (changed("images", 1, "file_name", value="20.png"), "000001_01_01_109.png"),
        (changed("images", 1, "file_name", value=None), "'file_name'"),
        (changed("images", 1, "file_name", value=20), "a text as file_name, got 20 in .* image 1"),
        (changed("images", 1, value=[1]), r"a JSON object, got \[1\] in .* image 1"),
        (changed("images", 1, "id", value=[9]), r"a number or a text as id, got \[9\] in .* image 1"),
        (changed("annotations", 1, "image_id", value={}), r"a number or a text as image_id, got {} in .* annotation 1"),
        (changed("annotations", 1, value="x"), "a JSON object, got 'x' in .* annotation 1"),
        (changed("categories", 0, value="x"), "a JSON object, got 'x' in .* category"),
        (changed("images", 1, "spacing", value=0), "spacing above zero"),
        (changed("images", 1, "slice_intv", value=-1), "slice interval in mm above zero"),
        (changed("images", 1, "height", value=None), "'height'"),
        (changed("images", value=[]), "at least one image"),
        (changed("categories", value=[{"id": 1}, {"id": 2}]), "one category"),
        (changed("annotations", value=None), "lists images, annotations, categories"),
        ([1, 2], "JSON object"),
    ],
)
def test_rejected(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_coco(write(tmp_path, content), tmp_path)
    assert "deeplesion_val.json" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00"])
def test_not_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labels.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"labels\.json"):
        read_coco(tmp_path / "labels.json", tmp_path)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"labels\.json"):
        read_coco(tmp_path / "labels.json", tmp_path)


class TestRealFile:
    def test_counts(self, shared: Path) -> None:
        records = read_coco(shared / "data/deeplesion/coco/deeplesion_val.json", "")
        assert (len(records), sum(len(record["instances"]["boxes"]) for record in records)) == (4793, 4889)
        assert sum(record["image_size"] == (1024, 1024) for record in records) == 2

    def test_one_based_and_zero_based_labels_give_identical_boxes(self, shared: Path) -> None:
        folder = shared / "data/deeplesion"
        by_name = {r["file_name"]: r for r in read_coco(folder / "coco/deeplesion_val.json", "Images_png")}
        rows = read_csv(folder / "DL_info_subset_1349.csv", "Images_png", split="validation")
        assert sum(len(row["instances"]["boxes"]) for row in rows) == 187
        compared = 0
        for row in rows:
            other = by_name[row["file_name"]]
            # The CSV is a part of the official file: it may lack a lesion of the same image.
            for box in row["instances"]["boxes"]:
                assert (other["instances"]["boxes"] == box).all(axis=1).any(), row["file_name"]
                compared += 1
            assert {
                k: row[k] for k in ("image", "patient", "key_slice", "slice_interval", "spacing", "image_size")
            } == {k: other[k] for k in ("image", "patient", "key_slice", "slice_interval", "spacing", "image_size")}
        assert compared == 187
