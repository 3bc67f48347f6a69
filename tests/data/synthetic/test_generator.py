"""The data set as a whole: files, splits, repeatability, failures."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
import numpy as np
import pytest

from scripts.data.deeplesion.splits import load_records
from scripts.data.synthetic import generate, generator
from support.small_disks import Disk, assert_on_a_small_disk

SMALL = {"num_train": 5, "num_validation": 2, "num_test": 3, "image_size": 64, "margin_mm": 5.0}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "DL_info.csv").open(encoding="ascii", newline="") as file:
        return list(csv.DictReader(file))


def numbers(cell: str) -> np.ndarray:
    return np.array([float(item) for item in cell.split(",")])


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("synthetic") / "set", seed=3, workers=1, num_scans=1, **SMALL)


def test_splits_hold_the_key_slices_asked_for_and_no_patient_twice(folder: Path) -> None:
    rows = rows_of(folder)
    keys = {split: {r["File_name"] for r in rows if r["Train_Val_Test"] == split} for split in "123"}
    patients = {split: {r["Patient_index"] for r in rows if r["Train_Val_Test"] == split} for split in "123"}
    assert {split: len(names) for split, names in keys.items()} == {"1": 5, "2": 2, "3": 3}
    assert not patients["1"] & patients["2"]
    assert not patients["3"] & (patients["1"] | patients["2"])


def test_every_slice_of_every_range_is_a_16_bit_png_in_hu_plus_32768(folder: Path) -> None:
    for row in rows_of(folder):
        series, key = row["File_name"].removesuffix(".png").rsplit("_", 1)
        assert int(key) == int(row["Key_slice_index"])
        first, last = (int(v) for v in numbers(row["Slice_range"]))
        assert first <= int(key) <= last
        for number in range(first, last + 1):
            image = cv2.imread(str(folder / "Images_png" / series / f"{number:03d}.png"), cv2.IMREAD_UNCHANGED)
            assert image is not None
            assert image.dtype == np.uint16
            assert image.shape == (64, 64)
            hu = image.astype(np.int32) - 32768
            assert hu.min() >= -1024
            assert -1024 <= np.median(hu[0]) < -900


def test_the_box_is_the_end_points_plus_the_padding(folder: Path) -> None:
    for row in rows_of(folder):
        ends = numbers(row["Measurement_coordinates"]).reshape(4, 2)
        box = numbers(row["Bounding_boxes"])
        np.testing.assert_allclose(box[:2], ends.min(axis=0) - 2, atol=1e-4)
        np.testing.assert_allclose(box[2:], ends.max(axis=0) + 2, atol=1e-4)


def test_same_seed_same_bytes_whatever_the_number_of_workers(folder: Path, tmp_path: Path) -> None:
    again = generate(tmp_path / "again", seed=3, workers=2, num_scans=1, **SMALL)
    assert bytes_of(again) == bytes_of(folder)
    other = generate(tmp_path / "other", seed=4, workers=1, **SMALL)
    assert (other / "DL_info.csv").read_bytes() != (folder / "DL_info.csv").read_bytes()


def test_the_description_names_seed_version_and_settings(folder: Path) -> None:
    content = json.loads((folder / "synthetic.json").read_text())
    assert content["seed"] == 3
    assert content["generator_version"] == generator.GENERATOR_VERSION
    assert content["settings"]["image_size"] == 64


def test_a_full_disk_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    def fill(disk: Disk) -> None:
        for kibibytes in (4, 30, 60):
            disk.resize(kibibytes)
            with pytest.raises(OSError, match="No space left"):
                generate(disk.folder / "set", workers=1, **SMALL)
            assert list(disk.folder.iterdir()) == []

    assert_on_a_small_disk(tmp_path, fill)


def test_a_dead_worker_is_one_clear_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying(ThreadPoolExecutor):
        def __init__(self, workers: int, **_: object) -> None:
            super().__init__(workers)

        def map(self, *_: object, **__: object) -> Iterator[object]:
            raise BrokenProcessPool

    monkeypatch.setattr(generator, "ProcessPoolExecutor", Dying)
    with pytest.raises(OSError, match="one died"):
        generate(tmp_path / "set", workers=2, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_set_is_overwritten_as_a_whole(tmp_path: Path) -> None:
    first = generate(tmp_path / "set", workers=1, seed=1, num_scans=1, **SMALL)
    stale = set(bytes_of(first))
    again = generate(tmp_path / "set", workers=1, seed=2, overwrite=True, **SMALL)
    fresh = generate(tmp_path / "fresh", workers=1, seed=2, **SMALL)
    assert bytes_of(again) == bytes_of(fresh)
    assert "scans/scan_001.nii.gz" in stale
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "set"]


def test_content_is_replaced_only_when_asked_and_only_if_synthetic(folder: Path, tmp_path: Path) -> None:
    before = bytes_of(folder)
    with pytest.raises(FileExistsError, match="content"):
        generate(folder, workers=1, **SMALL)
    assert bytes_of(folder) == before
    (tmp_path / "thesis.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match=r"synthetic\.json"):
        generate(tmp_path, workers=1, overwrite=True, **SMALL)
    assert (tmp_path / "thesis.txt").read_text() == "keep me"


def test_whole_series_add_slices_with_and_without_lesions_but_not_to_the_test(tmp_path: Path) -> None:
    settings = {**SMALL, "slice_intervals": 5.0, "tubes": 1, "margin_mm": 0.0}
    generate(tmp_path / "set", seed=3, workers=1, whole_series=3, **settings)
    rows = rows_of(tmp_path / "set")
    keys = {split: {r["File_name"] for r in rows if r["Train_Val_Test"] == split} for split in "123"}
    # Two series for validation: 3 x 2 / 5, rounded up; 21 slices each at most, without those near a lesion's end.
    assert 5 + 3 * 10 < len(keys["1"]) <= 5 + 3 * 21
    assert 2 + 2 * 10 < len(keys["2"]) <= 2 + 2 * 21
    assert len(keys["3"]) == 3
    records = load_records(tmp_path / "set", "train")
    has = [len(record["instances"]["boxes"]) > 0 for record in records]
    assert min(has.count(True), has.count(False)) > 8
