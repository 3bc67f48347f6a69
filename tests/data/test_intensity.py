"""From HU to network values and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scripts.data.intensity import IntensityWindow

HU = np.array([[-3024, -1024, -18, 0, 40], [60, 1049, 1050, 1383, 3071]], dtype=np.int16)


def expected(hu: np.ndarray) -> np.ndarray:
    """The definition, written out in float64."""
    return (255 * np.clip((hu.astype(np.float64) + 1024) / 2074, 0, 1) - 123.675) / 58.395


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_definition_on_arrays_and_tensors(dtype: type) -> None:
    hu = HU.astype(dtype)
    before = hu.copy()
    for values in (IntensityWindow()(hu), IntensityWindow()(torch.from_numpy(hu)).numpy()):
        assert values.dtype == (np.float64 if dtype is np.float64 else np.float32)
        np.testing.assert_allclose(values, expected(HU), atol=1e-6)
    np.testing.assert_array_equal(hu, before)


def test_range_and_padding_value() -> None:
    values = IntensityWindow()(HU)
    assert values.min() == pytest.approx(-2.117904, abs=1e-6)
    assert values.max() == pytest.approx(2.248909, abs=1e-6)
    # Zero, the padding of batches, is about -18 HU.
    assert float(IntensityWindow().inverse(np.zeros(1))[0]) == pytest.approx(-18.1, abs=0.1)


def test_in_place_gives_the_same_values_in_the_same_memory() -> None:
    for hu in (HU.astype(np.float32), torch.from_numpy(HU.astype(np.float32))):
        wanted = IntensityWindow()(hu)
        got = IntensityWindow()(hu, inplace=True)
        np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))
        np.testing.assert_array_equal(np.asarray(hu), np.asarray(wanted))


def test_integers_cannot_be_normalised_in_place() -> None:
    with pytest.raises(ValueError, match="int16"):
        IntensityWindow()(HU, inplace=True)


def test_read_only_and_reversed_arrays_are_accepted() -> None:
    hu = HU.astype(np.float32)
    hu.setflags(write=False)
    np.testing.assert_allclose(IntensityWindow()(hu), expected(HU), atol=1e-6)
    np.testing.assert_allclose(IntensityWindow()(HU[::-1, ::-1]), expected(HU)[::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_inverse_undoes_all_but_the_clipping(convert) -> None:
    window = IntensityWindow()
    hu = convert(HU.astype(np.float64))
    np.testing.assert_allclose(np.asarray(window.inverse(window(hu))), np.clip(HU, -1024, 1050), atol=1e-9)


@pytest.mark.parametrize(
    "arguments", [{"low": 5, "high": 5}, {"low": 6, "high": 5}, {"high": float("nan")}, {"std": 0}, {"std": -1}]
)
def test_invalid_windows_are_rejected(arguments: dict) -> None:
    with pytest.raises(ValueError, match="Expected"):
        IntensityWindow(**arguments)
