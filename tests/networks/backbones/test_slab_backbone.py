"""Body, conversion and pyramid together."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from scripts.networks import ResNet3d, SlabBackbone


def small(num_slices: int = 3, out_channels: int = 16) -> SlabBackbone:
    torch.manual_seed(0)
    return SlabBackbone(ResNet3d(layers=(1, 1, 1, 1), width=8), num_slices, out_channels=out_channels)


def test_backbone_has_the_published_parameters(on_meta: torch.device) -> None:
    with on_meta:
        backbone = SlabBackbone(ResNet3d(), 9)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 30_660_672


@pytest.mark.parametrize("num_slices", [1, 3, 5])
def test_five_levels_of_strides_4_to_64(num_slices: int) -> None:
    levels = small(num_slices)(torch.randn(2, num_slices, 96, 160))
    assert [tuple(level.shape) for level in levels] == [
        (2, 16, 24, 40),
        (2, 16, 12, 20),
        (2, 16, 6, 10),
        (2, 16, 3, 5),
        (2, 16, 2, 3),
    ]
    assert torch.equal(levels[4], levels[3][..., ::2, ::2]), "P6 is P5 subsampled"


def test_pyramid_adds_the_coarser_level_by_nearest_neighbour() -> None:
    backbone = small()
    for index in range(3):  # laterals of C2..C4 silenced: everything comes from C5
        lateral = backbone.fpn.inner_blocks[index][0]
        nn.init.zeros_(lateral.weight)
    for block in backbone.fpn.layer_blocks:
        nn.init.dirac_(block[0].weight)
    p2, _, _, p5, _ = backbone(torch.randn(1, 3, 64, 64))
    torch.testing.assert_close(p2, p5.repeat_interleave(8, -1).repeat_interleave(8, -2))


def test_pyramid_starts_xavier_uniform_with_zero_bias() -> None:
    lateral = small(out_channels=256).fpn.inner_blocks[3][0]
    bound = math.sqrt(6 / (256 + 256))
    assert 0.99 * bound < lateral.weight.abs().max() <= bound * 1.0001
    assert lateral.bias.eq(0).all()


@pytest.mark.parametrize("num_slices", [0, -1, 2, 8, 3.0, True, "9"])
def test_number_of_slices_must_be_odd(num_slices: object) -> None:
    with pytest.raises(ValueError, match="odd number of slices >= 1"):
        SlabBackbone(ResNet3d(layers=(1, 1, 1, 1), width=8), num_slices)  # type: ignore[arg-type]


def test_slabs_of_another_depth_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\).*got \(1, 5, 32, 32\)"):
        small()(torch.zeros(1, 5, 32, 32))
