"""Uncaught errors: one line for rejected input, a traceback for the rest."""

from __future__ import annotations

import errno
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer
from monai.handlers import StatsHandler

from scripts.data.slabs.slab_reader import SlabReader
from scripts.error_lines import SCRIPTS, end_errors_in_one_line
from scripts.storage.printable import SHOW_TRACEBACK
from scripts.training.mixed_precision import MixedPrecision
from scripts.training.train_handlers import StopOnNonFinite
from scripts.workflows.delivery.send_results import Sender
from support.clean_processes import python


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SHOW_TRACEBACK, raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    end_errors_in_one_line()
    end_errors_in_one_line()


def shown(error: BaseException, capsys: pytest.CaptureFixture[str]) -> list[str]:
    sys.excepthook(type(error), error, error.__traceback__)
    return capsys.readouterr().err.splitlines()


def rejected() -> BaseException:
    config = {
        "reader": {"_target_": "scripts.data.slabs.slab_reader.SlabReader", "num_slices": 4},
        "a": {"x": "@reader"},
    }
    with pytest.raises(RuntimeError, match="Failed to instantiate") as caught:
        ConfigParser(config).get_parsed_content("reader")
    return caught.value


@pytest.mark.usefixtures("hook")
def test_a_rejected_input_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="odd") as own:
        SlabReader(num_slices=4)
    assert shown(rejected(), capsys) == [f"Error: {own.value}"]


@pytest.mark.usefixtures("hook")
def test_a_loss_that_is_not_finite_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    engine: Any = Engine(lambda engine, batch: None)
    engine.state.output, engine.state.batch = {"loss": float("nan")}, [{"record": {"file_name": "a.png"}}]
    with pytest.raises(FloatingPointError) as caught:
        StopOnNonFinite(MixedPrecision("cpu")).check_loss(engine)
    (line,) = shown(caught.value, capsys)
    assert line.startswith("Error: Expected a finite loss, got nan at iteration 0")


@pytest.mark.usefixtures("hook")
def test_the_traceback_is_shown_on_request(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(SHOW_TRACEBACK, "1")
    lines = shown(rejected(), capsys)
    assert lines[0].startswith("Traceback")
    assert "odd" in lines[-1]


@pytest.mark.usefixtures("hook")
def test_overlays_that_do_not_go_together_are_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    config = {"_target_": "scripts.networks.fpn_3dce", "num_slices": 3, "conversion": None}
    with pytest.raises(RuntimeError) as caught:
        ConfigParser({"network_def": config}).get_parsed_content("network_def")
    (line,) = shown(caught.value, capsys)
    assert "unexpected keyword argument 'conversion'" in line
    assert "rows.md" in line


@pytest.mark.usefixtures("hook")
@pytest.mark.parametrize(
    ("part", "line"),
    [
        (
            {"_target_": "torch.optim.SGD", "params": [], "lr": 1},
            "torch.optim.SGD: optimizer got an empty",
        ),
        ({"_target_": "torch.nn.Linear", "in_features": 3}, "missing 1 required positional argument: 'out_features'"),
        ({"_target_": "torch.nn.Linear", "in_features": 3, "out_features": "x"}, "torch.nn.Linear: "),
        ({"_target_": "torch.nn.Linar"}, "Cannot locate class or function path: 'torch.nn.Linar'"),
        (
            {"_target_": "scripts.data.slabs.slab_reader.SlabReader", "mode": "x", "num": 3},
            "unexpected keyword argument 'num'",
        ),
        (
            {"_target_": "scripts.training.train_handlers.SeedEpoch"},
            "missing 1 required positional argument: 'dataset'",
        ),
    ],
)
def test_arguments_that_a_part_does_not_take_are_told_in_one_line(
    part: dict[str, Any], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((RuntimeError, ModuleNotFoundError)) as caught:
        ConfigParser({"part": part}).get_parsed_content("part")
    (told,) = shown(caught.value, capsys)
    assert line in told


@pytest.mark.usefixtures("hook")
def test_an_unforeseen_error_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    broken = ConfigParser({"a": {"_target_": "builtins.int", "x": "$@b"}, "b": '$int("three")'})
    with pytest.raises(RuntimeError) as caught:
        broken.get_parsed_content("a")
    lines = shown(caught.value, capsys)
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "Error: invalid literal for int() with base 10: 'three'"
    assert sum(line.startswith("Error: ") for line in lines) == 1


@pytest.mark.usefixtures("hook")
@pytest.mark.parametrize(("folder", "traceback"), [(SCRIPTS / "data", False), (Path("/elsewhere"), True)])
def test_an_error_from_a_loader_process_ends_in_its_own_last_line(
    folder: Path, traceback: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = f'  File "{folder / "slab.py"}", line 3, in read\n'
    text = f"Caught ValueError in DataLoader worker process 0.\nOriginal Traceback:\n{frame}ValueError: no slice a.png"
    lines = shown(ValueError(text), capsys)
    assert lines[-1] == "Error: ValueError: no slice a.png"
    assert (len(lines) > 1) == traceback


@pytest.mark.usefixtures("hook")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("DataLoader worker (pid 77) is killed by signal: Killed. ", "was killed (Killed), process 77"),
        ("DataLoader worker (pid(s) 77, 78) exited unexpectedly", "ended unexpectedly, process 77, 78"),
    ],
)
def test_a_killed_loader_process_is_told_in_one_line(text: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = shown(RuntimeError(text), capsys)
    assert words in line
    assert "resumes from its last checkpoint" in line


@pytest.mark.usefixtures("hook")
def test_a_disk_that_fails_is_told_in_one_line_wherever_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = shown(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/curves"), capsys)
    assert line == "Error: [Errno 28] No space left on device: 'run/curves'"
    frame = '  File "/lib/pathlib.py", line 3, in open\n'
    text = f"Caught OSError in worker.\nOriginal Traceback:\n{frame}OSError: [Errno 5] Input/output error: 'a.png'\n"
    assert shown(OSError(text), capsys) == ["Error: OSError: [Errno 5] Input/output error: 'a.png'"]


@pytest.mark.usefixtures("hook")
def test_an_engine_does_not_tell_the_same_error_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(engine: Engine, batch: int) -> None:
        raise ValueError("no such slice")

    def text() -> str:
        trainer = SupervisedTrainer(
            device="cpu", max_epochs=1, train_data_loader=[1], network=torch.nn.Identity(), optimizer=None,
            loss_function=None, iteration_update=fail, train_handlers=[StatsHandler()],
        )  # fmt: skip
        with pytest.raises(ValueError, match="no such slice"):
            trainer.run()
        return caplog.text

    assert "no such slice" not in text()
    monkeypatch.setenv(SHOW_TRACEBACK, "1")
    assert "no such slice" in text()


@pytest.mark.usefixtures("hook")
def test_a_package_for_an_option_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError) as caught:
        Sender("A@host:104")
    assert shown(caught.value, capsys) == [f"Error: {caught.value}"]
    # A module that is not found is no choice of the user's.
    with pytest.raises(ImportError) as caught:
        importlib.import_module("scripts.nothing")
    assert len(shown(caught.value, capsys)) > 1


@pytest.mark.usefixtures("hook")
def test_an_interruption_by_hand_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = shown(KeyboardInterrupt(), capsys)
    assert line.startswith("Interrupted.")
    assert "same command" in line


def test_the_losses_and_scores_of_a_training_are_still_logged() -> None:
    # A process of its own: MONAI gives a logger its output when it is first asked for.
    code = """
from monai.engines import SupervisedTrainer
from monai.handlers import StatsHandler
import torch
from scripts.error_lines import end_errors_in_one_line

end_errors_in_one_line()
trainer = SupervisedTrainer(
    device="cpu", max_epochs=1, train_data_loader=[1], network=torch.nn.Identity(), optimizer=None,
    loss_function=None, iteration_update=lambda engine, batch: 0.25, decollate=False,
    train_handlers=[StatsHandler(tag_name="loss", output_transform=lambda output: output)],
)
trainer.run()
"""
    done = python("-c", code, cwd=SCRIPTS.parent)
    assert done.returncode == 0, done.stderr
    assert "loss: 0.2500" in done.stdout
