"""The bundle as MONAI runs it: properties, training and evaluation on a tiny data set, errors in one line."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fire
import monai.bundle
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scripts.data.synthetic import generate
from scripts.error_lines import root_error
from support.clean_processes import python

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIGS = REPOSITORY / "mp3d_bundle" / "configs"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "synthetic"
    generate(folder, "small", seed=1, workers=1, num_train=6, num_validation=3, num_test=3)
    return folder


@pytest.fixture(autouse=True)
def own_process_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A workflow seeds generators, extends the path and hooks uncaught errors: not for the next test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    yield
    set_determinism(None)


def workflow(
    name: str, dataset: Path, output: Path, *, kind: str = "train", overlays: tuple[str, ...] = (), **changes: Any
) -> ConfigWorkflow:
    names = [f"{part}.json" for part in name.split("+")]
    files = [*names, "variants/size_narrow.yaml", *(f"variants/{overlay}.yaml" for overlay in overlays)]
    settings = {
        "dataset_dir": str(dataset),
        "output_dir": str(output),
        "num_slices": 3,
        "num_workers": 0,
        "max_epochs": 2,
        "device": "cpu",
        **changes,
    }
    if "evaluate" in name:
        settings.pop("max_epochs")
    run_id = "evaluating" if "evaluate" in name else "training"
    return ConfigWorkflow(
        config_file=[str(CONFIGS / file) for file in files],
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        run_id=run_id,
        workflow_type=kind,
        **settings,
    )


def run(flow: ConfigWorkflow) -> ConfigWorkflow:
    flow.initialize()
    flow.run()
    flow.finalize()
    return flow


def error_of(flow: ConfigWorkflow) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        run(flow)
    return root_error(caught.value)


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run(workflow("train", dataset, folder))
    set_determinism(None)
    return folder


@pytest.mark.parametrize(
    ("name", "kind"),
    [("train", "train"), ("evaluate", "infer"), ("train+evaluate", "train"), ("train+evaluate", "infer")],
)
def test_no_property_is_missing(dataset: Path, tmp_path: Path, name: str, kind: str) -> None:
    flow = workflow(name, dataset, tmp_path, kind=kind)
    flow.initialize()
    assert flow.check_properties() == []


def test_metadata_fits_the_schema(shared: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((shared / "data" / "schema" / "meta_schema_20240725.json").read_text())
    jsonschema.validate(json.loads((CONFIGS / "metadata.json").read_text()), schema)


def test_metadata_agrees_with_the_project() -> None:
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    project = (REPOSITORY / "pyproject.toml").read_text()
    assert f'version = "{metadata["version"]}"' in project
    assert metadata["version"] in metadata["changelog"]
    assert all(f'"{package}' in project for package in metadata["required_packages_version"])
    image = metadata["network_data_format"]["inputs"]["image"]
    assert (
        image["num_channels"]
        == len(image["channel_def"])
        == json.loads((CONFIGS / "train.json").read_text())["num_slices"]
    )


def test_a_run_leaves_weights_state_record_and_curves(trained: Path, dataset: Path) -> None:
    assert {"config.json", "last.pt", "model.pt", "run.json", "tensorboard"} == {
        file.name for file in trained.iterdir()
    }
    weights = torch.load(trained / "model.pt", weights_only=True)
    assert weights["network"]["num_slices"] == 3
    assert weights["network"]["body"] == {
        "_target_": "scripts.networks.ResNet3d", "layers": [1, 1, 1, 1], "width": 8,
        "stem": {"_target_": "scripts.networks.Stem", "_mode_": "callable"},
    }  # fmt: skip
    assert {"name", "notice", "seed", "epoch", "mean_sensitivity", "recipe"} == set(weights["info"])
    config = json.loads((trained / "config.json").read_text())
    assert (config["num_slices"], config["dataset_dir"]) == (3, str(dataset))
    (start,) = json.loads((trained / "run.json").read_text())["starts"]
    assert start["seed"] == 0
    curves = EventAccumulator(str(trained / "tensorboard")).Reload()
    names = {"loss", "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    names |= {"learning_rate", "gradient_norm", "images_per_second"}
    assert {f"train/{name}" for name in names} | {"mean_sensitivity", "sensitivity@1", "ap50"} <= set(
        curves.Tags()["scalars"]
    )
    assert len(curves.Scalars("train/loss")) == 6
    assert len(curves.Scalars("ap50")) == 2
    assert len(curves.Tags()["images"]) == 3


def test_the_weights_file_builds_its_own_network(trained: Path) -> None:
    from scripts.weights import load_network

    network, info = load_network(trained / "model.pt")
    assert not network.training
    assert info["name"] == "MP3D FPN"


@pytest.mark.parametrize("overlays", [(), ("amp_bf16", "optimizer_adamw")])
def test_a_resumed_run_ends_bit_for_bit_where_a_straight_one_does(
    dataset: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, overlays: tuple[str, ...]
) -> None:
    # The overlay's schedule depends on the length of the run: the first half is an interrupted run.
    straight = trained if not overlays else tmp_path / "straight"
    if overlays:
        run(workflow("train", dataset, straight, overlays=overlays))
    first = workflow("train", dataset, tmp_path / "halves", overlays=overlays, checkpoint_interval=1)
    first.initialize()
    trainer: Any = first.trainer
    trainer.add_event_handler(Events.ITERATION_COMPLETED, stop_in_epoch_two)
    with pytest.raises(RuntimeError, match="Failed to evaluate"):
        first.run()
    with caplog.at_level(logging.INFO):
        run(workflow("train", dataset, tmp_path / "halves", overlays=overlays, num_workers=1))
    assert "Resuming from" in caplog.text
    assert "at epoch 2 of 2, iteration 2 of 3" in caplog.text
    one, two = (torch.load(folder / "last.pt", weights_only=True) for folder in (straight, tmp_path / "halves"))
    assert all(torch.equal(one["model"][name], two["model"][name]) for name in one["model"])
    assert one["scheduler"] == two["scheduler"]
    assert one["best_metric"] == two["best_metric"]


def stop_in_epoch_two(engine: Any) -> None:
    if engine.state.iteration == 5:
        raise OSError("pulled the plug")


def test_another_architecture_in_the_same_folder_is_rejected(dataset: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    error = error_of(workflow("train", dataset, tmp_path / "run", overlays=("conversion_ctm",), max_epochs=3))
    assert isinstance(error, ValueError)
    assert "CenterCrop" in str(error)
    assert "--ckpt_dir" in str(error)


def test_other_settings_in_the_same_folder_are_rejected_and_leave_it_as_it_is(
    dataset: Path, trained: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.glob("*.*") if path.is_file()}
    error = error_of(workflow("train", dataset, folder, base_learning_rate=0.5, **{"optimizer#momentum": 0.1}))
    assert "got base_learning_rate 0.5 and not 0.02, optimizer#momentum 0.1 and not 0.9. Use another" in str(error)
    assert {path.name: path.read_bytes() for path in folder.glob("*.*") if path.is_file()} == before


def test_a_change_of_seed_changes_the_weights(dataset: Path, trained: Path, tmp_path: Path) -> None:
    run(workflow("train", dataset, tmp_path, seed=1, max_epochs=1))
    one, two = (torch.load(folder / "model.pt", weights_only=True)["model"] for folder in (trained, tmp_path))
    assert any(not torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", ["evaluate", "train+evaluate"])
def test_an_evaluation_leaves_its_report(dataset: Path, trained: Path, tmp_path: Path, name: str) -> None:
    run(workflow(name, dataset, tmp_path, kind="infer", checkpoint=str(trained / "model.pt"), bootstrap_resamples=20))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert list(metrics["sensitivity"]) == ["0.5", "1", "2", "4", "8", "16"]
    assert metrics["dataset"] == "synthetic test"
    assert metrics["counts"]["images"] == 3
    assert metrics["bootstrap"]["resamples"] == 20
    assert (tmp_path / "froc.png").stat().st_size > 1000
    assert (tmp_path / "gallery" / "index.html").is_file()
    assert list((tmp_path / "gallery").glob("misses_*.png"))


def test_a_notice_travels_with_the_weights_into_the_report(dataset: Path, tmp_path: Path) -> None:
    run(workflow("train", dataset, tmp_path / "run", notice="Of no use.", max_epochs=1))
    checkpoint = str(tmp_path / "run" / "model.pt")
    flow = workflow("evaluate", dataset, tmp_path / "eval", kind="infer", checkpoint=checkpoint, split="validation")
    run(flow)
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    # The data set's own notice comes first.
    assert metrics["notice"].startswith("Synthetic CT-like data")
    assert metrics["notice"].endswith("Of no use.")
    assert metrics["dataset"] == "synthetic validation"
    assert (metrics["split"], metrics["weights"]["path"]) == ("validation", checkpoint)
    assert metrics["random_window"] is None


def test_an_evaluation_of_a_resume_state_gives_the_same(dataset: Path, trained: Path, tmp_path: Path) -> None:
    """last.pt holds the weights of the last epoch, which the record of the validation is about too."""
    flow = workflow(
        "evaluate", dataset, tmp_path, kind="infer", checkpoint=str(trained / "last.pt"), split="validation"
    )
    run(flow)
    curves = EventAccumulator(str(trained / "tensorboard")).Reload()
    measured = json.loads((tmp_path / "metrics.json").read_text())
    assert measured["ap50"] == pytest.approx(curves.Scalars("ap50")[-1].value, abs=1e-6)
    assert measured["mean_sensitivity"] == pytest.approx(curves.Scalars("mean_sensitivity")[-1].value, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"num_slices": 5}, ValueError, "of another shape .*number of slices differ.*'num_slices': 3"),
        ({"overlays": ("conversion_ctm",)}, ValueError, "left over .*Architecture or number of slices differ"),
        ({"checkpoint": "nowhere.pt"}, FileNotFoundError, "no file nowhere.pt"),
        ({"split": "testing"}, ValueError, "train, validation, test, got 'testing'"),
    ],
)
def test_an_evaluation_that_cannot_be_ends_in_one_line(
    dataset: Path, trained: Path, tmp_path: Path, changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    settings = {"checkpoint": str(trained / "model.pt"), **changes}
    error = error_of(workflow("evaluate", dataset, tmp_path / "eval", kind="infer", **settings))
    assert isinstance(error, kind)
    assert re.search(message, str(error))
    assert "\n" not in str(error)
    assert not (tmp_path / "eval").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_slices": 4}, "odd number of slices.*4"),
        ({"num_slices": 0}, "odd number of slices.*0"),
        ({"dataset_dirr": "x"}, r"Unknown config key dataset_dirr \(did you mean dataset_dir\?\)"),
        ({"max_epochs": "ten"}, "whole number .* for config key max_epochs, got 'ten'"),
        ({"checkpoint": "model.pt"}, "Config key checkpoint belongs to evaluate.json"),
        ({"milestones": [-1]}, "a list, each entry a whole number of at least 1 for config key milestones"),
        ({"batch_size": 0}, "batch_size"),
        ({"amp": "maybe"}, "amp to be True or False for config key amp, got 'maybe'"),
        ({"dataset_dir": "nowhere"}, "folder at nowhere"),
    ],
)
def test_a_training_that_cannot_be_ends_in_one_line(
    dataset: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    error = error_of(workflow("train", dataset, tmp_path, **changes))
    assert isinstance(error, (ValueError, FileNotFoundError))
    assert re.search(message, str(error))
    assert "\n" not in str(error)
    assert not list(tmp_path.glob("*.pt"))


def test_a_damaged_image_names_itself(dataset: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(dataset, tmp_path / "data")
    for image in broken.glob("Images_png/*/*.png"):
        image.write_bytes(image.read_bytes()[:100])
    error = error_of(workflow("train", broken, tmp_path / "run"))
    assert isinstance(error, ValueError)
    assert str(tmp_path / "data" / "Images_png") in str(error)


def module(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=CONFIGS.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "monai.bundle", "run", *arguments, cwd=CONFIGS.parent)


def test_the_command_line_trains(dataset: Path, tmp_path: Path) -> None:
    done = command(
        "training",
        "--config_file",
        "['configs/train.json','configs/variants/size_narrow.yaml']",
        *("--dataset_dir", str(dataset), "--ckpt_dir", str(tmp_path / "ckpt"), "--output_dir", str(tmp_path)),
        *("--max_epochs", "1", "--num_slices", "1", "--batch_size", "3", "--keep_noisy", "False", "--seed", "3"),
        *("--num_workers", "2", "--amp", "False", "--val_interval", "1"),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ckpt" / "model.pt").is_file()
    assert "Learning rate 0.00375: 0.02 for a batch of 16, scaled to 3 images" in done.stdout
    assert "loss" in done.stderr
    assert "2/2" in done.stderr


def test_the_command_line_ends_in_the_line_that_matters(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config_file", "configs/evaluate.json", "--dataset_dir", str(dataset), "--checkpoint", "none.pt"]
    words += ["--output_dir", str(tmp_path / "eval"), "--device", "cpu", "--logging_file", "False"]
    monkeypatch.chdir(CONFIGS.parent)
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", "run", *words])
    with pytest.raises(RuntimeError) as caught:
        fire.Fire({"run": monai.bundle.run})
    sys.excepthook(caught.type, caught.value, caught.tb)
    assert capsys.readouterr().err.splitlines()[-1].startswith("Error: Expected a weights file, found no file none.pt")
    assert not (tmp_path / "eval").exists()


@pytest.mark.parametrize("workflow", ["train", "evaluate"])
def test_several_processes_begin_as_one(workflow: str) -> None:
    """An overlay replaces the whole list: what one process does at the start, several do in the same order."""
    one, several = (
        json.loads((CONFIGS / f"{name}.json").read_text())["initialize"] for name in (workflow, f"multi_gpu_{workflow}")
    )
    assert [step for step in several if step in one] == one


@pytest.mark.slow
def test_two_processes_train_together(dataset: Path, tmp_path: Path) -> None:
    files = "['configs/train.json','configs/multi_gpu_train.json','configs/variants/size_narrow.yaml']"
    launcher = ("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle", "run", "training")
    settings = ("--dataset_dir", str(dataset), "--output_dir", str(tmp_path), "--num_slices", "1", "--num_workers", "0")
    done = module(*launcher, "--config_file", files, *settings, "--max_epochs", "1", "--batch_size", "1")
    assert done.returncode == 0, done.stderr
    assert "scaled to 2 images a step (1 x 1 accumulated x 2 processes)" in done.stdout
    (start,) = json.loads((tmp_path / "run.json").read_text())["starts"]
    assert start["processes"] == 2
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert (content["epoch_length"], len(content["random"])) == (3, 2)
    done = module(*launcher, "--config_file", files, *settings, "--max_epochs", "2", "--batch_size", "1")
    assert done.returncode == 0, done.stderr
    assert "at epoch 2 of 2" in done.stdout
    # One process resumes with the batch of both, and with no other.
    alone = ("--config_file", files.replace("'configs/multi_gpu_train.json',", ""), *settings, "--max_epochs", "3")
    done = command("training", *alone, "--batch_size", "1")
    assert "Error: Expected the settings of the run" in done.stderr
    assert "got batch_size x processes 1 and not 2." in done.stderr
    done = command("training", *alone, "--batch_size", "2")
    assert done.returncode == 0, done.stderr
    assert "is of 2 process(es), this run has 1" in done.stdout
