"""The classes of a set and of the network of its training are as many; another number is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from scripts.configuration.running_config import check_config
from scripts.configuration.set_classes import set_classes

CONFIGS = Path(__file__).resolve().parents[2] / "mp3d_bundle" / "configs"


def training(folder: Path, classes: list[str], *files: str, **changes: Any) -> ConfigParser:
    """The config of a training on a set with these classes, with overlays and changes on top."""
    folder.mkdir(exist_ok=True)
    about = {"format": "mp3d set", "version": 1, "splits": ["train"], "classes": classes}
    (folder / "set.json").write_text(json.dumps(about))
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / name) for name in ("train.json", *files)]))
    parser.update({"dataset_dir": str(folder), "device": "cpu", **changes})
    return parser


def test_the_network_distinguishes_the_classes_of_the_set(tmp_path: Path) -> None:
    for name in ("set", "set#2"):
        for files in ([], ["variants/head_retinanet.yaml"], ["variants/retinanet_3.yaml"], ["variants/mvpnet_9.yaml"]):
            parser = training(tmp_path / name, ["dark", "bright", "grey"], *files)
            check_config(parser)
            assert parser["network_def"]["num_classes"] == 3
    parser.parse()
    assert parser["network_def"]["num_classes"] == 3
    alone = training(tmp_path / "one", ["lesion"])
    check_config(alone)
    assert "num_classes" not in alone["network_def"]


def test_another_number_is_an_error_and_one_class_a_choice(tmp_path: Path) -> None:
    names = ["dark", "bright"]
    check_config(training(tmp_path, names, **{"network_def#num_classes": 2}))
    for other in (1, 3):
        with pytest.raises(
            ValueError, match=rf"^Expected network_def#num_classes 2, .*\(dark, bright\), got {other}; "
        ):
            check_config(training(tmp_path, names, **{"network_def#num_classes": other}))
    pooled = training(tmp_path, names, **{"train#dataset#data#by_class": False})
    check_config(pooled)
    assert "num_classes" not in pooled["network_def"]


def test_a_network_without_classes_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^Expected a network of several classes, .*dark, bright.*, got torch.nn.ReLU: "
    ):
        check_config(training(tmp_path, ["dark", "bright"], network_def={"_target_": "torch.nn.ReLU"}))


def test_every_network_may_have_classes(tmp_path: Path) -> None:
    paths = [path for path in sorted((CONFIGS / "variants").glob("*.yaml")) if "network_def" in path.read_text()]
    networks = set()
    for path in paths:
        if path.stem.startswith(("narrow_", "recipe_", "init_imagenet")):  # for use after another one
            continue
        parser = training(tmp_path, ["dark", "bright"], f"variants/{path.name}")
        check_config(parser)
        assert parser["network_def"]["num_classes"] == 2
        networks.add(parser["network_def"]["_target_"])
    assert len(networks) > 10


def test_a_set_that_was_not_imported_has_no_classes(tmp_path: Path) -> None:
    data = {"_target_": "scripts.data.deeplesion.splits.load_records"}
    config: dict[str, Any] = {"dataset_dir": str(tmp_path), "train": {"dataset": {"data": data}}}
    assert set_classes(config) == ()
    training(tmp_path, ["dark", "bright"])
    assert set_classes(config) == ("dark", "bright")
    data["_target_"] = "scripts.data.coco.coco_instances.load_instances"
    assert set_classes(config) == ()
