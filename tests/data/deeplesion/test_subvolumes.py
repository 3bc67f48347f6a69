"""Sub-volumes of PNGs as scans, with their labels and spacings."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from scripts.data.deeplesion.splits import COLUMNS
from scripts.data.deeplesion.subvolumes import check_slices, load_volumes, read_subvolume, slice_paths

SERIES, NAME = "000001_01_01", "000001_01_01_103-106"
BOXES = [[20.0, 8.0, 103.0, 29.0, 19.0, 105.0]]


def write_slices(folder: Path, numbers: range, shape: tuple[int, int] = (32, 48)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        cv2.imwrite(str(folder / f"{number:03d}.png"), np.full(shape, 32768 - 1000 + number, dtype=np.uint16))


def row(key: int, **changes: str) -> dict[str, str]:
    cells = {
        "File_name": f"{SERIES}_{key:03d}.png",
        "Key_slice_index": str(key),
        "Bounding_boxes": "11, 6, 31, 21",
        "Coarse_lesion_type": "3",
        "Possibly_noisy": "0",
        "Slice_range": "103, 106",
        "Spacing_mm_px_": "0.5, 0.5, 5",
        "Image_size": "32, 48",
        "DICOM_windows": "-175, 275",
        "Train_Val_Test": "3",
    }
    return dict.fromkeys(COLUMNS, "") | cells | changes


def write_table(path: Path, *rows: dict[str, str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_slices(tmp_path / "Images_png" / SERIES, range(103, 107))
    (tmp_path / "labels.json").write_text(json.dumps({NAME: BOXES}))
    return tmp_path


def load(folder: Path, **settings: Any) -> list[dict[str, Any]]:
    return load_volumes(folder / "labels.json", folder, **settings)


def test_slices_become_a_scan_in_the_order_of_their_numbers(dataset: Path) -> None:
    (record,) = load(dataset, spacing=[0.5, 0.75, 5])
    scan = read_subvolume(record)
    assert scan.hu.shape == (4, 32, 48)
    assert scan.hu.dtype == np.int16
    assert scan.hu[:, 0, 0].tolist() == [-897, -896, -895, -894]
    assert scan.spacing == (0.5, 0.75, 5.0)
    assert scan.stored_shape == (48, 32, 4)
    # Edges of the scan are half-open, from its first slice on.
    np.testing.assert_array_equal(scan.boxes_to_stored(np.array([[1, 2, 0, 3, 5, 4]])), [[1, 2, 0, 3, 5, 4]])


def test_spacing_and_key_boxes_come_from_the_data_sets_labels(dataset: Path) -> None:
    write_table(dataset / "DL_info.csv", row(104), row(106, Possibly_noisy="1"), row(109))
    (record,) = load(dataset, spacing=(9, 9, 9))
    assert record["spacing"] == (0.5, 0.5, 5.0)
    assert record["slice_interval"] == 5.0
    assert record["true_boxes"].tolist() == BOXES
    # 1-based edges 11 to 31 end with pixel 29; the noisy box and the one of another sub-volume are left out.
    assert record["key_boxes"].tolist() == [[10, 5, 104, 29, 19, 104]]
    assert (record["id"], record["patient"], record["slice_range"]) == (NAME, "000001", (103, 106))


def test_other_labels_of_the_data_set_can_be_named(dataset: Path) -> None:
    write_table(dataset / "some.csv", row(104))
    assert load(dataset, annotations="some.csv")[0]["spacing"] == (0.5, 0.5, 5.0)
    with pytest.raises(FileNotFoundError, match=r"labels at .*absent\.csv"):
        load(dataset, annotations="absent.csv")


def test_a_volume_of_unknown_spacing_asks_for_it(dataset: Path) -> None:
    with pytest.raises(ValueError, match=r"spacing of .*labels\.json, 000001_01_01_103-106.*--spacing"):
        load(dataset)
    # Nothing is read of it when detections are scored that were made elsewhere.
    assert load(dataset, missing_images="ignore")[0]["spacing"] is None
    for wrong in (0, [1, 2], [1, 1, 0], [1, 1, float("nan")], "1", ["a", 1, 1]):
        with pytest.raises(ValueError, match="three lengths in mm above zero"):
            load(dataset, spacing=wrong)


def test_key_slices_that_disagree_are_rejected(dataset: Path) -> None:
    write_table(dataset / "DL_info.csv", row(104), row(106, Spacing_mm_px_="0.5, 0.5, 1"))
    with pytest.raises(ValueError, match=r"one spacing of .*103-106.*\(0\.5, 0\.5, 1\.0\), \(0\.5, 0\.5, 5\.0\)"):
        load(dataset)


def test_key_boxes_of_all_volumes_or_of_none(dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_slices(dataset / "Images_png" / "000002_01_01", range(1, 4))
    (dataset / "labels.json").write_text(json.dumps({NAME: BOXES, "000002_01_01_001-003": []}))
    write_table(dataset / "DL_info.csv", row(104))
    with caplog.at_level(logging.WARNING):
        records = load(dataset, spacing=[1, 1, 2])
    assert [record["key_boxes"] for record in records] == [None, None]
    assert [record["spacing"] for record in records] == [(0.5, 0.5, 5.0), (1.0, 1.0, 2.0)]
    assert "1 of 2 sub-volumes, 000002_01_01_001-003 the first, have no key slice" in caplog.text


def test_missing_slices_stop_or_drop_the_sub_volume(dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    (dataset / "labels.json").write_text(json.dumps({NAME: BOXES, "000002_01_01_001-003": []}))
    write_slices(dataset / "Images_png" / "000002_01_01", range(1, 3))
    with pytest.raises(FileNotFoundError, match=r"000002_01_01.003\.png is not there; 1 of 2 sub-volumes"):
        load(dataset, spacing=[1, 1, 1])
    with caplog.at_level(logging.WARNING):
        assert [record["id"] for record in load(dataset, spacing=[1, 1, 1], missing_images="drop")] == [NAME]
    assert "1 of 2, the first of them 000002_01_01_001-003" in caplog.text
    (dataset / "Images_png" / SERIES / "105.png").unlink()
    with pytest.raises(FileNotFoundError, match="2 of 2 sub-volumes lack slices"):
        load(dataset, spacing=[1, 1, 1], missing_images="drop")
    with pytest.raises(ValueError, match="missing images to be one of"):
        load(dataset, missing_images="forget")


def test_slices_of_another_size_or_depth_are_named(dataset: Path) -> None:
    (record,) = load(dataset, spacing=[1, 1, 1])
    write_slices(dataset / "Images_png" / SERIES, range(105, 106), (48, 32))
    with pytest.raises(ValueError, match=r"slices of \(32, 48\) pixels.*\(48, 32\) in .*105\.png"):
        read_subvolume(record)
    cv2.imwrite(str(slice_paths(record)[2]), np.zeros((32, 48), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"16-bit grey PNG.*105\.png"):
        read_subvolume(record)


def test_a_sub_volume_of_one_slice(dataset: Path) -> None:
    (dataset / "labels.json").write_text(json.dumps({f"{SERIES}_104-104": []}))
    (record,) = load(dataset, spacing=[1, 1, 5])
    assert read_subvolume(record).hu.shape == (1, 32, 48)
    assert check_slices([]) == []


def test_synthetic_labels_are_chosen_by_split(dataset: Path) -> None:
    volumes = [
        {"series": f"00000{number}_01_01", "slice_range": [103, 106], "spacing": [1.6, 1.6, 1.0], "lesions": []}
        for number in (1, 2)
    ]
    (dataset / "labels.json").write_text(json.dumps({"volumes": volumes}))
    with pytest.raises(ValueError, match="choose a split of synthetic volumes"):
        load(dataset, missing_images="ignore")
    rows = [row(104), row(104, File_name="000002_01_01_104.png", Train_Val_Test="1")]
    write_table(dataset / "DL_info.csv", *rows)
    assert [(record["patient"], record["part"]) for record in load(dataset)] == [("000001", "test")]
    assert load(dataset)[0]["spacing"] == (1.6, 1.6, 1.0)
    assert len(load(dataset, split="all", missing_images="ignore")) == 2
    with pytest.raises(ValueError, match="rows of the split validation"):
        load(dataset, split="validation")


def test_a_real_sub_volume(shared: Path) -> None:
    folder = shared / "data/deeplesion"
    labels = folder / "manual3d/manual_patient1.json"
    (record,) = load_volumes(labels, folder, annotations="DL_info_patient1.csv")
    assert record["spacing"] == (0.488281, 0.488281, 5.0)
    # The measured lesion of slice 109 is in one of the three that were labelled by hand.
    ((x1, y1, z1, x2, y2, z2),) = record["key_boxes"]
    assert z1 == z2 == 109
    inside = [
        box for box in record["true_boxes"] if box[2] <= 109 <= box[5] and box[0] < (x1 + x2) / 2 < box[3]
        and box[1] < (y1 + y2) / 2 < box[4]
    ]  # fmt: skip
    assert inside
    scan = read_subvolume(record)
    assert scan.hu.shape == (13, 512, 512)
    assert (scan.hu.min(), scan.hu.max()) == (-3024, 1383)


def test_sex_and_age_are_read_where_they_are_asked_for(dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    (bare,) = load(dataset, spacing=[1, 1, 5], patients=True)
    assert np.isnan(bare["patient_facts"]).all()
    assert "has no sex and age of patients" in caplog.text
    write_table(dataset / "DL_info.csv", row(104, Patient_gender="F", Patient_age="62"))
    assert load(dataset, patients=True)[0]["patient_facts"] == (0.0, 62.0)
    assert np.isnan(load(dataset)[0]["patient_facts"]).all()
