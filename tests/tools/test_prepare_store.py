"""`python -m scripts.prepare`: a data set and its store give the same records and samples."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.data.deeplesion import subvolumes
from scripts.data.deeplesion.splits import load_records
from scripts.data.key_slices import RandKeySliced
from scripts.data.slabs.slab_reader import SlabReader
from scripts.data.synthetic import generate
from scripts.tools import check_machine, prepare_store
from scripts.tools.prepare_store import main

SIZES = {"num_train": 3, "num_validation": 1, "num_test": 2, "image_size": 48, "margin_mm": 15.0}
PIXELS = "Images_int16/*/slices.npy"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = generate(tmp_path_factory.mktemp("prepare") / "set", workers=1, **SIZES)
    fold = folder / "folds" / "1"
    fold.mkdir(parents=True)
    (fold / "Images_png").symlink_to(Path("..", "..", "Images_png"), target_is_directory=True)
    shutil.copyfile(folder / "DL_info.csv", fold / "DL_info.csv")
    return folder


def samples(folder: Path, split: str) -> list[tuple[dict[str, Any], np.ndarray]]:
    records = load_records(folder, split)
    reader = SlabReader(9)
    plain = [{**record, "image": Path(record["image"]).name, "source": ""} for record in records]
    return [(about, reader(record)) for about, record in zip(plain, records, strict=True)]


def assert_same(first: Path, second: Path) -> None:
    for split in ("train", "validation", "test"):
        for (one, slab), (other, again) in zip(samples(first, split), samples(second, split), strict=True):
            assert np.array_equal(slab, again)
            np.testing.assert_equal(one, other)


@pytest.mark.parametrize("reach", [0.0, 10.0])
def test_records_and_slabs_are_the_same_to_the_bit(source: Path, tmp_path: Path, reach: float, capsys: Any) -> None:
    store = tmp_path / "store"
    main(str(source), str(store), reach_mm=reach)
    assert f"--dataset_dir {store}" in capsys.readouterr().out
    assert not list(store.rglob("*.png"))
    assert_same(source, store)
    assert_same(source / "folds" / "1", store / "folds" / "1")
    assert (store / "synthetic.json").read_bytes() == (source / "synthetic.json").read_bytes()
    move = RandKeySliced(1.0)
    move.set_random_state(3)
    moved = [[move(record)["key_slice"] for record in load_records(folder, "train")] for folder in (source, store)]
    assert len(moved[0]) == len(moved[1]) == 3


def test_the_doctor_finds_the_images_of_a_store(source: Path, tmp_path: Path) -> None:
    main(str(source), str(tmp_path / "store"))
    places = check_machine.Places(dataset_dir=tmp_path / "store", output_dir=tmp_path, checkpoint=tmp_path / "none.pt")
    assert "6 of the images are there" in check_machine.check_data(places).text


def test_sub_volumes_are_the_same_to_the_bit(source: Path, tmp_path: Path) -> None:
    main(str(source), str(tmp_path / "store"))
    read = [subvolumes.load_volumes(folder / "lesions_3d.json", folder) for folder in (source, tmp_path / "store")]
    assert len(read[0]) == len(read[1]) > 0
    for one, other in zip(*read, strict=True):
        assert np.array_equal(subvolumes.read_subvolume(one).hu, subvolumes.read_subvolume(other).hu)


def test_a_shorter_reach_makes_a_smaller_store_that_says_what_it_lacks(source: Path, tmp_path: Path) -> None:
    whole, near = tmp_path / "whole", tmp_path / "near"
    main(str(source), str(whole))
    main(str(source), str(near), reach_mm=5.0)
    sizes = [sum(path.stat().st_size for path in folder.glob(PIXELS)) for folder in (whole, near)]
    assert sizes[1] < 0.6 * sizes[0]
    with pytest.raises(FileNotFoundError, match=r"made without it.*--reach_mm"):
        samples(near, "train")


def test_the_same_command_resumes_and_mends(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, written = tmp_path / "store", []
    real = prepare_store.write_series

    def stopped(folder: Path, *rest: Any) -> None:
        if len(written) == 2:
            raise OSError("the disk is full")
        written.append(folder)
        real(folder, *rest)

    monkeypatch.setattr(prepare_store, "write_series", stopped)
    with pytest.raises(OSError, match="disk is full"):
        main(str(source), str(store), workers=1)
    # Without its labels a part of a store is no data set.
    assert not (store / "DL_info.csv").exists()
    before = {path: path.stat().st_mtime_ns for path in store.glob(PIXELS)}
    monkeypatch.setattr(prepare_store, "write_series", real)
    main(str(source), str(store), workers=1)
    assert len(before) == 2
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert_same(source, store)
    # One bit of one file: only that one is written again.
    first, *others = sorted(store.glob(PIXELS))
    content = bytearray(first.read_bytes())
    content[-3] ^= 1
    first.write_bytes(bytes(content))
    kept = [path.stat().st_mtime_ns for path in others]
    main(str(source), str(store))
    assert [path.stat().st_mtime_ns for path in others] == kept
    assert_same(source, store)
    (store / "Images_int16" / "999999_01_01").mkdir()
    main(str(source), str(store))
    assert not (store / "Images_int16" / "999999_01_01").exists()


def test_the_store_of_another_set_is_kept(source: Path, tmp_path: Path) -> None:
    store, other = tmp_path / "store", tmp_path / "other"
    main(str(source), str(store))
    # The same series, slices and labels elsewhere: a copy, as a fold of the set, is another set.
    shutil.copytree(source, other, symlinks=True)
    for place in (other, source / "folds" / "1"):
        with pytest.raises(
            FileExistsError, match=rf"of the data set {place} .*got that of {source} in .*another --store"
        ):
            main(str(place), str(store))
    assert_same(source, store)
    # Without the set that it names, the slices say whose the store is: those of a moved set, and of older stores.
    main(str(other), str(tmp_path / "moved"))
    other.rename(tmp_path / "renamed")
    main(str(tmp_path / "renamed"), str(tmp_path / "moved"))
    (tmp_path / "moved" / "store.json").unlink()
    main(str(tmp_path / "renamed"), str(tmp_path / "moved"), reach_mm=5.0)
    (tmp_path / "moved" / "store.json").unlink()
    for path in (tmp_path / "renamed").rglob("*.png"):
        path.touch()
    with pytest.raises(FileExistsError, match="got one with 6 series of unknown slices, 000001_01_01 first"):
        main(str(tmp_path / "renamed"), str(tmp_path / "moved"))


def test_what_cannot_be_a_store_or_a_set_is_named(source: Path, tmp_path: Path) -> None:
    for target in (source, source / "folds" / "1"):
        with pytest.raises(ValueError, match="another folder than a data set"):
            main(str(source), str(target))
    (tmp_path / "thesis.csv").write_text("keep me")
    with pytest.raises(FileExistsError, match="other content"):
        main(str(source), str(tmp_path))
    assert (tmp_path / "thesis.csv").read_text() == "keep me"
    with pytest.raises(NotADirectoryError, match=r"a data set folder at .*thesis\.csv, but that is a file"):
        main(str(tmp_path / "thesis.csv"), str(tmp_path / "store"))
    with pytest.raises(FileNotFoundError, match="Images_png"):
        main(str(tmp_path), str(tmp_path / "store"))
    wrongs: list[dict[str, Any]] = [{"reach_mm": -1.0}, {"reach_mm": float("nan")}, {"workers": 0}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="Expected"):
            main(str(source), str(tmp_path / "store"), **wrong)
    assert not (tmp_path / "store").exists()


def test_a_damaged_png_ends_in_its_name_and_the_rest_is_kept(source: Path, tmp_path: Path) -> None:
    copy, store = tmp_path / "set", tmp_path / "store"
    shutil.copytree(source, copy, symlinks=True)
    last = sorted((copy / "Images_png").iterdir())[-1]
    damaged = sorted(last.iterdir())[0]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=str(damaged)):
        main(str(copy), str(store), workers=1)
    damaged.write_bytes(whole)
    main(str(copy), str(store))
    assert_same(copy, store)
