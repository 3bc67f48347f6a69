"""Tag head: losses by hand and against the definition, what is unknown, drawn pairs, the scores of boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scripts.networks.heads.inclusive_boxes import UnalignedRoIAlign
from scripts.networks.heads.roi_heads import RoIs
from scripts.networks.heads.tag_head import TagHead, mining_loss, tag_loss


def test_the_weighted_loss_is_a_sum_over_the_known_pairs() -> None:
    drawn = np.random.default_rng(5)
    logits, weights = drawn.standard_normal((4, 6)), drawn.uniform(0.5, 300, (4, 6))
    tags = drawn.integers(-1, 2, (4, 6))
    p = 1 / (1 + np.exp(-logits))
    known = tags >= 0
    by_hand = -(weights * (np.log(p) * (tags == 1) + np.log(1 - p) * (tags == 0)))[known].sum() / known.sum()
    found = tag_loss(torch.from_numpy(logits), torch.from_numpy(tags), torch.from_numpy(weights))
    assert found.item() == pytest.approx(by_hand, rel=1e-12)
    plain = tag_loss(torch.from_numpy(logits), torch.from_numpy(tags))
    assert plain.item() == pytest.approx(-np.log(np.where(tags == 1, p, 1 - p))[known].mean(), rel=1e-12)


def test_pairs_of_no_weight_do_not_count() -> None:
    tags, weights = torch.tensor([[1, 0]]), torch.tensor([[2.0, 0.0]])
    assert tag_loss(torch.zeros(1, 2), tags, weights).item() == pytest.approx(2 * np.log(2))


@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_known_is_no_loss(rows: int) -> None:
    logits = torch.randn(rows, 5, requires_grad=True)
    tags = torch.full((rows, 5), -1)
    total = tag_loss(logits, tags) + mining_loss(logits, tags, torch.ones(rows, 5, dtype=torch.bool))
    total.backward()
    assert total == 0
    assert logits.grad is not None


def test_drawn_pairs_follow_the_square_of_the_error_and_leave_out_what_is_not_sure() -> None:
    torch.manual_seed(0)
    # Scores 0.8 and 0.2 of a tag that is there, 0.9 of one that cannot be, 0.99 of one that may be, and unknown ones.
    p = torch.tensor([[0.8, 0.2, 0.9, 0.99], [0.99, 0.99, 0.99, 0.99]])
    tags = torch.tensor([[1, 1, 0, 0], [-1, -1, -1, -1]])
    sure = torch.tensor([[False, False, True, False], [True, True, True, True]])
    chances = np.array([0.2**2, 0.8**2, 0.9**2])
    wanted = (chances / chances.sum() * -np.log([0.8, 0.2, 0.1])).sum()
    found = mining_loss(torch.logit(p), tags, sure, pairs=200_000)
    assert found.item() == pytest.approx(wanted, rel=0.01)


def test_every_box_gets_a_logit_of_each_tag() -> None:
    head = TagHead(8, UnalignedRoIAlign([4]), tags=5, width=6)
    boxes = [torch.tensor([[4.0, 4.0, 20.0, 30.0], [0.0, 0.0, 1.0, 1.0]]), torch.zeros(0, 4)]
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(RoIs(torch.zeros(2, 1), boxes, [torch.randn(2, 8, 16, 16)]))
    assert (logits.shape, logits.dtype) == ((2, 5), torch.float32)
    with pytest.raises(ValueError, match="at least one tag, got 0"):
        TagHead(8, UnalignedRoIAlign([4]), tags=0)
