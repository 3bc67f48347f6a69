"""Body, conversion and pyramid together."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from scripts.networks import CenterCrop, FullTransform, GroupTransform, ResNet3d, SlabBackbone


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


def test_slabs_of_another_depth_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\).*got \(1, 5, 32, 32\)"):
        small()(torch.zeros(1, 5, 32, 32))


@pytest.mark.parametrize("slices", [1, 3, 9])
def test_one_hot_centre_weights_make_the_centre_crop(slices: int) -> None:
    x = torch.randn(2, 5, slices, 6, 7)
    gtm = GroupTransform(5, slices)
    torch.nn.init.zeros_(gtm.conv.weight)
    gtm.conv.weight.data[:, slices // 2] = 1
    assert torch.equal(gtm(x), CenterCrop()(x))
    assert torch.equal(CenterCrop()(x), x[:, :, slices // 2])


def test_weights_run_over_the_slices_of_each_channel() -> None:
    gtm = GroupTransform(4, 3)
    x = torch.randn(2, 4, 3, 5, 6)
    assert gtm.conv.weight.shape == (4, 3, 1, 1)
    assert [name for name, _ in gtm.named_parameters()] == ["conv.weight"], "no bias"
    torch.testing.assert_close(gtm(x), torch.einsum("cd,bcdhw->bchw", gtm.conv.weight[..., 0, 0], x))


def test_sums_over_slices_are_the_grouped_convolution() -> None:
    gtm = GroupTransform(4, 3).double()
    x = torch.randn(2, 4, 3, 5, 6, dtype=torch.float64)
    grouped = torch.nn.functional.conv2d(x.flatten(1, 2), gtm.conv.weight, groups=4)
    torch.testing.assert_close(gtm(x), grouped, rtol=0, atol=1e-12)


def test_weights_start_kaiming_normal_by_fan_out() -> None:
    torch.manual_seed(0)
    assert GroupTransform(2048, 9).conv.weight.std().item() == pytest.approx(math.sqrt(2 / 2048), rel=0.03)


def test_maps_of_another_number_of_slices_are_rejected() -> None:
    with pytest.raises(ValueError, match="with 9 slices, got 3"):
        GroupTransform(4, 9)(torch.zeros(1, 4, 3, 2, 2))


def test_full_transform_weighs_all_channels() -> None:
    full = FullTransform(4, 3)
    x = torch.randn(2, 4, 3, 5, 6)
    torch.testing.assert_close(full(x), torch.einsum("kcd,bcdhw->bkhw", full.conv.weight[..., 0, 0], x))
    assert full.conv.bias is None
