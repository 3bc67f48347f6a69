"""Air and tissue must have their Hounsfield values: stored values, pictures and MR are rejected, crops are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scripts.data.scans.hounsfield_check import to_hounsfield
from scripts.data.scans.volume_files.stored_image import StoredImage
from support.fake_volumes import body

WHERE = Path("scan.nii")
RNG = np.random.default_rng(0)


def convert(
    values: np.ndarray, hu_offset: float | None = None, *, slope: float = 1.0, intercept: float = 0.0
) -> tuple[np.ndarray, tuple[str, ...]]:
    return to_hounsfield(StoredImage(values, np.eye(4), (WHERE,), slope, intercept), WHERE, hu_offset)


def normal(middle: float, width: float, shape: tuple[int, int, int] = (20, 20, 3)) -> np.ndarray:
    return np.rint(RNG.normal(middle, width, shape)).astype(np.int16)


def stored(offset: int = 1024) -> np.ndarray:
    return (np.maximum(body(), -1024) + offset).astype(np.int16)


def padded(padding: int, offset: int = 1024) -> np.ndarray:
    values = stored(offset)
    values[:, :2] = padding
    return values


GOOD = {
    "scan": body(),
    "scan with padding": padded(-2000, 0),
    "air alone": normal(-1000, 20),
    "water in constant air": np.where(body() > -500, 0, -1000).astype(np.int16),
    "padding alone": np.full((4, 4, 2), -3024, np.int16),
    "lung": normal(-850, 60),
    "fat": normal(-100, 15),
    "muscle with fat": np.where(RNG.random((20, 20, 3)) < 0.02, -90, normal(50, 12)).astype(np.int16),
    "bone with marrow": np.where(RNG.random((20, 20, 3)) < 0.3, normal(-40, 20), normal(600, 250)).astype(np.int16),
    "metal": np.where(RNG.random((20, 20, 3)) < 0.1, 30000, body((20, 20, 3))).astype(np.int16),
}
CROPS = {
    "tumour": normal(60, 10),
    "enhanced liver": normal(110, 12),
    "bone": np.clip(normal(600, 250), 100, 1900),
    "soft tissue and bone": np.where(RNG.random((20, 20, 3)) < 0.5, normal(70, 12), normal(500, 150)).astype(np.int16),
}
BAD = {
    "stored values": stored(),
    "stored with an offset of 1000": stored(1000),
    "stored with one negative": np.where(np.arange(body().size).reshape(body().shape) == 7, -5, stored()),
    **{f"stored with padding {padding}": padded(padding) for padding in (-1, -1000, -1024, -2000, -3024, -32768)},
    "stored tumour": normal(1084, 12),
    "12 bits at the upper end": (stored().astype(int) * 16).clip(0, 32767).astype(np.int16),
    "offset of 8192": (body() + 8192).astype(np.int16),
    "picture": np.rint((np.clip(body(), -160, 240) + 160) * 0.6375).astype(np.int16),
    "ten times as much": (body() * 10).astype(np.int16),
    "twice as much": (body() * 2).astype(np.int16),
    "1000 too low": (body() - 1000).astype(np.int16),
    "ten times as much with padding": np.where(np.arange(24) < 3, -32768, body() * 10).astype(np.int16),
    "mask": (body() > 300).astype(np.int16) * 255,
    "magnetic resonance": np.where(body() > -500, normal(600, 200, body().shape), normal(12, 4, body().shape)),
    "the same with a ringing": np.where(body() > -500, normal(600, 200, body().shape), 0) - 3,
}


@pytest.mark.parametrize("name", GOOD)
def test_values_of_cts_are_taken_as_they_are(name: str) -> None:
    hu, notes = convert(GOOD[name])
    np.testing.assert_array_equal(hu, GOOD[name])
    assert notes == ()


@pytest.mark.parametrize(
    "values",
    [np.clip(body(), -175, 250), body() // 2, body() + 500, np.clip(body(), -160, 240) - 3],
    ids=["cut off", "half as much", "500 too high", "cut off and moved"],
)
def test_air_that_is_brighter_than_air_is_noted(values: np.ndarray) -> None:
    hu, notes = convert(values.astype(np.int16))
    np.testing.assert_array_equal(hu, values)
    assert [note.startswith("Much is darker than fat and nothing as dark as air") for note in notes] == [True]


def test_padding_of_two_values_and_its_edge_are_no_other_scale() -> None:
    values = body((6, 200, 240)).astype(np.int16)
    values[:, :60], values[:, :, :40] = -3024, -2000
    # An interpolation mixes padding with air along the edge.
    values[:, 60:64] = np.linspace(-2900, -1100, 4).astype(np.int16)[:, None]
    hu, notes = convert(values)
    np.testing.assert_array_equal(hu, values)
    assert notes == ()


@pytest.mark.parametrize("name", CROPS)
def test_crops_without_air_and_fat_are_taken_with_a_note(name: str) -> None:
    hu, notes = convert(CROPS[name])
    np.testing.assert_array_equal(hu, CROPS[name])
    assert len(notes) == 1
    assert "Hardly any voxel is air or fat" in notes[0]


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_values_that_are_none_are_rejected_with_the_way_out(name: str, dtype: type) -> None:
    with pytest.raises(ValueError, match=r"Expected Hounsfield units \(air is -1000, water 0\).*--hu_offset NUMBER"):
        convert(BAD[name].astype(dtype))


def test_offset_makes_hounsfield_units() -> None:
    hu, notes = convert(stored(), -1024)
    np.testing.assert_array_equal(hu, np.maximum(body(), -1024))
    assert notes[0].startswith("-1024 was added to all values, as requested")
    hu, _ = convert(stored(), 0)
    np.testing.assert_array_equal(hu, stored())


def test_offset_adds_to_the_scale_of_the_file() -> None:
    hu, _ = convert(stored().astype(np.uint16), 10, slope=1.0, intercept=-1024.0)
    np.testing.assert_array_equal(hu, np.maximum(body(), -1024) + 10)


def test_scale_that_leads_to_infinity_is_rejected() -> None:
    with pytest.raises(ValueError, match="finite voxel values"):
        convert(body().astype(np.float32), slope=3e38)


@pytest.mark.parametrize("hu_offset", [None, 0.0])
def test_values_beyond_16_bits_are_cut_with_a_note(hu_offset: float | None) -> None:
    values = body().astype(np.int32)
    values[0, 0, 0], values[1, 0, 0] = 40000, -50000
    hu, notes = convert(values, hu_offset)
    assert (hu[0, 0, 0], hu[1, 0, 0]) == (32767, -32768)
    assert notes[-1] == "Values from -50000 to 40000 were cut to 16 bits."
