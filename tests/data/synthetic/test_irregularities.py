"""Every odd case of the real data set is there when asked for."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from scripts.data.synthetic import generate
from scripts.data.synthetic.irregularities import CASES

SIZE = 64


def numbers(cell: str) -> np.ndarray:
    return np.array([float(item) for item in cell.split(",")])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(
        tmp_path_factory.mktemp("odd") / "set",
        workers=1,
        irregularities=True,
        num_train=1,
        num_validation=1,
        num_test=1,
        image_size=SIZE,
        pixel_spacing=2.0,
        margin_mm=5.0,
    )


@pytest.fixture(scope="module", params=["1", "2", "3"])
def rows(request: pytest.FixtureRequest, folder: Path) -> list[dict[str, str]]:
    with (folder / "DL_info.csv").open(encoding="ascii", newline="") as file:
        return [row for row in csv.DictReader(file) if row["Train_Val_Test"] == request.param]


def test_each_case_is_one_patient_of_each_split(rows: list[dict[str, str]]) -> None:
    assert len({row["Patient_index"] for row in rows}) == 1 + len(CASES)


def test_larger_images(rows: list[dict[str, str]], folder: Path) -> None:
    sizes = {row["Image_size"]: row for row in rows}
    assert set(sizes) == {"64, 64", "96, 96", "128, 128"}
    for text, row in sizes.items():
        series, key = row["File_name"].removesuffix(".png").rsplit("_", 1)
        image = cv2.imread(str(folder / "Images_png" / series / f"{key}.png"), cv2.IMREAD_UNCHANGED)
        assert image is not None
        assert image.shape == tuple(numbers(text))
        assert numbers(row["Spacing_mm_px_"])[0] == pytest.approx(2.0 * SIZE / image.shape[0])


def test_a_box_beyond_the_border(rows: list[dict[str, str]]) -> None:
    beyond = [numbers(r["Bounding_boxes"])[2] - 1 - numbers(r["Image_size"])[0] for r in rows]
    assert sum(0 < value < 2 for value in beyond) == 1
    assert max(beyond) < 2


def test_keys_at_either_end_of_the_sub_volume(rows: list[dict[str, str]]) -> None:
    ends = [(int(r["Key_slice_index"]), *numbers(r["Slice_range"])) for r in rows]
    assert any(key == first == 1 < last for key, first, last in ends)
    assert any(key == last > first for key, first, last in ends)


def test_a_folder_with_a_hole_and_one_with_two_intervals(rows: list[dict[str, str]], folder: Path) -> None:
    ranges, intervals = defaultdict(set), defaultdict(set)
    for row in rows:
        series = row["File_name"].rsplit("_", 1)[0]
        ranges[series].add(tuple(numbers(row["Slice_range"]).astype(int)))
        intervals[series].add(numbers(row["Spacing_mm_px_"])[2])
    holed = [series for series, found in ranges.items() if len(found) == 2]
    assert len(holed) == 2
    assert sorted(sorted(intervals[series]) for series in holed) == [[1.0, 5.0], [5.0]]
    for series in holed:
        (first, end), (start, last) = sorted(ranges[series])
        assert start > end + 1
        stored = {int(path.stem) for path in (folder / "Images_png" / series).iterdir()}
        assert stored == set(range(first, end + 1)) | set(range(start, last + 1))


def test_a_noisy_row_three_rows_of_a_slice_a_blank_age_and_float_noise(rows: list[dict[str, str]]) -> None:
    assert {row["Possibly_noisy"] for row in rows} == {"0", "1"}
    assert max(sum(r["File_name"] == row["File_name"] for r in rows) for row in rows) == 3
    assert "" in {row["Patient_age"] for row in rows}
    assert any(row["Spacing_mm_px_"].endswith(", 0.59998") for row in rows)


def test_an_elongated_lesion(rows: list[dict[str, str]]) -> None:
    ratios = [np.divide(*numbers(row["Lesion_diameters_Pixel_"])) for row in rows]
    assert max(ratios) > 5


def test_padding_below_the_range_of_hu_outside_a_round_field(rows: list[dict[str, str]], folder: Path) -> None:
    lowest = []
    for row in rows:
        series, key = row["File_name"].removesuffix(".png").rsplit("_", 1)
        image = cv2.imread(str(folder / "Images_png" / series / f"{key}.png"), cv2.IMREAD_UNCHANGED)
        assert image is not None
        lowest.append(int(image.min()) - 32768)
        if lowest[-1] == -3024:
            assert (image[[0, 0, -1, -1], [0, -1, 0, -1]] == 32768 - 3024).all()
            assert (image == 32768 - 3024).mean() == pytest.approx(1 - np.pi / 4, abs=0.02)
    assert {-3024} < set(lowest)
    assert min(value for value in lowest if value != -3024) >= -1024


def test_rows_are_not_sorted(folder: Path) -> None:
    with (folder / "DL_info.csv").open(encoding="ascii", newline="") as file:
        names = [row["File_name"] for row in csv.DictReader(file)]
    assert names != sorted(names)
