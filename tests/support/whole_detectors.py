"""Checks that hold for every published detector: the authors' tensors fit, it learns, and finds in half precision."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scripts.networks.published.authors_names import Rules, renamed


def check_checkpoint(make: Callable[[], nn.Module], entry: Mapping[str, Any], rules: Rules) -> None:
    """Every tensor of a file of the authors has its place, and the network has no further parameter."""
    with torch.device("meta"):
        network = make()
        theirs = {
            name: torch.empty(shape) for name, shape in entry["keys"] if name not in entry.get("no_weight_keys", ())
        }
    ours = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert ours == {name: tuple(tensor.shape) for name, tensor in renamed(theirs, rules).items()}
    assert sum(each.numel() for each in network.parameters()) == entry["n_params"]


def keys_of(shared: Path, name: str) -> Any:
    """What is known of the checkpoints of a system."""
    return json.loads((shared / f"reference/golden_field/checkpoint_keys_{name}.json").read_text())


def target(boxes: list[list[float]], **fields: Tensor) -> dict[str, Tensor]:
    """Instances of one slab; masks cover the whole boxes."""
    count = len(boxes)
    return {
        "boxes": torch.tensor(boxes).reshape(count, 4),
        "labels": torch.ones(count, dtype=torch.int64),
        "masks": torch.ones(count, 20, 20, dtype=torch.bool),
        **fields,
    }


def check_both_ways(network: nn.Module, slices: int, targets: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Losses with a gradient for every parameter that learns; the detections of two slabs in half precision."""
    torch.manual_seed(0)
    losses = network.train()(torch.randn(2, slices, 64, 96), targets)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(each.isfinite() for each in losses.values())
    assert all(each.grad is not None for each in network.parameters() if each.requires_grad)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = network.eval()(torch.randn(2, slices, 64, 96))
    assert len(found) == 2
    for one in found:
        assert ((one["boxes"] >= 0) & (one["boxes"] <= torch.tensor([95.0, 63.0] * 2))).all()
        assert (one["scores"].diff() <= 0).all()
    return found
