"""Slices in one file for each series: the same pixels as from PNGs, and nothing damaged is believed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scripts.data.slabs import slice_store
from scripts.data.slabs.slab_reader import SlabReader, read_slice
from scripts.data.slabs.slice_store import (
    CONTENT,
    PIXELS,
    images_folder,
    is_complete,
    png_names,
    slice_exists,
    slice_names,
    source_of,
    stored_series,
    write_series,
)
from scripts.data.synthetic.writing import write_slices

SHAPE = (6, 9)


@pytest.fixture
def pixels() -> np.ndarray:
    hu = np.random.default_rng(0).integers(-32768, 32768, (7, *SHAPE)).astype(np.int16)
    hu[0, 0, :2] = (-32768, 32767)
    return hu


@pytest.fixture
def series(tmp_path: Path, pixels: np.ndarray) -> tuple[Path, Path]:
    """PNGs 3 to 9 of a series, and the store of all but the last one."""
    png, folder = tmp_path / "Images_png" / "000001_01_01", tmp_path / "Images_int16" / "000001_01_01"
    write_slices(png, range(3, 10), pixels)
    store(png, folder, [3, 4, 5, 6, 7, 8])
    return png, folder


def store(png: Path, folder: Path, kept: list[int]) -> str:
    names = png_names(png)
    source = source_of(png, [names[number] for number in kept])
    write_series(folder, names, kept, lambda name: read_slice(png / name), source)
    return source


def test_every_slice_is_that_of_the_png_to_the_bit(series: tuple[Path, Path]) -> None:
    png, folder = series
    for number in range(3, 9):
        stored = read_slice(folder / f"{number:03d}.png")
        assert stored.dtype == np.int16
        assert np.array_equal(stored, read_slice(png / f"{number:03d}.png"))
    # The caller may change what it got.
    read_slice(folder / "004.png")[:] = 0
    assert np.array_equal(read_slice(folder / "004.png"), read_slice(png / "004.png"))


@pytest.mark.parametrize("mode", ["corrected", "released", "native"])
@pytest.mark.parametrize("interval", [1.0, 2.5, 5.0])
def test_slabs_are_the_same_to_the_bit_at_both_ends(
    series: tuple[Path, Path], tmp_path: Path, mode: str, interval: float
) -> None:
    png, _ = series
    folder = tmp_path / "whole" / "000001_01_01"
    store(png, folder, list(range(3, 10)))
    reader = SlabReader(5, mode=mode)
    for key in (3, 6, 9):
        record = {"key_slice": key, "slice_interval": interval, "slice_range": (1, 9)}
        slabs = [reader({**record, "image": str(place / f"{key:03d}.png")}) for place in (png, folder)]
        assert np.array_equal(slabs[0], slabs[1])


def test_names_are_those_of_the_series_even_of_slices_that_are_not_kept(series: tuple[Path, Path]) -> None:
    png, folder = series
    assert slice_names(folder) == [f"{number:03d}.png" for number in range(3, 10)]
    assert slice_names(png) is None
    assert [slice_exists(folder / name) for name in ("003.png", "009.png", "3.png", "010.png")] == [
        *(True, True, False, False)
    ]
    with pytest.raises(FileNotFoundError, match=r"slice 9 .*slices\.npy.*--reach_mm"):
        read_slice(folder / "009.png")
    with pytest.raises(FileNotFoundError, match="has no such slice"):
        read_slice(folder / "010.png")


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "text", "missing"])
def test_a_damaged_file_of_pixels_is_rejected(series: tuple[Path, Path], damage: str) -> None:
    png, folder = series
    path = folder / PIXELS
    content = bytearray(path.read_bytes())
    content[-1] ^= 4
    changed = {"flip": bytes(content), "cut": bytes(content[:-7]), "longer": bytes(content) + b"\0", "text": b"hello"}
    path.unlink() if damage == "missing" else path.write_bytes(changed[damage])
    slice_store._open.cache_clear()
    with pytest.raises((ValueError, FileNotFoundError), match=str(path)):
        read_slice(folder / "008.png")
    names = png_names(png)
    assert not is_complete(folder, names, source_of(png, [names[number] for number in range(3, 9)]))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"shape": [6]},
        {"shape": [9, 6]},
        {"kept": [[12, 0]]},
        {"kept": 3},
        {"names": ["../../003.png"]},
        {"names": ["003.png", "3.png"]},
        {"sha256": ...},
    ],
)
def test_a_damaged_description_is_rejected(series: tuple[Path, Path], change: dict) -> None:
    _, folder = series
    content = json.loads((folder / CONTENT).read_text()) | change
    content = {name: value for name, value in content.items() if value is not ...}
    (folder / CONTENT).write_text(json.dumps(content))
    slice_store._open.cache_clear()
    with pytest.raises(ValueError, match=rf"Expected .*{folder}"):
        stored_series(folder)


def test_a_series_is_complete_only_with_its_own_source(series: tuple[Path, Path], pixels: np.ndarray) -> None:
    png, folder = series
    kept = [f"{number:03d}.png" for number in range(3, 9)]
    names = png_names(png)
    assert is_complete(folder, names, source_of(png, kept))
    assert not is_complete(folder, names, source_of(png, kept[:-1]))
    assert not is_complete(folder, {**names, 10: "010.png"}, source_of(png, kept))
    write_slices(png, [5], pixels[:1])
    assert not is_complete(folder, names, source_of(png, kept))
    assert not is_complete(png, names, "")


def test_slices_of_other_sizes_are_named_and_leave_no_description(series: tuple[Path, Path], tmp_path: Path) -> None:
    png, folder = series
    write_slices(png, [6], np.zeros((1, 4, 4), np.int16))
    with pytest.raises(ValueError, match=r"\(6, 9\).*003\.png.*\(4, 4\).*006\.png.*000001_01_01"):
        store(png, folder, [3, 4, 5, 6])
    assert stored_series(folder) is None
    (png / "3.png").write_bytes((png / "003.png").read_bytes())
    with pytest.raises(ValueError, match=r"one slice 3 .*003\.png and 3\.png"):
        png_names(png)


def test_pngs_come_first_where_a_folder_has_both(series: tuple[Path, Path], tmp_path: Path) -> None:
    assert images_folder(tmp_path) == tmp_path / "Images_png"
    (tmp_path / "Images_png").rename(tmp_path / "away")
    assert images_folder(tmp_path) == tmp_path / "Images_int16"
    assert images_folder(tmp_path / "nothing") == tmp_path / "nothing" / "Images_png"
