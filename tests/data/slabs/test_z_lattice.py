"""The lattices: the source of each position of a slab."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.data.slabs.z_lattice import LATTICES, Blend, Lattice, corrected_lattice, native_lattice, released_lattice

EVERYWHERE = range(-1000, 1001)
EXACT_INTERVALS = [5.0, 2.5, 1.25, 1.0, 0.5, 0.25]


def places(blends: list[Blend]) -> np.ndarray:
    """Position of each blend in z (in slices from the key slice)."""
    return np.array([(1 - blend.weight) * blend.near + blend.weight * blend.far for blend in blends])


@pytest.mark.parametrize("interval", [5.0, 4.0, 3.75, 3.0, 2.5, 2.0, 1.5, 1.25, 1.0, 0.6, 0.59998, 0.5, 0.4, 0.3, 0.25])
@pytest.mark.parametrize("reach", [0, 1, 4, 5])
def test_corrected_positions_are_even(interval: float, reach: int) -> None:
    blends = corrected_lattice(2.5 / interval, reach, EVERYWHERE)
    assert len(blends) == 2 * reach + 1
    np.testing.assert_allclose(places(blends) * interval, 2.5 * np.arange(-reach, reach + 1), atol=1e-8)


@pytest.mark.parametrize("lattice", LATTICES.values())
@pytest.mark.parametrize("interval", [5.0, 2.0, 1.0, 0.6, 0.3])
def test_lattice_is_symmetric_and_centred_on_the_key_slice(lattice: Lattice, interval: float) -> None:
    blends = lattice(2.5 / interval, 4, EVERYWHERE, None)
    assert blends[4] == Blend(0, 0, 0.0)
    for before, after in zip(blends[:4][::-1], blends[5:], strict=True):
        assert (before.near, before.far, before.weight) == (-after.near, -after.far, after.weight)


@pytest.mark.parametrize("interval", EXACT_INTERVALS)
def test_corrected_equals_released_where_the_first_weights_hold_everywhere(interval: float) -> None:
    corrected = corrected_lattice(2.5 / interval, 4, EVERYWHERE)
    released = released_lattice(2.5 / interval, 4, EVERYWHERE)
    np.testing.assert_array_equal(places(corrected), places(released))


@pytest.mark.parametrize(
    ("interval", "positions_mm"),
    [
        (2.0, [2.5, 4.5, 6.5, 10.0]),
        (4.0, [2.5, 6.5, 6.5, 10.5]),
        (3.0, [2.5, 5.5, 8.5, 11.5]),
        (0.6, [2.5, 4.9, 7.3, 9.7]),
    ],
)
def test_released_positions_at_other_intervals(interval: float, positions_mm: list[float]) -> None:
    after = places(released_lattice(2.5 / interval, 4, EVERYWHERE))[5:]
    np.testing.assert_allclose(after * interval, positions_mm, atol=1e-9)


def test_no_slice_is_read_for_a_weight_of_rounding_error() -> None:
    # 2.5 / 0.3 * 3 is a little more than 25 in floating point.
    third = corrected_lattice(2.5 / 0.3, 3, EVERYWHERE)[-1]
    assert third == Blend(25, 25, 0.0)


@pytest.mark.parametrize("lattice", LATTICES.values())
def test_one_slice_series_repeats_it(lattice: Lattice) -> None:
    blends = lattice(2.5, 4, {0}, (0, 0))
    assert {(blend.near, blend.far) for blend in blends} == {(0, 0)}
    assert len(blends) == 9


def test_ends_of_a_series_repeat_its_last_slice() -> None:
    first = corrected_lattice(0.5, 4, range(0, 20))
    np.testing.assert_array_equal(places(first), [0, 0, 0, 0, 0, 0.5, 1, 1.5, 2])
    last = corrected_lattice(2.5, 4, range(-20, 3))
    np.testing.assert_array_equal(places(last), [-10, -7.5, -5, -2.5, 0, 2, 2, 2, 2])


def test_corrected_stops_at_a_hole_and_released_uses_what_lies_behind() -> None:
    stored = {-2, 0, 1, 2}
    np.testing.assert_array_equal(places(corrected_lattice(0.5, 4, stored)), [0, 0, 0, 0, 0, 0.5, 1, 1.5, 2])
    np.testing.assert_array_equal(places(released_lattice(0.5, 4, stored)), [-2, -1, 0, 0, 0, 0.5, 1, 1.5, 2])


def test_corrected_stays_in_its_sub_volume() -> None:
    # The folder continues with another sub-volume, whose interval may differ.
    inside = corrected_lattice(1.0, 4, EVERYWHERE, (-1, 2))
    np.testing.assert_array_equal(places(inside), [-1, -1, -1, -1, 0, 1, 2, 2, 2])


def test_needed_slices_at_the_common_intervals() -> None:
    for interval, count in [(1.0, 13), (2.5, 9), (5.0, 5)]:
        blends = corrected_lattice(2.5 / interval, 4, EVERYWHERE)
        assert len({offset for blend in blends for offset in (blend.near, blend.far)}) == count


@pytest.mark.parametrize(("interval", "step"), [(5.0, 5.0), (2.5, 2.5), (2.0, 2.0), (1.0, 2.0), (0.5, 2.0)])
def test_native_slabs_are_of_stored_slices_unless_they_lie_too_close(interval: float, step: float) -> None:
    blends = native_lattice(2.0 / interval, 3, EVERYWHERE)
    assert all(blend.weight == 0 for blend in blends)
    np.testing.assert_allclose(places(blends) * interval, step * np.arange(-3, 4))


def test_native_slabs_repeat_the_last_stored_slice() -> None:
    assert [blend.far for blend in native_lattice(0.4, 3, range(-1, 3))] == [-1, -1, -1, 0, 1, 2, 2]
