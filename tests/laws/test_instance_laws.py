"""Laws of instances with open fields: rows stay aligned, and fields that no rule knows pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from scripts import instances as ins
from scripts.boxes import Affine, swap_axes
from support.drawn_values import open_instances

KINDS = st.sampled_from([np.asarray, torch.as_tensor])
UNKNOWN = ("labels", "noisy", "row", "malignancy")


def made(make: Callable, given_instances: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: make(values) for name, values in given_instances.items()}


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert found[name].dtype == values.dtype, name
        assert type(found[name]) is type(values), name
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(values), err_msg=name)


@given(open_instances(), KINDS, st.data())
def test_selected_rows_stay_together(
    given_instances: dict[str, np.ndarray], make: Callable, data: st.DataObject
) -> None:
    whole, count = made(make, given_instances), len(given_instances["boxes"])
    order = data.draw(st.permutations(range(count)))
    rows = np.array(order[: data.draw(st.integers(0, count))], dtype=np.int64)
    found = ins.select(whole, make(rows))
    assert ins.num_instances(found) == len(rows)
    for name, values in given_instances.items():
        np.testing.assert_array_equal(np.asarray(found[name]), values[rows], err_msg=name)
    mask = np.isin(np.arange(count), rows)
    same(ins.select(whole, make(mask)), ins.select(whole, make(np.sort(rows))))


@given(open_instances(), KINDS, st.data())
def test_parts_join_to_the_whole(given_instances: dict[str, np.ndarray], make: Callable, data: st.DataObject) -> None:
    whole, count = made(make, given_instances), len(given_instances["boxes"])
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=3)))
    edges = [0, *cuts, count]
    parts = [ins.select(whole, slice(low, high)) for low, high in itertools.pairwise(edges)]
    same(ins.cat(parts), whole)


@given(open_instances(), KINDS, st.sampled_from([-2.0, -1.0, 0.5, 3.0]), st.integers(1, 60))
def test_what_no_rule_knows_passes(
    given_instances: dict[str, np.ndarray], make: Callable, factor: float, side: int
) -> None:
    whole = made(make, given_instances)
    changed = [
        ins.move(whole, Affine(factor, 1.0, 5.0, 0.0)),
        ins.clip(whole, side, side + 3),
        ins.map_boxes(whole, swap_axes),
    ]
    for found in changed:
        assert found.keys() == whole.keys()
        assert ins.num_instances(found) == ins.num_instances(whole)
        same({name: found[name] for name in UNKNOWN}, {name: whole[name] for name in UNKNOWN})
        ins.check_rows(found, len(whole["boxes"]), "a law")
    same(whole, made(make, given_instances))


@given(open_instances(), KINDS, st.data())
def test_selecting_and_moving_may_change_places(
    given_instances: dict[str, np.ndarray], make: Callable, data: st.DataObject
) -> None:
    whole, count = made(make, given_instances), len(given_instances["boxes"])
    rows = np.array(data.draw(st.permutations(range(count)))[: count // 2], dtype=np.int64)
    by = Affine(-1.0, 2.0, 60.0, 3.0)
    same(ins.select(ins.move(whole, by), make(rows)), ins.move(ins.select(whole, make(rows)), by))
    one, other = ins.select(ins.clip(whole, 40, 50), make(rows)), ins.clip(ins.select(whole, make(rows)), 40, 50)
    for name in whole:
        np.testing.assert_allclose(np.asarray(one[name]), np.asarray(other[name]), atol=1e-6, err_msg=name)


@given(open_instances(), KINDS)
def test_tensors_and_arrays_lead_to_each_other(given_instances: dict[str, np.ndarray], make: Callable) -> None:
    tensors = ins.to(made(make, given_instances))
    assert all(type(values) is torch.Tensor for values in tensors.values())
    back = ins.to_arrays(tensors)
    assert back.keys() == given_instances.keys()
    for name, values in given_instances.items():
        np.testing.assert_array_equal(back[name], values, err_msg=name)
        if values.dtype.kind == "f":
            assert back[name].dtype == np.float64
