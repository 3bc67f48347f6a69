"""Groups of parameters by their names."""

from __future__ import annotations

import pytest
from torch import nn

from scripts.training.parameter_groups import by_name


def network() -> nn.Module:
    made = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    made[0].weight.requires_grad = False
    return made


def test_every_parameter_that_learns_is_in_one_group() -> None:
    made = network()
    groups = by_name(made, rate=0.1, rates={"bias": 2.0, "2.bias": 5.0, "1.weight": 0.5}, weight_decay=1e-4)
    of = {id(each): (group["lr"], group["weight_decay"]) for group in groups for each in group["params"]}
    found = {name: of.get(id(each)) for name, each in made.named_parameters()}
    assert found == {
        "0.weight": None,
        "0.bias": (0.2, 0.0),
        "1.weight": (0.05, 1e-4),
        "1.bias": (0.2, 0.0),
        "2.weight": (0.1, 1e-4),
        "2.bias": (0.5, 0.0),
    }
    assert sum(len(group["params"]) for group in groups) == 5


def test_a_name_that_fits_nothing_is_named() -> None:
    with pytest.raises(ValueError, match=r"end with, got head\.bias, ias"):
        by_name(network(), rate=0.1, rates={"bias": 2.0, "ias": 1.0, "head.bias": 3.0}, weight_decay=0.0)
