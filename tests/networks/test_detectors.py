"""Published counts, and the paper's numbers as defaults."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from scripts.networks import CenterCrop, FasterRCNN, FullBottleneck, ResNet3d, Stem, TwoStageHead, mp3d_fpn


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("slices", "count"), [(5, 45_141_077), (7, 45_148_757), (9, 45_156_437), (11, 45_164_117)])
def test_mp3d_fpn_has_the_published_parameters(slices: int, count: int, on_meta: torch.device) -> None:
    with on_meta:
        assert parameters(mp3d_fpn(slices)) == count


def test_centre_crop_and_mr3d_have_the_published_parameters(on_meta: torch.device) -> None:
    with on_meta:
        assert parameters(mp3d_fpn(conversion=CenterCrop)) == 45_121_877
        body = ResNet3d(FullBottleneck, stem=lambda channels, norm: Stem(channels, norm, depth=7))
        assert parameters(mp3d_fpn(body=body)) == 64_029_781


def test_nothing_is_frozen_and_everything_is_saved(on_meta: torch.device) -> None:
    with on_meta:
        network = mp3d_fpn()
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}


@pytest.mark.parametrize("num_slices", [1, 3, 5])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_any_odd_depth_and_any_number_of_classes(
    narrow: Callable[..., FasterRCNN], num_slices: int, num_classes: int
) -> None:
    network = narrow(num_slices, num_classes).eval()
    (found,) = network(torch.randn(1, num_slices, 64, 64))
    assert set(found["labels"].tolist()) <= set(range(1, num_classes + 1))


@pytest.mark.parametrize("num_slices", [0, 4, -3])
def test_even_or_no_slices_are_rejected(num_slices: int) -> None:
    with pytest.raises(ValueError, match=f"odd number of slices.*got {num_slices}"):
        mp3d_fpn(num_slices)


@pytest.mark.parametrize("num_classes", [0, -1])
def test_no_classes_are_rejected(num_classes: int, on_meta: torch.device) -> None:
    with on_meta, pytest.raises(ValueError, match="at least one class"):
        mp3d_fpn(9, num_classes)


def test_ratios_of_anchors_are_those_of_the_head(on_meta: torch.device) -> None:
    with on_meta:
        network = mp3d_fpn(3, head=TwoStageHead(anchor_ratios=[0.25, 1.0, 2.0, 4.0]))
    assert network.rpn.head.cls_logits.weight.shape[0] == 4
    flat = mp3d_fpn(
        1,
        body=ResNet3d(layers=(1, 1, 1, 1), width=4),
        fpn_channels=8,
        head=TwoStageHead(fc_channels=8, anchor_ratios=[0.25]),
    )
    x1, y1, x2, y2 = flat.rpn.anchors.base(0)[0].tolist()
    assert (y2 - y1) / (x2 - x1) == pytest.approx(0.25)
