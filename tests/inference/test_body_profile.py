"""What is measured of a slice: lungs and not foam or gas, long bones and not vertebrae, pieces and not the table."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.inference.body_profile import SliceFacts, measure_slice, sampled
from support.fake_anatomy import HEIGHTS, person

SPACING = (2.0, 2.0, 10.0)


def slice_at(height: float) -> np.ndarray:
    return person(SPACING, height, height + 1)[0]


def facts_at(height: float) -> SliceFacts:
    return measure_slice(slice_at(height), SPACING[:2])


def test_chest_has_lungs_and_three_pieces() -> None:
    facts = facts_at(HEIGHTS["chest"])
    # Two ellipses of 70 x 88 mm in a trunk of 185 x 115 mm, arms of 38 mm.
    assert facts.lung_share == pytest.approx(2 * 70 * 88 / (185 * 115), abs=0.03)
    assert sorted(facts.areas)[:3] == pytest.approx([0, 45, 45], abs=2)
    assert facts.extent[1] * 2 == pytest.approx(370, abs=6)
    assert (facts.skull, facts.cut) == (False, 0)


def test_arms_and_legs_have_shafts_and_the_trunk_has_none() -> None:
    trunk, legs = facts_at(HEIGHTS["abdomen"]), facts_at(HEIGHTS["limbs"])
    assert [bone.shaft for bone in trunk.bones_of(trunk.trunk)] == [False]
    arms = [piece for piece in range(1, len(trunk.areas)) if piece != trunk.trunk]
    assert [[bone.shaft for bone in trunk.bones_of(piece)] for piece in arms] == [[True], [True]]
    assert [bone.shaft for bone in legs.bones] == [True, True]
    assert legs.bones[0].area == pytest.approx(np.pi * 1.4**2, rel=0.1)
    assert legs.bones[0].radius == pytest.approx(14, abs=2)


@pytest.mark.parametrize("inside", [300, 1100])
def test_a_ring_full_of_bone_is_no_shaft(inside: int) -> None:
    hu = slice_at(HEIGHTS["limbs"])
    hu[hu == -60] = inside
    assert not any(bone.shaft for bone in measure_slice(hu, SPACING[:2]).bones)


def test_contrast_is_denser_inside_and_bone_at_its_rim() -> None:
    hu = slice_at(HEIGHTS["pelvis"])
    hips = [bone for bone in measure_slice(hu, SPACING[:2]).bones if bone.area > 15]
    assert [bone.spongy for bone in hips] == [True, True]
    hu[(hu == 350) | (hu == 1100)] = 300
    y, x = np.mgrid[: hu.shape[0], : hu.shape[1]]
    for side in (-1, 1):
        hu[np.hypot(x - 140 - side * 45, y - 75) < 9] = 700
    bowels = [bone for bone in measure_slice(hu, SPACING[:2]).bones if bone.area > 15]
    assert [bone.spongy for bone in bowels] == [False, False]


def test_a_skull_needs_a_brain() -> None:
    hu = slice_at(HEIGHTS["head and neck"])
    assert measure_slice(hu, SPACING[:2]).skull
    assert not measure_slice(np.where(hu == 35, -1000, hu), SPACING[:2]).skull


def test_the_neck_has_an_airway() -> None:
    assert facts_at(1540).airway
    assert not facts_at(HEIGHTS["pelvis"]).airway


def test_gas_foam_and_lungs_at_the_edge_of_the_picture_are_no_lungs() -> None:
    hu = slice_at(HEIGHTS["chest"])
    inside = (hu < -600) & (hu > -1000)
    assert measure_slice(hu, SPACING[:2]).lung.any()
    gas, foam = hu.copy(), hu.copy()
    gas[inside] = -995
    foam[inside] = -880
    for other in (gas, foam, hu[:, 120:]):
        assert not measure_slice(other, SPACING[:2]).lung[:, :15].any()
    assert not measure_slice(gas, SPACING[:2]).lung.any()
    assert not measure_slice(foam, SPACING[:2]).lung.any()


def test_a_table_is_no_piece_of_the_body_and_padding_no_edge_of_it() -> None:
    hu = slice_at(HEIGHTS["abdomen"])
    table = hu.copy()
    table[-6:-3, 20:-20] = 200
    np.testing.assert_array_equal(measure_slice(table, SPACING[:2]).pieces, measure_slice(hu, SPACING[:2]).pieces)
    padded = np.pad(hu, 20, constant_values=-3024)
    assert measure_slice(padded, SPACING[:2]).cut == 0
    assert measure_slice(np.pad(hu[50:100], 20, constant_values=-3024), SPACING[:2]).cut > 0.3


def test_an_empty_slice_has_nothing() -> None:
    facts = measure_slice(np.full((40, 50), -1000, np.int16), SPACING[:2])
    assert (facts.trunk, facts.bones, facts.lung.any(), facts.piece_at(10, 10)) == (0, (), False, 0)


@pytest.mark.parametrize(("depth", "step"), [(1, 5.0), (3, 1.0), (7, 2.5), (100, 0.6), (40, 8.0)])
def test_slices_are_sampled_evenly(depth: int, step: float) -> None:
    found = sampled(depth, step)
    assert found[0] >= 0
    assert found[-1] < depth
    assert (np.diff(found) > 0).all()
    assert len(found) == pytest.approx(min(depth, depth * step / 5), abs=1)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("step", [0.1, 1.0, 2.5, 12.0])
def test_a_few_thin_slices_are_sampled_too(depth: int, step: float) -> None:
    assert len(sampled(depth, step)) >= 1
    assert set(sampled(depth, step).tolist()) <= set(range(depth))
