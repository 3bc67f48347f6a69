"""The study's command line: a dry run touches nothing, bad input ends in one line, failures in a status."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from research import run_order
from research import study as module
from research.study import study
from research.study_commands import BUNDLE, ROOT, Places, Run
from research.study_runs import RunFailed, read_result
from support.fake_runs import finish, planner_in


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return planner_in(tmp_path).places.dataset_dir


def test_a_dry_run_prints_commands_and_touches_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study(str(data), str(tmp_path / "out"), tables=(1, 2), rows=("mp3d_9", "mp3d_5"), profile="reduced", dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"cd {BUNDLE}"
    assert len(lines) == 1 + 4
    assert all(line.startswith("python -m monai.bundle run ") for line in lines[1:])
    assert not (tmp_path / "out").exists()


def test_every_row_of_the_paper_has_its_commands(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study(str(data), str(tmp_path / "out"), seeds=(0, 1, 2), dry_run=True, num_workers=8)
    lines = capsys.readouterr().out.splitlines()
    assert lines.pop(0) == f"cd {BUNDLE}"
    assert len(lines) == 2 * 3 * 42
    assert len(set(lines)) == len(lines)
    assert all("--num_workers 8" in line for line in lines if " training " in line)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tables": 6}, "tables out of 1, later, 2, 3, 4, 5, got '6'"),
        ({"rows": "mp3d_13"}, "got 'mp3d_13'"),
        ({"profile": "tiny"}, "profile out of full, reduced"),
        ({"seeds": "a"}, "numbers for --seeds"),
        ({"seeds": (0, 0)}, "different numbers"),
        ({"seeds": -1}, "at least 0"),
        ({"seeds": ""}, "one seed"),
        ({"learning_rates": "fast"}, "numbers for --learning_rates"),
        ({"tables": ""}, "at least one row"),
        ({"num_worker": 3}, "got --num_worker"),
        ({"epochs_1x": 0}, "epochs for --epochs_1x"),
        ({"pretrained": "coco.pt"}, "no --pretrained: it differs from row to row.*--weights FILE"),
        ({"max_epochs": 3}, "no --max_epochs.*--epochs_1x N"),
        ({"seed": 3}, "no --seed: .*--seeds 0,1,2"),
        ({"train_fraction": 0.5}, "no --train_fraction"),
    ],
)
def test_bad_options_are_named(data: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study(str(data), str(tmp_path / "out"), **options)
    assert not (tmp_path / "out").exists()


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("python ")]


def test_weights_go_to_the_pre_trained_rows_alone(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, imagenet = tmp_path / "coco.pt", tmp_path / "resnet.pth"
    for file in (weights, imagenet):
        file.touch()
    study(str(data), str(tmp_path / "out"), dry_run=True, weights=str(weights), imagenet=str(imagenet))
    for line in lines_of(capsys):
        if " evaluating " in line:
            assert str(weights) not in line
            continue
        flat = "fpn_3dce" in line or "retinanet" in line
        assert (f"--imagenet {imagenet}" in line) == flat
        assert ("--pretrained" in line) == ("_pretrained_" in line)
        if "_pretrained_" in line:
            own = {"backbone_mr3d": "models/coco_mr3d.pt", "pooling_isotropic": "models/coco_isotropic.pt"}
            name = next((file for part, file in own.items() if part in line), str(weights))
            assert f"--pretrained {name}" in line
    with pytest.raises(FileNotFoundError, match=r"--weights, but there is no file .*none\.pt"):
        study(str(data), str(tmp_path / "out"), weights=str(tmp_path / "none.pt"))


def test_options_that_the_evaluation_knows_go_there_too(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study(str(data), str(tmp_path / "out"), tables=3, dry_run=True, test_scale=384, log_interval=5)
    for line in lines_of(capsys):
        assert "--test_scale 384" in line
        assert ("--log_interval 5" in line) == (" training " in line)


def test_a_dry_run_can_be_typed_from_any_folder(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths of the user hold in the folders of the commands; the pre-training's images are drawn from the root."""
    (tmp_path / "own.yaml").write_text("seed: 3")
    (tmp_path / "2024_01").touch()
    monkeypatch.chdir(tmp_path)
    options = {"extra": "own.yaml", "weights": "2024_01"}
    study("data", "out", tables=4, rows="pretrained_1x", profile="reduced", dry_run=True, **options)  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"cd {BUNDLE}"
    assert f"--dataset_dir {data} --output_dir {tmp_path}/out/runs/" in lines[1]
    assert f"'{tmp_path}/own.yaml'" in lines[1]
    assert f"--pretrained {tmp_path}/2024_01" in lines[1]
    study("data", "out", tables=4, rows="pretrained_1x", profile="reduced", dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"cd {ROOT}"
    assert lines[1] == f"python -m research.natural_images --output {tmp_path}/out/pretraining/images"
    assert lines[2] == f"cd {BUNDLE}"


def test_bad_places_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Expected a data set folder at .*none, but the folder does not exist"):
        study(str(tmp_path / "none"), str(tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="is it a data set"):
        study(str(tmp_path), str(tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml for --extra"):
        study(str(data), str(tmp_path / "out"), extra="nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        study(str(data), str(tmp_path / "file" / "out"))


def test_a_failure_ends_in_a_status_and_the_page_is_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner = planner_in(tmp_path)

    def fake(run: Run, places: Places) -> Mapping[str, Any] | None:
        if "ctm" in run.key:
            raise RunFailed("no centre")
        finish(planner, run, ap50=0.5, curve=True)
        return read_result(run, places)

    monkeypatch.setattr(run_order, "execute", fake)
    with pytest.raises(SystemExit, match=r"1 run failed:\nno centre"):
        study(str(data), str(tmp_path / "out"), tables=3, profile="reduced")
    text = (tmp_path / "out" / "study.md").read_text()
    assert "no centre" in text
    assert "**50.0**" in text


def test_the_page_alone_runs_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_order, "execute", lambda *arguments: pytest.fail("ran"))
    study(str(data), str(tmp_path / "out"), tables=3, profile="reduced", page_only=True)
    assert "not run" in (tmp_path / "out" / "study.md").read_text()


def test_nothing_falls_off_the_page_without_a_word(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planner = planner_in(tmp_path, epochs_1x=1)
    for table, name in (("4", "scratch_1x"), ("3", "ctm_9")):
        finish(planner, planner.run(planner.study.resolve(table, name, planner.profile), 0), ap50=0.5, curve=True)
    out = str(tmp_path / "out")

    def page(**options: Any) -> tuple[str, str]:
        study(str(data), out, profile="reduced", page_only=True, **options)
        return (tmp_path / "out" / "study.md").read_text(), capsys.readouterr().out

    text, said = page(tables=2, epochs_1x=1)
    assert re.findall(r"## .*Table (\d)", text) == ["2", "3", "4"]
    # Two rows, each with this figure in two columns.
    assert text.count("**50.0**") == 4
    assert "not on this page" not in text + said
    text, said = page(tables=(3, 4))
    assert "**50.0**" not in text
    for where in (text, said):
        assert "as they have other settings than those asked for (schedule, rates" in where
        assert "conversion_ctm_scratch_2x/seed_0, mp3d_9_scratch_1x/seed_0." in where
    text, said = page(tables=(3, 4), seeds=(1, 2), epochs_1x=1)
    assert "as they are of other rows, seeds or rates: conversion_ctm_scratch_2x/seed_0" in said


def test_the_command_ends_in_one_line(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--dataset_dir", str(data), "--output", str(tmp_path / "out"), "--tables", "7"]
    monkeypatch.setattr(sys, "argv", ["study", *words])
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    with pytest.raises(SystemExit, match=r"^Error: Expected tables out of 1, later, 2, 3, 4, 5, got '7'"):
        module.main()


def test_a_signal_stops_with_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        module._stop(signal.SIGTERM, None)
    assert stopped.value.code == 143
    assert capsys.readouterr().err == "study: stopped by SIGTERM; the same command resumes here.\n"
