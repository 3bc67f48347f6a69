"""MSB against the values of its authors' modules."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.networks.backbones.resnet2d import from_torchvision
from scripts.networks.published.multi_scale_booster import BoosterBackbone
from support.field_values import check_block, checkpoint, renamed

NECK = [
    (r"neck\.lateral_convs\.(\d)\.conv\.", r"laterals.\1.0."),
    (r"neck\.lateral_convs\.(\d)\.norm\.", r"laterals.\1.1."),
    (r"neck\.fpn_convs\.(\d)\.conv1\.", r"blocks.\1.pointwise."),
    (r"neck\.fpn_convs\.(\d)\.sc\.atrous_conv\.", r"blocks.\1.dilated.conv."),
    (r"neck\.fpn_convs\.(\d)\.sc\.bn\.", r"blocks.\1.dilated.norm."),
    (r"neck\.fpn_convs\.(\d)\.se\.", r"blocks.\1.channel_gate."),
    (r"neck\.fpn_convs\.(\d)\.fusion\.", r"blocks.\1.fusion."),
    (r"neck\.fpn_convs\.(\d)\.sptial\.spatial\.bn\.", r"blocks.\1.spatial_gate.norm."),
    (r"neck\.fpn_convs\.(\d)\.sptial\.spatial\.", r"blocks.\1.spatial_gate."),
]


def test_features_equal_the_authors(shared: Path) -> None:
    values = json.loads((shared / "reference/golden_field/msb.json").read_text())
    state = checkpoint(values)
    body = {name.removeprefix("backbone."): t for name, t in state.items() if name.startswith("backbone.")}
    ours = renamed(state, NECK) | {f"body.{name}": t for name, t in from_torchvision(body).items()}
    network = BoosterBackbone().double().eval()
    network.load_state_dict(ours)
    given = np.random.default_rng(values["input"]["rng_seed"]).standard_normal(values["input"]["shape"])
    seen: dict[str, torch.Tensor] = {}
    network.blocks[0].channel_gate.register_forward_hook(lambda *a: seen.update({"msb.P2_msb_se_gate": a[2]}))
    network.blocks[0].dilated.register_forward_hook(lambda *a: seen.update({"msb.P2_msb_dil2": a[2][1]}))
    network.body.register_forward_hook(lambda *a: seen.update({f"msb.C{i + 2}": m for i, m in enumerate(a[2])}))
    with torch.no_grad():
        levels = network(torch.from_numpy(given))
    seen |= {f"msb.P{level + 2}": each for level, each in enumerate(levels)}
    checked = 0
    for block in values["outputs"]:
        if block["tag"] in seen:
            check_block(block, seen[block["tag"]], 1e-8)
            checked += 1
    assert checked >= 6


def test_a_shared_norm_is_updated_once_for_each_dilation() -> None:
    network = BoosterBackbone(out_channels=16).train()
    network(torch.zeros(2, 3, 64, 64))
    assert [int(block.dilated.norm.num_batches_tracked) for block in network.blocks] == [3, 3, 3, 3]


def test_other_slice_counts_are_rejected() -> None:
    with pytest.raises(ValueError, match="reads 3 slices"):
        BoosterBackbone(out_channels=16)(torch.zeros(1, 9, 64, 64))
