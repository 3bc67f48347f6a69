"""Truncated DenseNet: operators between slices against the authors' values, names against torchvision's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import densenet121

from scripts.networks.backbones.densenet import (
    AlignShift,
    SlicePairs,
    TemporalShift,
    TruncatedDenseNet,
    own_share,
)
from support.field_values import check_block, draw


def operator(name: str, channels: int) -> nn.Module:
    made: dict[str, nn.Module] = {
        "alignshift_nopad": AlignShift(channels),
        "alignshift_notinplace": AlignShift(channels),
        "alignshift_pad0": AlignShift(channels, zero_ends=True),
        "tsm": TemporalShift(channels),
        "a3d": SlicePairs(channels, 5),
    }
    return made[name].double()


def test_operators_equal_the_authors(shared: Path) -> None:
    values = json.loads((shared / "reference/golden_field/alignshift_a3d.json").read_text())["operators"]
    alpha = own_share(torch.tensor(values["thickness"], dtype=torch.float64))
    for name, case in values["ops"].items():
        kind, sizes = name.split("_c")
        channels = int(sizes.split("_")[0])
        mix = operator(kind, channels)
        state = {key.rsplit(".", 1)[1]: draw(key, shape, made, {}) for key, shape, made in case["keys"]}
        if "adaptive_align_weights" in state:
            mix.load_state_dict({"matrix": state["adaptive_align_weights"]})
        given = np.random.default_rng(51).standard_normal((2, channels, 5, 6, 7))
        mixed = mix(torch.from_numpy(given).transpose(1, 2), alpha).flatten(0, 1)
        weight = state["weight"]
        found = F.conv2d(mixed, weight, padding=weight.shape[-1] // 2).unflatten(0, (2, 5))
        check_block(case["output"], found.transpose(1, 2), 1e-8)


def test_slices_of_up_to_two_millimetres_move_fully() -> None:
    torch.testing.assert_close(own_share(torch.tensor([1.0, 2.0, 5.0])), torch.tensor([0.0, 0.0, 0.6]))


@pytest.mark.parametrize("thickness", [0.0, -1.0, float("nan"), float("inf")])
def test_no_thickness_is_rejected(thickness: float) -> None:
    with pytest.raises(ValueError, match="above 0 mm"):
        own_share(torch.tensor([2.0, thickness]))


def test_slice_pairs_start_at_the_identity_without_noise() -> None:
    x = torch.randn(2, 3, 4, 5, 6)
    torch.testing.assert_close(SlicePairs(4, 3, noise=0.0)(x), x)
    assert (SlicePairs(4, 3)(x) - x).abs().max() > 0.01


def test_imagenet_weights_fit_by_name() -> None:
    with torch.device("meta"):
        features = densenet121().features.state_dict()
        ours = TruncatedDenseNet(3, 1).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape
        for name, tensor in features.items()
        if not name.startswith(("norm5", "transition3", "denseblock4"))
    }


def test_without_mixing_it_is_the_part_of_torchvisions() -> None:
    theirs = densenet121().eval().features[:9]  # up to the third block
    body = TruncatedDenseNet(3, 1).eval()
    body.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(body(x, torch.zeros(1))[2], theirs(x), rtol=1e-4, atol=1e-4)


def test_blocks_are_three_of_at_least_one_layer() -> None:
    with pytest.raises(ValueError, match="three blocks"):
        TruncatedDenseNet(1, 3, layers=(1, 2))
