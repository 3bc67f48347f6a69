"""Starting from other weights: the body goes in whole, the group transform as named, the rest stays fresh."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scripts import networks
from scripts.networks import (
    CenterCrop,
    FasterRCNN,
    OneStageDetector,
    ResNet2d,
    ResNet3d,
    TwoStageHead,
    fpn_3dce,
    mp3d_fpn,
    mp3d_retinanet,
)
from scripts.training.start_weights import BODY, CONVERSIONS, start_from
from scripts.weights import write_atomically


def narrow(num_slices: int, **options: Any) -> FasterRCNN:
    torch.manual_seed(options.pop("seed", num_slices))
    body = ResNet3d(layers=(1, 1, 1, 1), width=options.pop("width", 4))
    return mp3d_fpn(num_slices, body=body, fpn_channels=8, head=TwoStageHead(fc_channels=8), **options)


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, FasterRCNN]:
    # Another seed than that of the networks under test: what is loaded must differ from what was there.
    network = narrow(3, seed=100)
    path = tmp_path / "coco.pt"
    write_atomically({"model": network.state_dict(), "network": {}, "info": {}}, path)
    return path, network


def gtm(network: FasterRCNN) -> torch.Tensor:
    return network.get_parameter("backbone.conversions.0.conv.weight").detach()[:, :, 0, 0]


@pytest.mark.parametrize("transfer", ["fresh", "centre", "interpolated"])
@pytest.mark.parametrize("num_slices", [3, 9, 11])
def test_the_body_is_loaded_and_the_heads_are_not(source: tuple, num_slices: int, transfer: str) -> None:
    path, stored = source
    network = narrow(num_slices)
    head = network.rpn.head.cls_logits.weight.clone()
    assert not torch.equal(next(network.backbone.body.parameters()), next(stored.backbone.body.parameters()))
    start_from(network, path, transfer=transfer)
    for name, tensor in network.backbone.body.state_dict().items():
        assert torch.equal(tensor, stored.backbone.body.state_dict()[name])
    assert torch.equal(network.rpn.head.cls_logits.weight, head)


def test_the_group_transform_is_made_as_named(source: tuple) -> None:
    path, stored = source
    network = narrow(9)
    start_from(network, path)
    fresh = gtm(network).clone()
    assert fresh.abs().max() <= 1 / 3
    assert fresh.abs().max() > 0.25
    assert fresh.std().item() == pytest.approx(1 / 3 / 3**0.5, rel=0.15)
    start_from(network, path, transfer="centre")
    assert torch.equal(gtm(network), torch.eye(9)[4].expand(gtm(network).shape))
    start_from(network, path, transfer="interpolated")
    torch.testing.assert_close(gtm(network).sum(1), gtm(stored).sum(1))


@pytest.mark.parametrize("num_slices", [1, 5, 7, 9, 11, 27])
def test_interpolated_weights_are_the_stored_ones_shared_out(source: tuple, num_slices: int) -> None:
    path, stored = source
    network = narrow(num_slices)
    start_from(network, path, transfer="interpolated")
    old, new = gtm(stored), gtm(network)
    torch.testing.assert_close(new.sum(1), old.sum(1))
    # None is larger than what it came from, and the order of the slices is kept.
    assert (new.abs().max(1).values <= old.abs().max(1).values + 1e-6).all() or num_slices == 1
    with torch.no_grad():
        for stage, weight in enumerate(([1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0])):
            stored.get_parameter(f"backbone.conversions.{stage}.conv.weight")[:, :, 0, 0] = torch.tensor(weight)
    write_atomically({"model": stored.state_dict()}, path)
    start_from(network, path, transfer="interpolated")
    for stage in range(3):
        weights = network.get_parameter(f"backbone.conversions.{stage}.conv.weight").detach()[0, :, 0, 0]
        place = (weights * torch.arange(num_slices)).sum().item()
        assert weights.min() >= 0
        assert place == pytest.approx((num_slices - 1) / 2 * [0.5, 1, 1.5][stage], abs=0.16 * num_slices)


def test_many_slices_become_few(tmp_path: Path) -> None:
    stored = narrow(9)
    write_atomically({"model": stored.state_dict()}, tmp_path / "nine.pt")
    for num_slices in (1, 3, 7):
        network = narrow(num_slices)
        start_from(network, tmp_path / "nine.pt", transfer="interpolated")
        torch.testing.assert_close(gtm(network).sum(1), gtm(stored).sum(1))


@pytest.mark.parametrize("transfer", ["fresh", "centre", "interpolated"])
def test_a_group_transform_for_the_same_number_of_slices_is_loaded(source: tuple, transfer: str) -> None:
    path, stored = source
    network = mp3d_fpn(3, body=ResNet3d(layers=(1, 1, 1, 1), width=4), fpn_channels=8, head=TwoStageHead(fc_channels=8))
    assert not torch.equal(gtm(network), gtm(stored))
    start_from(network, path, transfer=transfer)
    assert torch.equal(gtm(network), gtm(stored))


def test_centre_starts_as_a_network_with_ctm(source: tuple) -> None:
    path, _ = source
    learnt, cropped = narrow(9), narrow(9, conversion=CenterCrop)
    start_from(learnt, path, transfer="centre")
    start_from(cropped, path, transfer="centre")
    cropped.backbone.fpn.load_state_dict(learnt.backbone.fpn.state_dict())
    slabs = torch.randn(1, 9, 64, 96)
    for one, other in zip(learnt.backbone(slabs), cropped.backbone(slabs), strict=True):
        torch.testing.assert_close(one, other)


def test_nothing_happens_without_a_file(caplog: pytest.LogCaptureFixture) -> None:
    network = narrow(3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with caplog.at_level(logging.INFO):
        start_from(network, None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not caplog.text


def test_the_log_says_what_was_done(source: tuple, caplog: pytest.LogCaptureFixture) -> None:
    path, stored = source
    with caplog.at_level(logging.INFO):
        start_from(narrow(9), path)
    body, transforms, left = (record.getMessage() for record in caplog.records)
    assert f"{len(stored.backbone.body.state_dict())} tensors of the body loaded" in body
    assert "for 9 slices, for 3 slices in the file: 0 loaded, 4 made: fresh" in transforms
    assert "pyramid (16 tensors), RoI head for 1 classes (8 tensors), RPN (6 tensors)" in left


def test_the_log_names_a_head_of_eighty_classes_and_what_a_backbone_file_lacks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = narrow(3, num_classes=80)
    write_atomically({"model": network.state_dict()}, tmp_path / "coco.pt")
    parts = {name: value for name, value in network.state_dict().items() if name.startswith("backbone.body.")}
    write_atomically({"model": parts}, tmp_path / "body.pt")
    with caplog.at_level(logging.INFO):
        start_from(narrow(3), tmp_path / "coco.pt")
    assert "RoI head for 80 classes (8 tensors)" in caplog.text
    assert "for 3 slices in the file: 4 loaded, 0 made." in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        start_from(narrow(5), tmp_path / "body.pt", transfer="centre")
    assert "none in the file: 0 loaded, 4 made: centre" in caplog.text
    assert "nothing, it holds no more" in caplog.text


def one_stage(num_slices: int) -> OneStageDetector:
    body = ResNet3d(layers=(1, 1, 1, 1), width=4)
    return mp3d_retinanet(num_slices, body=body, fpn_channels=8)


def test_a_one_stage_detector_starts_and_is_started_from_like_any_other(
    source: tuple, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, stored = source
    network, same = one_stage(9), one_stage(3)
    start_from(network, path, transfer="centre")
    weights = network.get_parameter("network.feature_extractor.conversions.2.conv.weight")[:, :, 0, 0]
    assert torch.equal(weights, torch.eye(9)[4].expand(weights.shape))
    start_from(same, path)
    kept = same.get_parameter("network.feature_extractor.conversions.0.conv.weight")[:, :, 0, 0]
    assert torch.equal(kept, gtm(stored))
    write_atomically({"model": same.state_dict()}, tmp_path / "one_stage.pt")
    with caplog.at_level(logging.INFO):
        start_from(two := narrow(3), tmp_path / "one_stage.pt")
    assert torch.equal(gtm(two), gtm(stored))
    body = stored.backbone.body.state_dict()
    assert all(torch.equal(tensor, body[name]) for name, tensor in two.backbone.body.state_dict().items())
    assert "one-stage head (" in caplog.text


SMALL = {"growth": 8, "channels": 16, "fc_channels": 16}
# Every published detector, with a body of few numbers where there is one.
PUBLISHED: dict[str, Callable[..., nn.Module]] = {
    "mulan": partial(networks.mulan, 9, **SMALL),
    "align_shift": partial(networks.align_shift, 3, **SMALL),
    "temporal_shift": partial(networks.temporal_shift, 3, **SMALL),
    "a3d": partial(networks.a3d, 3, **SMALL),
    "slice_attention": partial(networks.slice_attention, 3, embedding=24, **SMALL),
    "multi_scale_booster": partial(networks.multi_scale_booster, width=8, channels=16, fc_channels=16),
    "mvp_net": partial(networks.mvp_net, 3, layers=(1, 1, 1, 1), channels=16, fc_channels=16),
    "three_dce": partial(networks.three_dce, 9, width=8, rpn_channels=8, fc_channels=16),
    "rfcn": partial(networks.rfcn, width=8, rpn_channels=8, fc_channels=16),
    "vgg_faster_rcnn": partial(networks.vgg_faster_rcnn, width=8, rpn_channels=8, fc_channels=16),
    "retinanet_masks": partial(networks.retinanet_masks, 3, body=ResNet2d((1, 1, 1, 1), width=8), fpn_channels=16),
}


def stored_network(folder: Path, make: Callable[[], nn.Module]) -> tuple[Path, dict[str, torch.Tensor]]:
    torch.manual_seed(100)
    state = make().state_dict()
    # Counts and statistics too differ from those of a new network.
    state = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    write_atomically({"model": state, "network": {}, "info": {}}, folder / "stored.pt")
    return folder / "stored.pt", state


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_detector_starts_from_one_of_its_kind(tmp_path: Path, name: str) -> None:
    path, stored = stored_network(tmp_path, PUBLISHED[name])
    torch.manual_seed(0)
    network = PUBLISHED[name]()
    before = {each: tensor.clone() for each, tensor in network.state_dict().items()}
    start_from(network, path)
    for each, tensor in network.state_dict().items():
        # A one-stage detector keeps its backbone in a network of MONAI's.
        part = each.replace("network.feature_extractor.", "backbone.")
        wanted = stored if part.startswith((BODY, CONVERSIONS)) else before
        assert torch.equal(tensor, wanted[each]), each
    start_from(network, path, parts="all")
    assert all(torch.equal(tensor, stored[each]) for each, tensor in network.state_dict().items())


@pytest.mark.parametrize("changes", [{"tags": 12}, {"extras": ("patient",)}])
def test_heads_for_other_tags_start_anew(tmp_path: Path, changes: dict, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path, stored = stored_network(tmp_path, PUBLISHED["mulan"])
    network = PUBLISHED["mulan"](**changes)
    start_from(network, path, parts="all")
    own = network.state_dict()
    anew = [name for name, tensor in own.items() if not torch.equal(tensor, stored.get(name, torch.empty(0)))]
    assert anew
    assert all(own[name].shape != stored[name].shape for name in anew)
    assert all(name.startswith(("roi_heads.tag_head.logits.", "roi_heads.refine.")) for name in anew)
    assert f"{len(anew)} tensors start anew" in caplog.text


def test_a_2d_network_gets_advice_on_where_to_start_from(source: tuple) -> None:
    flat = fpn_3dce(3, body=ResNet2d((1, 1, 1, 1), width=4), fpn_channels=8, head=TwoStageHead(fc_channels=8))
    with pytest.raises(ValueError, match=r"3D body for the weights of .*coco\.pt, got one with a 2D body.*--imagenet"):
        start_from(flat, source[0])


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        ({"state_dict": {"backbone.layer1.0.conv1.weight": torch.ones(1)}}, "scripts.convert_checkpoint"),
        ({"conv1.weight": torch.ones(1)}, "--imagenet takes it"),
    ],
)
def test_weights_of_another_kind_get_advice(tmp_path: Path, content: dict, advice: str) -> None:
    write_atomically(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=rf"got none in .*other\.pth.*{re.escape(advice)}"):
        start_from(narrow(3), tmp_path / "other.pth")


@pytest.mark.parametrize("stored_slices", [None, 3, 9])
def test_slice_pairs_that_the_file_lacks_start_as_the_identity(
    tmp_path: Path, stored_slices: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    def paired(count: int, pairs: int | None) -> FasterRCNN:
        body = ResNet3d(layers=(1, 1, 1, 1), width=4, slice_pairs=pairs)
        return mp3d_fpn(count, body=body, fpn_channels=8, head=TwoStageHead(fc_channels=8))

    stored = paired(stored_slices or 9, stored_slices)
    with torch.no_grad():
        for name, each in stored.named_parameters():
            if name.endswith("pairs.matrix"):
                each.add_(0.5)
    write_atomically({"model": stored.state_dict(), "network": {}, "info": {}}, tmp_path / "a.pt")
    network = paired(9, 9)
    with caplog.at_level(logging.INFO):
        start_from(network, tmp_path / "a.pt")
    first = network.get_parameter("backbone.body.stages.0.0.pair.pairs.matrix").detach()
    wanted = torch.eye(9)[:, :, None].expand_as(first) + (0.5 if stored_slices == 9 else 0.0)
    assert torch.equal(first, wanted)
    assert ("4 matrices over pairs of slices start as the identity." in caplog.text) == (stored_slices != 9)
    kernel = "backbone.body.stages.2.0.pair.in_plane.0.weight"
    assert torch.equal(network.get_parameter(kernel), stored.get_parameter(kernel))


def test_a_wrong_transfer_is_named_without_a_file_too() -> None:
    with pytest.raises(ValueError, match="'middle'"):
        start_from(narrow(3), None, transfer="middle")


def test_start_weights_are_not_replaced_by_those_of_the_training(source: tuple, tmp_path: Path) -> None:
    path, _ = source
    (tmp_path / "model.pt").symlink_to(path)
    with pytest.raises(ValueError, match=r"does not replace by its own, got .*: choose another --output_dir\."):
        start_from(narrow(9), path, output=tmp_path)
    start_from(narrow(9), path, transfer="centre", output=tmp_path / "other")


def test_bad_files_are_named(source: tuple, tmp_path: Path) -> None:
    path, _ = source
    with pytest.raises(FileNotFoundError, match="none"):
        start_from(narrow(9), tmp_path / "none.pt")
    with pytest.raises(ValueError, match="'middle'"):
        start_from(narrow(9), path, transfer="middle")
    with pytest.raises(ValueError, match="Architecture or number of slices differ"):
        start_from(narrow(9, width=8), path)
    write_atomically({"model": {"a": torch.ones(1)}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"body under.*other\.pt"):
        start_from(narrow(9), tmp_path / "other.pt")
    write_atomically({"model": narrow(9, conversion=CenterCrop).state_dict()}, tmp_path / "ctm.pt")
    with pytest.raises(ValueError, match="to interpolate"):
        start_from(narrow(9), tmp_path / "ctm.pt", transfer="interpolated")


def whole(tmp_path: Path, **options: Any) -> tuple[Path, FasterRCNN]:
    network = narrow(9, seed=100, **options)
    path = tmp_path / "whole.pt"
    write_atomically({"model": network.state_dict(), "network": {}, "info": {}}, path)
    return path, network


def test_a_whole_detector_is_loaded(tmp_path: Path) -> None:
    path, stored = whole(tmp_path)
    network = narrow(9)
    start_from(network, path, parts="all")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, stored.state_dict()[name]), name


def test_heads_for_other_classes_start_anew_and_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path, stored = whole(tmp_path)
    network = narrow(9, num_classes=3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    start_from(network, path, parts="all")
    for name, tensor in network.state_dict().items():
        anew = name.startswith("roi_heads.predictor.")
        assert torch.equal(tensor, before[name] if anew else stored.state_dict()[name]), name
    assert "4 tensors start anew" in caplog.text
    assert "roi_heads.predictor.cls_score.weight" in caplog.text


@pytest.mark.parametrize(
    ("held", "wanted", "anew", "told"),
    [
        (["dark", "bright"], ["dark", "bright"], False, ""),
        (["dark", "bright"], ["bright", "dark"], True, "knows the classes dark, bright, this training bright, dark"),
        (["dark", "bright"], ["dark", "grey"], True, "the layers of the classes start anew"),
        (["class 1", "class 2"], ["bright", "dark"], False, "class 1, class 2 are taken for bright, dark, in this"),
        (None, ["bright", "dark"], False, ""),
    ],
)
def test_classes_of_another_order_are_not_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, held: list[str] | None, wanted: list[str], anew: bool, told: str
) -> None:
    path, stored = whole(tmp_path, num_classes=2)
    info = {} if held is None else {"recipe": {"classes": held}}
    write_atomically({"model": stored.state_dict(), "network": {}, "info": info}, path)
    network = narrow(9, num_classes=2)
    start_from(network, path, parts="all", classes=wanted)
    name = "roi_heads.predictor.cls_score.weight"
    assert torch.equal(network.get_parameter(name), stored.get_parameter(name)) != anew
    assert torch.equal(network.rpn.head.cls_logits.weight, stored.rpn.head.cls_logits.weight)
    assert told in caplog.text
    assert bool(told) == bool(caplog.text)


def test_a_whole_detector_for_another_number_of_slices(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path, _ = whole(tmp_path)
    network = narrow(3)
    start_from(network, path, parts="all", transfer="centre")
    assert torch.equal(gtm(network), torch.eye(3)[1].expand(gtm(network).shape))
    assert "are made for this number of slices (centre)" in caplog.text


def test_a_detector_of_another_kind_is_rejected_whole(tmp_path: Path, source: tuple) -> None:
    path, _ = whole(tmp_path, width=8)
    network = narrow(9)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"whole\.pt"):
        start_from(network, path, parts="all")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(ValueError, match="the parts body or all, got 'head'"):
        start_from(network, path, parts="head")
