"""Agreement with the released code: its numbers for fixed weights and inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.networks import FasterRCNN
from scripts.networks.heads.box_rules import BoxCoder, Sampling
from scripts.networks.heads.rpn import PyramidAnchors
from scripts.tools.convert_weights import from_released, infer_definition
from scripts.weights import build_network
from support import released_values as released

ALL = Sampling(10**9, 0.5)


def read(shared: Path, name: str) -> dict[str, Any]:
    return json.loads((shared / "reference" / "golden" / name).read_text())


def detector(block: dict[str, Any], *, double: bool = True, isotropic: bool = False) -> FasterRCNN:
    """The network of a block of reference weights."""
    state = released.state(block["keys"], block.get("overrides"))
    network = build_network(infer_definition(state, "the reference", isotropic=isotropic))
    network.load_state_dict(from_released(state, network, "the reference"), strict=False)
    network = network.double() if double else network.float()
    assert isinstance(network, FasterRCNN)
    return network.eval()


@pytest.mark.parametrize("name", ["mp3d63_gtm_d3", "mp3d63_ctm_d9", "p3d63_iso_d9"])
@torch.no_grad()
def test_backbone_outputs_agree(shared: Path, name: str) -> None:
    block = read(shared, "backbone.json")[name]
    backbone = detector(block, double=False, isotropic="iso" in name).backbone
    maps = backbone.body(released.slabs(block["input"]["shape"]).float().unsqueeze(1))
    for convert, volume, expected in zip(backbone.conversions, maps, block["outputs"], strict=True):
        released.check(convert(volume), expected, 1e-4)


@torch.no_grad()
def test_pyramid_and_proposal_network_agree(shared: Path) -> None:
    block = read(shared, "detector_forward.json")
    network = detector(block, double=False)
    case = block["cases"]["A"]
    features = network.backbone(released.slabs(case["input"]["shape"]).float())
    for level, expected in zip(features, case["feats"], strict=True):
        released.check(level, expected, 1e-4)
    logits, offsets = network.rpn.head(features)
    for actual, expected in zip(logits + offsets, case["rpn_cls"] + case["rpn_reg"], strict=True):
        released.check(actual, expected, 1e-4)


def test_losses_agree(shared: Path) -> None:
    network = detector(read(shared, "detector_forward.json")).train()
    network.rpn.sampling = ALL
    network.roi_heads.sampling = ALL
    reference = read(shared, "detector_train.json")
    boxes = torch.tensor(reference["gt"], dtype=torch.float64)
    targets = [{"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64)}]
    losses = network(released.slabs([1, 1, 9, 96, 128]), targets)
    expected = reference["run"]["losses"]
    names = {
        "loss_objectness": "loss_rpn_cls",
        "loss_rpn_box_reg": "loss_rpn_bbox",
        "loss_classifier": "loss_cls",
        "loss_box_reg": "loss_bbox",
    }
    for ours, theirs in names.items():
        assert losses[ours].item() == pytest.approx(expected[theirs], rel=1e-4), ours


def test_base_anchors_agree(shared: Path) -> None:
    anchors = PyramidAnchors()
    for level, expected in enumerate(read(shared, "misc.json")["base_anchors"]):
        torch.testing.assert_close(anchors.base(level), torch.tensor(expected), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("name", "deviations"), [("rpn", (1, 1, 1, 1)), ("rcnn", (0.1, 0.1, 0.2, 0.2))])
def test_box_coder_agrees(shared: Path, name: str, deviations: tuple[float, ...]) -> None:
    block = read(shared, "misc.json")["bbox_coder"]
    coder = BoxCoder(deviations)
    proposals, truth, deltas = (torch.tensor(block[key], dtype=torch.float64) for key in ("proposals", "gt", "deltas"))
    torch.testing.assert_close(
        coder.encode(truth, proposals), torch.tensor(block[name]["encode"], dtype=torch.float64), atol=1e-5, rtol=1e-5
    )
    decoded = torch.tensor(block[name]["decode_free"], dtype=torch.float64)
    torch.testing.assert_close(coder.decode(deltas, proposals), decoded, atol=1e-4, rtol=1e-6)
