"""From 3D to 2D: the group transform module and its relatives."""

from __future__ import annotations

import math

import pytest
import torch

from scripts.networks import CenterCrop, FullTransform, GroupTransform


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


def test_weights_start_kaiming_normal_by_fan_out() -> None:
    torch.manual_seed(0)
    assert GroupTransform(2048, 9).conv.weight.std().item() == pytest.approx(math.sqrt(2 / 2048), rel=0.03)


def test_another_number_of_slices_is_refused() -> None:
    with pytest.raises(ValueError, match="with 9 slices, got 3"):
        GroupTransform(4, 9)(torch.zeros(1, 4, 3, 2, 2))


def test_full_transform_weighs_all_channels() -> None:
    full = FullTransform(4, 3)
    x = torch.randn(2, 4, 3, 5, 6)
    torch.testing.assert_close(full(x), torch.einsum("kcd,bcdhw->bkhw", full.conv.weight[..., 0, 0], x))
    assert full.conv.bias is None
