"""Configs: overlays change what exists, one axis each; the entry configs agree with one another."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import torch
from monai.bundle import ComponentLocator, ConfigComponent, ConfigParser

from scripts.engines import check_config

CONFIGS = Path(__file__).resolve().parents[1] / "mp3d_bundle" / "configs"
VARIANTS = sorted(CONFIGS.glob("variants/*.yaml"))
ENTRIES = [name for name in ("train", "evaluate", "inference") if (CONFIGS / f"{name}.json").is_file()]
# What the entry configs are for, so what they may differ in.
OWN = {"_desc_", "imports", "initialize", "run", "finalize", "output_dir", "handlers", "evaluator", "dataset"} | {
    "dataloader", "preprocessing", "postprocessing", "inferer", "key_metric", "network", "slab_reader",
}  # fmt: skip


# Put on top of overlays of several axes, so no axis itself.
COMBINATIONS = {"demo"}


def load(path: Path) -> dict[str, Any]:
    return ConfigParser.load_config_file(path)


def entry(name: str) -> ConfigParser:
    return ConfigParser(load(CONFIGS / f"{name}.json"))


def fits(base: ConfigParser, key: str) -> bool:
    """Whether ``key`` exists in ``base``, or is an argument of the target it stands under."""
    if key in base:
        return True
    parent, _, name = key.replace("#", "::").rpartition("::")
    node = base.get(parent) if parent else None
    if not isinstance(node, dict) or "_target_" not in node:
        return False
    component = ConfigComponent(dict(node), locator=ComponentLocator())
    target: Any = locate(component.resolve_module_name())
    # A class that hands its keywords on to its base takes the base's arguments too.
    takers = [vars(kind)["__init__"] for kind in target.__mro__ if "__init__" in vars(kind)] if isinstance(
        target, type
    ) else [target]  # fmt: skip
    return any(name in inspect.signature(taker).parameters for taker in takers)


def strings(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for value in node.values():
            yield from strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from strings(value)
    elif isinstance(node, str):
        yield node


def axis(path: Path) -> str:
    return path.stem.split("_")[0]


@pytest.mark.parametrize("path", [*VARIANTS, CONFIGS / "multi_gpu_train.json"], ids=lambda path: path.stem)
def test_every_overlay_key_exists_in_an_entry_config(path: Path) -> None:
    bases = [entry(name) for name in ENTRIES]
    for key in load(path):
        assert key == "imports" or any(fits(base, key) for base in bases), key


def test_a_misspelt_overlay_key_would_be_noticed() -> None:
    base = entry("train")
    assert fits(base, "network_def#conversion")
    assert not fits(base, "network_def#convertion")
    assert not fits(base, "num_slice")
    assert not fits(base, "train#trainr#max_epochs")
    assert fits(base, "train#dataloader#prefetch_factor")
    assert not fits(base, "train#dataloader#prefetch")


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_overlays_are_short_and_say_what_they_are(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert len(lines) <= 7
    for text in strings(load(path)):
        assert not re.fullmatch(r"[-+]?[0-9.]+[eE][-+]?[0-9]+", text), f"YAML reads {text} as text: write 1.0e-4"


def test_overlays_of_different_axes_touch_different_keys() -> None:
    owner: dict[str, str] = {}
    for path in VARIANTS:
        for key in set() if path.stem in COMBINATIONS else load(path):
            assert owner.setdefault(key, axis(path)) == axis(path), f"{key} in {path.name}"


def test_shared_keys_are_equal() -> None:
    configs = {name: load(CONFIGS / f"{name}.json") for name in ENTRIES}
    for first in ENTRIES:
        for second in ENTRIES:
            # Inference takes the network from the weights file, whatever it is.
            own = OWN | ({"network_def"} if "inference" in (first, second) else set())
            for key in (set(configs[first]) & set(configs[second])) - own:
                assert configs[first][key] == configs[second][key], f"{key} in {first} and {second}"


@pytest.mark.parametrize(("name", "verb"), [("train", "training"), ("evaluate", "evaluating")])
def test_run_is_an_alias(name: str, verb: str) -> None:
    config = load(CONFIGS / f"{name}.json")
    assert config["run"] == config[verb]


@pytest.mark.parametrize("path", [CONFIGS / f"{name}.json" for name in ENTRIES] + VARIANTS, ids=lambda path: path.stem)
def test_no_macros(path: Path) -> None:
    assert not [text for text in strings(load(path)) if text.startswith("%")]


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_configs_pass_their_own_check(name: str) -> None:
    check_config(entry(name))


def test_the_papers_numbers_stand_in_the_config() -> None:
    config = load(CONFIGS / "train.json")
    assert (config["max_epochs"], config["base_learning_rate"], config["max_gradient_norm"]) == (24, 0.02, 35.0)
    assert config["learning_rate"]["reference_batch"] == 16
    assert (config["optimizer"]["momentum"], config["optimizer"]["weight_decay"]) == (0.9, 1e-4)
    assert config["lr_scheduler"]["milestones"] == [16, 22]
    assert config["flips"] == {"horizontal": 0.5, "vertical": 0.0, "z": 0.5}
    assert (config["train_scales"], config["test_scale"]) == ([448, 512, 576], 512)


def narrow(*overlays: Path) -> ConfigParser:
    """The training config with a small network, the overlays on top."""
    files = [CONFIGS / "train.json", CONFIGS / "variants" / "size_narrow.yaml", *overlays]
    parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))
    parser["device"] = "cpu"
    return parser


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_every_overlay_builds_and_runs_forward(path: Path) -> None:
    parser = narrow(path)
    check_config(parser)
    network = parser.get_parsed_content("network")
    precision = parser.get_parsed_content("precision")
    slab = torch.zeros(parser["num_slices"], 64, 96)
    targets = [{"boxes": torch.tensor([[10.0, 20.0, 40.0, 50.0]]), "labels": torch.ones(1, dtype=torch.int64)}]
    with precision.autocast():
        losses = network.train()([slab], targets)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert len(losses) >= 2
    with torch.no_grad(), precision.autocast():
        (found,) = network.eval()([slab])
    assert found["boxes"].shape == (len(found["scores"]), 4)
    for name in ("slab_reader", "froc_rule", "load_slab"):
        assert parser.get_parsed_content(name) is not None
    transforms = parser.get_parsed_content("train#preprocessing").transforms
    assert len(transforms) == 7


@pytest.mark.parametrize(("overlay", "conversions"), [("conversion_ctm", "CenterCrop"), ("slices_5", "GroupTransform")])
def test_an_overlay_changes_what_it_names(overlay: str, conversions: str) -> None:
    network = narrow(CONFIGS / "variants" / f"{overlay}.yaml").get_parsed_content("network_def")
    assert {type(module).__name__ for module in network.backbone.conversions} == {conversions}


def test_every_json_config_is_plain_json() -> None:
    for path in CONFIGS.glob("*.json"):
        assert isinstance(json.loads(path.read_text()), dict)
