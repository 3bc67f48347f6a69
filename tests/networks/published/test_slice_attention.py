"""SATr against the values of its authors' modules."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.networks import slice_attention
from scripts.networks.published.slice_attention import ATTENTION_BACKBONE, SLICE_ATTENTION_NAMES, AttentionBackbone
from support.field_values import backbone_state, check_block
from support.whole_detectors import check_both_ways, check_checkpoint, keys_of, target


def test_features_equal_the_authors(shared: Path) -> None:
    values = json.loads((shared / "reference/golden_field/satr.json").read_text())["satr"]["D7"]
    # The values are of the first stage, so that the later ones may be narrow.
    first = ("conv0", "norm0", "denseblock1", "reductionz1", "trans_patch_conv1", "squeeze_block1", "trans_block1",
             "expand_block1", "fusion_block1")  # fmt: skip
    state = backbone_state(values, ATTENTION_BACKBONE, tuple(f"backbone.{name}." for name in first))
    network = AttentionBackbone(layers=(6, 1, 1)).double().eval()
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    later = r"body\.(denseblock[23]|transition)|reductions\.[12]|stages\.[23]|decoder|unused"
    assert all(re.match(later, name) for name in missing)
    seen: dict[str, torch.Tensor] = {}
    stage = network.stages["1"]
    stage.whole.register_forward_hook(lambda *a: seen.update(tap_trans_patch_conv1=a[2]))
    stage.tokens.register_forward_hook(lambda *a: seen.update(tap_squeeze_block1=a[2]))
    stage.attention.register_forward_hook(lambda *a: seen.update(tap_trans_block1=a[2]))
    stage.register_forward_hook(lambda *a: seen.update(tap_fusion_block1=a[2][0][:, :, None]))
    with torch.no_grad():
        network(torch.from_numpy(np.random.default_rng(0).standard_normal((1, 7, 96, 128))))
    for block in values["cases"]["x"]["outputs"]:
        check_block(block, seen[block["tag"].split(".")[-1]], 1e-8)


def narrow() -> AttentionBackbone:
    return AttentionBackbone(3, embedding=24, heads=2, layers=(1, 1, 1), growth=8, out_channels=16)


def test_gradients_reach_every_parameter_and_half_precision_runs() -> None:
    network = narrow()
    network(torch.randn(2, 3, 64, 64))[0].square().mean().backward()
    assert all(each.grad is not None for each in network.parameters() if each.requires_grad)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert network.eval()(torch.randn(1, 3, 64, 64))[0].isfinite().all()


def test_one_slice_has_no_neighbours() -> None:
    with pytest.raises(ValueError, match="three slices"):
        AttentionBackbone(1, embedding=24, heads=2, layers=(1, 1, 1), growth=8)


def test_the_authors_tensors_fit(shared: Path) -> None:
    check_checkpoint(slice_attention, keys_of(shared, "satr")["7_slices"], SLICE_ATTENTION_NAMES)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_it_learns_and_finds(num_classes: int) -> None:
    network = slice_attention(3, num_classes, growth=8, channels=16, embedding=24, fc_channels=32)
    found = check_both_ways(network, 3, [target([[10.0, 20.0, 40.0, 50.0]]), target([])])
    assert all(one["masks"].shape == (len(one["boxes"]), 28, 28) for one in found)
