"""Mask head: loss against the authors' value, targets over proposals, the field of detections."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.networks.heads.inclusive_boxes import InclusiveRoIAlign
from scripts.networks.heads.mask_head import Grids, MaskHead, dice_loss
from scripts.networks.heads.roi_heads import RoIs


def test_dice_equals_the_authors(shared: Path) -> None:
    wanted = json.loads((shared / "reference/golden_field/mulan_extra.json").read_text())["dice"]["loss"]
    logits = torch.from_numpy(np.random.default_rng(91).standard_normal((5, 28, 28)))
    target = torch.from_numpy(np.random.default_rng(92).standard_normal((5, 28, 28)) > 0.3)
    assert dice_loss(logits, target).item() == pytest.approx(wanted, rel=1e-12)


def head() -> MaskHead:
    return MaskHead(8, InclusiveRoIAlign([4], output_size=14), width=6)


def test_every_box_gets_a_grid_of_probabilities() -> None:
    boxes = [torch.tensor([[4.0, 4.0, 20.0, 30.0], [0.0, 0.0, 1.0, 1.0]]), torch.zeros(0, 4)]
    network = head()
    grids = network.predict(network(RoIs(torch.zeros(2, 1), boxes, [torch.randn(2, 8, 16, 16)])))
    assert grids.shape == (2, 28, 28)
    assert ((grids > 0) & (grids < 1)).all()


@pytest.mark.parametrize("side", [28, 56])
def test_targets_are_read_over_the_proposal(side: int) -> None:
    mask = torch.zeros(1, side, side, dtype=torch.bool)
    mask[:, :, : side // 2] = True  # the left half of the lesion
    lesions = {"boxes": torch.tensor([[0.0, 0.0, 28.0, 28.0]]), "masks": mask}
    left = torch.tensor([[0.0, 0.0, 14.0, 28.0]])
    sure = torch.full((1, 2, 28, 28), 20.0)
    inside = head().loss(Grids(sure, left), lesions)
    outside = head().loss(Grids(sure, left + torch.tensor([14.0, 0.0, 14.0, 0.0])), lesions)
    assert inside < 0.06
    assert outside > 0.9


def test_without_lesions_the_loss_is_zero_with_gradient() -> None:
    network = head()
    outputs = network(RoIs(torch.zeros(0, 1), [torch.zeros(0, 4)], [torch.randn(1, 8, 16, 16)]))
    loss = network.loss(outputs, {"boxes": torch.zeros(0, 4), "masks": torch.zeros(0, 9, 9, dtype=torch.bool)})
    loss.backward()
    assert loss == 0
    assert all(each.grad is not None for each in network.parameters())
