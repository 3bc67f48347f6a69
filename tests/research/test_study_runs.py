"""Running: done work is not done again, other work is not overwritten, failures are named."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from research.study import _stop
from research.study_commands import Planner, Run
from research.study_runs import STUDY, RunFailed, _call, execute, machine, read_result
from scripts.storage.output_folder import FolderLock
from support.fake_runs import finish, planner_in


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    return planner_in(tmp_path)


def script(run: Run, **steps: str) -> Run:
    """The run with Python code as its steps."""
    return replace(run, steps={name: (sys.executable, "-c", code) for name, code in steps.items()})


@pytest.fixture
def run(planner: Planner) -> Run:
    made = planner.run(planner.study.resolve("1", "mp3d_9", planner.profile), 0)
    return script(made, images="import time; time.sleep(0.05)")


def test_a_finished_run_is_not_done_again(planner: Planner, run: Run) -> None:
    first = execute(run, planner.places)
    assert first["steps"]["images"]["seconds"] >= 0.05
    assert first["steps"]["images"]["peak_bytes"] > 2**20
    log = (run.folder / "images.log").read_text()
    assert execute(run, planner.places) == first
    assert (run.folder / "images.log").read_text() == log
    assert "MADE" not in log


def test_a_failed_step_is_named_and_done_again_with_its_time_counted(planner: Planner, run: Run) -> None:
    flag = run.folder / "flag"
    code = f"import sys, pathlib; p = pathlib.Path({str(flag)!r}); sys.exit(0 if p.exists() else 'no flag')"
    run = script(run, images="pass", training=code)
    with pytest.raises(RunFailed, match=r"mp3d_9_scratch_2x, seed 0: training ended with exit status 1 \(no flag\)"):
        execute(run, planner.places)
    assert read_result(run, planner.places) is None
    before = json.loads((run.folder / "state.json").read_text())["steps"]
    assert before["images"]["done"]
    assert not before["training"]["done"]
    flag.touch()
    after = execute(run, planner.places)["steps"]
    assert after["images"] == before["images"]
    assert after["training"]["seconds"] > before["training"]["seconds"] > 0


def test_a_folder_of_other_commands_is_left_alone(planner: Planner, run: Run) -> None:
    execute(run, planner.places)
    other = script(run, images="raise SystemExit('must not run')")
    with pytest.raises(RunFailed, match="other commands or another data set"):
        execute(other, planner.places)
    (planner.places.dataset_dir / "synthetic.json").write_text('{"about": "another"}')
    with pytest.raises(RunFailed, match="other commands or another data set"):
        execute(run, planner.places)


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_of_files_that_have_changed_since_is_left_alone(
    planner: Planner, run: Run, tmp_path: Path, finished: bool
) -> None:
    files = [tmp_path / "weights.pt", tmp_path / "mine.yaml", tmp_path / "half" / "DL_info.csv"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("old")
    code = "" if finished else "raise SystemExit('broken')"
    names = (str(files[0]), f"['configs/train.json','{files[1]}']", str(files[2].parent))
    run = replace(run, steps={"training": (sys.executable, "-c", code, *names)})
    with contextlib.nullcontext() if finished else pytest.raises(RunFailed, match="broken"):
        execute(run, planner.places)
    assert (read_result(run, planner.places) is not None) == finished
    for file in files:
        file.write_text("new")
        with pytest.raises(RunFailed, match=f"began with another content of {file}; choose"):
            execute(run, planner.places)
        file.write_text("old")
    files[0].unlink()
    assert (read_result(run, planner.places) is not None) == finished


def test_records_of_earlier_versions_count_and_what_a_run_writes_may_change(planner: Planner, run: Run) -> None:
    made = run.folder / "training" / "model.pt"
    code = f"import pathlib; p = pathlib.Path({str(made)!r}); p.parent.mkdir(); p.write_text('weights')"
    run = replace(run, steps={"training": (sys.executable, "-c", code, str(made), "configs/train.json")})
    execute(run, planner.places)
    made.write_text("others")
    record = json.loads((run.folder / "result.json").read_text())
    assert record.pop("files") == {}
    (run.folder / "result.json").write_text(json.dumps(record))
    assert read_result(run, planner.places) is not None


def test_weights_that_are_not_there_are_named(planner: Planner, run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"none\.pt, which are not there: see models/README\.md"):
        execute(replace(run, needs=tmp_path / "none.pt"), planner.places)
    with pytest.raises(RunFailed, match="its own pre-training did not finish"):
        execute(replace(run, needs=tmp_path / "none.pt", made_here=True), planner.places)
    assert not run.folder.exists()


def test_results_are_read_where_they_are_of_this_run(planner: Planner) -> None:
    made = planner.run(planner.study.resolve("1", "mp3d_9", planner.profile), 0)
    assert read_result(made, planner.places) is None
    finish(planner, made, ap50=0.5)
    result = read_result(made, planner.places)
    assert result is not None
    assert result["metrics"]["ap50"] == 0.5


def test_a_run_is_done_by_one_study_at_a_time(planner: Planner, run: Run) -> None:
    with FolderLock(run.folder, STUDY), pytest.raises(BlockingIOError, match=r"a study, process \d+ .*seed_0"):
        execute(run, planner.places)
    assert not (run.folder / "images.log").exists()
    assert execute(run, planner.places)["steps"]["images"]["done"]


def test_a_command_that_outlived_its_study_is_left_to_end(planner: Planner, run: Run) -> None:
    with FolderLock(run.folder / "images", "a training"):
        with pytest.raises(BlockingIOError, match=r"a training, process \d+ .*seed_0/images"):
            execute(run, planner.places)
        assert not (run.folder / "images.log").exists()
    assert execute(run, planner.places)["steps"]["images"]["done"]


@pytest.mark.parametrize("content", ["", '{"finger', "[]", "{}", '{"fingerprint": "x", "steps": {"images": 3}}'])
@pytest.mark.parametrize("name", ["state.json", "result.json"])
def test_a_damaged_record_is_kept_and_the_run_done_again(
    planner: Planner, run: Run, caplog: pytest.LogCaptureFixture, name: str, content: str
) -> None:
    run = script(run, images="pass")
    run.folder.mkdir(parents=True)
    (run.folder / name).write_text(content)
    assert read_result(run, planner.places) is None
    assert f"{run.folder / name} is damaged; kept it as {name}.damaged" in caplog.text
    assert execute(run, planner.places)["steps"]["images"]["done"]
    assert (run.folder / f"{name}.damaged").read_text() == content


# Saves until it may end, as a large checkpoint takes its time.
TRAINING = """
import os, signal, sys, time
def save(*_):
    print("saving", flush=True)
    while not os.path.exists({go!r}):
        time.sleep(0.02)
    print("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
signal.pause()
"""


def study_of_one(training: str, log: Path, said: Path) -> None:
    """What a study does with one command."""
    sys.stderr = said.open("w")
    signal.signal(signal.SIGTERM, _stop)
    _call((sys.executable, "-c", training), log)


def test_a_study_that_is_stopped_waits_for_its_training_to_save(tmp_path: Path) -> None:
    log, said, go = (tmp_path / name for name in ("log", "said", "go"))
    words = (TRAINING.format(go=str(go)), log, said)
    study = multiprocessing.get_context("fork").Process(target=study_of_one, args=words)
    study.start()
    for word in ("ready", "saving"):
        while study.is_alive() and not (log.is_file() and f"{word}\n" in log.read_text()):
            time.sleep(0.05)
        os.kill(study.pid or 0, signal.SIGTERM)
    go.touch()
    study.join()
    assert study.exitcode == 143
    assert "stopped by SIGTERM; the same command resumes here" in said.read_text()
    assert log.read_text().endswith("saved\n")


def test_the_machine_is_named() -> None:
    assert "cores" in machine()
