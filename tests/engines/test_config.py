"""The running config: unknown keys, wrong types, plain copies."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from scripts.engines import check_config, current_parser, plain_config
from scripts.engines import config as config_module
from scripts.engines.errors import root_error

BASE = {
    "num_slices": 9,
    "keep_noisy": True,
    "rate": 0.02,
    "device": "$torch.device('cpu')",
    "train": {"dataset": {"_target_": "Dataset", "data": []}, "handlers": [], "max_epochs": 24},
}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "train.json").write_text(json.dumps(BASE))
    (tmp_path / "metadata.json").write_text(json.dumps({"version": "1"}))
    monkeypatch.setattr(config_module, "CONFIGS", tmp_path)
    return tmp_path


def parser(**changes: Any) -> ConfigParser:
    merged = ConfigParser(json.loads(json.dumps(BASE)))
    for key, value in changes.items():
        merged.set(value, key.replace("__", "::"))
    return merged


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_slices": 3},
        {"rate": 1},
        {"num_slices": "$1 + 2"},
        {"device": "cpu"},
        {"_note_": "free"},
        {"train__dataset__cache": 1},
        {"train__handlers": [{"_target_": "StatsHandler"}]},
    ],
)
def test_known_keys_pass(base: Path, changes: dict[str, Any]) -> None:
    check_config(parser(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_slice": 3}, r"Unknown config key num_slice \(did you mean num_slices\?\)\."),
        ({"version": "1"}, "Unknown config key version"),
        ({"train__max_epoch": 3}, r"Unknown config key train#max_epoch \(did you mean train#max_epochs\?\)"),
        ({"num_slices": "nine"}, "Expected a whole number for config key num_slices, got 'nine'"),
        ({"num_slices": 9.5}, "Expected a whole number for config key num_slices, got 9.5"),
        ({"keep_noisy": "false"}, "Expected True or False for config key keep_noisy, got 'false'"),
        ({"keep_noisy": 1}, "Expected True or False for config key keep_noisy, got 1"),
        ({"rate": True}, "Expected a number for config key rate, got True"),
    ],
)
def test_unknown_keys_and_wrong_types_are_named(base: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_config(parser(**changes))


def test_a_key_of_another_workflow_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", "--checkpoint", "mine.pt", "--colours=RGB"])
    (base / "evaluate.json").write_text(json.dumps({"checkpoint": "model.pt", "num_slices": 9, "evaluating": []}))
    (base / "overlay.json").write_text(json.dumps({"train#epochs": 3, "colours": "BGR"}))
    with pytest.raises(
        ValueError, match=r"Config key checkpoint belongs to evaluate\.json, and nothing in train\.json reads it"
    ):
        check_config(parser(checkpoint="mine.pt"))
    check_config(parser(colours="RGB", train__epochs=3))
    check_config(ConfigParser({"checkpoint": "mine.pt", "num_slices": 9, "evaluating": []}))
    # A config of one's own that is made of none of ours is not told what to read.
    check_config(ConfigParser({"checkpoint": "mine.pt", "num_slices": 9}))
    # An overlay's key, which its training reads.
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "run"])
    check_config(parser(checkpoint="mine.pt"))


@pytest.mark.parametrize(
    ("files", "option", "value", "owner"),
    [
        (["train"], "checkpoint", "mine.pt", "evaluate.json"),
        (["evaluate"], "pretrained", "mine.pt", "train.json"),
        (["train", "pretrain_coco"], "annotations", "mine.json", "evaluate_coco.json"),
        (["evaluate", "evaluate_coco"], "num_classes", 7, "pretrain_coco.json"),
        (["inference"], "max_epochs", 3, "train.json"),
    ],
)
def test_options_of_the_wrong_command_are_refused(
    files: list[str], option: str, value: Any, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", f"--{option}", str(value)])
    names = [str(config_module.CONFIGS / f"{name}.json") for name in files]
    config = ConfigParser(ConfigParser.load_config_files(names))
    check_config(config)
    config[option] = value
    with pytest.raises(ValueError, match=rf"Config key {option} belongs to .*{owner}"):
        check_config(config)


def test_a_config_can_check_itself(base: Path) -> None:
    merged = parser(_check={"_target_": "scripts.engines.check_config"}, dataset_dirr=1)
    with pytest.raises(RuntimeError) as caught:
        merged.get_parsed_content("_check")
    assert "Unknown config key dataset_dirr" in str(root_error(caught.value))


def test_outside_of_a_config_there_is_no_parser() -> None:
    assert current_parser() is None
    with pytest.raises(ValueError, match="called from a config"):
        check_config()


def test_a_plain_copy_has_values_in_place_of_references() -> None:
    merged = ConfigParser(
        {
            "slices": "$2 + 3",
            "width": 8,
            "net": {
                "_target_": "torch.nn.Linear",
                "in": "@slices",
                "sizes": ["@width", None, 1.5],
                "part": {"_target_": "no.such.Thing", "name": "x", "on": True},
            },
        }
    )
    assert plain_config(merged, "net") == {
        "_target_": "torch.nn.Linear",
        "in": 5,
        "sizes": [8, None, 1.5],
        "part": {"_target_": "no.such.Thing", "name": "x", "on": True},
    }


def test_a_plain_copy_of_an_object_is_refused() -> None:
    with pytest.raises(ValueError, match=r"plain data in net::x, got dtype"):
        plain_config(ConfigParser({"net": {"x": "$torch.float16"}}), "net")


@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda:99", r"got cuda:99 where PyTorch finds \d+ CUDA GPUs"), ("gpu", "such as cpu, cuda or cuda:1, got 'gpu'")],
)
@pytest.mark.usefixtures("base")
def test_a_device_that_is_not_there_is_refused(device: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_config(ConfigParser({**BASE, "device": device}))
    check_config(ConfigParser({**BASE, "device": "cpu"}))
