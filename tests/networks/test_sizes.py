"""Every network of the package: numbers that none could be built from are rejected by their name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from scripts import networks
from scripts.networks import ResNet2d, ResNet3d, TwoStageHead, mp3d_fpn

SIZES = {"fpn_channels", "channels", "width", "growth", "embedding", "heads", "fc_channels", "rpn_channels"}


def numbers() -> list[tuple[Callable[..., Any], str]]:
    """The makers of networks and bodies, each with one of its sizes."""
    makers = [getattr(networks, name) for name in networks.__all__ if name.islower()]
    makers = [make for make in makers if "num_classes" in inspect.signature(make).parameters]
    return [
        (make, name)
        for make in (*makers, ResNet2d, ResNet3d)
        for name, parameter in inspect.signature(make).parameters.items()
        if name in SIZES and isinstance(parameter.default, int)
    ]


@pytest.mark.parametrize("value", [0, -8, 7.5, True, "8"])
@pytest.mark.parametrize(("make", "name"), numbers(), ids=lambda given: getattr(given, "__name__", given))
def test_a_size_is_a_whole_number_above_zero(
    make: Callable[..., Any], name: str, value: Any, on_meta: torch.device
) -> None:
    with on_meta, pytest.raises(ValueError, match=rf"whole number above 0, got {re.escape(repr(value))}"):
        make(**{name: value})


def test_there_are_sizes_of_many_networks() -> None:
    found = numbers()
    assert len({make for make, _ in found}) >= 12
    assert {name for _, name in found} == SIZES - {"heads"}


@pytest.mark.parametrize("layers", [(0, 1, 1, 1), (1, 1, -1, 1), (1, 1.5, 1, 1)])
def test_every_stage_has_blocks(layers: tuple[Any, ...], on_meta: torch.device) -> None:
    for body in (ResNet2d, ResNet3d):
        with on_meta, pytest.raises(ValueError, match="layers of the network to be a whole number above 0"):
            body(layers=layers)
        with on_meta, pytest.raises(ValueError, match=r"four stages, got layers=\(1, 1\)"):
            body(layers=(1, 1))


@pytest.mark.parametrize("name", ["fc_channels", "rpn_samples", "roi_samples", "proposals", "detections"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_a_head_that_finds_nothing_is_rejected(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} of the network to be a whole number above 0, got {value}"):
        TwoStageHead(**{name: value})


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), "4", True])
def test_anchors_have_a_size(scale: Any) -> None:
    with pytest.raises(ValueError, match="ratio of anchors, all above 0"):
        TwoStageHead(anchor_scale=scale)
    for scales in ([scale], [1.0, scale], scale, []):
        with pytest.raises(ValueError, match="ratio of anchors, all above 0"):
            networks.AnchorShapes(scales)


@pytest.mark.parametrize("ratios", [[], [0], [1.0, -2.0], [float("nan")], 1.0, "1"])
def test_anchors_have_shapes(ratios: Any) -> None:
    with pytest.raises(ValueError, match="ratio of anchors, all above 0"):
        TwoStageHead(anchor_ratios=ratios)
    with pytest.raises(ValueError, match="ratio of anchors, all above 0"):
        networks.AnchorShapes([1.0], ratios)


def test_the_smallest_network_is_built(on_meta: torch.device) -> None:
    with on_meta:
        mp3d_fpn(1, body=ResNet3d(layers=[1, 1, 1, 1], width=1), fpn_channels=1, head=TwoStageHead(fc_channels=1))
