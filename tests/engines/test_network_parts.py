"""Which parts engines run, what they are given, and that replaced parts give way in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scripts.engines.network_parts import ConvertedPart, detach, part_examples
from support.engine_networks import found, gaps, make, slabs


@pytest.mark.parametrize("name", ["mp3d_fpn", "mp3d_retinanet", "fpn_3dce"])
def test_the_flat_parts_give_the_outputs_of_the_parts(name: str) -> None:
    network = make(name)
    examples = part_examples(network)
    assert [example.name for example in examples] == list(network.engine_parts)  # type: ignore[arg-type]
    for example in examples:
        with torch.no_grad():
            results = example.flat()(*example.inputs)
        assert all(torch.equal(one, other) for one, other in zip(results, example.outputs, strict=True))


def test_what_varies_is_the_batch_and_the_sides_of_maps() -> None:
    examples = {example.name: example for example in part_examples(make("mp3d_fpn"))}
    assert examples["backbone"].varying == (frozenset({0, 2, 3}),)
    assert examples["rpn.head"].varying == (frozenset({0, 2, 3}),) * 5
    assert examples["roi_heads.box_head"].varying == (frozenset({0}),)


def test_a_network_without_parts_is_named() -> None:
    with pytest.raises(ValueError, match="got a Linear"):
        part_examples(nn.Linear(2, 2))


def test_the_network_is_left_as_it_was() -> None:
    network = make("mp3d_fpn").train()
    part_examples(network)
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())


class Counted:
    """Runs a part in PyTorch and counts the calls."""

    def __init__(self, example: Any) -> None:
        self.flat = example.flat()
        self.calls = 0

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        self.calls += 1
        with torch.no_grad():
            own = self.flat.part.__dict__.pop("forward")
            results = list(self.flat(*tensors))
            self.flat.part.forward = own
        return results


def test_a_replaced_part_runs_in_evaluation_only() -> None:
    network = make("mp3d_fpn")
    images = slabs(network, 2, 64, 96)
    own = found(network, images)
    runs = []
    for example in part_examples(network):
        runs.append(Counted(example))
        example.part.forward = ConvertedPart(example, runs[-1])  # type: ignore[method-assign]
    assert gaps(own, found(network, images)) == (0.0, 0.0)
    assert [run.calls for run in runs] == [1, 1, 1, 1]
    network(images)  # a gradient may be wanted
    target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    with torch.no_grad():
        network.train()(images, [target] * 2)
    assert [run.calls for run in runs] == [1, 1, 1, 1]
    detach(network)
    found(network.eval(), images)
    assert [run.calls for run in runs] == [1, 1, 1, 1]


def test_no_proposals_do_not_reach_the_engine() -> None:
    network = make("mp3d_fpn")
    example = part_examples(network)[-1]
    part = ConvertedPart(example, lambda tensors: pytest.fail("the engine was asked"))
    with torch.no_grad():
        logits, offsets = part(torch.zeros(0, 32))
    assert logits.shape == (0, 2)
    assert offsets.shape == (0, 1, 4)
