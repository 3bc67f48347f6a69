"""Laws of the box coders: decoding undoes encoding, and sizes stay bounded."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from scripts.networks.heads.box_rules import HALF_OPEN, MMDETECTION, BoxCoder, BoxRules, InclusiveBoxCoder, half_open
from support.drawn_values import boxes

DEVIATION = st.sampled_from([0.1, 0.2, 1.0])
CODERS = st.one_of(
    st.builds(BoxCoder, st.tuples(DEVIATION, DEVIATION, DEVIATION, DEVIATION), st.just(1e4)),
    st.builds(
        InclusiveBoxCoder, st.tuples(DEVIATION, DEVIATION, DEVIATION, DEVIATION), st.just(1e4), both_ways=st.booleans()
    ),
)


@given(CODERS, boxes(least=1), boxes(least=1))
def test_decoding_undoes_encoding(coder: BoxCoder, given_boxes: np.ndarray, references: np.ndarray) -> None:
    count = min(len(given_boxes), len(references))
    wanted, known = torch.from_numpy(given_boxes[:count]), torch.from_numpy(references[:count])
    torch.testing.assert_close(coder.decode(coder.encode(wanted, known), known), wanted, rtol=0, atol=1e-8)
    # Several classes share a reference: a box for each, the same here.
    several = coder.encode(wanted, known)[:, None].expand(-1, 3, -1)
    torch.testing.assert_close(coder.decode(several, known), wanted[:, None].expand(-1, 3, -1), rtol=0, atol=1e-8)


@given(CODERS, boxes(least=1))
def test_no_offset_is_the_reference(coder: BoxCoder, references: np.ndarray) -> None:
    known = torch.from_numpy(references)
    torch.testing.assert_close(coder.decode(torch.zeros_like(known), known), known)
    torch.testing.assert_close(coder.encode(known, known), torch.zeros_like(known))


@given(CODERS, boxes(least=1), boxes(least=1), st.integers(-50, 50))
def test_offsets_do_not_change_when_both_are_shifted(
    coder: BoxCoder, given_boxes: np.ndarray, references: np.ndarray, shift: int
) -> None:
    count = min(len(given_boxes), len(references))
    wanted, known = torch.from_numpy(given_boxes[:count]), torch.from_numpy(references[:count])
    torch.testing.assert_close(coder.encode(wanted + shift, known + shift), coder.encode(wanted, known))


@given(st.booleans(), boxes(least=1), st.floats(-1e3, 1e3))
def test_decoded_sizes_stay_within_the_bound(both_ways: bool, references: np.ndarray, offset: float) -> None:
    ratio = 62.5
    known = torch.from_numpy(references)
    offsets = torch.full_like(known, 0.0)
    offsets[:, 2:] = offset
    sizes = known[:, 2:] - known[:, :2]
    found = BoxCoder((1, 1, 1, 1), ratio).decode(offsets, known)
    factor = min(max(math.exp(min(offset, 10.0)), 1 / ratio), ratio)
    torch.testing.assert_close(found[:, 2:] - found[:, :2], sizes * factor)
    grown = InclusiveBoxCoder((1, 1, 1, 1), ratio, both_ways=both_ways).decode(offsets, known)
    least = 1 / ratio if both_ways else 0.0
    factor = min(max(math.exp(min(offset, 10.0)), least), ratio)
    torch.testing.assert_close(half_open(grown)[:, 2:] - half_open(grown)[:, :2], (sizes + 1) * factor)


@given(st.sampled_from([HALF_OPEN, MMDETECTION]), boxes(), boxes(), st.integers(1, 90), st.integers(1, 90))
def test_overlap_and_clipping_of_either_rule(
    rules: BoxRules, first: np.ndarray, second: np.ndarray, height: int, width: int
) -> None:
    one, two = torch.from_numpy(first), torch.from_numpy(second)
    found = rules.iou(one, two)
    assert ((found >= 0) & (found <= 1)).all()
    torch.testing.assert_close(found, rules.iou(two, one).T)
    clipped = rules.clip(one, height, width)
    torch.testing.assert_close(rules.clip(clipped, height, width), clipped, rtol=0, atol=0)
    assert (clipped >= 0).all()
    assert (clipped <= torch.tensor([width, height] * 2) - int(rules.inclusive)).all()
