"""Cutting a scan into slabs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from scripts.boxes import move
from scripts.data.border import body_box
from scripts.data.intensity import IntensityWindow
from scripts.data.slabs.slab_reader import SlabReader, resample_z
from scripts.inference.volume_detector import PlaneScale, SlabCutter

cut = partial(SlabCutter, resample_z)


def random_hu(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)


@pytest.mark.parametrize(
    ("slices", "interval", "start", "count"),
    [
        (1, 5.0, 0, 1),
        (2, 5.0, 0, 3),
        (5, 2.5, 0, 5),
        (11, 1.0, 0, 5),
        (10, 1.0, 0, 4),
        (13, 1.0, 1, 5),
        (3, 1.0, 1, 1),
        (26, 0.1, 0, 2),
        (48, 0.1, 11, 2),
        (4, 3.27, 0, 4),
    ],
)
def test_lattice_covers_the_scan_every_two_and_a_half_mm(slices: int, interval: float, start: int, count: int) -> None:
    slabs = cut(9)(random_hu((slices, 4, 6)), (20.0, 20.0, interval))
    np.testing.assert_allclose(slabs.positions * interval, start * interval + np.arange(count) * 2.5)
    # Less than a lattice step is left over, and no more than a slice more at one end than at the other.
    left, right = slabs.positions[0], slices - 1 - slabs.positions[-1]
    assert (left + right) * interval < 2.5
    assert -1e-6 <= right - left < 2
    assert len(slabs.volume) == count + 8


def test_lattice_slices_that_are_stored_are_kept_as_they_are() -> None:
    hu = random_hu((6, 4, 5))
    slabs = cut(3)(hu, (20.0, 20.0, 5.0))
    np.testing.assert_array_equal(slabs.volume[1:-1:2], hu)


@pytest.mark.parametrize("interval", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("key", [1, 6, 11])
def test_slab_is_the_one_that_the_training_reader_reads(tmp_path: Path, interval: float, key: int) -> None:
    # With the scan starting at the key slice or ending there, ends must be repeated in the same way.
    hu = random_hu((12, 4, 5))
    for number, plane in enumerate(hu, start=1):
        cv2.imwrite(str(tmp_path / f"{number:03d}.png"), (plane.astype(np.int32) + 32768).astype(np.uint16))
    record = {
        "image": str(tmp_path / f"{key:03d}.png"),
        "key_slice": key,
        "slice_interval": interval,
        "slice_range": (1, 12),
        "series": "a",
    }
    wanted = SlabReader(9)(record)
    slabs = cut(9)(hu, (20.0, 20.0, interval))
    got = slabs.batch([int((key - 1) * interval / 2.5)], slabs.volume, lambda hu: hu)[0].numpy()
    # int16 holds whole HU.
    np.testing.assert_allclose(got, wanted, atol=0.5)


def test_one_slice_fills_the_slab() -> None:
    hu = random_hu((1, 4, 5))
    slab = cut(9)(hu, (20.0, 20.0, 5.0)).batch([0], torch.from_numpy(np.repeat(hu, 9, axis=0)), lambda hu: hu)
    np.testing.assert_array_equal(slab[0].numpy(), np.repeat(hu, 9, axis=0))


def test_slices_without_a_body_are_known() -> None:
    hu = np.full((4, 30, 30), -1000, dtype=np.int16)
    hu[1, 5:15, 5:15] = 40
    # A single hot pixel is not a body.
    hu[2, 5, 5] = 3000
    slabs = cut(9)(hu, (1.0, 1.0, 2.5))
    np.testing.assert_array_equal(slabs.examined, [False, True, False, False])


@pytest.mark.parametrize(
    ("scale", "shape", "spacing", "size"),
    [
        (PlaneScale(), (200, 300), (0.9, 0.9), (200, 300)),
        (PlaneScale(), (512, 512), (0.9, 0.9), (512, 512)),
        (PlaneScale(), (1024, 768), (0.4, 0.4), (512, 384)),
        (PlaneScale(image_size=None), (1024, 768), (0.4, 0.4), (1024, 768)),
        (PlaneScale(pixel_spacing=1.6), (100, 300), (0.8, 0.8), (50, 150)),
        (PlaneScale(pixel_spacing=1.6), (100, 300), (0.8, 1.6), (100, 150)),
        (PlaneScale(pixel_spacing=0.5), (400, 600), (1.0, 1.0), (800, 1200)),
        (PlaneScale(image_size=8), (512, 1), (1.0, 1.0), (8, 1)),
        # Training brought 512 pixels to 800: so does inference, and a smaller slice is enlarged as much.
        (PlaneScale(image_size=800, stored_size=512), (512, 512), (0.9, 0.9), (800, 800)),
        (PlaneScale(image_size=800, stored_size=512), (256, 200), (0.9, 0.9), (400, 313)),
        (PlaneScale(image_size=800, stored_size=512), (1024, 1024), (0.4, 0.4), (800, 800)),
        (PlaneScale(image_size=96, stored_size=512), (256, 256), (0.9, 0.9), (48, 48)),
        (PlaneScale(stored_size=512), (300, 200), (0.9, 0.9), (300, 200)),
    ],
)
def test_plane_size(
    scale: PlaneScale, shape: tuple[int, int], spacing: tuple[float, float], size: tuple[int, int]
) -> None:
    assert scale.size(shape, spacing) == size


def test_batch_is_each_slab_alone_and_normalised() -> None:
    slabs = cut(3, scale=PlaneScale(image_size=8))(random_hu((5, 12, 16)), (5.0, 5.0, 2.5))
    intensity = IntensityWindow()
    together = slabs.batch([0, 2, 4], slabs.volume, intensity)
    assert together.shape == (3, 3, 6, 8)
    assert together.dtype == torch.float32
    for index, slab in zip((0, 2, 4), together, strict=True):
        torch.testing.assert_close(slabs.batch([index], slabs.volume, intensity)[0], slab)
    assert slabs.scale == (0.5, 0.5)
    assert -2.2 < float(together.min()) < float(together.max()) < 2.3


@pytest.mark.parametrize("num_slices", [0, 2, -1])
def test_number_of_slices_must_be_odd(num_slices: int) -> None:
    with pytest.raises(ValueError, match=f"odd number of slices, at least 1, got {num_slices}"):
        cut(num_slices)


def test_settings_must_be_positive() -> None:
    with pytest.raises(ValueError, match="slice spacing in mm above zero, got 0"):
        cut(9, slice_spacing=0)
    with pytest.raises(ValueError, match="pixel_spacing above zero or None, got -1"):
        PlaneScale(pixel_spacing=-1)
    with pytest.raises(ValueError, match="image_size above zero or None, got 0"):
        PlaneScale(image_size=0)


def test_slices_are_reduced_to_the_longest_side() -> None:
    scale = PlaneScale(pixel_spacing=0.8, longest_side=512)
    assert scale.size((512, 400), (0.8, 0.8)) == (512, 400)
    assert scale.size((512, 256), (1.6, 1.6)) == (512, 256)
    assert scale.size((300, 200), (0.4, 0.4)) == (150, 100)


def test_each_slab_is_cut_to_the_body_in_its_middle_slice() -> None:
    hu = np.full((5, 60, 80), -1000, np.int16)
    for z in range(5):
        hu[z, 10 + z : 50, 5 : 70 - 2 * z] = 100 * z
    cutter = cut(3, 2.0, border=body_box, scale=PlaneScale(image_size=58, stored_size=1))
    slabs = cutter(hu, (1.0, 1.0, 2.0))
    batch = slabs.batch([0, 4], slabs.volume, IntensityWindow(-1000, 500, 0.0, 1.0))
    assert [tuple(slab.shape) for slab in batch] == [(3, 36, 58), (3, 37, 58)]
    assert batch[1][1].min() > 200  # nothing but the body of the last slice
    for index, corner in ((0, [5.0, 10.0, 70.0, 50.0]), (4, [5.0, 14.0, 62.0, 50.0])):
        height, width = batch[index // 4].shape[1:]
        whole = move(np.array([[0.0, 0.0, width, height]]), slabs.to_scan(index))
        np.testing.assert_allclose(whole, [corner])


@pytest.mark.parametrize(("interval", "step"), [(5.0, 5.0), (1.0, 2.0)])
def test_native_slabs_are_of_stored_slices(interval: float, step: float) -> None:
    hu = random_hu((9, 12, 14))
    slabs = cut(3, 2.0, native=True)(hu, (20.0, 20.0, interval))
    assert slabs.thickness * interval == step
    np.testing.assert_array_equal(slabs.positions, np.rint(slabs.positions))
    for index, place in enumerate(slabs.positions.astype(int)):
        np.testing.assert_array_equal(slabs.volume[index + 1].numpy(), hu[place])
