"""Slices, slabs and resampling along z."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from scripts.data.slabs.slab_reader import IntensityWindow, SlabReader, read_slice, resample_z

HEIGHT, WIDTH = 6, 10

# The slices on both sides of each position around slice 14 at 1 mm.
OFFSETS_LOW = [4, 6, 9, 11, 14, 16, 19, 21, 24]
OFFSETS_HIGH = [4, 7, 9, 12, 14, 17, 19, 22, 24]


def store(path: Path, hu: np.ndarray) -> None:
    """Write HU as DeepLesion stores them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), (hu.astype(np.int32) + 32768).astype(np.uint16))


def series(folder: Path, numbers: range | list[int], seed: int = 0) -> dict[int, np.ndarray]:
    """Write a series of random slices, and return them by number."""
    rng = np.random.default_rng(seed)
    slices = {number: rng.integers(-3024, 3072, (HEIGHT, WIDTH)) for number in numbers}
    for number, hu in slices.items():
        store(folder / f"{number:03d}.png", hu)
    return slices


def record(folder: Path, key: int, interval: float, slice_range: tuple[int, int] | None = None) -> dict:
    """The parts of a record that the reader uses."""
    return {
        "image": str(folder / f"{key:03d}.png"),
        "series": folder.name,
        "key_slice": key,
        "slice_interval": interval,
        "slice_range": slice_range,
    }


class TestReadSlice:
    def test_every_16_bit_value_comes_back(self, tmp_path: Path) -> None:
        hu = np.arange(-32768, 32768).reshape(256, 256)
        store(tmp_path / "all.png", hu)
        pixels = read_slice(tmp_path / "all.png")
        assert pixels.dtype == np.int16
        np.testing.assert_array_equal(pixels, hu)

    @pytest.mark.parametrize(
        ("pixels", "what"),
        [
            (np.zeros((4, 4), np.uint8), "8 bits and 1 channel"),
            (np.zeros((4, 4, 3), np.uint8), "8 bits and 3 channel"),
            (np.zeros((4, 4, 3), np.uint16), "16 bits and 3 channel"),
        ],
    )
    def test_other_pngs_are_rejected(self, tmp_path: Path, pixels: np.ndarray, what: str) -> None:
        cv2.imwrite(str(tmp_path / "012.png"), pixels)
        with pytest.raises(ValueError, match=what) as error:
            read_slice(tmp_path / "012.png")
        assert "012.png" in str(error.value)

    def test_absent_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"012\.png"):
            read_slice(tmp_path / "012.png")

    @pytest.mark.parametrize("keep", [0, 4, 30, 100, -4, -13])
    def test_file_cut_short(self, tmp_path: Path, keep: int) -> None:
        store(tmp_path / "whole.png", np.random.default_rng(0).integers(-1000, 1000, (64, 64)))
        content = (tmp_path / "whole.png").read_bytes()
        (tmp_path / "cut.png").write_bytes(content[:keep])
        with pytest.raises(ValueError, match=r"cut\.png"):
            read_slice(tmp_path / "cut.png")

    def test_text_with_the_name_of_a_png(self, tmp_path: Path) -> None:
        (tmp_path / "text.png").write_text("<html>not found</html>")
        with pytest.raises(ValueError, match=r"text\.png"):
            read_slice(tmp_path / "text.png")


class TestSlabReader:
    @pytest.mark.parametrize("mode", ["corrected", "released"])
    @pytest.mark.parametrize("num_slices", [1, 3, 9, 11])
    def test_centre_is_the_key_slice(self, tmp_path: Path, mode: str, num_slices: int) -> None:
        slices = series(tmp_path / "000001_01_01", range(1, 30))
        for interval in (5.0, 2.0, 1.0, 0.59998):
            slab = SlabReader(num_slices, mode=mode)(record(tmp_path / "000001_01_01", 14, interval))
            assert slab.shape == (num_slices, HEIGHT, WIDTH)
            assert slab.dtype == np.float32
            np.testing.assert_array_equal(slab[num_slices // 2], slices[14])

    def test_corrected_interpolates_between_the_right_slices(self, tmp_path: Path) -> None:
        slices = series(tmp_path / "s_1", range(1, 30))
        slab = SlabReader(5)(record(tmp_path / "s_1", 14, 2.0))
        # 2.5 and 5 mm at 2 mm are 1.25 and 2.5 slices.
        np.testing.assert_allclose(slab[3], 0.75 * slices[15] + 0.25 * slices[16], atol=1e-3)
        np.testing.assert_allclose(slab[4], 0.5 * slices[16] + 0.5 * slices[17], atol=1e-3)
        np.testing.assert_allclose(slab[0], 0.5 * slices[12] + 0.5 * slices[11], atol=1e-3)

    def test_half_steps_are_exact(self, tmp_path: Path) -> None:
        slices = series(tmp_path / "s_1", range(1, 30))
        slab = SlabReader(3)(record(tmp_path / "s_1", 14, 1.0))
        np.testing.assert_array_equal(slab[2], (slices[16] + slices[17]) / 2)

    def test_modes_agree_where_the_interval_divides_the_spacing(self, tmp_path: Path) -> None:
        series(tmp_path / "s_1", range(1, 60))
        for interval in (5.0, 2.5, 1.25, 1.0, 0.5):
            row = record(tmp_path / "s_1", 30, interval)
            np.testing.assert_array_equal(SlabReader()(row), SlabReader(mode="released")(row))
        row = record(tmp_path / "s_1", 30, 2.0)
        assert np.abs(SlabReader()(row) - SlabReader(mode="released")(row)).max() > 100

    def test_only_the_needed_slices_are_read(self, tmp_path: Path) -> None:
        series(tmp_path / "s_1", range(1, 30))
        for unneeded in (*range(1, 11), 13, 15, *range(18, 30)):
            (tmp_path / "s_1" / f"{unneeded:03d}.png").write_text("never opened")
        # At 1 mm three slices touch offsets 0, 2 and 3.
        assert SlabReader(3)(record(tmp_path / "s_1", 14, 1.0)).shape[0] == 3

    def test_key_at_either_end_repeats_the_last_slice(self, tmp_path: Path) -> None:
        slices = series(tmp_path / "s_1", range(1, 4))
        first = SlabReader(9)(record(tmp_path / "s_1", 1, 2.5, (1, 3)))
        np.testing.assert_array_equal(first, [slices[n] for n in (1, 1, 1, 1, 1, 2, 3, 3, 3)])
        last = SlabReader(9)(record(tmp_path / "s_1", 3, 2.5, (1, 3)))
        np.testing.assert_array_equal(last, [slices[n] for n in (1, 1, 1, 2, 3, 3, 3, 3, 3)])

    def test_one_slice_series(self, tmp_path: Path) -> None:
        slices = series(tmp_path / "s_1", [7])
        for mode in ("corrected", "released"):
            slab = SlabReader(5, mode=mode)(record(tmp_path / "s_1", 7, 1.0, (7, 7)))
            np.testing.assert_array_equal(slab, [slices[7]] * 5)

    def test_neighbours_go_by_number_not_by_next_file(self, tmp_path: Path) -> None:
        slices = series(tmp_path / "s_1", [5, 6, 20, 21])
        slab = SlabReader(5)(record(tmp_path / "s_1", 6, 2.5, (5, 6)))
        np.testing.assert_array_equal(slab, [slices[n] for n in (5, 5, 6, 6, 6)])

    def test_slice_1000_follows_999(self, tmp_path: Path) -> None:
        slices = series(tmp_path, [998, 999, 1000, 1001])
        slab = SlabReader(5)(record(tmp_path, 1000, 2.5))
        np.testing.assert_array_equal(slab, [slices[number] for number in (998, 999, 1000, 1001, 1001)])

    def test_hole_inside_the_slice_range_is_logged_once(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        slices = series(tmp_path / "s_1", [5, 6, 8])
        reader = SlabReader(5)
        with caplog.at_level(logging.WARNING):
            slab = reader(record(tmp_path / "s_1", 6, 2.5, (5, 8)))
            reader(record(tmp_path / "s_1", 6, 2.5, (5, 8)))
        np.testing.assert_array_equal(slab, [slices[n] for n in (5, 5, 6, 6, 6)])
        assert len(caplog.records) == 1
        assert "slice 7" in caplog.text

    def test_absent_key_slice_and_folder(self, tmp_path: Path) -> None:
        series(tmp_path / "s_1", [5, 6])
        with pytest.raises(FileNotFoundError, match=r"007\.png"):
            SlabReader(3)(record(tmp_path / "s_1", 7, 2.5))
        with pytest.raises(FileNotFoundError, match="s_2"):
            SlabReader(3)(record(tmp_path / "s_2", 7, 2.5))

    @pytest.mark.parametrize("threads", [1, 3])
    def test_threads_do_not_change_the_slab(self, tmp_path: Path, threads: int) -> None:
        slices = series(tmp_path / "s_1", range(1, 30))
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            slab = SlabReader(9)(record(tmp_path / "s_1", 14, 1.0))
        finally:
            torch.set_num_threads(before)
        wanted = [(slices[a] + slices[b]) / 2 for a, b in zip(OFFSETS_LOW, OFFSETS_HIGH, strict=True)]
        np.testing.assert_array_equal(slab, wanted)

    def test_slices_of_different_size(self, tmp_path: Path) -> None:
        series(tmp_path / "s_1", [5, 6])
        store(tmp_path / "s_1" / "007.png", np.zeros((HEIGHT, WIDTH + 1)))
        with pytest.raises(ValueError, match=r"007\.png"):
            SlabReader(3)(record(tmp_path / "s_1", 6, 2.5))

    @pytest.mark.parametrize("num_slices", [0, 2, 8, -3, 9.0, True, "9"])
    def test_even_or_invalid_number_of_slices(self, num_slices) -> None:
        with pytest.raises(ValueError, match="odd number of slices"):
            SlabReader(num_slices)

    @pytest.mark.parametrize("interval", [0.0, -1.0, float("nan")])
    def test_invalid_interval(self, tmp_path: Path, interval: float) -> None:
        series(tmp_path / "s_1", [5, 6])
        with pytest.raises(ValueError, match="interval"):
            SlabReader(3)(record(tmp_path / "s_1", 6, interval))

    def test_unknown_mode_and_spacing(self) -> None:
        with pytest.raises(ValueError, match=r"corrected.*released.*'fast'"):
            SlabReader(9, mode="fast")
        with pytest.raises(ValueError, match="spacing"):
            SlabReader(9, spacing=0.0)


class TestReleasedCode:
    """Slabs of the two real sub-volumes against what the released code gives for them."""

    @pytest.fixture
    def cases(self, shared: Path, tmp_path: Path) -> list[tuple[dict, dict]]:
        golden = json.loads((shared / "reference/golden/loader.json").read_text())
        images = shared / "data/deeplesion/Images_png"
        for name, derived in golden["derived_folders"].items():
            (tmp_path / name).mkdir()
            for source in sorted((images.parent / derived["source"]).glob("*.png")):
                if int(source.stem) not in derived["removed_slices"]:
                    os.symlink(source, tmp_path / name / source.name)
        pairs = []
        for case in golden["cases"]:
            root = tmp_path if case["folder"] in golden["derived_folders"] else images
            pairs.append((record(root / case["folder"], case["key"], case["slice_intv"]), case))
        return pairs

    def test_values(self, cases: list[tuple[dict, dict]]) -> None:
        assert cases
        for row, case in cases:
            slab = SlabReader(case["num_slice"], mode="released")(row)
            on_255 = IntensityWindow(mean=0.0, std=1.0)(slab.astype(np.float64))
            self._compare(on_255, case["loaded"], case["loaded"]["idx_yxd"])
            self._compare(IntensityWindow()(slab), case["normalised"], case["loaded"]["idx_yxd"])

    @staticmethod
    def _compare(values: np.ndarray, wanted: dict, places: list[list[int]]) -> None:
        assert [*values.shape[1:], values.shape[0]] == wanted["shape"]
        rows, columns, depths = np.array(wanted.get("idx_yxd", places)).T
        np.testing.assert_allclose(values[depths, rows, columns], wanted["values"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(values.mean(axis=(1, 2), dtype=np.float64), wanted["mean"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(values.std(axis=(1, 2), dtype=np.float64), wanted["std"], rtol=0, atol=1e-6)
        np.testing.assert_allclose([values.min(), values.max()], [wanted["min"], wanted["max"]], rtol=0, atol=1e-6)

    def test_slices_read(self, cases: list[tuple[dict, dict]]) -> None:
        for row, case in cases:
            blends = SlabReader(case["num_slice"], mode="released").plan(row)
            read = {row["key_slice"] + offset for blend in blends for offset in (blend.near, blend.far)}
            assert sorted(read) == case["slices_read"]


class TestResampleZ:
    def test_own_positions_give_the_volume_back(self) -> None:
        volume = np.random.default_rng(0).integers(-3024, 3072, (5, 3, 4)).astype(np.int16)
        positions = np.array([-10.0, -7.5, -4.0, 0.0, 1.5])
        for order in (slice(None), slice(None, None, -1)):
            same = resample_z(volume[order], positions[order], positions, dtype=np.int16)
            assert same.dtype == np.int16
            np.testing.assert_array_equal(same, volume)

    def test_linear_between_and_repeated_beyond(self) -> None:
        volume = np.array([-1000, 0, 500], dtype=np.int16).reshape(3, 1, 1) * np.ones((1, 2, 3), np.int16)
        targets = np.array([-9.0, 0.0, 2.5, 6.0, 10.0, 99.0])
        resampled = resample_z(volume, np.array([0.0, 5.0, 10.0]), targets)
        np.testing.assert_allclose(resampled[:, 0, 0], [-1000, -1000, -500, 100, 500, 500], atol=1e-4)
        assert resampled.dtype == np.float32

    def test_extreme_differences_do_not_wrap(self) -> None:
        volume = np.array([-32768, 32767], dtype=np.int16).reshape(2, 1, 1)
        middle = resample_z(volume, np.array([0.0, 1.0]), np.array([0.5, 1.0]), dtype=np.int16)
        assert middle[1, 0, 0] == 32767
        assert abs(int(middle[0, 0, 0])) <= 1

    def test_agrees_with_the_slab_reader(self, tmp_path: Path) -> None:
        for interval in (5.0, 2.0, 1.0, 0.6):
            slices = series(tmp_path / f"s_{interval}", range(1, 40))
            volume = np.stack([slices[number] for number in range(1, 40)]).astype(np.int16)
            positions = interval * np.arange(1, 40)
            for key in (1, 20, 38):
                slab = SlabReader(9)(record(tmp_path / f"s_{interval}", key, interval))
                targets = interval * key + 2.5 * np.arange(-4, 5)
                np.testing.assert_allclose(resample_z(volume, positions, targets), slab, atol=1e-3)

    def test_one_slice_scan_and_no_targets(self) -> None:
        volume = np.full((1, 2, 2), 7, np.int16)
        np.testing.assert_array_equal(resample_z(volume, np.zeros(1), np.array([-5.0, 0, 5])), np.full((3, 2, 2), 7))
        assert resample_z(volume, np.zeros(1), np.zeros(0)).shape == (0, 2, 2)

    @pytest.mark.parametrize("positions", [[0, 1, 1], [0, 2, 1], [0, 1], [0, 1, float("nan")]])
    def test_invalid_positions(self, positions: list[float]) -> None:
        with pytest.raises(ValueError, match="Expected"):
            resample_z(np.zeros((3, 2, 2), np.int16), np.array(positions), np.zeros(2))

    def test_other_dtypes(self) -> None:
        with pytest.raises(ValueError, match="uint8"):
            resample_z(np.zeros((1, 2, 2), np.int16), np.zeros(1), np.zeros(1), dtype=np.uint8)
