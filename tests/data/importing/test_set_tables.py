"""Tables of a set are read back by the readers of DeepLesion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.data.deeplesion.splits import load_records
from scripts.data.deeplesion.subvolume_labels import read_volume_labels
from scripts.data.importing.set_tables import read_set, read_table, volume_labels, write_set
from scripts.instances import true_rows
from scripts.storage.atomic_files import write_csv

LESION = {"class": "node", "form": "outline", "box": [3.0, 4.0, 9.0, 12.0], "slices": [5, 8]}
RECORD = {
    "patient": "p",
    "shape": [20, 40, 60],
    "spacing": [0.7, 0.8, 2.5],
    "keys": [
        {"slice": 6, "boxes": [[3.0, 4.0, 9.25, 12.0], [20, 20, 30, 31]], "classes": ["node", "mass"],
         "doubtful": [False, True], "window": [-175, 275]},
        {"slice": 15, "boxes": [], "classes": [], "doubtful": [], "window": [-1500, 500]},
    ],
    "lesions": [LESION],
}  # fmt: skip


def test_the_readers_of_deeplesion_take_a_set(tmp_path: Path) -> None:
    other = {**RECORD, "patient": "q"}
    records = {"000001_01_01": RECORD, "000002_01_01": other}
    write_set(tmp_path, records, [{"p": 1, "q": 3}, {"p": 2, "q": 3}], {"classes": ["mass", "node"]})
    first, second = load_records(tmp_path, "train", missing_images="ignore", by_class=True)
    assert first["categories"].names == ("mass", "node")  # type: ignore[typeddict-item]
    assert first["instances"]["boxes"].tolist() == [[3.0, 4.0, 9.25, 12.0], [20, 20, 30, 31]]
    assert first["instances"]["labels"].tolist() == [2, 1]
    assert first["instances"]["noisy"].tolist() == [False, True]
    assert (first["image_size"], first["spacing"], first["slice_interval"]) == ((40, 60), (0.7, 0.8), 2.5)
    assert (first["slice_range"], second["window"], len(second["instances"]["boxes"])) == ((1, 20), (-1500.0, 500.0), 0)
    fold = load_records(tmp_path / "folds" / "1", "validation", missing_images="ignore")
    assert [record["patient"] for record in fold] == ["000001", "000001"]
    volumes = read_volume_labels(tmp_path / "lesions_3d.json").volumes
    assert volumes[0].true_boxes is not None
    assert volumes[0].true_boxes.tolist() == [[3, 4, 5, 8, 11, 8]]
    about = read_set(tmp_path)
    assert about is not None
    assert (about["version"], about["classes"]) == (1, ["mass", "node"])


def test_labels_of_single_slices_are_no_volumes(tmp_path: Path) -> None:
    records = {"000001_01_01": {**RECORD, "lesions": [LESION, {**LESION, "form": "slices"}]}}
    assert volume_labels(records) is None
    (tmp_path / "lesions_3d.json").write_text("{}")
    write_set(tmp_path, records, [{"p": 1}], {"classes": ["mass", "node"]})
    assert not (tmp_path / "lesions_3d.json").exists()


def test_what_is_no_set(tmp_path: Path) -> None:
    assert read_set(tmp_path) is None
    (tmp_path / "set.json").write_text(
        json.dumps({"format": "mp3d set", "version": 99, "classes": ["a"], "splits": ["train"]})
    )
    with pytest.raises(ValueError, match="a set of version 1, got 99"):
        read_set(tmp_path)
    (tmp_path / "set.json").write_text(json.dumps({"format": "mp3d set", "version": 1, "classes": "a"}))
    with pytest.raises(ValueError, match="lists of classes and splits"):
        read_set(tmp_path)
    (tmp_path / "set.json").write_text("[]")
    with pytest.raises(ValueError, match="got something else"):
        read_set(tmp_path)


def test_a_set_may_have_no_validation_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_set(tmp_path, {"000001_01_01": RECORD}, [{"p": 1}], {"classes": ["mass", "node"]})
    assert load_records(tmp_path, "validation", missing_images="ignore") == []
    assert "no patients for validation. With configs/variants/own_data.yaml nothing is scored" in caplog.text
    # Several classes count by default, one where it is asked for.
    assert load_records(tmp_path, "train", missing_images="ignore")[0]["instances"]["labels"].tolist() == [2, 1]
    plain = load_records(tmp_path, "train", missing_images="ignore", by_class=False)
    assert plain[0]["instances"]["labels"].tolist() == [1, 1]
    (tmp_path / "set.json").unlink()
    with pytest.raises(ValueError, match="the names of 2 classes"):
        load_records(tmp_path, "train", missing_images="ignore", by_class=True)
    with pytest.raises(ValueError, match="rows of the split validation"):
        load_records(tmp_path, "validation", missing_images="ignore")


def test_a_table_is_read_with_its_lines_whatever_the_case_of_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes('\ufeffImage, X1 \r\na,1\r\n"b\nc",2\r\n'.encode())
    columns, rows = read_table(path)
    assert columns == {"image": "Image", "x1": " X1 "}
    assert rows == [(2, {"Image": "a", " X1 ": "1"}), (4, {"Image": "b\nc", " X1 ": "2"})]
    path.write_bytes(b"image\n\xff\n")
    with pytest.raises(ValueError, match=r"a table as UTF-8 text, cannot read .*t\.csv"):
        read_table(path)


def test_texts_that_begin_like_formulas_come_back(tmp_path: Path) -> None:
    names = ["=scan", "+1.png", "-a/b.nii.gz", "@x", "'=x", "-1.5 2", "plain"]
    write_csv(["image", "score"], [[name, 0.5] for name in names], tmp_path / "detections.csv")
    _, rows = read_table(tmp_path / "detections.csv")
    assert [row["image"] for _, row in rows] == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,x1,X1\na,1,2\n", r"every column once, got x1 twice in line 1 of .*t\.csv"),
        ("image, image \na,b\n", "every column once, got image twice"),
        ("image,x1\na,1\nb,2,5,6\n", r"2 fields in every row, got 4 in line 3 of .*t\.csv: a comma too many"),
        # Cut short, a row without its numbers would say that there is no lesion.
        ("image,x1,y1\na,1,2\nb", r"3 fields in every row, got 1 in line 3 of .*t\.csv: a row that is cut short"),
        ('image,x1\n"a,1\nb,2\n', r"a table as UTF-8 text, cannot read .*t\.csv: unexpected end of data"),
    ],
)
def test_a_table_with_too_many_or_too_few_fields_or_columns(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "t.csv")


def test_columns_without_a_name_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(",image,\n1,a,\n2,b,\n")
    columns, rows = read_table(tmp_path / "t.csv")
    assert [row[columns["image"]] for _, row in rows] == ["a", "b"]


def test_regions_to_ignore_reach_every_reader(tmp_path: Path) -> None:
    first, second = RECORD["keys"]
    keys = [{**first, "ignored": [[1.0, 2.0, 5.0, 9.0]]}, {**second, "ignored": [[0.0, 0.0, 60.0, 40.0]]}]
    marked = {**RECORD, "keys": keys, "regions": [{**LESION, "slices": [1, 9]}]}
    write_set(tmp_path, {"000001_01_01": marked}, [{"p": 1}], {"classes": ["mass", "node"]})
    one, other = load_records(tmp_path, "train", missing_images="ignore", by_class=True)
    assert one["instances"]["ignored"].tolist() == [False, False, True]
    assert one["instances"]["boxes"][2].tolist() == [1, 2, 5, 9]
    assert one["instances"]["labels"].tolist() == [2, 1, 1]
    assert true_rows(other["instances"]).tolist() == [False]
    (volume,) = read_volume_labels(tmp_path / "lesions_3d.json").volumes
    assert volume.ignored_boxes is not None
    assert volume.ignored_boxes.tolist() == [[3, 4, 1, 8, 11, 9]]
    # Sets without a region look as they always did.
    write_set(tmp_path / "plain", {"000001_01_01": RECORD}, [{"p": 1}], {"classes": ["mass", "node"]})
    assert "Ignored" not in (tmp_path / "plain" / "DL_info.csv").read_text()
    assert "ignored" not in load_records(tmp_path / "plain", "train", missing_images="ignore")[0]["instances"]
    assert "ignored" not in (tmp_path / "plain" / "lesions_3d.json").read_text()
