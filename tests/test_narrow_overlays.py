"""The overlays that make the compared networks narrow: each goes behind those of its networks."""

from __future__ import annotations

from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from scripts.configuration.running_config import check_config

VARIANTS = Path(__file__).resolve().parents[1] / "mp3d_bundle" / "configs" / "variants"
NETWORKS = {
    "narrow_3dce": ("3dce_3", "3dce_27", "3dce_rfcn", "3dce_faster_rcnn"),
    "narrow_dense": ("mulan", "alignshift", "tsm", "a3d"),
    "narrow_msb": ("msb",),
    "narrow_mvpnet": ("mvpnet_3", "mvpnet_9"),
    "narrow_satr": ("satr",),
}


def config(entry: str, *overlays: str) -> ConfigParser:
    files = [VARIANTS.parent / f"{entry}.json", *(VARIANTS / f"{name}.yaml" for name in overlays)]
    parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))
    parser["device"] = "cpu"
    return parser


def test_every_narrow_overlay_has_its_networks() -> None:
    # The last one is the network of models/synthetic.pt, see test_run_demo.py.
    assert sorted([*NETWORKS, "narrow_synthetic"]) == sorted(path.stem for path in VARIANTS.glob("narrow_*.yaml"))


@pytest.mark.parametrize(
    ("narrow", "network"), [(narrow, name) for narrow, names in NETWORKS.items() for name in names]
)
def test_a_network_becomes_narrow_by_the_overlay_behind_its_own(narrow: str, network: str) -> None:
    parser = config("train", network, narrow)
    check_config(parser)
    check_config(config("evaluate", network, narrow))
    assert sum(parameter.numel() for parameter in parser.get_parsed_content("network_def").parameters()) < 1_400_000
    assert (parser["train_scales"], parser["test_scale"]) == ([96], 96)
    assert narrow.partition("_")[2] in ("dense", network.partition("_")[0])
    head = (VARIANTS / f"{narrow}.yaml").read_text().splitlines()[0]
    assert f"{network}.yaml" in head


# The recipe of each network, by the word with which the name of its overlay begins.
@pytest.mark.parametrize(
    ("narrow", "network"), [(narrow, name) for narrow, names in NETWORKS.items() for name in names]
)
def test_a_recipe_goes_behind_a_narrow_network(narrow: str, network: str) -> None:
    word = "alignshift" if network == "tsm" else network.partition("_")[0]
    parser = config("train", network, narrow, f"recipe_{word}")
    if network in ("3dce_rfcn", "3dce_faster_rcnn"):  # they have other layers than the recipe's, see docs/rows.md
        parser["optimizer#params#rates"] = {"bias": 2.0}
    check_config(parser)
    assert sum(parameter.numel() for parameter in parser.get_parsed_content("network_def").parameters()) < 1_400_000
