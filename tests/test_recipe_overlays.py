"""Recipes of the compared systems as overlays: each goes with its network, and says what converted weights say."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from scripts.configuration.input_recipes import recipe_in_use
from scripts.configuration.running_config import check_config
from scripts.recipe import PAPER
from scripts.tools.published_layouts import LAYOUTS

CONFIGS = Path(__file__).resolve().parents[1] / "mp3d_bundle" / "configs"
RECIPES = sorted(path.stem.removeprefix("recipe_") for path in CONFIGS.glob("variants/recipe_*.yaml"))
# The network that each is tried with, made narrow.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "3dce": ("3dce_27", {"width": 8, "rpn_channels": 8, "fc_channels": 16}),
    "mulan": ("mulan", {"growth": 8, "channels": 16, "fc_channels": 32}),
    "msb": ("msb", {"width": 8, "channels": 16, "fc_channels": 16}),
    "mvpnet": ("mvpnet_3", {"channels": 16, "fc_channels": 16}),
    "alignshift": ("alignshift", {"growth": 8, "channels": 16, "fc_channels": 32}),
    "a3d": ("a3d", {"growth": 8, "channels": 16, "fc_channels": 32}),
    "satr": ("satr", {"growth": 8, "channels": 16, "fc_channels": 32, "embedding": 24}),
}
# Learning rate of weights and of biases, weight decay, epochs, images a step; of the fact sheets.
RATES = {
    "3dce": (1e-3, 2e-3, 5e-4, 6, 1),
    "mulan": (4e-3, 8e-3, 5e-4, 8, 8),
    "msb": (1e-2, 1e-2, 1e-4, 12, 2),
    "mvpnet": (5e-4, 1e-3, 1e-4, 13, 4),
    "alignshift": (2.5e-3, 2.5e-3, 1e-4, 20, 2),
    "a3d": (2.5e-3, 2.5e-3, 1e-4, 20, 2),
    "satr": (2.5e-3, 2.5e-3, 1e-4, 60, 2),
}


def config(name: str) -> ConfigParser:
    network, sizes = NETWORKS[name]
    files = [CONFIGS / "train.json", *(CONFIGS / "variants" / f"{each}.yaml" for each in (network, f"recipe_{name}"))]
    parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))
    parser["device"] = "cpu"
    for key, value in sizes.items():
        parser[f"network_def#{key}"] = value
    return parser


def test_every_recipe_has_its_network() -> None:
    assert sorted(NETWORKS) == RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_passes_the_check(name: str) -> None:
    check_config(config(name))


@pytest.mark.parametrize("name", RECIPES)
def test_what_the_network_sees_is_the_recipe_of_converted_weights(name: str) -> None:
    parser = config(name)
    wanted = LAYOUTS[name].recipe
    used = recipe_in_use(parser.get_parsed_content("validate#preprocessing"), PAPER)
    assert used == replace(wanted, num_slices=parser["num_slices"], stored_size=PAPER.stored_size)


@pytest.mark.parametrize("name", RECIPES)
def test_rates_and_epochs_are_those_of_the_authors(name: str) -> None:
    parser = config(name)
    rate, biases, decay, epochs, batch = RATES[name]
    assert (parser.get_parsed_content("max_epochs"), parser.get_parsed_content("batch_size")) == (epochs, batch)
    parser["epoch_length"] = 5
    parser["train#dataloader"] = {"_target_": "types.SimpleNamespace", "batch_size": "@batch_size"}
    optimizer = parser.get_parsed_content("optimizer")
    network = parser.get_parsed_content("network_def")
    of = {id(each): group for group in optimizer.param_groups for each in group["params"]}
    named = {name: of[id(each)] for name, each in network.named_parameters() if id(each) in of}
    assert named["rpn.head.bbox_pred.weight"]["lr"] == pytest.approx(rate)
    assert named["rpn.head.bbox_pred.weight"]["weight_decay"] == decay
    assert named["rpn.head.bbox_pred.bias"]["lr"] == pytest.approx(biases)
    assert named["rpn.head.bbox_pred.bias"]["weight_decay"] == (0.0 if biases > rate else decay)
    if name == "3dce":
        lrs = [named[f"{part}.weight"]["lr"] for part in ("backbone.position_maps", "roi_heads.box_head.1")]
        assert lrs == pytest.approx([3e-3, 2e-3])
    assert {id(each) for each in network.parameters() if each.requires_grad} <= set(of)
    schedule = parser.get_parsed_content("lr_scheduler")
    assert schedule.optimizer is optimizer


@pytest.mark.parametrize(
    ("network", "target", "rates", "wanted"),
    [
        (
            "3dce_rfcn",
            "rfcn",
            {"bias": 2.0, "position_maps.0.weight": 3.0, "position_maps.0.bias": 6.0},
            {"backbone.position_maps.0.bias": 6e-3, "backbone.position_maps.2.weight": 1e-3},
        ),
        ("3dce_faster_rcnn", "vgg_faster_rcnn", {"bias": 2.0}, {"roi_heads.box_head.4.bias": 2e-3}),
    ],
)
def test_the_recipe_of_3dce_fits_the_plain_detectors_of_its_tables(
    bundle_root: Path, network: str, target: str, rates: dict[str, float], wanted: dict[str, float], caplog: Any
) -> None:
    files = [CONFIGS / "train.json", *(CONFIGS / "variants" / f"{each}.yaml" for each in (network, "recipe_3dce"))]
    parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))
    parser.update({"device": "cpu", "network_def#width": 8, "network_def#fc_channels": 16})
    parser["optimizer#params#rates"] = rates
    check_config(parser)
    assert target in parser["network_def#_target_"]
    assert "is the recipe of" not in caplog.text
    parser["epoch_length"] = 5
    parser["train#dataloader"] = {"_target_": "types.SimpleNamespace", "batch_size": "@batch_size"}
    groups = parser.get_parsed_content("optimizer").param_groups
    of = {id(each): group["lr"] for group in groups for each in group["params"]}
    named = dict(parser.get_parsed_content("network_def").named_parameters())
    assert {name: of[id(named[name])] for name in wanted} == pytest.approx(wanted)
    option = repr(rates).replace("'", '"')
    assert option in (bundle_root / "docs" / "rows.md").read_text()


@pytest.fixture(scope="module")
def data(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two key slices of the first patient, as a data set."""
    folder, source = tmp_path_factory.mktemp("data"), shared / "data" / "deeplesion"
    shutil.copytree(source / "Images_png", folder / "Images_png")
    shutil.copy(source / "DL_info_patient1.csv", folder / "DL_info.csv")
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_samples_for_training_are_made_by_the_seed_and_hold_what_the_network_learns(data: Path, name: str) -> None:
    parser = config(name)
    parser["dataset_dir"], parser["train#dataset#data#split"] = str(data), "test"
    dataset = parser.get_parsed_content("train#dataset")

    def drawn(epoch: int) -> list[Any]:
        dataset.set_epoch(epoch)
        return [dataset[index] for index in range(len(dataset))]

    first = drawn(1)
    for sample, again in zip(first, drawn(1), strict=True):
        assert torch.equal(sample["image"], again["image"])
        height, width = sample["image"].shape[1:]
        boxes = sample["instances"]["boxes"]
        assert len(boxes) == 1
        assert ((boxes >= 0) & (boxes <= torch.tensor([width, height] * 2))).all()
        assert set(parser.get_parsed_content("network_def").roi_heads.reads) <= set(sample["instances"])
    if name != "3dce":  # the others augment
        assert any(
            one["image"].shape != other["image"].shape or not torch.equal(one["image"], other["image"])
            for epoch in range(2, 6)
            for one, other in zip(first, drawn(epoch), strict=True)
        )
    if name == "mvpnet":
        assert float(first[0]["instances"]["position"][0]) == pytest.approx(0.434454)
    if name == "mulan":
        assert {sample["instances"]["masks"].shape[1:] for sample in first} == {(28, 28)}
