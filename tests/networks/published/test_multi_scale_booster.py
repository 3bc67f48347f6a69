"""MSB against the values of its authors' modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scripts.networks import FasterRCNN, multi_scale_booster
from scripts.networks.heads.rpn import ProposalLimits
from scripts.networks.published.authors_names import renamed
from scripts.networks.published.multi_scale_booster import MSB_NAMES, BoosterBackbone
from support.field_values import check_block, checkpoint


@pytest.fixture(scope="module")
def values(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "reference/golden_field/msb.json").read_text())


@pytest.fixture(scope="module")
def network(values: dict[str, Any]) -> FasterRCNN:
    """MSB with the weights of the reference values, in float64."""
    network = multi_scale_booster().double().eval()
    network.load_state_dict(renamed(checkpoint(values), MSB_NAMES))
    return network


def given(values: dict[str, Any]) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(values["input"]["rng_seed"]).standard_normal(values["input"]["shape"])
    )


def test_every_tensor_of_the_authors_has_its_place(values: dict[str, Any], network: FasterRCNN) -> None:
    names = [(key, tuple(shape)) for key, shape, _ in values["keys"]]
    ours = renamed({key: torch.empty(shape, device="meta") for key, shape in names}, MSB_NAMES)
    assert len(ours) == len(names)
    assert {name: tuple(t.shape) for name, t in ours.items()} == {
        name: tuple(t.shape) for name, t in network.state_dict().items()
    }


@torch.no_grad()
def test_every_listed_tensor_equals_the_authors(values: dict[str, Any], network: FasterRCNN) -> None:
    seen: dict[str, torch.Tensor] = {}
    backbone: Any = network.backbone
    hooks = [
        backbone.blocks[0].channel_gate.register_forward_hook(lambda *a: seen.update({"msb.P2_msb_se_gate": a[2]})),
        backbone.blocks[0].dilated.register_forward_hook(lambda *a: seen.update({"msb.P2_msb_dil2": a[2][1]})),
        backbone.body.register_forward_hook(
            lambda *a: seen.update({f"msb.C{i + 2}": level for i, level in enumerate(a[2])})
        ),
    ]
    levels = backbone(given(values))
    for hook in hooks:
        hook.remove()
    seen |= {f"msb.P{level + 2}": each for level, each in enumerate(levels)}
    seen |= {f"msb.rpn_cls_P{level + 2}": each for level, each in enumerate(network.rpn.head(levels)[0])}
    for block in values["outputs"]:
        check_block(block, seen[block["tag"]], 1e-8)
    assert len(values["outputs"]) >= 7


@torch.no_grad()
def test_detections_are_at_most_ten_and_within_the_image(
    values: dict[str, Any], network: FasterRCNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    slabs = given(values)
    proposals, _ = network.rpn(network.features(slabs)[0], [(96, 128)])
    assert 300 < len(proposals[0]) <= network.rpn.test_limits.per_image == 2000
    monkeypatch.setattr(network.rpn, "test_limits", ProposalLimits(per_level=2000, per_image=300))
    (found,) = network(slabs)  # type: ignore[misc]
    assert len(found["scores"]) == 10
    assert (found["scores"] > 0.05).all()
    assert (found["boxes"] >= 0).all()
    assert (found["boxes"][:, [0, 2]] <= 127).all()
    assert (found["boxes"][:, [1, 3]] <= 95).all()


def test_it_has_43_209_750_parameters(on_meta: torch.device) -> None:
    with on_meta:
        network = multi_scale_booster()
    assert sum(parameter.numel() for parameter in network.parameters()) == 43_209_750


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_reaches_every_parameter(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = multi_scale_booster(width=8, channels=32, fc_channels=32).train()
    targets = [{"boxes": torch.tensor([[10.0, 12.0, 40.0, 50.0]]), "labels": torch.ones(1, dtype=torch.int64)}] * 2
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        losses: Any = network(torch.randn(2, 3, 64, 96), targets)
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    sum(losses.values()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_shared_norm_is_updated_once_for_each_dilation() -> None:
    network = BoosterBackbone(out_channels=16).train()
    network(torch.zeros(2, 3, 64, 64))
    assert [int(block.dilated.norm.num_batches_tracked) for block in network.blocks] == [3, 3, 3, 3]


def test_other_slice_counts_are_rejected() -> None:
    with pytest.raises(ValueError, match="reads 3 slices"):
        BoosterBackbone(out_channels=16)(torch.zeros(1, 9, 64, 64))
    with pytest.raises(ValueError, match="Expected 3 slices"):
        multi_scale_booster(9)
