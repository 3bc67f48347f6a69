"""The running config: unknown keys, wrong types, plain copies."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import fire
import pytest
import torch
from monai.bundle import ConfigParser, load, run

from scripts.configuration import running_config as config_module
from scripts.configuration.running_config import check_config, plain_config
from scripts.configuration.typed_options import current_parser
from scripts.error_lines import root_error

BASE = {
    "num_slices": 9,
    "keep_noisy": True,
    "rate": 0.02,
    "device": "$torch.device('cpu')",
    "train": {"dataset": {"_target_": "Dataset", "data": []}, "handlers": [], "max_epochs": 24},
    "run": ["$print(@num_slices, @keep_noisy, @rate, @device, @train)"],
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
        ({"rates": 3}, r"Unknown config key rates \(did you mean rate\?\)"),
        ({"num_slices": "nine"}, "Expected an odd number of slices.* for config key num_slices, got 'nine'"),
        ({"num_slices": 9.5}, "Expected an odd number of slices.* for config key num_slices, got 9.5"),
        ({"keep_noisy": "false"}, "Expected True or False for config key keep_noisy, got 'false'"),
        ({"keep_noisy": 1}, "Expected True or False for config key keep_noisy, got 1"),
        ({"rate": True}, "Expected a number for config key rate, got True"),
    ],
)
def test_unknown_keys_and_wrong_types_are_named(base: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_config(parser(**changes))


def real(*files: str, **changes: Any) -> ConfigParser:
    """The bundle's own configs with changes on top, as MONAI merges them."""
    paths = [str(config_module.CONFIGS / (name if "." in name else f"{name}.json")) for name in files]
    merged = ConfigParser(ConfigParser.load_config_files(paths))
    merged.update(changes)
    merged["device"] = "cpu"
    return merged


QUIET: dict[str, Any] = {"logging_file": False}
ADAMW = "variants/optimizer_adamw.yaml"


@pytest.mark.parametrize(
    ("files", "option", "value", "message"),
    [
        (
            ["train"],
            "checkpoint",
            "m.pt",
            "checkpoint belongs to evaluate.json and .* nothing in train.json reads",
        ),
        (["evaluate"], "pretrained", "m.pt", "pretrained belongs to train.json"),
        (["train", "pretrain_coco"], "annotations", "m.json", "annotations belongs to evaluate_volumes.json"),
        (["evaluate", "evaluate_coco"], "num_classes", 7, "num_classes belongs to pretrain_coco.json"),
        (
            ["evaluate", "evaluate_coco"],
            "split",
            "validation",
            "split has no effect: what reads it in evaluate",
        ),
        (["inference"], "max_epochs", 3, "max_epochs belongs to train.json"),
        (["inference"], "network_def#num_slices", 3, "network_def#num_slices has no effect"),
        (["inference"], "network_def#head#anchor_scale", 3, "no effect: .* one that --checkpoint FILE desc"),
        (["evaluate_volumes"], "network_def#body#width", 16, "no effect: .* one that --checkpoint FILE describes"),
        (["inference", "variants/z_released.yaml"], "_", 1, "z_mode belongs to evaluate.json and train.json"),
        (["train"], "score_threshold", 0.3, "score_threshold belongs to inference.json"),
        (["train", ADAMW], "base_learning_rate", 0.5, "base_learning_rate has no effect: .* replaced here"),
        (["train"], "lr_scheduler#gama", 0.5, None),
        (["train"], "train#trainer#amp", True, "train#trainer#amp has no effect: give --amp"),
        (["train"], "train#trainer#epoch_length", 5, "--train_fraction takes fewer"),
        (["train"], "epoch_length", 5, r"one pass over the training images .* epoch_length, got 5"),
        (["train"], "train#trainr", {"max_epochs": 3}, r"Unknown config key train#trainr \(did you mean train#trainer"),
        (["train"], "flips#diagonal", 0.5, r"Unknown config key flips#diagonal"),
        (["train"], "flips", {"horizontal": 0.5, "diagonal": 0.5}, r"Unknown config key flips#diagonal"),
        (["train"], "dataset_dirr", "x", r"Unknown config key dataset_dirr \(did you mean dataset_dir\?\)"),
        (["train"], "subset_seed", 3, "subset_seed has no effect on all of the training images"),
        (["train", "variants/subset_100.yaml"], "subset_seed", 3, "give a --train_fraction below 1"),
        (["train", "variants/subset_20.yaml"], "subset_seed", 3, None),
        (["inference"], "network_def#checkpoint", "m.pt", "network_def#checkpoint has no effect"),
        (["train"], "pretrained_parts", "all", "pretrained_parts has no effect without --pretrained"),
        (["train"], "pretrained_transfer", "centre", "pretrained_transfer has no effect without --pretrained"),
        (["train"], "frozen_stages", 2, "frozen_stages would keep random weights: give --pretrained"),
        (["train", "pretrain_coco"], "mask_targets", "ellipses", "mask_targets has no effect: .*load_instances"),
        (["train", "pretrain_coco"], "tags", "tags.json", "tags has no effect: .*load_instances"),
        (["train", "pretrain_coco"], "mask_targets", "grabcut", None),
        (["train"], "mask_targets", "ellipses", None),
        (["train"], "tags", "tags.json", None),
        (["train"], "_mine", 1, None),
        (["train"], "bundle_root", "x", None),
        (["train", "evaluate"], "max_epochs", 3, None),
    ],
)
def test_a_key_that_nothing_reads_is_rejected(files: list[str], option: str, value: Any, message: str | None) -> None:
    config = real(*files)
    config[option] = value
    if message is None:
        check_config(config)
        return
    with pytest.raises(ValueError, match=message):
        check_config(config)


@pytest.mark.parametrize("entry", ["train.json", "evaluate.json"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"froc_rule#name": "MULAN"}, "is MULAN, the rule with extra_pixels 1.0, got 0.0"),
        ({"froc_rule#iou_threshold": 0.3}, "is MP3D, the rule with iou_threshold 0.5, got 0.3"),
        ({"froc_rule#name": "MP3D at 0.3", "froc_rule#iou_threshold": 0.3}, None),
    ],
)
def test_a_changed_rule_has_no_known_rules_name(entry: str, options: dict[str, Any], message: str | None) -> None:
    if message is None:
        check_config(real(entry, **options))
    else:
        with pytest.raises(ValueError, match=message):
            check_config(real(entry, **options))


def test_an_empty_split_of_an_imported_set_is_no_run_without_work(tmp_path: Path) -> None:
    about: dict[str, Any] = {"format": "mp3d set", "version": 1, "classes": ["lesion"]}

    def check(file: str, splits: list[str], **changes: Any) -> None:
        (tmp_path / "set.json").write_text(json.dumps({**about, "splits": splits}))
        check_config(real(file, dataset_dir=str(tmp_path), **changes))

    check("evaluate", ["train", "test"])
    with pytest.raises(ValueError, match=r"Expected patients for test in .*, it has them for train: give --split\."):
        check("evaluate", ["train"])
    check("evaluate", ["train"], split="train")
    # A training needs nobody for validation.
    check("train", ["train"])
    with pytest.raises(ValueError, match=r"Expected patients for train in .*, it has them for test: import it with"):
        check("train", ["test"])


@pytest.mark.parametrize(("option", "value"), [("checkpoint", "m.pt"), ("box_threshold", 0.2), ("num_slices", 3)])
def test_an_option_of_the_detector_is_rejected_where_its_detections_are_given(option: str, value: Any) -> None:
    check_config(real("evaluate_volumes", predictions="found.json"))
    check_config(real("evaluate_volumes", **{option: value}))
    with pytest.raises(ValueError, match=f"^Config key {option} has no effect with --predictions"):
        check_config(real("evaluate_volumes", predictions="found.json", **{option: value}))


@pytest.mark.parametrize(("option", "value"), [("overlays", 3), ("slice_overlays", True)])
@pytest.mark.parametrize("outputs", [["json", "csv"], ("json",), "json"])
def test_pictures_are_rejected_where_none_are_written(option: str, value: Any, outputs: Any) -> None:
    check_config(real("inference", **{option: value}))
    check_config(real("inference", outputs=outputs))
    check_config(real("inference", outputs=["json", "overlays"], **{option: value}))
    with pytest.raises(ValueError, match=f"^Config key {option} has no effect without overlays among the --outputs"):
        check_config(real("inference", outputs=outputs, **{option: value}))


def test_a_threshold_is_not_reported_as_an_operating_point() -> None:
    """The settings in the results would name an operating point that decided nothing."""
    check_config(real("inference", operating_point=1))
    with pytest.raises(ValueError, match="operating_point has no effect"):
        check_config(real("inference", operating_point=1, score_threshold=0.3))


def test_a_key_that_the_config_itself_reads_is_known() -> None:
    """As those that MONAI's experiment tracking adds."""
    config = real("evaluate", my_scale=96, test_scale="@my_scale")
    check_config(config)
    config["test_scale"] = 96
    with pytest.raises(ValueError, match="Unknown config key my_scale"):
        check_config(config)


def test_what_monais_load_asks_for_counts_as_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It builds the network alone, which the run of this config does not need."""
    folder = tmp_path / "own" / "configs"
    folder.mkdir(parents=True)
    content = {
        "network_def": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3},
        "note": "",
        "initialize": [{"_target_": "scripts.configuration.running_config.check_config"}],
        "run": ["$print('done')"],
    }
    (folder / "inference.json").write_text(json.dumps(content))
    (folder / "metadata.json").write_text(json.dumps({"version": "1"}))
    (tmp_path / "own" / "models").mkdir()
    torch.save(torch.nn.Linear(2, 3, bias=False).state_dict(), tmp_path / "own" / "models" / "model.pt")
    monkeypatch.setattr(config_module, "CONFIGS", folder)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    loaded = load("own", bundle_dir=str(tmp_path), workflow_type="inference", net_override={"bias": False})
    assert loaded.bias is None
    for option in ({"network_def#out_features": 4}, {"note": "new"}):
        with pytest.raises(RuntimeError) as caught:
            run("run", config_file=str(folder / "inference.json"), **QUIET, **option)
        assert f"onfig key {next(iter(option))} has no effect" in str(root_error(caught.value))


@pytest.mark.parametrize("way", ["words", "dashes", "one dash", "arguments file", "python", "overlay"])
def test_a_key_of_another_workflow_is_rejected_however_it_is_given(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay, arguments = tmp_path / "overlay.json", tmp_path / "arguments.json"
    overlay.write_text(json.dumps({"score_threshold": 0.3}))
    arguments.write_text(json.dumps({"score_threshold": 0.3}))
    words = {"words": ["--score_threshold", "0.3"], "dashes": ["--score-threshold=0.3"]}.get(way, [])
    words = {"one dash": ["-score_threshold", "0.3"], "arguments file": ["--args_file", str(arguments)]}.get(way, words)
    files = [str(config_module.CONFIGS / "train.json"), *([str(overlay)] if way == "overlay" else [])]
    changes = {"score_threshold": 0.3} if way == "python" else {}
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "training", "--config_file", str(files), *words])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    command = partial(run, "training", **QUIET)
    call = partial(fire.Fire, {"training": command}) if words else partial(command, config_file=files, **changes)
    with pytest.raises(RuntimeError) as caught:
        call()
    assert "Config key score_threshold belongs to inference.json" in str(root_error(caught.value))


@pytest.mark.parametrize(
    ("file", "workflow", "own"),
    [
        ("evaluate.json", "training", "evaluating"),
        ("train.json", "evaluate", "training"),
        ("inference.json", "x", "inferring"),
    ],
)
def test_a_workflow_of_another_config_is_named(file: str, workflow: str, own: str, tmp_path: Path) -> None:
    """Before its options are judged, which it might well read."""
    with pytest.raises(RuntimeError) as caught:
        run(workflow, config_file=str(config_module.CONFIGS / file), dataset_dir=str(tmp_path), **QUIET)
    message = str(root_error(caught.value))
    assert f"Expected a workflow of {file} to run (" in message
    assert own in message
    assert message.endswith(f"got {workflow}.")


def test_an_overlay_for_two_workflows_says_so(tmp_path: Path) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("max_epochs: 3\ntest_scale: 96\n")
    files = [config_module.CONFIGS / "evaluate.json", overlay]
    with pytest.raises(ValueError, match="Config key max_epochs belongs to train"):
        check_config(ConfigParser(ConfigParser.load_config_files(files)))
    overlay.write_text(overlay.read_text() + "+_shared_: {max_epochs: training}\n")
    check_config(ConfigParser(ConfigParser.load_config_files(files)))
    # An option is no overlay.
    with pytest.raises(RuntimeError) as caught:
        run("evaluating", config_file=[str(file) for file in files], **QUIET, max_epochs=3)
    assert "Config key max_epochs belongs to train.json" in str(root_error(caught.value))


def test_the_peak_of_the_schedule_overrules_the_rate_of_the_optimizer() -> None:
    files = [str(config_module.CONFIGS / name) for name in ("train.json", ADAMW)]
    rates: dict[str, Any] = {"optimizer#lr": 0.1, "lr_scheduler#max_lr": 0.2}
    with pytest.raises(RuntimeError) as caught:
        run("training", config_file=files, **QUIET, **rates)
    assert "Config key optimizer#lr has no effect" in str(root_error(caught.value))


def test_a_reduced_type_needs_mixed_precision() -> None:
    config = real("train", amp=False, amp_dtype="bfloat16")
    config.parse()
    with pytest.raises(ValueError, match="amp_dtype has no effect while amp is False"):
        check_config(config)
    config = real("train", amp=True, amp_dtype="bfloat16")
    config.parse()
    check_config(config)


def test_several_processes_need_a_config_that_joins_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_config(real("train"))
    monkeypatch.setenv("RANK", "1")
    for name in ("train", "evaluate", "inference"):
        with pytest.raises(ValueError, match=r"Expected one process, got 2 from torchrun.*multi_gpu_train\.json"):
            check_config(real(name))
    check_config(real("train", "multi_gpu_train"))
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_config(real("train"))


@pytest.mark.parametrize(("restarts", "shared", "told"), [("3", "True", 1), ("0", "True", 0), ("3", "False", 0)])
def test_restarts_need_a_store_of_their_own(
    restarts: str, shared: str, told: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": restarts}
    for name, value in {**settings, "TORCHELASTIC_USE_AGENT_STORE": shared}.items():
        monkeypatch.setenv(name, value)
    check_config(real("train", "multi_gpu_train"))
    assert caplog.text.count("Set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1") == told


def test_a_config_can_check_itself(base: Path) -> None:
    merged = parser(_check={"_target_": "scripts.configuration.running_config.check_config"}, dataset_dirr=1)
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


def test_a_plain_copy_of_an_object_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"plain data in net::x, got dtype"):
        plain_config(ConfigParser({"net": {"x": "$torch.float16"}}), "net")


@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda:99", r"got cuda:99 where PyTorch finds \d+ CUDA GPUs"), ("gpu", "such as cpu, cuda or cuda:1, got 'gpu'")],
)
@pytest.mark.usefixtures("base")
def test_a_device_that_is_not_there_is_rejected(device: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_config(ConfigParser({**BASE, "device": device}))
    check_config(ConfigParser({**BASE, "device": "cpu"}))


def test_an_image_size_that_a_size_of_pixels_overrules_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for options in ({"test_scale": 96, "pixel_spacing": 0.8}, {"test_scale": 96}, {"pixel_spacing": 0.8}):
        config = real("train")
        config.update(options)
        config.parse()
        monkeypatch.setattr(config_module, "given_options", lambda options=options: list(options))
        caplog.clear()
        config_module._warn_of_size(config)
        assert len(caplog.messages) == (len(options) == 2)
        assert all("test_scale has no effect with a pixel_spacing of 0.8 mm" in each for each in caplog.messages)
