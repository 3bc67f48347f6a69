"""ImageNet weights for the 2D baselines: all of them or a clear error, never silence."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import ResNet
from torchvision.models.resnet import Bottleneck
from torchvision.models.vgg import make_layers

from scripts import networks
from scripts.data.intensity import IntensityWindow
from scripts.networks import FixedBatchNorm2d, LateFusionRCNN, ResNet2d, ResNet3d, TwoStageHead, fpn_3dce, mp3d_fpn
from scripts.networks.backbones.densenet import DenseLayer, NoMix
from scripts.training import imagenet_weights
from scripts.training.imagenet_weights import start_from_imagenet

HEAD = TwoStageHead(fc_channels=8)
VGG_16: list[str | int] = [8, 8, "M", 16, 16, "M", *[32] * 3, "M", *[64] * 3, "M", *[64] * 3, "M"]


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


# ---- the bodies of the other systems compute what torchvision's network computes ----


def saved(made: nn.Module, folder: Path) -> Path:
    """A file of a network of torchvision with statistics of its own."""
    torch.manual_seed(2)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5)
    torch.save(made.eval().state_dict(), folder / "weights.pth")
    return folder / "weights.pth"


def pixels(count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("make", [networks.a3d, networks.align_shift, networks.slice_attention, networks.mulan])
def test_a_dense_body_is_that_of_torchvision(tmp_path: Path, make: Callable[..., nn.Module]) -> None:
    theirs = torchvision.models.DenseNet(8, (6, 12, 24, 16), 16)
    detector = make(3 if make is not networks.mulan else 9, growth=8, channels=16, fc_channels=16)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    start_from_imagenet(detector, saved(theirs, tmp_path))
    loaded = detector.state_dict()
    mixing = [name for name in loaded if ".mix" in name or ".after." in name or not name.startswith("backbone.body.")]
    assert all(torch.equal(loaded[name], before[name]) for name in mixing)
    body = detector.get_submodule("backbone.body")
    # Without what mixes slices.
    for layer in body.modules():
        if isinstance(layer, DenseLayer):
            layer.mix1, layer.mix2 = NoMix(), NoMix()
    body.after = nn.ModuleList([nn.Identity(), nn.Identity()])
    images = pixels()
    single = body.conv0.weight.shape[1] == 1  # type: ignore[union-attr, index]
    assert single == (make is not networks.mulan)
    if single:
        # Where the other two channels are zero, the middle one is all there is.
        images[:, [0, 2]] = 0
    given = images[:, 1:2] if single else images
    slices = body.num_slices
    with torch.no_grad():
        last = body.eval()(given.expand(slices, -1, -1, -1), torch.ones(1))[-1][0]  # type: ignore[operator, arg-type]
        wanted = theirs.features[:9](images)[0]
    torch.testing.assert_close(last, wanted)


def test_torchvisions_own_file_of_densenet_has_older_names(tmp_path: Path) -> None:
    theirs = torchvision.models.DenseNet(8, (6, 12, 24, 16), 16)
    new = saved(theirs, tmp_path)
    old = {re.sub(r"(layer\d+\.\w+)([12])\.", r"\1.\2.", name): each for name, each in theirs.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")
    one, other = (networks.a3d(3, growth=8, channels=16, fc_channels=16) for _ in range(2))
    start_from_imagenet(one, new)
    start_from_imagenet(other, tmp_path / "old.pth")
    bodies = [each.get_submodule("backbone.body").state_dict() for each in (one, other)]
    assert all(torch.equal(bodies[0][name], bodies[1][name]) for name in bodies[0] if ".mix" not in name)


def test_vgg_is_that_of_torchvision_for_any_scale_of_pixels(tmp_path: Path) -> None:
    theirs = torchvision.models.VGG(make_layers(VGG_16), init_weights=False)
    path = saved(theirs, tmp_path)
    deviations = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    for deviation in (1.0, 58.395):
        detector = networks.three_dce(3, width=8, rpn_channels=8, fc_channels=16)
        start_from_imagenet(detector, path, window=IntensityWindow(std=deviation))
        with torch.no_grad():
            found = detector.backbone.body(pixels() * 255 / deviation)  # type: ignore[operator, union-attr]
            # 3DCE has no fourth pooling.
            wanted = theirs.features[:23](pixels() / deviations)
            wanted = theirs.features[24:30](wanted)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_statistics_are_folded_for_mvp_net(tmp_path: Path) -> None:
    theirs = ResNet(Bottleneck, [1, 1, 1, 1])
    for stage in (theirs.layer2, theirs.layer3, theirs.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    detector = networks.mvp_net(3, layers=(1, 1, 1, 1), fc_channels=16)
    start_from_imagenet(detector, saved(theirs, tmp_path), window=IntensityWindow(std=1.0))
    deviations = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    with torch.no_grad():
        found = detector.backbone.body(pixels() * 255)[-1]  # type: ignore[operator, union-attr]
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(pixels() / deviations))))
        for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
            x = stage(x)
    torch.testing.assert_close(found, x, rtol=1e-3, atol=1e-4)


def test_msb_starts_like_the_2d_baselines(tmp_path: Path) -> None:
    theirs = ResNet(Bottleneck, [1, 1, 1, 1])
    detector = networks.multi_scale_booster(layers=(1, 1, 1, 1), channels=16, fc_channels=16)
    start_from_imagenet(detector, saved(theirs, tmp_path))
    body = detector.backbone.body
    assert torch.equal(body.stages[3][0].bn3.running_var, theirs.layer4[0].bn3.running_var)  # type: ignore[index, union-attr]


def test_a_file_of_another_network_is_named(weights: Path) -> None:
    with pytest.raises(ValueError, match=r"torchvision's DenseNet-121 with the key features\.conv0\.weight in .*pth"):
        start_from_imagenet(networks.mulan(9, growth=8, channels=16, fc_channels=16), weights)
    with pytest.raises(ValueError, match=r"torchvision's VGG-16 with the key features\.0\.weight in .*pth"):
        start_from_imagenet(networks.three_dce(3, width=8, rpn_channels=8, fc_channels=16), weights)
