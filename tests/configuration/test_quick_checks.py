"""Errors that a command line shows before the heavy libraries are imported."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.configuration.quick_checks import complaints, options_of
from scripts.configuration.running_config import CONFIGS


def test_options_come_with_the_text_of_their_values() -> None:
    words = ["--input", "a b", "--train::dataloader#batch_size=2", "--overwrite", "--box-threshold", "1e5"]
    assert options_of(words) == {
        "input": "a b", "train#dataloader#batch_size": "2", "overwrite": None, "box_threshold": "1e5"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--scor_threshold 0.3", r"Unknown option --scor_threshold \(did you mean --score_threshold\?\)"),
        ("--zzz 1", "Unknown option --zzz"),
        ("--milestones 3", "Option --milestones belongs to train.json, inference.json does not have it"),
        ("--score_threshold high", "Expected a number .* for config key score_threshold, got 'high'"),
        ("--sw_batch_size=-1", "Expected a whole number .* for config key sw_batch_size, got -1"),
        ("--output_dir", "Expected a path for config key output_dir, got no value"),
        ("--overwrite maybe", "Expected True or False for config key overwrite, got 'maybe'"),
        ("--config_file none.json", "Expected a file or folder that exists for --config_file, found nothing at none"),
        ("--input \"['here 1', 'none 2']\"", "for --input, found nothing at none 2"),
        ("--checkpoint none.pt", "for --checkpoint, found nothing at none.pt"),
        ("--review none.json", "for --review, found nothing at none.json"),
        ("--review 'empty 2'", "Expected content in --review, empty 2 is empty"),
        ("--dataset_dir 'here 1'", "Expected a folder for --dataset_dir, found a file at here 1"),
        ("--input 'empty 1'", "Expected content in --input, empty 1 is empty"),
        ("--checkpoint 'empty 1'", "Expected content in --checkpoint, empty 1 is empty"),
        ("--dataset_dir 'empty 2'", "Expected content in --dataset_dir, empty 2 is empty"),
        ("--input \"['here 1', 'empty 2']\"", "Expected content in --input, empty 2 is empty"),
        ("--dataset_dir ''", "Expected a path for config key dataset_dir, got ''"),
    ],
)
def test_what_is_wrong_is_named(words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here 1").write_text("content")
    (tmp_path / "empty 1").touch()
    (tmp_path / "empty 2").mkdir()
    found = list(complaints(shlex.split(words), "inference.json"))
    assert len(found) == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(found[0])


def test_a_lost_overlay_is_named_before_the_run(caplog: pytest.LogCaptureFixture) -> None:
    def found(*names: str) -> list[str]:
        files = [CONFIGS / "train.json", *(CONFIGS / "variants" / f"{name}.yaml" for name in names)]
        return list(complaints(["--config_file", str([str(file) for file in files])], "train.json"))

    assert found("mulan", "narrow_dense", "recipe_mulan") == found("size_narrow", "optimizer_adamw") == []
    lost = found("size_narrow", "mulan")
    assert lost[0].startswith("Config key network_def#body#layers of size_narrow.yaml is lost: mulan.yaml comes later")
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["pretrained", "mined", "tags"])
def test_a_file_of_a_training_is_missed_at_once(name: str) -> None:
    (found,) = complaints([f"--{name}", "none.pt"], "train.json")
    assert found == f"Expected a file or folder that exists for --{name}, found nothing at none.pt"


def test_right_options_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["2026-11-28", "1e5", "a,b", "a b", "[a]", "#1", "@x"]
    for name in names[:-1]:
        (tmp_path / name / "inside").mkdir(parents=True)
    (tmp_path / "own.yaml").write_text("ours: 1\n")
    for name in names:
        assert not list(complaints(["--dataset_dir", name, f"--input={name}"], "inference.json"))
    for config, words in (
        ("inference", "--output_dir new --score_threshold 0.2 --outputs json,csv --operating_point 1 --device cpu"),
        ("train", "--train#dataloader#batch_size 2 --batch_size $2+2 --pretrained None --run_id training --amp True"),
        ("train", "--tracking mlflow --tracking_uri sqlite:///x.db --experiment_name ours"),
        ("evaluate", "--config_file own.yaml --ours 2 --theirs 3"),
        ("evaluate_volumes", "--_own 4 --seed 3 --imports []"),
    ):
        assert not list(complaints(words.split(), f"{config}.json")), words


def test_the_values_of_our_own_configs_pass() -> None:
    for file in CONFIGS.glob("*.json"):
        if file.name != "metadata.json" and not file.name.startswith("multi"):
            plain = {
                key: value
                for key, value in json.loads(file.read_text(encoding="utf-8")).items()
                if type(value) in (int, float, bool) and "#" not in key
            }
            assert not list(complaints([f"--{key}={value}" for key, value in plain.items()], file.name)), file


def test_it_imports_nothing_heavy(bundle_root: Path) -> None:
    code = (
        "import sys, scripts.configuration.quick_checks\nprint(sorted({'torch', 'monai', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=bundle_root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_misspelt_overlay_is_named_with_those_that_are_close(
    monkeypatch: pytest.MonkeyPatch, bundle_root: Path, tmp_path: Path
) -> None:
    monkeypatch.chdir(bundle_root)
    files = "['configs/train.json','configs/variants/slices_99.yaml']"
    [complaint] = complaints(["--config_file", files], "train.json")
    assert "found nothing at configs/variants/slices_99.yaml (did you mean " in complaint
    assert "configs/variants/slices_9.yaml" in complaint
    # Also one of the bundle, from elsewhere.
    monkeypatch.chdir(tmp_path)
    [complaint] = complaints(["--config_file", "trian.json"], "train.json")
    assert complaint.endswith(f"(did you mean {bundle_root / 'configs' / 'train.json'}?)")
    [complaint] = complaints(["--config_file", "zzz"], "train.json")
    assert complaint.endswith("found nothing at zzz")
