"""Tilted gantries: slices are shifted back by exactly what they were shifted, and nothing of them is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scripts.data.scans.scan import measure_skew, shift_back

WHERE = Path("scan.nii")


def sheared(shift: tuple[float, float], spacing: tuple[float, float, float] = (0.7, 0.9, 2.0)) -> np.ndarray:
    """An affine whose slices are shifted by ``shift`` pixels against the one below."""
    affine = np.diag([*spacing, 1.0])
    affine[0, 2], affine[1, 2] = shift[0] * spacing[0], shift[1] * spacing[1]
    return affine


@pytest.mark.parametrize("shift", [(0.0, 0.5), (0.3, -0.4), (-0.6, 0.0)])
def test_shift_is_measured_in_pixels(shift: tuple[float, float]) -> None:
    skew = measure_skew(sheared(shift), WHERE)
    assert skew.shift == pytest.approx(shift)
    assert skew.tilt == pytest.approx(np.degrees(np.arctan(np.hypot(shift[0] * 0.7, shift[1] * 0.9) / 2.0)))
    assert skew.turn == pytest.approx(0.0, abs=1e-6)
    assert len(skew.notes) == 1


def test_straight_stack_has_nothing_to_tell() -> None:
    skew = measure_skew(sheared((0.0, 0.01)), WHERE)
    assert skew.shift == (0.0, 0.0)
    assert skew.notes == ()


def test_slices_sheared_in_their_plane_are_rejected() -> None:
    affine = np.diag([0.7, 0.9, 2.0, 1.0])
    affine[0, 1] = 0.2
    with pytest.raises(ValueError, match=r"rows and columns at right angles, got slices sheared by 12\.5 degrees"):
        measure_skew(affine, WHERE)


def test_shear_beyond_any_gantry_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"got a stack sheared by 42\.0 degrees"):
        measure_skew(sheared((0.0, 2.0)), WHERE)


@pytest.mark.parametrize("shift", [(0, 1), (2, -3), (-1, 0)])
def test_whole_pixels_come_back_unchanged(shift: tuple[int, int]) -> None:
    hu = np.random.default_rng(0).integers(-1000, 1000, (4, 6, 7)).astype(np.int16)
    straight, matrix = shift_back(hu, shift)
    assert straight.shape == (4, 6 + 3 * abs(shift[1]), 7 + 3 * abs(shift[0]))
    assert (straight != -1024).sum() == hu.size
    for z, y, x in np.ndindex(hu.shape):
        new = np.linalg.inv(matrix) @ [x, y, z, 1]
        i, j, k = np.rint(new[:3]).astype(int)
        assert straight[k, j, i] == hu[z, y, x]


def test_fractions_are_interpolated_linearly() -> None:
    # A ramp along y stays a ramp when it is shifted.
    hu = np.repeat(np.arange(20, dtype=np.int16)[None, :, None] * 40, 5, axis=0) * np.ones((1, 1, 3), dtype=np.int16)
    straight, matrix = shift_back(hu, (0.0, 0.3))
    z, y, x = np.meshgrid(range(5), range(3, 18), range(3), indexing="ij")
    old = np.einsum("ij,j...->i...", matrix, np.stack([x, y, z, np.ones_like(x)]))
    np.testing.assert_allclose(straight[z, y, x], old[1] * 40, atol=0.51)


def test_one_slice_has_nothing_to_be_shifted_against() -> None:
    hu = np.zeros((1, 4, 5), dtype=np.int16)
    straight, matrix = shift_back(hu, (0.0, 0.7))
    np.testing.assert_array_equal(straight, hu)
    np.testing.assert_array_equal(np.linalg.inv(matrix) @ [1, 2, 0, 1], [1, 2, 0, 1])
