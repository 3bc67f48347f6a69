"""Recipes of the compared systems with another network: what is logged, and what is rejected."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from scripts.configuration.read_keys import normal
from scripts.configuration.recipe_checks import recipe_complaints
from scripts.configuration.running_config import check_config

CONFIGS = Path(__file__).resolve().parents[2] / "mp3d_bundle" / "configs"


def parser(*overlays: str, **options: Any) -> ConfigParser:
    files = [CONFIGS / "train.json", *(CONFIGS / "variants" / f"{name}.yaml" for name in overlays)]
    merged = ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))
    merged["device"] = "cpu"
    merged.update(options)
    return merged


def complaints(*overlays: str, **options: Any) -> list[str]:
    return list(recipe_complaints(normal(parser(*overlays, **options).get())))


@pytest.mark.parametrize(
    ("network", "recipe"),
    [
        *(("3dce_27", "3dce"), ("3dce_3", "3dce"), ("mulan", "mulan"), ("msb", "msb"), ("mvpnet_9", "mvpnet")),
        *(("alignshift", "alignshift"), ("tsm", "alignshift"), ("a3d", "a3d"), ("satr", "satr")),
    ],
)
def test_a_recipe_fits_its_networks(network: str, recipe: str, caplog: pytest.LogCaptureFixture) -> None:
    assert complaints(network, f"recipe_{recipe}") == []
    assert not caplog.records


@pytest.mark.parametrize(("network", "recipe"), [("mvpnet_3", "mulan"), ("3dce_3", "msb"), ("msb", "a3d")])
def test_another_networks_recipe_is_logged(network: str, recipe: str, caplog: pytest.LogCaptureFixture) -> None:
    if network == "mvpnet_3":  # it has to be told what it sees
        window = {"network_def#window": [-1024.0, 3071.0, 50.0, 1.0]}
        found = complaints(network, f"recipe_{recipe}", **window)
    else:
        found = complaints(network, f"recipe_{recipe}")
    assert found == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"recipe_{recipe} is the recipe of scripts.networks" in record.message


@pytest.mark.parametrize(
    ("overlays", "message"),
    [
        (
            ("mulan", "recipe_mvpnet"),
            "network_def#window is not read: recipe_mvpnet is the recipe of.*mvp_net.*mulan has",
        ),
        (("recipe_mvpnet",), "network_def#window is not read.*mp3d_fpn has no such argument"),
        (("mvpnet_3", "recipe_mulan"), "network_def#window to be that of the slabs.*3071"),
        (("recipe_mvpnet", "mvpnet_9"), "network_def#window to be that of the slabs.*in front of its recipe"),
        (("a3d", "recipe_alignshift"), "z_mode is native.*give --z_mode corrected"),
        (("alignshift", "recipe_mulan"), "mask_targets is grabcut.*recipe_mulan make no such masks"),
        (("narrow_dense", "mulan"), "network_def#layers of narrow_dense is lost: put narrow_dense behind the overlay"),
        (("mulan", "narrow_msb"), "network_def#width of narrow_msb is not read: .*mulan has no such argument"),
        (
            ("init_imagenet",),
            r"imagenet is download.* 2D bodies and .*ResNet3d is a 3D one.*init_imagenet\.yaml.*init_coco",
        ),
        (("mulan", "recipe_mulan", "recipe_satr"), "expected one recipe, got recipe_mulan and recipe_satr"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_what_a_network_cannot_use_of_a_recipe_is_an_error(overlays: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?i){message}"):
        check_config(parser(*overlays))


def test_what_is_changed_on_the_command_line_is_accepted(caplog: pytest.LogCaptureFixture) -> None:
    assert complaints("a3d", "recipe_alignshift", z_mode="corrected") == []
    assert complaints("alignshift", "recipe_mulan", mask_targets="ellipses") == []
    assert len(caplog.records) == 2


def test_a_config_without_a_recipe_or_network_is_left_alone() -> None:
    assert complaints("init_imagenet", "fpn_3dce_9") == complaints("alignshift", imagenet="download") == []
    assert complaints() == complaints("mvpnet_3") == complaints("alignshift") == []
    assert list(recipe_complaints({"network_def": "@other"})) == []


@pytest.mark.parametrize("overlays", [(), ("size_narrow",), ("backbone_mr3d",), ("head_retinanet",)])
def test_imagenet_weights_for_a_3d_body_are_rejected_before_it_is_built(overlays: tuple[str, ...]) -> None:
    (found,) = complaints(*overlays, imagenet="resnet50.pth")
    assert found.startswith("config key imagenet is resnet50.pth, but ImageNet weights are of 2D bodies")
