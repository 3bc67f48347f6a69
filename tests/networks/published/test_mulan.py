"""MULAN against the values of its authors' modules, and what it learns, finds, refines and leaves out."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scripts.networks import MULAN, Patient, mulan
from scripts.networks.heads.roi_heads import DetectionLimits
from scripts.networks.published.authors_names import renamed
from scripts.networks.published.mulan import MULAN_BACKBONE, MULAN_NAMES
from support.field_values import backbone_state, check_block, checkpoint
from support.whole_detectors import check_both_ways, check_checkpoint, keys_of, target

TAGS = 6


@pytest.fixture(scope="module")
def values(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "reference/golden_field/mulan.json").read_text())


@torch.no_grad()
def test_features_and_objectness_equal_the_authors(values: dict[str, Any]) -> None:
    # The second stage, of which no value is listed, holds most numbers; it may be narrow.
    network = mulan(fc_channels=8, tags=2).double().eval()
    backbone = network.backbone
    backbone.load_state_dict(backbone_state(values, MULAN_BACKBONE, ("backbone.", "feature_fuse.")))
    parts = values["parts"]
    assert sum(each.numel() for each in backbone.parameters()) == parts["backbone"] + parts["feature_fuse"]
    own = [key for key in values["keys"] if key[0].startswith("rpn.")]
    state = renamed(checkpoint({**values, "keys": own}), MULAN_NAMES)
    network.rpn.load_state_dict({name.removeprefix("rpn."): tensor for name, tensor in state.items()})
    seen: dict[str, torch.Tensor] = {}
    body: Any = backbone.body
    taps = {
        "conv0": body.conv0,
        "denseblock1": body.denseblock1,
        "transition2": body.transition2,
        "conv_ilf2": body.after[1].conv,
        "lateral2": backbone.decoder.laterals[0],  # type: ignore[union-attr, index]
    }
    for name, module in taps.items():
        module.register_forward_hook(lambda *a, name=name: seen.update({name: a[2]}))
    given = np.random.default_rng(0).standard_normal((3, 3, 96, 128)).reshape(1, 9, 96, 128)
    levels = backbone(torch.from_numpy(given))
    seen |= {"fused": levels[0], "rpn_cls": network.rpn.head(levels)[0][0]}
    for block in [*values["A_taps"], *values["A_heads"]]:
        check_block(block, seen[block["tag"].split(".")[-1]], 1e-8)


@pytest.mark.parametrize(
    ("extras", "parameters"),
    [((), 94_326_808), (("box", "patient"), 94_327_846), (("box", "position", "patient"), 94_328_019)],
)
def test_parameters_are_those_of_the_authors(on_meta: torch.device, extras: tuple[str, ...], parameters: int) -> None:
    with on_meta:
        network = mulan(extras=extras)
    assert sum(each.numel() for each in network.parameters()) == parameters


def test_the_authors_tensors_fit(shared: Path) -> None:
    check_checkpoint(mulan, keys_of(shared, "mulan"), MULAN_NAMES)


def test_anchors_and_offsets_equal_the_authors(values: dict[str, Any]) -> None:
    network = narrow()
    anchors = network.rpn.anchors([torch.zeros(1, 1, *values["anchors"]["map_hw"])])[0]
    torch.testing.assert_close(anchors, torch.tensor(values["anchors"]["list"]))
    names = ("proposals", "gt", "deltas", "encoded", "decoded")
    listed = {name: torch.tensor(values["box_coder"][name], dtype=torch.float64) for name in names}
    ours = network.roi_heads.coder
    encoded = ours.encode(listed["gt"], listed["proposals"])
    torch.testing.assert_close(encoded, listed["encoded"], rtol=1e-6, atol=1e-6)
    decoded = ours.decode(listed["deltas"], listed["proposals"])
    torch.testing.assert_close(decoded, listed["decoded"], rtol=1e-6, atol=1e-6)


def narrow(**settings: Any) -> MULAN:
    torch.manual_seed(0)
    return mulan(3, tags=TAGS, growth=8, channels=16, fc_channels=32, **settings)


def tagged(boxes: list[list[float]], **fields: torch.Tensor) -> dict[str, torch.Tensor]:
    count = len(boxes)
    tags = torch.tensor([[1, 0, 0, 1, 0, -1]] * count).reshape(count, TAGS)
    return target(boxes, tags=tags, tag_exclusions=tags == 0, **fields)


def test_it_learns_and_finds() -> None:
    network = narrow(extras=("box", "position", "patient"))
    network.roi_heads.limits = DetectionLimits(per_image=7)
    for head in (network.roi_heads.mask_head, network.roi_heads.tag_head):
        torch.nn.init.ones_(head.logits.bias)  # type: ignore[arg-type]
    found = check_both_ways(network, 3, [tagged([[10.0, 20.0, 40.0, 50.0]]), tagged([])])
    for one in found:
        assert one["masks"].shape == (len(one["boxes"]), 28, 28)
        assert one["tag_scores"].shape == (len(one["boxes"]), TAGS)
        assert set(one) == {"boxes", "scores", "labels", "masks", "tag_scores"}
    assert sum(len(one["boxes"]) for one in found) > 0


def losses_of(network: MULAN, targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    found = network.train()(torch.randn(len(targets), 3, 64, 96), targets)
    assert isinstance(found, dict)
    return found


def test_every_part_has_its_loss() -> None:
    boxes = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
    found = losses_of(narrow(), [tagged([[10.0, 20.0, 40.0, 50.0]])])
    further = ("loss_masks", "loss_tags", "loss_refined_tags", "loss_tag_mining", "loss_refined_classifier")
    assert set(found) == {*boxes, *further}
    assert all(found[name] > 0 for name in further)
    # At its start the refinement is the identity.
    torch.testing.assert_close(found["loss_refined_classifier"], found["loss_classifier"])
    torch.testing.assert_close(found["loss_refined_tags"], found["loss_tags"])


def test_what_the_data_lack_is_left_out_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    network = narrow()
    plain = tagged([[10.0, 20.0, 40.0, 50.0]])
    for name in ("masks", "tags", "tag_exclusions"):
        del plain[name]
    with caplog.at_level(logging.WARNING):
        found = losses_of(network, [plain])
        losses_of(network, [plain])
    assert not {"loss_masks", "loss_tags", "loss_refined_tags", "loss_tag_mining"} & set(found)
    assert sorted(record.args[0] for record in caplog.records) == ["masks", "tags"]  # type: ignore[index]
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert all(each.grad is not None for each in network.parameters())
    # Untrained heads give no information.
    with torch.no_grad():
        (one,) = network.eval()(torch.randn(1, 3, 64, 64))
    assert set(one) == {"boxes", "scores", "labels"}


def test_tags_of_another_number_are_rejected() -> None:
    wrong = target([[10.0, 20.0, 40.0, 50.0]], tags=torch.ones(1, TAGS + 1))
    with pytest.raises(ValueError, match=r"tags of shape \(\d+, 6\), got \(\d+, 7\)"):
        losses_of(narrow(), [wrong])


@torch.no_grad()
def test_boxes_are_chosen_by_unrefined_scores_and_ordered_by_refined_ones() -> None:
    network = narrow().double().eval()
    torch.nn.init.normal_(network.roi_heads.predictor.cls_score.weight, std=0.5)
    torch.nn.init.ones_(network.roi_heads.tag_head.logits.bias)
    slab = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    (before,) = network(slab)
    refine = network.roi_heads.refine
    refine.classes.weight.neg_()
    refine.tags.bias.add_(0.5)
    (after,) = network(slab)
    assert len(before["scores"]) > 1
    assert (before["scores"].diff() <= 0).all()
    torch.testing.assert_close(after["boxes"], before["boxes"].flip(0))
    torch.testing.assert_close(after["scores"], 1 - before["scores"].flip(0))
    torch.testing.assert_close(after["tag_scores"].logit(), before["tag_scores"].flip(0).logit() + 0.5)


def test_boxes_may_have_classes() -> None:
    boxes = tagged([[10.0, 20.0, 40.0, 50.0], [50.0, 10.0, 70.0, 30.0]], labels=torch.tensor([2, 3]))
    check_both_ways(narrow(num_classes=3), 3, [boxes, tagged([])])


@torch.no_grad()
def test_refined_scores_are_those_of_the_class_of_a_box() -> None:
    network = narrow(num_classes=2).double().eval()
    torch.nn.init.normal_(network.roi_heads.predictor.cls_score.weight, std=0.5)
    torch.nn.init.zeros_(network.roi_heads.predictor.cls_score.bias)
    network.roi_heads.limits = DetectionLimits(per_image=300)
    slab = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    (before,) = network(slab)
    assert set(before["labels"].tolist()) == {1, 2}
    network.roi_heads.refine.classes.bias.copy_(torch.tensor([0.0, -50.0, 50.0]))
    (after,) = network(slab)
    assert len(after["labels"]) == len(before["labels"])
    torch.testing.assert_close(after["scores"] > 0.5, after["labels"] == 2)


@torch.no_grad()
def test_scores_depend_on_the_patient_of_each_slab() -> None:
    network = narrow(extras=("patient",)).double().eval()
    network.roi_heads.refine.classes.weight[1, -1] = 3.0  # the older, the surer
    slabs = torch.randn(1, 3, 64, 96, dtype=torch.float64).repeat(2, 1, 1, 1)
    young, old = network(slabs, patients=[Patient(age=10), Patient(age=90)])
    unknown = network(slabs)[0]
    torch.testing.assert_close(young["boxes"], old["boxes"])
    torch.testing.assert_close(old["scores"].logit() - young["scores"].logit(), torch.full_like(old["scores"], 2.4))
    torch.testing.assert_close(old["scores"].logit() - unknown["scores"].logit(), torch.full_like(old["scores"], 1.2))
    with pytest.raises(ValueError, match="a patient for each of 2 slabs, got 1"):
        network(slabs, patients=[Patient()])
