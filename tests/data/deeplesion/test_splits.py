"""Loading a split: labels and images found in a folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scripts.data.deeplesion.splits import dataset_notice, load_records

WriteCsv = Callable[..., Path]


def put_images(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / "Images_png" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_finds_labels_and_images(write_csv: WriteCsv, tmp_path: Path) -> None:
    write_csv({}, {"File_name": "000002_01_01_020.png", "Train_Val_Test": "3"})
    put_images(tmp_path, "000001_01_01/109.png", "000002_01_01/020.png")
    for split, patient in (("train", "000001"), ("test", "000002")):
        (record,) = load_records(tmp_path, split)
        assert record["patient"] == patient
        assert Path(record["image"]).is_file()
    assert load_records(str(tmp_path), "train")[0]["image"] == str(tmp_path / "Images_png/000001_01_01/109.png")


def test_measurements_masks_and_tags_are_fields_where_they_are_asked_for(write_csv: WriteCsv, tmp_path: Path) -> None:
    split = {"File_name": "000002_01_01_020.png", "Train_Val_Test": "1"}
    none = dict.fromkeys(("Bounding_boxes", "Measurement_coordinates", "Lesion_diameters_Pixel_"), "")
    write_csv(
        {"Train_Val_Test": "3"}, {**split, "Possibly_noisy": "1"}, split, {**split, "File_name": "1_1_1_9.png", **none}
    )
    tags = {"term_list": ["lung", "liver"], "train_lesion_idxs": [2], "train_relevant_labels": [[1]]}
    (tmp_path / "tags.json").write_text(json.dumps(tags))
    settings = {"missing_images": "ignore", "mask_targets": "ellipses", "tags": tmp_path / "tags.json"}
    both, empty = load_records(tmp_path, "train", **settings)
    shapes = {name: values.shape for name, values in both["instances"].items()}
    assert shapes["recist"] == (2, 4, 2)
    assert shapes["diameters"] == (2, 2)
    assert shapes["masks"] == (2, 28, 28)
    # The rows of the tags count all rows of the file, those of other splits too.
    assert both["instances"]["tags"].tolist() == [[-1, -1], [0, 1]]
    np.testing.assert_allclose(both["instances"]["recist"][0, 0], (232.537, 94.0204), atol=1e-4)
    ends, box = both["instances"]["recist"][0], both["instances"]["boxes"][0]
    np.testing.assert_allclose([*(ends.min(axis=0) - 5), *(ends.max(axis=0) + 5)], box, atol=1e-3)
    # An ellipse of 12 x 5.1 pixels in a box of 22 x 15.1.
    assert 0.13 < both["instances"]["masks"].mean() < 0.16
    assert {name: (values.shape[1:], values.dtype) for name, values in empty["instances"].items()} == {
        name: (values.shape[1:], values.dtype) for name, values in both["instances"].items()
    }
    assert len(empty["instances"]["tags"]) == 0
    (kept, _) = load_records(tmp_path, "train", keep_noisy=False, **settings)
    assert kept["instances"]["tags"].tolist() == [[0, 1]]
    assert "masks" not in load_records(tmp_path, "train", **{**settings, "mask_targets": "grabcut"})[0]["instances"]
    assert load_records(tmp_path, "train", missing_images="ignore")[0]["instances"].keys() == {
        "boxes", "labels", "noisy", "lesion_type",
    }  # fmt: skip


def test_other_mask_targets_and_labels_without_measurements_are_rejected(write_csv: WriteCsv, tmp_path: Path) -> None:
    write_csv({})
    with pytest.raises(ValueError, match=r"^Expected mask targets among ellipses, grabcut or None, got 'circle'\.$"):
        load_records(tmp_path, "train", missing_images="ignore", mask_targets="circle")
    (tmp_path / "labels.json").write_text("{}")
    settings = {"annotations": "labels.json", "missing_images": "ignore"}
    for option, words in (
        ({"mask_targets": "ellipses"}, "measurements"),
        ({"tags": "t.json"}, "rows that tags belong to"),
    ):
        with pytest.raises(ValueError, match=rf"^Expected a DL_info\.csv with {words}, got .*labels\.json\.$"):
            load_records(tmp_path, "train", **settings, **option)


def test_labels_and_images_elsewhere(write_csv: WriteCsv, tmp_path: Path) -> None:
    write_csv({}, name="part.csv")
    put_images(tmp_path / "disk", "000001_01_01/109.png")
    for images in (tmp_path / "disk/Images_png", "disk/Images_png"):
        assert len(load_records(tmp_path, "train", annotations="part.csv", images=images)) == 1


def test_absent_image_names_row_and_path(write_csv: WriteCsv, tmp_path: Path) -> None:
    write_csv({}, {"File_name": "000002_01_01_020.png"}, {"File_name": "000002_01_01_021.png"})
    put_images(tmp_path, "000001_01_01/109.png", "000002_01_01/021.png")
    with pytest.raises(FileNotFoundError, match=r"row 3 \(000002_01_01_020\.png\).*020\.png.*1 of 3"):
        load_records(tmp_path, "train")


def test_partial_download(write_csv: WriteCsv, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_csv({}, {"File_name": "000002_01_01_020.png"})
    put_images(tmp_path, "000001_01_01/109.png")
    with caplog.at_level(logging.WARNING):
        (record,) = load_records(tmp_path, "train", missing_images="drop")
    assert record["patient"] == "000001"
    assert "dropped because their image is not there: 1 of 2" in caplog.text


def test_nothing_left_to_drop_is_an_error(write_csv: WriteCsv, tmp_path: Path) -> None:
    write_csv({})
    (tmp_path / "Images_png").mkdir()
    with pytest.raises(FileNotFoundError, match="1 of 1"):
        load_records(tmp_path, "train", missing_images="drop")


def test_labels_alone(write_csv: WriteCsv, tmp_path: Path) -> None:
    write_csv({})
    assert len(load_records(tmp_path, "train", missing_images="ignore")) == 1
    with pytest.raises(FileNotFoundError, match="Images_png"):
        load_records(tmp_path, "train")
    (tmp_path / "Images_png").mkdir()
    with pytest.raises(ValueError, match="'skip'"):
        load_records(tmp_path, "train", missing_images="skip")


def test_absent_folder_labels_and_unknown_split(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_records(tmp_path / "nowhere", "train")
    with pytest.raises(FileNotFoundError, match=r"DL_info\.csv or .*deeplesion_val\.json"):
        load_records(tmp_path, "validation")
    with pytest.raises(FileNotFoundError, match=r"mine\.csv"):
        load_records(tmp_path, "validation", annotations="mine.csv", missing_images="ignore")
    with pytest.raises(ValueError, match="'val'"):
        load_records(tmp_path, "val")


def test_json_of_the_split_is_found(tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "000001_01_01/109.png", "height": 9, "width": 9, "spacing": 1.0, "slice_intv": 5.0}
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    content = {"images": [image], "annotations": [box], "categories": [{"id": 1}]}
    (tmp_path / "deeplesion_val.json").write_text(json.dumps(content))
    put_images(tmp_path, "000001_01_01/109.png")
    (record,) = load_records(tmp_path, "validation")
    np.testing.assert_array_equal(record["instances"]["boxes"], [[1, 2, 4, 6]])


def test_real_sub_volumes(shared: Path) -> None:
    records = load_records(shared / "data/deeplesion", "test", annotations="DL_info_patient1.csv")
    assert [record["key_slice"] for record in records] == [109, 14, 17]
    part = load_records(
        shared / "data/deeplesion", "test", annotations="DL_info_subset_1349.csv", missing_images="drop"
    )
    assert {record["series"] for record in part} == {"000001_01_01", "000001_02_01"}


def test_synthetic_and_imported_sets_say_so(tmp_path: Path) -> None:
    assert dataset_notice(tmp_path) is None
    (tmp_path / "set.json").write_text("{}")
    assert "not DeepLesion" in str(dataset_notice(tmp_path))
    (tmp_path / "synthetic.json").write_text('{"about": "Made up."}')
    assert dataset_notice(tmp_path) == "Made up."
    for text in ("{}", "[]"):
        (tmp_path / "synthetic.json").write_text(text)
        with pytest.raises(ValueError, match=r"'about'.*synthetic\.json"):
            dataset_notice(tmp_path)


def test_sets_tell_how_far_boxes_reach_beyond_their_lesions(write_csv: WriteCsv) -> None:
    folder = write_csv({}).parent
    marker = folder / "synthetic.json"

    def padding() -> float:
        (record,) = load_records(folder, "train", missing_images="ignore")
        return dict(record)["box_padding"]

    assert padding() == 5
    marker.write_text('{"about": "Made up.", "settings": {"padding": 2.0}}')
    assert padding() == 2
    marker.write_text('{"about": "Made up, by an older generator."}')
    assert padding() == 5
    marker.write_text('{"about": "Made up.", "settings": {"padding": "2"}}')
    with pytest.raises(ValueError, match=r"1 finite number.* as padding, got \['2'\] in .*synthetic\.json"):
        padding()
