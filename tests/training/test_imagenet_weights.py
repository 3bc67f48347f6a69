"""ImageNet weights for the 2D baselines: all of them or a clear error, never silence."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchvision.models import ResNet
from torchvision.models.resnet import Bottleneck

from scripts.networks import FixedBatchNorm2d, LateFusionRCNN, ResNet2d, ResNet3d, TwoStageHead, fpn_3dce, mp3d_fpn
from scripts.training import imagenet_weights
from scripts.training.imagenet_weights import start_from_imagenet

HEAD = TwoStageHead(fc_channels=8)


def source() -> ResNet:
    torch.manual_seed(1)
    return ResNet(Bottleneck, [1, 1, 1, 1])


def network(**changes: Any) -> LateFusionRCNN:
    body = ResNet2d((1, 1, 1, 1), **{"norm": FixedBatchNorm2d, **changes})
    return fpn_3dce(3, body=body, fpn_channels=8, head=HEAD)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "resnet.pth"
    torch.save(source().state_dict(), path)
    return path


def test_a_file_of_torchvision_is_loaded_whole(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    detector, expected = network(), source()
    heads = {name: tensor.clone() for name, tensor in detector.rpn.state_dict().items()}
    with caplog.at_level(logging.INFO):
        start_from_imagenet(detector, weights)
    assert torch.equal(detector.backbone.body.stem.conv.weight, expected.conv1.weight)  # type: ignore[union-attr]
    last = detector.backbone.body.stages[3][0].bn3  # type: ignore[index, union-attr]
    assert torch.equal(last.running_var, expected.layer4[0].bn3.running_var)  # type: ignore[union-attr]
    assert all(torch.equal(tensor, heads[name]) for name, tensor in detector.rpn.state_dict().items())
    assert str(weights) in caplog.text
    assert (
        "is not torchvision's ResNet50_Weights.IMAGENET1K_V1: its SHA-256 does not begin with 0676ba61" in caplog.text
    )
    assert "all other parts start fresh" in caplog.text


def test_a_file_from_before_batch_norms_counted_is_loaded_whole(tmp_path: Path) -> None:
    # torchvision's ResNet-50 of ImageNet is one: 267 tensors, all of them parameters, where ResNet has 320.
    state = {name: tensor for name, tensor in source().state_dict().items() if "num_batches_tracked" not in name}
    torch.save({name: nn.Parameter(tensor) for name, tensor in state.items()}, tmp_path / "old.pth")
    detector, expected = network(), source()
    start_from_imagenet(detector, tmp_path / "old.pth")
    body = detector.backbone.body
    assert torch.equal(body.stages[2][0].bn1.running_mean, expected.layer3[0].bn1.running_mean)  # type: ignore[index, union-attr]
    assert torch.equal(body.stages[0][0].conv2.weight, expected.layer1[0].conv2.weight)  # type: ignore[index, union-attr]
    del state["bn1.running_mean"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(ValueError, match=r"1 missing \(stem\.norm\.running_mean\)"):
        start_from_imagenet(network(), tmp_path / "less.pth")


def test_no_source_changes_nothing() -> None:
    detector = mp3d_fpn(3, body=ResNet3d(layers=(1, 1, 1, 1), width=8), fpn_channels=8, head=HEAD)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    start_from_imagenet(detector, None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())


def test_a_3d_network_gets_advice_on_where_to_start_from(weights: Path) -> None:
    detector = mp3d_fpn(3, body=ResNet3d(layers=(1, 1, 1, 1), width=8), fpn_channels=8, head=HEAD)
    with pytest.raises(ValueError, match=r"2D body.*got FasterRCNN with ResNet3d.*init_coco"):
        start_from_imagenet(detector, weights)


@pytest.mark.parametrize("changes", [{"width": 8}, {"norm": None}])
def test_weights_that_do_not_fit_are_rejected(weights: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="tensors are"):
        start_from_imagenet(network(**changes), weights)


def test_other_files_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        start_from_imagenet(network(), tmp_path / "none.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"conv1\.weight in .*other\.pth"):
        start_from_imagenet(network(), tmp_path / "other.pth")


@pytest.mark.parametrize(
    "error", [URLError("Name or service not known"), TimeoutError("timed out"), RuntimeError("invalid hash value")]
)
def test_without_a_network_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(imagenet_weights, "load_state_dict_from_url", fail)
    with pytest.raises(OSError, match=r"Could not download .*resnet50-0676ba61\.pth.*--imagenet FILE"):
        start_from_imagenet(network(), "download")


def test_a_download_is_checked_and_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def fetch(url: str, **options: Any) -> dict[str, torch.Tensor]:
        asked.update(options, url=url)
        return source().state_dict()

    monkeypatch.setattr(imagenet_weights, "load_state_dict_from_url", fetch)
    detector = network()
    start_from_imagenet(detector, "download")
    assert asked["check_hash"]
    assert asked["url"].endswith("resnet50-0676ba61.pth")
    assert torch.equal(detector.backbone.body.stem.conv.weight, source().conv1.weight)  # type: ignore[union-attr]
