"""The 3D bodies: where slices mix, where the stride sits, which blocks follow each other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from scripts.networks import FullBottleneck, PseudoBasicBlock, PseudoBottleneck, ResNet3d, Stem, isotropic_pools
from scripts.networks.backbones.resnet3d import (
    ConvNorm,
    InterSlicePool,
    LineConv3d,
    SeparablePair,
    SlabMaxPool3d,
    VolumePairs,
    group_norm,
)


def no_norm(channels: int) -> nn.Module:
    del channels
    return nn.Identity()


def results(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Output of a layer, and gradients of its input and weights for a loss in which every output counts differently."""
    x = x.clone().requires_grad_()
    out = layer(x)
    (out * torch.arange(out.numel(), dtype=out.dtype).view_as(out).cos()).sum().backward()
    return [out, x.grad, *[each.grad for each in layer.parameters()]]  # type: ignore[list-item]


@pytest.mark.parametrize("slices", [1, 2, 9])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_products_of_matrices_are_the_convolution(kernel: int, stride: int, slices: int) -> None:
    torch.manual_seed(0)
    settings = {"kernel_size": (kernel, 1, 1), "stride": (1, stride, stride), "padding": (kernel // 2, 0, 0)}
    ours = LineConv3d(4, 6, bias=False, dtype=torch.float64, **settings)
    plain = nn.Conv3d(4, 6, bias=False, dtype=torch.float64, **settings)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(3, 4, slices, 7, 10, dtype=torch.float64)
    for own, expected in zip(results(ours, x), results(plain, x), strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-12)


def test_products_of_matrices_follow_autocast() -> None:
    layer = LineConv3d(4, 6, (3, 1, 1), padding=(1, 0, 0), bias=False)
    x = torch.randn(1, 4, 3, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), layer(x), rtol=0, atol=0.05)


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (3, 1, 1), (3, 2, 3)])
@pytest.mark.parametrize("stride", [(1, 2, 2), (2, 1, 2)])
def test_maxima_and_their_gradients_are_those_of_pytorch(
    kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> None:
    padding = tuple(side // 2 for side in kernel)
    # Rounded, so that many pixels of a window are its largest: the first one gets the gradient.
    x = torch.randn(2, 3, 7, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).round()
    pools = (kind(kernel, stride=stride, padding=padding) for kind in (SlabMaxPool3d, nn.MaxPool3d))
    for own, expected in zip(*[results(pool, x) for pool in pools], strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-12)


def test_block_kinds_run_over_the_whole_network() -> None:
    body = ResNet3d(width=8)
    kinds = [block.pair.kind for stage in body.stages for block in stage]  # type: ignore[union-attr]
    assert "".join(kinds) == "ABC" + "ABCA" + "BCABCA" + "BCA"


@pytest.mark.parametrize(
    ("kind", "without_in_plane", "without_inter_slice"), [("A", "none", "none"), ("B", "T", "S"), ("C", "none", "S")]
)
def test_kinds_combine_the_two_convolutions(kind: str, without_in_plane: str, without_inter_slice: str) -> None:
    pair = SeparablePair(4, 4, kind=kind, norm=no_norm)
    x = torch.rand(1, 4, 3, 8, 8)
    expected = {"none": torch.zeros_like(x), "S": pair.in_plane(x), "T": pair.inter_slice(x)}
    for silenced, name in ((pair.in_plane, without_in_plane), (pair.inter_slice, without_inter_slice)):
        kept = silenced[0].weight.detach().clone()
        nn.init.zeros_(silenced[0].weight)  # type: ignore[arg-type]
        torch.testing.assert_close(pair(x), expected[name])
        silenced[0].weight.data.copy_(kept)  # type: ignore[union-attr]
    both = {
        "A": pair.inter_slice(pair.in_plane(x)),
        "B": pair.in_plane(x) + pair.inter_slice(x),
        "C": pair.in_plane(x) + pair.inter_slice(pair.in_plane(x)),
    }
    torch.testing.assert_close(pair(x), both[kind])


def test_unknown_kind_is_rejected() -> None:
    with pytest.raises(ValueError, match="'AB'"):
        SeparablePair(4, 4, kind="AB", norm=no_norm)


@pytest.mark.parametrize(("block", "sees_odd_pixels"), [(PseudoBottleneck, False), (FullBottleneck, True)])
def test_stride_sits_on_the_first_1x1x1_in_mp3d_and_on_the_3x3x3_in_mr3d(
    block: type[nn.Module], sees_odd_pixels: bool
) -> None:
    torch.manual_seed(0)
    module = block(8, 4, stride=2, index=0, norm=no_norm)
    x = torch.rand(1, 8, 3, 8, 8)
    disturbed = x.clone()
    disturbed[..., 1::2, :] += 1
    disturbed[..., :, 1::2] += 1
    assert module(x).shape == (1, 16, 3, 4, 4)
    assert (not torch.equal(module(x), module(disturbed))) is sees_odd_pixels


def test_shortcut_is_the_identity_except_where_a_stage_begins() -> None:
    body = ResNet3d(width=8)
    for stage in body.stages:
        first, *rest = stage  # type: ignore[misc]
        assert len(first.shortcut) == 2, "convolution and norm, no ReLU"
        assert all(isinstance(block.shortcut, nn.Identity) for block in rest)


@pytest.mark.parametrize("block", [PseudoBottleneck, PseudoBasicBlock, FullBottleneck])
@pytest.mark.parametrize("slices", [1, 3, 5])
def test_depth_is_never_strided(block: type[nn.Module], slices: int) -> None:
    body = ResNet3d(block, (1, 1, 1, 1), width=8)
    maps = body(torch.rand(2, 1, slices, 64, 96))
    for index, level in enumerate(maps):
        assert level.shape == (2, body.out_channels[index], slices, 64 // 2 ** (index + 2), 96 // 2 ** (index + 2))


@pytest.mark.parametrize(("pool_depth", "mixes"), [(3, True), (1, False)])
def test_stem_pool_mixes_neighbouring_slices(pool_depth: int, mixes: bool) -> None:
    stem = Stem(4, no_norm, pool_depth=pool_depth)
    nn.init.ones_(stem.conv[0].weight)  # type: ignore[arg-type]
    x = torch.zeros(1, 1, 5, 32, 32)
    x[:, :, 2] = 1
    lit = stem(x).flatten(3).amax(dim=(0, 1, 3)) > 0
    assert lit.tolist() == ([False, True, True, True, False] if mixes else [False, False, True, False, False])


def test_mr3d_stem_spans_seven_slices() -> None:
    stem = Stem(4, no_norm, depth=7, pool_depth=1)
    nn.init.ones_(stem.conv[0].weight)  # type: ignore[arg-type]
    x = torch.zeros(1, 1, 9, 32, 32)
    x[:, :, 0] = 1
    assert (stem(x).flatten(3).amax(dim=(0, 1, 3)) > 0).tolist() == [True] * 4 + [False] * 5


def test_norm_statistics_span_the_slices() -> None:
    layer = ConvNorm(2, 4, kernel=(1, 1, 1), norm=group_norm)
    x = torch.rand(1, 2, 3, 8, 8)
    disturbed = x.clone()
    disturbed[:, :, 0] *= 5
    assert not torch.allclose(layer(x)[:, :, 2], layer(disturbed)[:, :, 2])


def test_norm_has_32_groups_or_one_per_channel() -> None:
    assert (group_norm(64).num_groups, group_norm(8).num_groups, group_norm(64).eps) == (32, 8, 1e-5)
    with pytest.raises(ValueError, match="divisible by 32 norm groups, got 48"):
        group_norm(48)


@pytest.mark.parametrize(
    ("slices", "depths"), [(9, [5, 3, 1, 1]), (11, [6, 3, 1, 1]), (7, [4, 2, 2, 2]), (3, [2, 1, 1, 1]), (1, [1] * 4)]
)
def test_isotropic_pooling_shortens_the_depth(slices: int, depths: list[int]) -> None:
    body = ResNet3d(
        layers=(1, 1, 1, 1),
        width=8,
        stem=lambda channels, norm: Stem(channels, norm, pool_depth=1),
        stage_pools=isotropic_pools(),
    )
    assert [level.shape[2] for level in body(torch.rand(1, 1, slices, 32, 32))] == depths


def test_inter_slice_pool_takes_the_maximum_of_neighbours() -> None:
    x = torch.tensor([5.0, 0.0, 0.0, 0.0, 7.0]).reshape(1, 1, 5, 1, 1)
    assert InterSlicePool(2, 1)(x).flatten().tolist() == [5.0, 0.0, 7.0]


@pytest.mark.parametrize("layers", [(2, 2, 2, 2), (3, 4, 6, 3)])
def test_basic_block_bodies_are_64_to_512_wide(layers: tuple[int, ...], on_meta: torch.device) -> None:
    with on_meta:
        body = ResNet3d(PseudoBasicBlock, layers)
        assert body.out_channels == [64, 128, 256, 512]
        assert [level.shape[1] for level in body(torch.rand(1, 1, 3, 64, 64))] == body.out_channels


def test_convolutions_start_xavier_uniform_and_norms_as_identity() -> None:
    torch.manual_seed(0)
    conv, norm, _ = ResNet3d(layers=(1, 1, 1, 1)).stages[3][0].pair.in_plane  # type: ignore[index]
    bound = math.sqrt(6 / (2 * 512 * 9))
    assert 0.99 * bound < conv.weight.abs().max() <= bound * 1.0001
    assert conv.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert conv.bias is None
    assert norm.weight.eq(1).all()
    assert norm.bias.eq(0).all()


@pytest.mark.parametrize("layers", [(3, 4, 6), ()])
def test_wrong_stages_are_rejected(layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="four stages"):
        ResNet3d(layers=layers)


@pytest.mark.parametrize("block", [PseudoBottleneck, PseudoBasicBlock, FullBottleneck])
@torch.no_grad()
def test_slice_pairs_start_as_nothing_and_mix_later(block: type[nn.Module]) -> None:
    settings: dict = {"layers": (1, 1, 2, 1), "width": 4}
    plain, paired = ResNet3d(block, **settings), ResNet3d(block, **settings, slice_pairs=3)
    loaded = paired.load_state_dict(plain.state_dict(), strict=False)
    assert not loaded.unexpected_keys
    assert all(name.endswith("pairs.matrix") for name in loaded.missing_keys)
    slabs = torch.randn(2, 1, 3, 64, 64)
    for ours, theirs in zip(paired(slabs), plain(slabs), strict=True):
        assert torch.equal(ours, theirs)
    matrix = next(each for name, each in paired.named_parameters() if name.endswith("pairs.matrix"))
    assert matrix.shape[:2] == (3, 3)
    matrix[0, 1] += 1.0
    assert not torch.equal(paired(slabs)[0], plain(slabs)[0])


def test_a_matrix_moves_the_channels_of_one_slice_to_another() -> None:
    pairs = VolumePairs(2, 3)
    with torch.no_grad():
        pairs.matrix[0, 2] = torch.tensor([5.0, 0.0])
    volume = torch.randn(1, 2, 3, 4, 5)
    wanted = volume.clone()
    wanted[:, 0, 2] += 5 * volume[:, 0, 0]
    torch.testing.assert_close(pairs(volume), wanted)


def test_slice_pairs_follow_the_depth_of_stage_pools_and_learn() -> None:
    body = ResNet3d(layers=(1, 1, 1, 1), width=4, stage_pools=isotropic_pools(), slice_pairs=9)
    matrices = [each for name, each in body.named_parameters() if name.endswith("pairs.matrix")]
    assert [len(each) for each in matrices] == [9, 5, 3, 1]
    sum(level.square().mean() for level in body(torch.randn(1, 1, 9, 64, 64))).backward()  # type: ignore[union-attr]
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in matrices)
