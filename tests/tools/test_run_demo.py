"""The demo: its commands exist, its data are made once, its summary reports the measurements."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fire import Fire
from monai.bundle import ConfigParser

from scripts.tools import run_demo, set_operating_points
from scripts.weights import read_tensors
from support.fake_evaluations import evaluation_in

TINY = {"num_train": 4, "num_validation": 2, "num_test": 2, "whole_series": 0}


def options_of(command: list[str]) -> list[tuple[str, Any]]:
    """Options of a command line, numbers as fire reads them."""
    words = command[3:]
    numbers = ("--box_threshold",)
    pairs = zip(words[::2], words[1::2], strict=True)
    return [(name[2:], float(value) if name in numbers else value) for name, value in pairs]


@pytest.fixture
def plan(tmp_path: Path) -> run_demo.Plan:
    return run_demo.Plan(tmp_path, max_epochs=1, **TINY)


def test_data_are_made_once_and_again_when_they_differ(
    plan: run_demo.Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Worker processes would import everything anew, twice.
    monkeypatch.setattr(run_demo, "generate", partial(run_demo.generate, workers=1))
    run_demo.make_data(plan)
    first = (plan.data / "DL_info.csv").stat().st_mtime_ns
    run_demo.make_data(plan)
    assert (plan.data / "DL_info.csv").stat().st_mtime_ns == first
    assert "Keeping" in capsys.readouterr().out
    run_demo.make_data(run_demo.Plan(plan.output, seed=4, **TINY))
    assert (plan.data / "DL_info.csv").stat().st_mtime_ns != first
    assert (plan.data / "scans" / "scan_004.nii.gz").is_file()


def test_a_folder_with_other_content_is_left_alone(plan: run_demo.Plan) -> None:
    plan.data.mkdir()
    (plan.data / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        run_demo.make_data(plan)
    assert (plan.data / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("from_scratch", [False, True])
def test_the_overlays_of_the_demo_exist(plan: run_demo.Plan, from_scratch: bool, bundle_root: Path) -> None:
    paths = run_demo.overlay_paths(dataclasses.replace(plan, from_scratch=from_scratch))
    assert all((bundle_root / path).is_file() for path in paths)
    assert ("configs/variants/narrow_synthetic.yaml" in paths) is not from_scratch


def test_the_start_decides_what_was_not_said(tmp_path: Path) -> None:
    start, scratch = (run_demo.Plan(tmp_path, from_scratch=each) for each in (False, True))
    assert (start.num_train, start.whole_series, start.max_epochs) == (480, 10, 2)
    assert (scratch.num_train, scratch.whole_series, scratch.max_epochs) == (2000, 0, 8)
    said = run_demo.Plan(tmp_path, num_train=5, whole_series=0, max_epochs=3)
    assert (said.num_train, said.whole_series, said.max_epochs) == (5, 0, 3)


def test_the_start_must_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected 9 slices.* got 1: other numbers need --from_scratch"):
        run_demo.Plan(tmp_path, num_slices=1)
    for seed in run_demo.START_SEEDS:
        with pytest.raises(ValueError, match=rf"another seed than {seed}: .*synthetic\.pt was trained on its images"):
            run_demo.Plan(tmp_path, seed=seed)
    assert run_demo.Plan(tmp_path, num_slices=1, seed=1, from_scratch=True).num_slices == 1


def test_the_start_is_the_network_that_the_overlays_build(bundle_root: Path, tmp_path: Path) -> None:
    paths = [str(bundle_root / path) for path in run_demo.overlay_paths(run_demo.Plan(tmp_path, processes=1))]
    config = ConfigParser()
    config.read_config(paths)
    content = read_tensors(bundle_root / run_demo.START)
    assert content["info"]["seed"] in run_demo.START_SEEDS
    assert content["network"]["body"]["width"] == config["network_def#body#width"]
    assert content["info"]["recipe"]["num_slices"] == run_demo.NUM_SLICES


def test_commands_are_those_of_a_user() -> None:
    words = run_demo.bundle_command("training", ["a.json", "b.yaml"], {"seed": 3})
    assert words[1:] == [
        "-m",
        "monai.bundle",
        "run",
        "training",
        "--config_file",
        "['a.json', 'b.yaml']",
        "--seed",
        "3",
    ]
    assert run_demo.bundle_command("inferring", ["c.json"], {})[-1] == "c.json"


def test_two_processes_share_the_batch_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []
    monkeypatch.setattr(run_demo, "run", lambda title, command, threads=None: commands.append(command) or 1.0)
    for processes in (1, 2):
        run_demo.train(run_demo.Plan(tmp_path, processes=processes))
    one, two = commands[0], commands[3]
    assert "torch.distributed.run" not in one
    assert "--batch_size" not in one
    assert two[1:6] == [
        *("-m", "torch.distributed.run", "--standalone", "--local_addr=127.0.0.1", "--nproc_per_node=2"),
    ]
    assert "configs/multi_gpu_train.json" in two[two.index("--config_file") + 1]
    assert two[two.index("--batch_size") + 1] == "4"


def test_processes_must_divide_the_batch(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected a number of processes that divides 8, got 3"):
        run_demo.Plan(tmp_path, processes=3)


def test_a_failing_step_stops_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_demo.run("Nothing", [sys.executable, "-c", "pass"]) >= 0
    assert "python -c pass" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="something ended with exit status 3"):
        run_demo.run("Something", [sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.parametrize(("from_scratch", "strictest"), [(True, 0.004), (False, 0.02)])
def test_settings_for_inference_are_kept_with_the_weights(
    plan: run_demo.Plan, from_scratch: bool, strictest: float
) -> None:
    plan = dataclasses.replace(plan, from_scratch=from_scratch)
    evaluation_in(plan.training / "validation")
    torch.save({"model": {"a": torch.ones(2)}, "network": {}, "info": {"name": "x"}}, plan.weights)
    set_operating_points.operating_points(**dict(options_of(run_demo.settings_command(plan))))
    content = read_tensors(plan.weights)
    settings = content["info"]["inference"]
    assert settings["box_threshold"] == 0.1
    assert dict(options_of(run_demo.settings_command(plan)))["default"] == str(strictest)
    rates = [float(name) for name in settings["operating_points"] if float(name) >= strictest]
    assert settings["score_threshold"] == settings["operating_points"][f"{min(rates):g}"]
    assert torch.equal(content["model"]["a"], torch.ones(2))


def test_the_summary_gives_the_figures_of_the_files(plan: run_demo.Plan) -> None:
    sensitivity = {"0.5": 0.7, "1": 0.8, "2": 0.9, "4": 0.95}
    (plan.output / "metrics.json").write_text(json.dumps({"sensitivity": sensitivity}))
    write_outcome(plan, marked=[(0, 0, 0, 10, 10, 10), (1, 1, 1, 9, 9, 9), (50, 0, 0, 60, 10, 10)])
    text = run_demo.summarise(plan, {"training": 60.0})
    assert "80.0 % at 1" in text
    assert "outside the splits: 1 of 2 lesions found, 1 false marks" in text
    assert "synthetic" in text


def write_outcome(plan: run_demo.Plan, marked: list[tuple[float, ...]], scan: str = "scan_001") -> None:
    """A scan with two lesions, and marks in it."""
    truth = [(0, 0, 0, 10, 10, 10), (100, 100, 100, 110, 110, 110)]
    for path, boxes in ((plan.scans / f"{scan}.json", truth), (plan.marked / scan / "lesions.json", marked)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"lesions": [{"box_lps_mm": box} for box in boxes]}))


def test_a_scan_without_marks_has_no_false_ones(plan: run_demo.Plan) -> None:
    write_outcome(plan, marked=[])
    assert run_demo.outcome_in_scans(plan) == (0, 2, 0)


def test_a_mark_must_overlap_enough(plan: run_demo.Plan) -> None:
    # 10 of 34 and 2.9 of 10 mm of the marks are in the lesion, then 3.1 of 10.
    write_outcome(plan, marked=[(0, 0, 0, 10, 10, 34), (0, 0, 7.1, 10, 10, 17.1)])
    assert run_demo.outcome_in_scans(plan) == (0, 2, 2)
    write_outcome(plan, marked=[(0, 0, 6.9, 10, 10, 16.9)])
    assert run_demo.outcome_in_scans(plan) == (1, 2, 0)


def test_the_outcomes_of_scans_are_added(plan: run_demo.Plan) -> None:
    write_outcome(plan, marked=[(0, 0, 0, 10, 10, 10), (50, 0, 0, 60, 10, 10)])
    write_outcome(plan, marked=[(100, 100, 100, 110, 110, 110)], scan="scan_002")
    assert run_demo.outcome_in_scans(plan) == (2, 4, 1)


def test_another_working_folder_is_rejected_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="Expected the bundle's folder as the working folder of the demo, got "):
        run_demo.main("out", num_train=4)
    assert list(tmp_path.iterdir()) == []


def test_unknown_options_are_named() -> None:
    with pytest.raises(ValueError, match="'num_trian'"):
        Fire(run_demo.main, ["--num_trian", "3"])


@pytest.mark.slow
@pytest.mark.parametrize("start", [[], ["--from_scratch"]], ids=["synthetic.pt", "from scratch"])
def test_the_whole_demo_runs_small(start: list[str], bundle_root: Path, tmp_path: Path) -> None:
    words = ["-m", "scripts.demo", "--output", str(tmp_path / "demo"), *start, "--max_epochs", "1"]
    words += ["--whole_series", "0"]
    words += ["--num_train", "16", "--num_validation", "8", "--num_test", "8", "--keep_weights", str(tmp_path / "w.pt")]
    subprocess.run(
        [sys.executable, *words],
        cwd=bundle_root,
        check=True,
        timeout=580,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    made = {path.relative_to(tmp_path / "demo").as_posix() for path in (tmp_path / "demo").rglob("*")}
    assert {"metrics.json", "froc.png", "gallery/index.html"} <= made
    assert {f"scans/scan_00{number}/lesions.json" for number in (1, 2, 3, 4)} <= made
    assert "1" in json.loads((tmp_path / "demo" / "metrics.json").read_text())["sensitivity"]
    assert (tmp_path / "w.pt").stat().st_size < 5 * 2**20
