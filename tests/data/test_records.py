"""Key slices and records, independent of file formats."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from scripts.data.records import KeySlice, check_images, make_records


def key_slice(file_name: str = "000001_01_01_109.png", **changes) -> KeySlice:
    values = {
        "source": "labels row 2",
        "image_size": (300, 512),
        "spacing": (0.8, 0.8),
        "slice_interval": 5.0,
        "slice_range": None,
        "window": (-175.0, 275.0),
    }
    return KeySlice(file_name, **{**values, **changes})


@pytest.mark.parametrize("written", ["000001_01_02_007.png", "000001_01_02/007.png", "000001_01_02\\007.png"])
def test_name_is_taken_apart(written: str) -> None:
    one = key_slice(written)
    assert (one.file_name, one.series, one.patient) == ("000001_01_02_007.png", "000001_01_02", "000001")
    record = one.record(Path("images"), [])
    assert record["image"] == os.path.join("images", "000001_01_02", "007.png")
    assert record["key_slice"] == 7


def test_box_may_touch_and_cross_the_border_but_not_lie_outside() -> None:
    one = key_slice(image_size=(512, 512))
    for box in ([-5, -5, 1, 1], [511, 511, 600, 600], [0, 0, 512, 512]):
        np.testing.assert_array_equal(one.checked(np.array(box), "row"), np.float32(box))
    for box in ([-5, 10, 0, 20], [10, 512, 20, 600], [512, 0, 513, 10], [10, -9, 20, -1]):
        with pytest.raises(ValueError, match="overlaps its image"):
            one.checked(np.array(box), "row")


def test_records_without_boxes_have_the_right_shapes_and_types() -> None:
    (record,) = make_records([key_slice()], "", keep_noisy=False, name="labels")
    assert (record["instances"]["boxes"].shape, record["instances"]["boxes"].dtype) == ((0, 4), np.float32)
    assert (record["instances"]["labels"].shape, record["instances"]["labels"].dtype) == ((0,), np.int64)
    assert (record["instances"]["noisy"].shape, record["instances"]["noisy"].dtype) == ((0,), np.bool_)
    assert (record["instances"]["lesion_type"].shape, record["instances"]["lesion_type"].dtype) == ((0,), np.int64)


def test_parts_of_a_record_follow_the_kept_boxes() -> None:
    one = key_slice()
    for left, (noisy, lesion_type) in enumerate([(False, 3), (True, -1), (False, 8)]):
        box = one.checked(np.array([left, 0, left + 10, 10]), "row")
        one.add(box, noisy=noisy, lesion_type=lesion_type)
    (record,) = make_records([one], "", keep_noisy=False, name="labels")
    assert record["instances"]["boxes"][:, 0].tolist() == [0, 2]
    assert record["instances"]["lesion_type"].tolist() == [3, 8]
    assert record["instances"]["noisy"].tolist() == [False, False]


def test_each_series_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slices = [key_slice(f"00000{patient}_01_01_{n:03d}.png") for patient in (1, 2) for n in range(1, 6)]
    records = make_records(slices, tmp_path, keep_noisy=True, name="labels")
    for record in records:
        Path(record["image"]).parent.mkdir(exist_ok=True)
        Path(record["image"]).touch()
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(folder) or scandir(folder))
    assert check_images(records) == records
    assert len(listed) == 2


def test_images_are_regular_files(tmp_path: Path) -> None:
    slices = [key_slice("000001_01_01_001.png"), key_slice("000001_01_01_002.png")]
    records = make_records(slices, tmp_path / "images", keep_noisy=True, name="labels")
    folder = tmp_path / "images" / "000001_01_01"
    folder.mkdir(parents=True)
    (tmp_path / "elsewhere.png").touch()
    (folder / "001.png").touch()
    (folder / "002.png").symlink_to(tmp_path / "elsewhere.png")
    assert check_images(records) == records
    with pytest.raises(ValueError, match="a link out of it"):
        check_images(records, within=tmp_path / "images")
    (folder / "002.png").unlink()
    os.mkfifo(folder / "002.png")
    for missing in ("raise", "drop"):
        with pytest.raises(ValueError, match="Expected a regular file, got a pipe"):
            check_images(records, missing)


@pytest.mark.parametrize("name", [".._1.png", "../1.png", "a\nb_1.png", ".x_1.png", "a_" + "9" * 5000 + ".png"])
def test_a_series_is_a_folder_of_the_images(name: str) -> None:
    with pytest.raises(ValueError, match="Expected a file name like") as error:
        key_slice(name)
    assert len(str(error.value)) < 400
