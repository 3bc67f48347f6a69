"""What options may be: every option of every entry config has bounds, and values beyond them are named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from scripts.configuration.option_rules import RULES, TEXTS, misfits, rule_of
from scripts.configuration.running_config import check_config

CONFIGS = Path(__file__).resolve().parents[2] / "mp3d_bundle" / "configs"
ENTRIES = ("train", "evaluate", "evaluate_volumes", "inference")
# Looked at by those who read them: devices by PyTorch, the others as they depend on the weights or on files.
ELSEWHERE = {"device", "operating_point", "outputs", "label_format"}
STRUCTURE = {"imports", "initialize", "finalize", "detector_ops", "network", "handlers"}


def plain(name: str) -> dict[str, Any]:
    """Top-level keys of an entry config that are options: no component, no group of settings, no list of steps."""
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    verbs = {key for key, value in config.items() if value == config["run"]}
    return {
        key: value
        for key, value in config.items()
        if not key.startswith("_") and not isinstance(value, dict) and key not in verbs | STRUCTURE
    }


@pytest.mark.parametrize("name", ENTRIES)
def test_every_option_has_a_rule_that_its_own_value_follows(name: str) -> None:
    for key, value in plain(name).items():
        assert key in RULES or key in ELSEWHERE, f"{key} needs a rule in scripts/configuration/option_rules.py"
        assert not list(misfits(key, value, [value])), key


def test_every_text_that_is_taken_as_typed_is_an_option() -> None:
    assert set(TEXTS) <= set(RULES)
    known = {key for path in CONFIGS.glob("*.json") for key in json.loads(path.read_text())}
    assert set(TEXTS) <= known


@pytest.mark.parametrize("name", ENTRIES)
def test_parts_of_the_program_are_not_replaced_by_plain_values(name: str) -> None:
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    parts = {key: value for key, value in config.items() if isinstance(value, dict) and "_target_" in value}
    assert "window" in parts
    parts.pop("learning_rate", None)
    for key, part in parts.items():
        for value in ([100, -100], 5, "abc", True):
            (told,) = misfits(key, value, [part])
            assert told.endswith(f"for config key {key}, got {value!r}")
        for value in (part, None, "@other", "$None"):
            assert not list(misfits(key, value, [part]))


def test_a_number_may_be_the_learning_rate_itself() -> None:
    part = json.loads((CONFIGS / "train.json").read_text())["learning_rate"]
    for value in (0.004, 1, part, "@mine", "$0.1 / 8"):
        assert not list(misfits("learning_rate", value, [part]))
        assert not list(misfits("optimizer#lr", value, ["@learning_rate"]))
    for value in (0, -0.004, math.nan, math.inf, "fast", True, [0.1]):
        (told,) = misfits("learning_rate", value, [part])
        assert told.startswith("expected a number above 0, or ")
        assert told.endswith(f" for config key learning_rate, got {value!r}")


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("train", "max_epochs", -3),
        ("train", "max_epochs", 1.5),
        ("train", "max_epochs", True),
        ("train", "milestones", "abc"),
        ("train", "milestones", [-1]),
        ("train", "milestones", [8, "x"]),
        ("train", "milestones", 8),
        ("train", "val_interval", 0),
        ("train", "log_interval", 0),
        ("train", "seed", -1),
        ("train", "seed", 2**32),
        ("train", "max_gradient_norm", 0),
        ("train", "max_gradient_norm", math.nan),
        ("train", "max_gradient_norm", "inf"),
        ("train", "base_learning_rate", math.inf),
        ("train", "base_learning_rate", -0.1),
        ("train", "train_fraction", 0),
        ("train", "train_fraction", 1.01),
        ("train", "train_scales", []),
        ("train", "train_scales", [512, 0]),
        ("train", "train_scales", 512),
        ("train", "flips#z", 1.5),
        ("train", "flips", 0.5),
        ("train", "flips", {"horizontal": 0.5}),
        ("train", "batch_size", 0),
        ("train", "train#dataloader#batch_size", 0),
        ("train", "train#trainer#max_epochs", 0),
        ("train", "accumulation_steps", 0),
        ("train", "num_workers", -1),
        ("train", "z_mode", "correct"),
        ("train", "pretrained", True),
        ("train", "output_dir", 20240105),
        ("train", "output_dir", ""),
        ("train", "keep_noisy", 0),
        ("train", "optimizer#momentum", "much"),
        ("train", "optimizer#momentum", math.nan),
        ("train", "max_epochs", "$1 - 4"),
        ("train", "num_slices", 4),
        ("evaluate", "checkpoint", True),
        ("evaluate", "split", True),
        ("evaluate", "test_scale", 0),
        ("evaluate", "bootstrap_resamples", -1),
        ("evaluate", "gallery_images", -1),
        ("evaluate", "batch_size", [2]),
        ("evaluate_volumes", "slice_spacing", 0),
        ("evaluate_volumes", "spacing", [0.8, 0.8]),
        ("evaluate_volumes", "spacing", [0.8, 0.8, 0]),
        ("evaluate_volumes", "image_size", 0),
        ("evaluate_volumes", "predictions", False),
        ("inference", "score_threshold", 1.5),
        ("inference", "score_threshold", "high"),
        ("inference", "box_threshold", -0.1),
        ("inference", "sw_batch_size", 0),
        ("inference", "overlays", -1),
        ("inference", "slice_spacing", math.nan),
        ("inference", "pixel_spacing", -1),
        ("inference", "image_size", 512.5),
        ("inference", "progress", "yes"),
        ("inference", "input", True),
        ("inference", "input", [1, "a"]),
        ("inference", "linking#min_iou", 2),
    ],
)
def test_an_invalid_value_is_named(name: str, option: str, value: Any) -> None:
    config = ConfigParser(ConfigParser.load_config_file(CONFIGS / f"{name}.json"))
    config["device"] = "cpu"
    config.parse()
    config.get()["device"] = "cpu"
    node = config.get()
    *path, last = option.split("#")
    for part in path:
        node = node[part]
    node[last] = value
    with pytest.raises(ValueError, match=rf"^Expected .* for config key {option}, got .+\.$"):
        check_config(config)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("milestones", []),
        ("milestones", (16, 22)),
        ("max_gradient_norm", None),
        ("pixel_spacing", 0.7),
        ("pixel_spacing", "@mine"),
        ("input", Path("a")),
        ("input", ["a", Path("b")]),
        ("seed", 2**32 - 1),
        ("split", "val"),
        ("score_threshold", 0),
        ("base_learning_rate", 1),
        ("amp", "True"),
    ],
)
def test_good_values_pass(option: str, value: Any) -> None:
    assert not list(misfits(option, value, []))


def test_a_path_without_a_value_is_reported_as_such() -> None:
    assert list(misfits("checkpoint", True, [])) == ["expected a path for config key checkpoint, got no value"]


def test_an_argument_follows_the_rule_of_the_option_it_stands_for() -> None:
    assert rule_of("train#dataloader#batch_size", ["@batch_size"]) is RULES["batch_size"]
    assert rule_of("writer#settings#x", ["$1"]) is None


def test_the_keys_of_any_group_belong_together() -> None:
    group = {"low": 1, "high": 2.5, "on": True}
    assert not [*misfits("window", {**group, "low": 3}, [group])]
    for wrong in ({"low": 1}, {**group, "middle": 2}, {}, 3):
        [complaint] = misfits("window", wrong, [group])
        assert "the keys high, low, on (one alone is --window#low 1) for config key window" in complaint
    # A group of parts, or of references, may be extended.
    for open_group in ({"one": {"_target_": "A"}}, {"one": "@two"}):
        assert not [*misfits("writers", {**open_group, "more": 1}, [open_group])]
