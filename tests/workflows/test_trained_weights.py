"""A weights file in a run: what it says is known before its network is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scripts.recipe import PAPER
from scripts.weights import build_network, load_network, save_weights
from scripts.workflows.trained_weights import Weights, network_with_weights
from support.narrow_networks import NARROW, TINY

BUNDLE = Path(__file__).resolve().parents[2] / "mp3d_bundle"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    info = {"name": "narrow", "inference": {"score_threshold": 0.01, "pixel_spacing": 1.5}}
    return save_weights(tmp_path_factory.mktemp("weights") / "narrow.pt", build_network(NARROW), NARROW, info)


def test_missing_weights_say_how_to_get_some(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*model\.pt\. Train a model") as error:
        Weights(tmp_path / "model.pt").load()
    assert "demo" not in str(error.value)
    (tmp_path / "demo.pt").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"--checkpoint .*demo\.pt .*synthetic images.*no real lesions"):
        Weights(tmp_path / "model.pt").load()


def test_weights_bring_their_settings(checkpoint: Path) -> None:
    weights = Weights(checkpoint)
    assert {tensor.device.type for tensor in weights.outline.state_dict().values()} == {"meta"}
    assert weights.info == load_network(checkpoint)[1]
    assert weights.setting("pixel_spacing", None) == 1.5
    assert weights.setting("image_size", 512) == 512
    assert not weights.load().training
    assert weights.load().state_dict().keys() == weights.outline.state_dict().keys()
    # Without a file a config can still be built.
    assert Weights("nowhere.pt").setting("image_size", 512) == 512
    assert Weights("nowhere.pt").info == {}


def test_all_but_the_values_is_checked_before_the_network_is_loaded(tmp_path: Path) -> None:
    network = build_network(NARROW)
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] = torch.nan
    weights = Weights(save_weights(tmp_path / "nan.pt", network, NARROW, {"name": "nan"}))
    assert weights.outline.backbone.num_slices == 3
    with pytest.raises(ValueError, match="Expected finite weights"):
        weights.load()
    other = {**NARROW, "num_slices": 5}
    wrong = Weights(save_weights(tmp_path / "other.pt", network, other, {"name": "other"}))
    with pytest.raises(ValueError, match=r"Expected weights of this network.*other\.pt"):
        _ = wrong.outline


def test_weights_of_the_bundle_are_found_from_any_folder(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    demo = network_with_weights("./models/demo.pt").state_dict()
    assert demo.keys() == load_network(BUNDLE / "models" / "demo.pt")[0].state_dict().keys()
    (tmp_path / "mine.pt").write_bytes(checkpoint.read_bytes())
    assert network_with_weights("mine.pt").backbone.num_slices == 3
    assert network_with_weights("nowhere.pt", num_slices=5, body={}, head={}).backbone.num_slices == 5
    with pytest.raises(ValueError, match=r"network as mine\.pt describes it, got other parts: \{'anchor_scale': 3\}"):
        network_with_weights("mine.pt", body={}, head={"anchor_scale": 3})


@pytest.mark.parametrize(
    ("named", "classes"), [(["tumour", "node"], ("tumour", "node")), (["tumour"], ("class 1", "class 2"))]
)
def test_weights_of_several_classes_name_them(tmp_path: Path, named: list[str], classes: tuple[str, ...]) -> None:
    several = {**TINY, "num_classes": 2}
    info = {"name": "two", "recipe": replace(PAPER, num_slices=3, classes=tuple(named)).plain()}
    weights = Weights(save_weights(tmp_path / "two.pt", build_network(several), several, info))
    assert weights.info["classes"] == classes
    # Nothing is said of classes where there is one.
    assert weights.info.get("notice") is None


def test_weights_of_one_class_name_none(checkpoint: Path) -> None:
    assert "classes" not in Weights(checkpoint).info
