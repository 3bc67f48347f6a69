"""Channels last: the same values, and no layer of a 3D body changes the order back."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from scripts.engines.memory_layout import channels_last
from scripts.networks import (
    FullBottleneck,
    GroupTransform,
    PseudoBasicBlock,
    PseudoBottleneck,
    ResNet3d,
    SlabBackbone,
    Stem,
    isotropic_pools,
)

BODIES = {
    "MP3D": lambda: ResNet3d(layers=(1, 1, 1, 3), width=8),
    "MP3D, blocks of two layers": lambda: ResNet3d(PseudoBasicBlock, layers=(1, 1, 1, 1), width=8),
    "MR3D": lambda: ResNet3d(FullBottleneck, layers=(1, 1, 1, 1), width=8, stem=partial(Stem, depth=7)),
    "isotropic": lambda: ResNet3d(PseudoBottleneck, (1, 1, 1, 1), width=8, stage_pools=isotropic_pools()),
}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """With one thread PyTorch takes other convolutions, which know the usual order only."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def flips(body: nn.Module, volumes: Tensor) -> list[str]:
    """Layers behind the stem's first ones whose output is not channels last."""
    found: list[str] = []

    def look(name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
        if not output.is_contiguous(memory_format=torch.channels_last_3d):
            found.append(f"{name} {type(module).__name__} {tuple(output.shape)} {output.stride()}")

    leaves = [
        (name, module)
        for name, module in body.named_modules()
        if not list(module.children()) and not name.startswith("stem.conv.")
    ]
    hooks = [module.register_forward_hook(partial(look, name)) for name, module in leaves]
    body(volumes)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", BODIES)
def test_no_layer_changes_the_order_back(name: str) -> None:
    torch.manual_seed(0)
    body = channels_last(BODIES[name]().eval())
    with torch.no_grad():
        assert flips(body, torch.randn(2, 1, 9, 32, 64)) == []


def test_a_layer_that_changes_the_order_is_found() -> None:
    class Flips(nn.Identity):
        def forward(self, input: Tensor) -> Tensor:
            return input.contiguous()

    body = channels_last(BODIES["MP3D"]()).eval()
    body.stem.pool = nn.Sequential(body.stem.pool, Flips())  # type: ignore[union-attr]
    with torch.no_grad():
        assert "Flips" in flips(body, torch.randn(2, 1, 9, 32, 64))[0]


@torch.no_grad()
def test_values_are_the_same() -> None:
    torch.manual_seed(0)
    plain = SlabBackbone(BODIES["MP3D"](), 3, out_channels=16).eval()
    other = SlabBackbone(BODIES["MP3D"](), 3, out_channels=16).eval()
    other.load_state_dict(plain.state_dict())
    kept = list(other.parameters())
    assert channels_last(other) is other
    assert all(one is same for one, same in zip(other.parameters(), kept, strict=True))
    slabs = torch.randn(2, 3, 256, 512)
    # As in CTs, where air is all alike: PyTorch's own group normalisation is then off in this order.
    slabs[..., :192] = -2.1
    for one, two in zip(plain(slabs), other(slabs), strict=True):
        assert (one - two).norm() < 1e-5 * one.norm()


@torch.no_grad()
@pytest.mark.parametrize("size", [(9, 128, 96), (3, 75, 130), (1, 200, 100), (2, 16, 16), (512, 384), (75, 131)])
@pytest.mark.parametrize("affine", [True, False])
def test_group_normalisation_is_as_exact_as_in_the_usual_order(size: tuple[int, ...], affine: bool) -> None:
    torch.manual_seed(0)
    each = [1] * len(size)
    maps = torch.randn(2, 12, *size) * torch.rand(2, 12, *each) + torch.randn(2, 12, *each)
    maps[..., : size[-1] // 3] = torch.linspace(0.1, 1.3, 12).view(-1, *each)
    last = torch.channels_last if len(size) == 2 else torch.channels_last_3d
    maps = maps.contiguous(memory_format=last)
    plain = nn.GroupNorm(4, 12, affine=affine).eval()
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    other = channels_last(copy.deepcopy(plain))
    wanted = plain.double()(maps.double().contiguous())
    found = other(maps)
    assert found.is_contiguous(memory_format=last)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-6 * float(wanted.abs().max()))


@torch.no_grad()
def test_group_normalisation_in_bfloat16_is_off_by_the_rounding_of_its_results() -> None:
    maps = torch.randn(1, 8, 9, 128, 128, generator=torch.Generator().manual_seed(0))
    maps[..., :64] = 2.7
    maps = maps.bfloat16().contiguous(memory_format=torch.channels_last_3d)
    plain = nn.GroupNorm(4, 8).eval()
    wanted = plain.double()(maps.double().contiguous())
    found = channels_last(nn.GroupNorm(4, 8).eval())(maps)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), wanted, rtol=2**-8, atol=2**-12)


@torch.no_grad()
def test_the_step_to_two_dimensions_needs_no_other_order() -> None:
    transform = GroupTransform(6, 9)
    maps = torch.randn(2, 6, 9, 40, 33, generator=torch.Generator().manual_seed(0))
    last = transform(maps.contiguous(memory_format=torch.channels_last_3d))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, transform(maps), rtol=0, atol=1e-5)


def test_training_keeps_the_layers_of_pytorch() -> None:
    torch.manual_seed(0)
    plain = BODIES["MP3D"]().train()
    other = channels_last(copy.deepcopy(plain))
    volumes = torch.randn(1, 1, 3, 256, 256)
    for network in (plain, other):
        network(volumes)[-1].square().mean().backward()
    for one, two in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=0, atol=1e-3 * float(one.grad.abs().max() + 1e-6))


def test_weights_that_are_loaded_keep_the_order() -> None:
    plain = BODIES["MP3D"]()
    other = channels_last(BODIES["MP3D"]())
    other.load_state_dict(plain.state_dict())
    convs = [module for module in other.modules() if isinstance(module, nn.Conv3d)]
    assert len(convs) > 10
    assert all(conv.weight.is_contiguous(memory_format=torch.channels_last_3d) for conv in convs)
