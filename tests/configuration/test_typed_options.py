"""Options as typed: what Fire and MONAI make of a text is undone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import fire
import monai.bundle
import pytest

from scripts.__main__ import config_command
from scripts.configuration.typed_options import (
    current_parser,
    current_workflow,
    given_options,
    take_as_typed,
    take_none,
)

SEEN: dict[str, Any] = {}


def see(**values: Any) -> None:
    """What the config of these tests hands its values to."""
    workflow = current_workflow()
    SEEN.update(values, run_id=workflow.run_id if workflow else None)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config that checks itself and shows its texts, as inference does."""
    content = {
        "dataset_dir": "data",
        "output_dir": "$@dataset_dir + '/eval'",
        "input": "@dataset_dir",
        "pretrained": None,
        "initialize": [{"_target_": f"{__name__}.take"}],
        "look": [
            {"_target_": f"{__name__}.see", "input": "@input", "output": "@output_dir", "pretrained": "@pretrained"}
        ],
    }
    (tmp_path / "look.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    SEEN.clear()
    return tmp_path / "look.json"


def take_interval() -> None:
    """First step of a config whose option may be None."""
    parser = current_parser()
    assert parser is not None
    take_none(parser, ["interval"])


@pytest.mark.parametrize(("word", "value"), [("None", None), ("null", None), ("3", 3), ("nil", "nil")])
def test_none_is_taken_although_monai_leaves_it_out(
    word: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {
        "interval": 500,
        "initialize": [{"_target_": f"{__name__}.take_interval"}],
        "look": [{"_target_": f"{__name__}.see", "interval": "@interval"}],
    }
    (tmp_path / "own.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    SEEN.clear()
    assert command(monkeypatch, tmp_path / "own.json", "--interval", word)["interval"] == value


def take() -> None:
    """First step of the config."""
    parser = current_parser()
    assert parser is not None
    SEEN["given"] = given_options()
    take_as_typed(parser, ["dataset_dir", "output_dir", "input", "pretrained", "absent"])


def command(monkeypatch: pytest.MonkeyPatch, config: Path, *words: str) -> dict[str, Any]:
    """``python -m monai.bundle run look`` in this process."""
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", "look", "--config_file", str(config), *words])
    fire.Fire({"run": monai.bundle.run})
    return SEEN


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        ("2024_01_05", "2024_01_05"),
        ("20240105", "20240105"),
        ("1e5", "1e5"),
        ("0x10", "0x10"),
        ("CT#2", "CT#2"),
        ("Doe,John", "Doe,John"),
        ("(a)", ["a"]),
        ("{a:b}", "{a:b}"),
        ("a b", "a b"),
        ("True", "True"),
        ("'a b'", "a b"),
        ("['a.nii','CT#2']", ["a.nii", "CT#2"]),
        ("[a.nii, CT#2]", ["a.nii", "CT#2"]),
        ("[2024_01_05,b]", ["2024_01_05", "b"]),
        ("$@dataset_dir + '/x'", "data/x"),
    ],
)
def test_a_text_is_taken_as_typed(typed: str, taken: Any, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(monkeypatch, config, "--input", typed)["input"] == taken
    assert command(monkeypatch, config, f"--input={typed}")["input"] == taken
    assert SEEN["output"] == "data/eval"
    assert SEEN["run_id"] == "look"


def test_an_expression_sees_the_text_as_typed(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = command(monkeypatch, config, "--dataset-dir", "CT#2", "-output_dir", "2024_01")
    assert (seen["input"], seen["output"]) == ("CT#2", "2024_01")
    assert command(monkeypatch, config, "--dataset_dir", "2024_01")["output"] == "2024_01/eval"


@pytest.mark.parametrize("folder", ["2024_01_05", "'2024_01_05'", "1e5", "Doe,John", "run"])
def test_a_tracked_run_takes_its_folder_as_typed(folder: str, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI makes a text of the folder and the name of a file before any part of a bundle runs."""
    words = ["--config_file", str(config), "--tracking", "mlflow", f"--output_dir={folder}"]
    assert command(monkeypatch, config, *config_command("train", words)[4:])["output"] == folder.strip("'")
    assert list((config.parent / folder.strip("'")).glob("config_*.json"))


def test_a_folder_in_brackets_is_a_folder(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (config.parent / "[b]").mkdir()
    assert command(monkeypatch, config, "--input", "[b]")["input"] == "[b]"
    assert command(monkeypatch, config, "--input", "[c]")["input"] == ["c"]


def test_texts_of_files_and_of_python_keep_their_number_sign(config: Path, tmp_path: Path) -> None:
    arguments = tmp_path / "arguments.json"
    arguments.write_text(json.dumps({"input": "CT#2", "run_id": "look"}))
    monai.bundle.run(config_file=str(config), args_file=str(arguments))
    assert SEEN["input"] == "CT#2"
    assert SEEN["given"] == {"input": "CT#2"}
    monai.bundle.run("look", config_file=str(config), input=["CT#2", "b"], pretrained="a::b")
    assert (SEEN["input"], SEEN["pretrained"]) == (["CT#2", "b"], "a::b")
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({"dataset_dir": "CT#2"}))
    flow = monai.bundle.ConfigWorkflow([str(config), str(overlay)], run_id="look", logging_file=False)
    flow.initialize()
    flow.run()
    assert (SEEN["input"], SEEN["output"]) == ("CT#2", "CT#2/eval")
    assert flow.parser["dataset_dir"] == "CT#2"


def test_the_words_of_another_command_are_not_mistaken(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose own command line has an option of that name, and calls the bundle with another value."""
    monkeypatch.setattr(sys, "argv", ["pytest", "--input", "20240105"])
    monai.bundle.run("look", config_file=str(config), input="other")
    assert SEEN["input"] == "other"


def test_outside_of_a_run_nothing_is_given() -> None:
    assert given_options() == {}
    assert current_workflow() is None
