"""Laws of the lattices: what a slab is made of, whatever the slice interval and the slices that are stored."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scripts.data.slabs.slab_reader import resample_z
from scripts.data.slabs.z_lattice import LATTICES, Blend, Lattice, corrected_lattice

LATTICE = st.sampled_from(sorted(LATTICES)).map(LATTICES.__getitem__)
RATIO = st.one_of(st.sampled_from([0.5, 1.0, 1.25, 2.0, 2.5, 5.0, 2.5 / 0.3, 10.0]), st.floats(0.05, 12))
REACH = st.integers(0, 6)
STORED = st.sets(st.integers(-70, 70), max_size=70)
LIMITS = st.one_of(st.none(), st.tuples(st.integers(-40, 0), st.integers(0, 40)))


def mirrored(blends: list[Blend]) -> list[Blend]:
    return [Blend(-blend.near, -blend.far, blend.weight) for blend in reversed(blends)]


def positions(blends: list[Blend]) -> np.ndarray:
    """Position of each entry in slices from the key slice, which is also the blend of slices with these values."""
    return np.array([(1 - blend.weight) * blend.near + blend.weight * blend.far for blend in blends])


@given(LATTICE, RATIO, REACH, STORED, LIMITS)
def test_a_slab_is_made_of_stored_slices_in_shares_that_sum_to_one(
    lattice: Lattice, ratio: float, reach: int, stored: set[int], limits: tuple[int, int] | None
) -> None:
    blends = lattice(ratio, reach, stored, limits)
    assert len(blends) == 2 * reach + 1
    assert blends[reach] == Blend(0, 0, 0.0)
    for blend in blends:
        assert {blend.near, blend.far} <= {*stored, 0}
        # The other share is one minus this.
        assert 0 <= blend.weight < 1
        assert abs(blend.near) <= abs(blend.far)
    assert (np.diff(positions(blends)) >= -1e-9).all()


@given(LATTICE, RATIO, REACH, STORED, LIMITS)
def test_a_mirrored_series_gives_the_mirrored_slab(
    lattice: Lattice, ratio: float, reach: int, stored: set[int], limits: tuple[int, int] | None
) -> None:
    other = None if limits is None else (-limits[1], -limits[0])
    turned = lattice(ratio, reach, {-offset for offset in stored}, other)
    assert turned == mirrored(lattice(ratio, reach, stored, limits))


@given(RATIO, REACH)
def test_positions_are_even_where_all_slices_are_stored(ratio: float, reach: int) -> None:
    found = positions(corrected_lattice(ratio, reach, range(-80, 81)))
    np.testing.assert_allclose(found, ratio * np.arange(-reach, reach + 1), atol=1e-8)


@given(LATTICE, st.integers(1, 8), REACH)
def test_positions_on_stored_slices_are_those_slices(lattice: Lattice, ratio: int, reach: int) -> None:
    expected = [Blend(ratio * step, ratio * step, 0.0) for step in range(-reach, reach + 1)]
    assert lattice(float(ratio), reach, range(-60, 61), None) == expected


@given(RATIO, REACH, STORED, LIMITS)
def test_corrected_slabs_stay_before_the_first_gap(
    ratio: float, reach: int, stored: set[int], limits: tuple[int, int] | None
) -> None:
    low, high = limits or (-80, 80)
    reached = {0}
    for sign in (-1, 1):
        step = sign
        while step in stored and low <= step <= high:
            reached.add(step)
            step += sign
    used = {offset for blend in corrected_lattice(ratio, reach, stored, limits) for offset in (blend.near, blend.far)}
    assert used <= reached


@given(st.lists(st.floats(0.1, 9), min_size=1, max_size=12), st.lists(st.floats(-20, 120), max_size=12), st.booleans())
def test_resampling_reproduces_what_is_linear_along_z(gaps: list[float], targets: list[float], falling: bool) -> None:
    heights = np.cumsum(gaps)
    heights = heights[::-1] if falling else heights
    volume = np.broadcast_to((3 * heights - 7)[:, None, None], (len(heights), 2, 3)).astype(np.float32)
    found = resample_z(volume, heights, np.array(targets))
    expected = 3 * np.clip(targets, heights.min(), heights.max()) - 7
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None, None], found.shape), atol=1e-3)
