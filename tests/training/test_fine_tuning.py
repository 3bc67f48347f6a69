"""A body that keeps its first stages and learns more slowly, whatever the schedule and the optimiser."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from scripts.training.fine_tuning import prepare_body


class Body(nn.Module):
    """A stem and two stages of a layer each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stages = nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])


class Detector(nn.Module):
    """A body and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone: Any = nn.Module()
        self.backbone.body, self.head = Body(), nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        body = self.backbone.body
        for layer in (body.stem, *body.stages):
            x = layer(x).sin()
        return self.head(x)


def step(network: Detector, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """How far each tensor moves in a step."""
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    optimizer.zero_grad()
    network(torch.tensor([[0.3, -0.2], [0.9, 0.4]])).sum().backward()
    optimizer.step()
    return {name: (value.detach() - before[name]) for name, value in network.named_parameters()}


def test_the_defaults_touch_nothing() -> None:
    network = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    prepare_body(network, optimizer)
    assert len(optimizer.param_groups) == 1
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize("schedule", ["none", "lambda", "one cycle"])
def test_the_body_learns_at_a_share_of_the_rate(schedule: str) -> None:
    plain, slow = Detector(), Detector()
    moves = []
    for network, factor in ((plain, 1.0), (slow, 0.25)):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        prepare_body(network, optimizer, body_rate=factor)
        if schedule == "lambda":
            LambdaLR(optimizer, lambda _: 0.5)
        elif schedule == "one cycle":
            OneCycleLR(optimizer, max_lr=0.4, total_steps=8, cycle_momentum=False)
        rates = [group["lr"] for group in optimizer.param_groups]
        moves.append(step(network, optimizer))
        # The rate that the schedule has set is there again after the step.
        assert [group["lr"] for group in optimizer.param_groups] == rates == rates[:1] * len(rates)
    for name, whole in moves[0].items():
        torch.testing.assert_close(moves[1][name], whole * (0.25 if "body" in name else 1.0))
        assert whole.any()


def test_groups_keep_what_they_are() -> None:
    network = Detector()
    weights, biases = ([p for n, p in network.named_parameters() if n.endswith(end)] for end in ("weight", "bias"))
    optimizer = torch.optim.AdamW([{"params": weights, "weight_decay": 0.5}, {"params": biases, "lr": 0.2}], lr=0.1)
    prepare_body(network, optimizer, body_rate=0.1)
    found = [(len(g["params"]), g["lr"], g["weight_decay"], g.get("rate_factor")) for g in optimizer.param_groups]
    assert found == [(1, 0.1, 0.5, None), (1, 0.2, 0.01, None), (3, 0.1, 0.5, 0.1), (3, 0.2, 0.01, 0.1)]


@pytest.mark.parametrize(("count", "learning"), [(1, {"stages.0": False, "stages.1": True}), (2, {"stages.1": False})])
def test_frozen_stages_and_the_stem_stay(count: int, learning: dict[str, bool]) -> None:
    network = Detector()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.5)
    prepare_body(network, optimizer, frozen_stages=count)
    moved = step(network, optimizer)
    for name, learns in {"stem": False, **learning}.items():
        assert bool(moved[f"backbone.body.{name}.weight"].any()) == learns
    assert moved["head.weight"].any()


def test_frozen_stages_keep_the_statistics_of_their_batch_normalisation() -> None:
    network = Detector()
    body = network.backbone.body
    body.stem, body.stages = nn.BatchNorm1d(2), nn.ModuleList([nn.BatchNorm1d(2), nn.BatchNorm1d(2)])
    prepare_body(network, torch.optim.SGD(network.parameters(), lr=0.1), frozen_stages=1)
    values = torch.tensor([[3.0, -2.0], [9.0, 4.0]])
    # A step puts the whole network into training mode.
    network.train()(values)
    for layer, learns in ((body.stem, False), (body.stages[0], False), (body.stages[1], True)):
        assert bool(layer.running_mean.any()) == bool(layer.num_batches_tracked) == learns
    torch.testing.assert_close(body.stem(values), values, rtol=1e-4, atol=0)


def test_stages_that_are_not_there() -> None:
    network = Detector()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="frozen_stages from 0 to 2 for a body of 2 stages, got 3"):
        prepare_body(network, optimizer, frozen_stages=3)
    network.backbone.body = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="a body with stages to freeze 1, got a Linear"):
        prepare_body(network, optimizer, frozen_stages=1)
