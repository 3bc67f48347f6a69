"""Backbone of MULAN against the values of its authors' modules."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.networks.backbones.densenet_images import DenseImagesBackbone
from scripts.networks.published.mulan import MULAN_BACKBONE
from support.field_values import backbone_state, check_block


def test_features_equal_the_authors(shared: Path) -> None:
    values = json.loads((shared / "reference/golden_field/mulan.json").read_text())
    network = DenseImagesBackbone().double().eval()
    network.load_state_dict(backbone_state(values, MULAN_BACKBONE, ("backbone.", "feature_fuse.")))
    parts = values["parts"]
    assert sum(each.numel() for each in network.parameters()) == parts["backbone"] + parts["feature_fuse"]
    given = np.random.default_rng(0).standard_normal((3, 3, 96, 128)).reshape(1, 9, 96, 128)
    seen: dict[str, torch.Tensor] = {}
    body = network.body
    taps = {
        "conv0": body.conv0,
        "denseblock1": body.denseblock1,
        "transition2": body.transition2,
        "conv_ilf2": body.after[1].conv,
        "lateral2": network.decoder.laterals[0],
    }
    for name, module in taps.items():
        module.register_forward_hook(lambda *a, name=name: seen.update({name: a[2]}))
    with torch.no_grad():
        seen["fused"] = network(torch.from_numpy(given))[0]
    for block in [*values["A_taps"], values["A_heads"][0]]:
        check_block(block, seen[block["tag"].split(".")[-1]], 1e-8)


def test_gradients_reach_every_parameter_and_half_precision_runs() -> None:
    network = DenseImagesBackbone(9, layers=(1, 1, 1), width=16, growth=8, out_channels=16)
    network(torch.randn(2, 9, 32, 32))[0].square().mean().backward()
    assert all(each.grad is not None for each in network.parameters())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert network.eval()(torch.randn(1, 9, 32, 32))[0].isfinite().all()


@pytest.mark.parametrize("count", [6, 8, 0, True])
def test_other_slice_counts_are_rejected(count: int) -> None:
    with pytest.raises(ValueError, match="three times an odd number"):
        DenseImagesBackbone(count)
