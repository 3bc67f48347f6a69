"""The public label files of 3D sets, as pickles and as JSON, recognised by their content."""

from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.data.deeplesion.subvolume_frames import from_slab
from scripts.data.deeplesion.subvolume_labels import parse_name, read_volume_labels

NAME, OTHER = "000001_01_01_103-115", "000002_01_01_001-007"
MANUAL = [[220.0, 88.0, 108.0, 246.0, 116.0, 110.0], [286.0, 168.0, 109.0, 309.0, 198.0, 112.0]]
# The row that the readme of the Lesion Harvester's files shows, for the same volume.
HARVESTER = [[224.11279125118176, 92.50398222171341, 241.87335205606877, 113.86161863265343, 5.0, 6.0]]


def write(path: Path, content: Any) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(content))
    else:
        path.write_bytes(pickle.dumps(content, protocol=3))
    return path


def arrays(content: dict[str, Any]) -> dict[str, Any]:
    return {name: np.array(value, dtype=np.float64).reshape(-1, 6) for name, value in content.items()}


def test_hand_labelled_pickle_in_parts(tmp_path: Path) -> None:
    parts = {"val": arrays({NAME: MANUAL}), "test": arrays({OTHER: []})}
    path = write(tmp_path / "release.pkl", parts)
    for part in ("val", "validation"):
        labels = read_volume_labels(path, part)
        assert (labels.format, labels.part) == ("manual", "val")
        (volume,) = labels.volumes
        assert (volume.name, volume.series, volume.patient) == (NAME, "000001_01_01", "000001")
        assert (volume.first, volume.last) == (103, 115)
        np.testing.assert_array_equal(volume.true_boxes, MANUAL)
        assert volume.key_boxes is None
    (empty,) = read_volume_labels(path, "test").volumes
    assert empty.true_boxes is not None
    assert empty.true_boxes.shape == (0, 6)
    whole = read_volume_labels(path)
    assert whole.part is None
    assert [volume.name for volume in whole.volumes] == [NAME, OTHER]
    with pytest.raises(ValueError, match=r"one of the parts val, test or all, got 'train' for .*release\.pkl"):
        read_volume_labels(path, "train")


def test_json_says_the_same_as_the_pickle(tmp_path: Path) -> None:
    content = {NAME: MANUAL, OTHER: []}
    stored = read_volume_labels(write(tmp_path / "a.pkl", arrays(content))).volumes
    plain = read_volume_labels(write(tmp_path / "a.json", content), "val").volumes
    for one, other in zip(stored, plain, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.true_boxes, other.true_boxes)


def test_harvester_boxes_on_slices(tmp_path: Path) -> None:
    rows = [[10.5, 20.5, 30.5, 60.5, 6.0, 6.0], [1.0, 2.0, 31.0, 42.0, 6.0, 6.0]]
    content = {f"{NAME}.annot": {6: rows, 0: [[5.0, 5.0, 9.0, 9.0, 0.0, 0.0]]}, f"{OTHER}.annot": {}}
    for suffix in (".pkl", ".json"):
        labels = read_volume_labels(write(tmp_path / f"a{suffix}", content))
        assert labels.format == "harvester"
        first, empty = labels.volumes
        assert first.name == NAME
        assert first.true_boxes is None
        assert first.key_boxes is not None
        assert first.key_boxes.tolist() == [
            [9.5, 19.5, 109.0, 28.5, 58.5, 109.0],
            [0.0, 1.0, 109.0, 29.0, 40.0, 109.0],
            [4.0, 4.0, 103.0, 7.0, 7.0, 103.0],
        ]
        assert empty.key_boxes is not None
        assert len(empty.key_boxes) == 0


def test_the_two_orders_of_a_box_in_3d_are_told_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pkl", {NAME: HARVESTER})
    labels = read_volume_labels(path)
    assert labels.format == "harvester"
    boxes = labels.volumes[0].true_boxes
    assert boxes is not None
    assert (boxes[0, 2], boxes[0, 5]) == (108, 109)
    np.testing.assert_allclose(boxes[0, [0, 1, 3, 4]], np.array(HARVESTER[0][:4]) - [1, 1, 2, 2])
    with pytest.raises(ValueError, match=r"within slices 103 to 115.*box 0 in .*a\.pkl"):
        read_volume_labels(path, label_format="manual")


def test_an_order_that_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    # Slices 1 to 40 of a series: both readings are within the sub-volume.
    path = write(tmp_path / "a.json", {"000003_01_01_001-040": [[3.0, 4.0, 10.0, 12.0, 20.0, 30.0]]})
    with pytest.raises(ValueError, match=r"Both formats are possible, add --label_format manual or harvester"):
        read_volume_labels(path)
    manual, harvester = (
        read_volume_labels(path, label_format=name).volumes[0].true_boxes for name in ("manual", "harvester")
    )
    assert manual is not None
    assert harvester is not None
    assert manual.tolist() == [[3, 4, 10, 12, 20, 30]]
    assert harvester.tolist() == [[2, 3, 21, 8, 10, 31]]


def test_labels_of_the_synthetic_set(tmp_path: Path) -> None:
    lesion = {"box": [40.25, 20.5, 57.5, 40.5], "slices": [3, 15], "labelled": True}
    volume = {"series": "000001_01_01", "slice_range": [1, 16], "spacing": [1.6, 1.6, 1.0], "lesions": [lesion]}
    path = write(tmp_path / "lesions_3d.json", {"about": "-", "volumes": [volume, {**volume, "lesions": []}]})
    labels = read_volume_labels(path)
    assert labels.format == "synthetic"
    full, empty = labels.volumes
    assert full.name == "000001_01_01_001-016"
    assert full.spacing == (1.6, 1.6, 1.0)
    assert full.true_boxes is not None
    assert full.true_boxes.tolist() == [[40.25, 20.5, 3, 56.5, 39.5, 15]]
    assert empty.true_boxes is not None
    assert len(empty.true_boxes) == 0
    broken = write(tmp_path / "broken.json", {"volumes": [{**volume, "lesions": [{"box": [1, 2, 3, 4]}]}]})
    with pytest.raises(ValueError, match=r"Expected series, slice_range, spacing and lesions.*broken\.json"):
        read_volume_labels(broken)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({NAME: [[220, 88, 108, 210, 116, 110]]}, r"end after they begin.*got \[220.0, 88.0.*as box 0 in .*, 000001"),
        ({NAME: [MANUAL[0], [1, 2, 90, 5, 6, 91]]}, r"within slices 103 to 115, got \[1.0, 2.0, 90.0.*as box 1 in"),
        ({NAME: [[1, 2, 104, 5, 6]]}, r"boxes of six numbers, got list \[\[1, 2, 104, 5, 6\]\]"),
        ({NAME: [[1, 2, 104, 5, float("nan"), 105]]}, "boxes that end after they begin"),
        ({NAME: "none"}, "boxes of six numbers, got str none"),
        ({NAME: {"6": [[1, 2, 5, 6, 7, 7]]}}, r"boxes on slice '6' alone, got \[\[1.0"),
        ({NAME: {"13": [[1, 2, 5, 6, 13, 13]]}}, r"within slices 103 to 115, got \[1.0, 2.0, 5.0, 6.0, 13.0, 13.0\]"),
        (
            {"000001_01_01_115-103": []},
            "the name of a sub-volume like 000001_01_01_103-115, got '000001_01_01_115-103'",
        ),
        ({"scan.nii.gz": MANUAL}, "names of sub-volumes like 000001_01_01_103-115, got 'scan.nii.gz'"),
        ({"val": {NAME: MANUAL}, "test": {NAME: MANUAL}}, "every sub-volume in one part"),
        ({}, r"a dict of sub-volumes, got dict \{\}"),
        ([1, 2], r"a dict of sub-volumes, got list \[1, 2\]"),
    ],
)
def test_bad_labels_are_rejected_with_one_line(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path / "bad.json", content)
    with pytest.raises(ValueError, match=message) as error:
        read_volume_labels(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pkl"):
        read_volume_labels(tmp_path / "absent.pkl")
    for name, message in (
        ("cut.json", "Expected JSON"),
        ("labels.csv", "ending in .json, .pkl"),
        ("cut.pkl", "pickle"),
    ):
        (tmp_path / name).write_bytes(b'{"a": [1')
        with pytest.raises(ValueError, match=message) as error:
            read_volume_labels(tmp_path / name)
        assert name in str(error.value)
    with pytest.raises(ValueError, match="one of auto, manual, harvester, synthetic as label_format, got 'coco'"):
        read_volume_labels(tmp_path / "cut.json", label_format="coco")


def test_names_of_nifti_files_and_long_numbers_are_names_too() -> None:
    label = parse_name("000283_13_02_0076-1036.nii.gz", Path("x"))
    assert (label.name, label.first, label.last) == ("000283_13_02_076-1036", 76, 1036)


def test_the_real_hand_labelled_volumes(shared: Path) -> None:
    labels = read_volume_labels(shared / "data/deeplesion/manual3d/manual_val.json")
    assert labels.format == "manual"
    boxes = [volume.true_boxes for volume in labels.volumes if volume.true_boxes is not None]
    assert (len(labels.volumes), len({volume.patient for volume in labels.volumes})) == (200, 99)
    assert sum(map(len, boxes)) == 1292
    assert sum(volume.last - volume.first + 1 for volume in labels.volumes) == 9181


@pytest.mark.parametrize(
    ("name", "volumes", "boxes"), [("Revised-Train100", 100, 420), ("Revised-Train744", 744, 3033)]
)
def test_the_real_harvester_volumes(shared: Path, name: str, volumes: int, boxes: int) -> None:
    labels = read_volume_labels(shared / f"data/deeplesion/harvester/{name}.json")
    assert labels.format == "harvester"
    assert len(labels.volumes) == volumes
    assert sum(len(volume.key_boxes) for volume in labels.volumes if volume.key_boxes is not None) == boxes


def test_harvester_boxes_are_those_of_dl_info(shared: Path) -> None:
    """Both publish the same measured lesions, so the conversion can be checked against the data set's own labels."""
    volumes = {
        volume.name: volume
        for name in ("Revised-Train100", "Revised-Train744")
        for volume in read_volume_labels(shared / f"data/deeplesion/harvester/{name}.json").volumes
    }
    compared = 0
    with (shared / "data/deeplesion/DL_info_subset_1349.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            series, key = row["File_name"].removesuffix(".png").rsplit("_", 1)
            first, last = (int(number) for number in row["Slice_range"].split(","))
            volume = volumes.get(f"{series}_{first:03d}-{last:03d}")
            if volume is None:
                continue
            corners = np.array([[float(number) - 1 for number in row["Bounding_boxes"].split(",")]])
            expected = from_slab(corners, np.array([int(key)]), np.array([int(key)]))
            assert volume.key_boxes is not None
            assert np.abs(volume.key_boxes - expected).max(axis=1).min() < 1e-3, row["File_name"]
            compared += 1
    assert compared > 50


@pytest.mark.parametrize("suffix", [".json", ".pkl"])
def test_boxes_that_end_between_two_slices_are_read(tmp_path: Path, suffix: str) -> None:
    # As in 3D-Box.pkl: the first and last slice reached by half, no ".annot", lists.
    boxes = [[225.0, 93.0, 242.0, 114.0, 4.5, 6.5], [10.0, 10, 30, 30, -0.5, 12.5], [10.0, 10, 30, 30, 5.0, 6.0]]
    path = tmp_path / f"3D-Box{suffix}"
    content = {"000001_01_01_103-115": boxes, "000002_01_01_001-009": []}
    path.write_bytes(pickle.dumps(content) if suffix == ".pkl" else json.dumps(content).encode())
    read = read_volume_labels(path)
    assert read.format == "harvester"
    true = read.volumes[0].true_boxes
    assert true is not None
    np.testing.assert_array_equal(true[:, [2, 5]], [[108, 109], [103, 115], [108, 109]])
    np.testing.assert_array_equal(true[0, [0, 1, 3, 4]], [224, 92, 240, 112])
    content["000001_01_01_103-115"][0][5] = 13.5
    path.write_bytes(pickle.dumps(content) if suffix == ".pkl" else json.dumps(content).encode())
    with pytest.raises(ValueError, match="within slices 103 to 115"):
        read_volume_labels(path, label_format="harvester")


@pytest.mark.parametrize(
    "name", ["../x_103-115", "a/b_1-2", ".._1-2", "x_1-999999999999", "x_1-\u0663", "a\nb_1-2", "\\x_1-2"]
)
def test_names_of_sub_volumes_are_no_paths(tmp_path: Path, name: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"000001_01_01_103-115": [], name: []}))
    with pytest.raises(ValueError, match="Expected the name of a sub-volume like 000001_01_01_103-115, got") as error:
        read_volume_labels(path)
    assert str(error.value).isprintable()
