"""Recomputed stages: the same losses and gradients to the bit, fewer kept activations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from scripts.networks import ResNet3d, TwoStageHead, fpn_3dce, mp3d_fpn, multi_scale_booster
from scripts.networks.backbones.resnet2d import ResNet2d
from scripts.training.recomputed_stages import recompute_stages

TARGETS = [{"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([1])}]


def make(name: str = "mp3d") -> nn.Module:
    torch.manual_seed(0)
    head = TwoStageHead(fc_channels=16, proposals=50)
    if name == "mp3d":
        return mp3d_fpn(3, body=ResNet3d(layers=(1, 1, 1, 1), width=8), fpn_channels=16, head=head)
    if name == "msb":  # It has batch normalisation.
        return multi_scale_booster(3, layers=(1, 1, 1, 1), width=8, channels=16, fc_channels=16)
    return fpn_3dce(3, body=ResNet2d(width=8), fpn_channels=16, head=head)


def step(network: nn.Module) -> tuple[dict[str, Tensor], int]:
    """Losses of a step whose gradients are in the parameters, and how many values were kept for the way back."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = network.train()(torch.randn(1, 3, 64, 64), TARGETS)
    kept = sum(sizes.values())
    torch.stack(list(losses.values())).sum().backward()
    return losses, kept


@pytest.mark.parametrize("name", ["mp3d", "fpn_3dce"])
@pytest.mark.parametrize("stages", [[1], [1, 2, 3, 4]])
def test_losses_and_gradients_are_the_same_to_the_bit(name: str, stages: list[int]) -> None:
    own, other = make(name), recompute_stages(make(name), stages)
    (losses, kept), (others, less) = step(own), step(other)
    assert all(torch.equal(losses[key], others[key]) for key in losses)
    for (where, one), two in zip(own.named_parameters(), other.parameters(), strict=True):
        assert one.grad is not None, where
        assert torch.equal(one.grad, two.grad), where  # type: ignore[arg-type]
    assert less < 0.9 * kept


def test_batch_normalisation_has_the_same_statistics() -> None:
    own, other = make("msb"), recompute_stages(make("msb"), [1, 2, 3, 4])
    for network in (own, other):
        step(network)
    for (where, one), two in zip(own.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(one, two), where


def test_evaluation_is_as_before() -> None:
    slabs = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        (own,), (other,) = make().eval()(slabs), recompute_stages(make(), [1, 2]).eval()(slabs)
    assert torch.equal(own["boxes"], other["boxes"])


def test_a_stage_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="Expected recomputed_stages from 1 to 4 for this network, got 5"):
        recompute_stages(make(), [5])
    with pytest.raises(ValueError, match="from 1 to 0"):
        recompute_stages(nn.Linear(2, 2), [1])
    recompute_stages(nn.Linear(2, 2), [])
