"""Settings of a run: what changes the weights, as against where and how fast they are made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from scripts.configuration.run_settings import differences, run_settings
from scripts.weights import read_tensors

CONFIGS = Path(__file__).resolve().parents[2] / "mp3d_bundle" / "configs"


def settings(*files: str, **changes: Any) -> dict[str, Any]:
    """Settings of the training config with overlays and changes on top."""
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / name) for name in ("train.json", *files)]))
    parser.update(changes)
    parser["probe"] = {"_target_": "scripts.configuration.run_settings.run_settings"}
    return parser.get_parsed_content("probe")


def difference(epochs_done: int = 1, *, files: tuple[str, ...] = (), **changes: Any) -> str:
    return differences(settings(*files), settings(*files, **changes), epochs_done)


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset_dir": "elsewhere", "output_dir": Path("there"), "ckpt_dir": "here", "bundle_root": "x"},
        {"device": "cuda:1", "amp": True, "amp_dtype": "bfloat16", "num_workers": 9, "log_interval": 1},
        {"precision": "bfloat16", "recomputed_stages": [1]},
        {"max_epochs": 48, "val_interval": 3, "notice": "n", "model_name": "m", "missing_images": "drop"},
        {"train#dataloader#num_workers": 4, "validate#dataloader#pin_memory": False, "tensorboard#log_dir": "t"},
    ],
)
def test_places_pace_and_words_may_change(changes: dict[str, Any]) -> None:
    assert difference(**changes) == ""


def test_a_checkpoint_of_before_runs_resumed_within_an_epoch_still_fits() -> None:
    older = settings()
    older["train#sampler#_target_"] = "DistributedSampler"
    assert differences(older, settings(), 1) == ""
    assert differences({**older, "train#sampler#shuffle": False}, settings(), 1).startswith("train#sampler#shuffle")
    assert difference(checkpoint_interval=7) == ""


def test_a_checkpoint_of_before_an_option_fits_a_run_without_it() -> None:
    later = ("background_fraction", "hard_negatives", "mined", "early_stopping", "stop_early", "frozen", "body_rate")
    older = {name: value for name, value in settings().items() if not any(word in name for word in later)}
    assert len(older) < len(settings())
    assert differences(older, settings(), 1) == ""
    assert "background_fraction" in differences(older, settings(background_fraction=0.25), 1)
    assert "hard_negatives" in differences(older, settings(background_fraction=0.25, hard_negatives="a.csv"), 1)
    assert "mined" in differences(older, settings(mined="a.pkl"), 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_learning_rate": 0.005}, "base_learning_rate 0.005 and not 0.02"),
        ({"optimizer#momentum": 0.5, "seed": 1}, "seed 1 and not 0, optimizer#momentum 0.5 and not 0.9"),
        ({"optimizer#nesterov": True}, "optimizer#nesterov True and not 'absent'"),
        ({"train_scales": [96]}, r"train_scales \[96\] and not \[448, 512, 576\]"),
        ({"flips#z": 0.0}, "flips#z 0.0 and not 0.5"),
        ({"batch_size": 4}, "batch_size x processes 4 and not 2"),
        ({"pretrained": "a/coco.pt"}, "pretrained 'coco.pt' and not None"),
        (
            {"learning_rate": 0.1},
            r"^learning_rate 0.1 and not 'computed by scripts\.training\.learning_rate\.scale_learning_rate'$",
        ),
        ({"imagenet": "resnet50.pth"}, "imagenet True and not False"),
        (dict.fromkeys(["seed", "subset_seed", "batch_size", "max_gradient_norm", "train_fraction"], 7), "and 1 more$"),
    ],
)
def test_what_makes_other_weights_is_named_with_both_values(changes: dict[str, Any], message: str) -> None:
    assert re.search(message, difference(**changes))


def test_a_milestone_may_move_while_it_lies_ahead() -> None:
    assert difference(15, milestones=[16, 20], max_epochs=30) == ""
    assert "milestones [16, 20] and not [16, 22]" in difference(20, milestones=[16, 20])
    # From its first iteration on: the rate of that one is in the checkpoint already.
    assert difference(16, milestones=[15, 22]) != ""
    assert difference(16, milestones=[17, 22]) != ""


def test_the_length_counts_where_the_schedule_is_computed_from_it() -> None:
    files = ("variants/optimizer_adamw.yaml",)
    assert difference(files=files, max_epochs=30) == "max_epochs 30 and not 24"
    assert difference(files=files, device="cuda:1") == ""


def test_files_are_known_by_their_names_wherever_they_lie() -> None:
    one, two = (settings(pretrained=f"{folder}/coco.pt", imagenet=folder) for folder in ("a", "b"))
    assert differences(one, two, 1) == ""


def test_several_gpus_may_resume_with_what_one_began(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = settings(batch_size=4)
    monkeypatch.setattr("scripts.configuration.run_settings.idist.get_world_size", lambda: 2)
    assert differences(alone, settings("multi_gpu_train.json", batch_size=2), 1) == ""
    assert "batch_size x processes 8" in differences(alone, settings("multi_gpu_train.json", batch_size=4), 1)


def test_settings_are_plain_and_survive_a_checkpoint(tmp_path: Path) -> None:
    own = settings("pretrain_coco.json", _mine=object(), output_dir=tmp_path, train_scales=(96, Path("x")))
    assert json.loads(json.dumps(own)) == own
    torch.save(own, tmp_path / "last.pt")
    assert read_tensors(tmp_path / "last.pt") == own
    assert differences(own, settings("pretrain_coco.json", _mine=object(), train_scales=(96, Path("x"))), 1) == ""


def test_settings_need_a_config() -> None:
    with pytest.raises(ValueError, match="called from a config"):
        run_settings()
