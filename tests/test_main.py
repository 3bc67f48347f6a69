"""``python -m scripts``: the list of commands, and the ``monai.bundle`` command behind each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import __main__ as door
from scripts.__main__ import CONFIGS, TOOLS, config_command, main


@pytest.fixture(autouse=True)
def in_the_bundle(bundle_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle_root)


def test_the_list_names_every_command_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"], ["help"]):
        main(words)
        lines = capsys.readouterr().out.splitlines()
        for name in [*CONFIGS, *TOOLS]:
            (line,) = [line for line in lines if line.split()[:1] == [name]]
            assert line.endswith(".")


def test_the_list_comes_without_the_heavy_libraries(bundle_root: Path) -> None:
    code = "import runpy, sys; sys.argv[1:] = ['train', '--help']; runpy.run_module('scripts', run_name='__main__')\n"
    code += "print(sorted({'torch', 'monai', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=bundle_root, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert "--config_file configs/train.json --dataset_dir DATASET_DIR" in done.stdout


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_config_command_names_what_is_there(name: str, bundle_root: Path) -> None:
    words = config_command(name, ["x"])
    assert words[:5] == ["-m", "monai.bundle", "run", CONFIGS[name].workflow, "--config_file"]
    assert (bundle_root / words[5]).is_file()
    assert f'"{CONFIGS[name].workflow}"' in (bundle_root / words[5]).read_text()
    assert f'"{CONFIGS[name].option}":' in (bundle_root / words[5]).read_text()


def test_words_before_the_options_are_the_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "DEMO", Path("none.pt"))
    start = ["-m", "monai.bundle", "run", "inferring", "--config_file", "configs/inference.json"]
    assert config_command("detect", ["a.nii.gz"]) == [*start, "--input", "a.nii.gz"]
    assert config_command("detect", ["a", "b#1", "--overlays", "2"]) == [
        *start, "--input", "['a', 'b#1']", "--overlays", "2"
    ]  # fmt: skip
    assert config_command("detect", ["--input=a"]) == [*start, "--input=a"]
    assert config_command("detect", []) == start
    assert config_command("detect", ["a", "--config_file", "own.json"]) == [
        *start[:4],
        "--input",
        "a",
        "--config_file",
        "own.json",
    ]


def test_without_trained_weights_the_demos_are_used_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(door, "TRAINED", Path("models/none.pt"))
    assert config_command("detect", ["a"])[6:8] == ["--checkpoint", "models/demo.pt"]
    assert "finds no real lesions" in capsys.readouterr().out
    for given in (["--checkpoint", "x.pt"], ["--checkpoint=x.pt"]):
        assert "models/demo.pt" not in config_command("detect", ["a", *given])
    assert "models/demo.pt" not in config_command("train", ["a"])
    assert capsys.readouterr().out == ""


def test_elsewhere_config_and_weights_are_the_bundles_and_paths_the_users(
    tmp_path: Path, bundle_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(door, "TRAINED", Path("models/demo.pt"))
    words = config_command("detect", ["a.nii", "--output_dir", "out"])
    assert words[4:] == [
        *("--config_file", str(bundle_root / "configs" / "inference.json"), "--bundle_root", str(bundle_root)),
        *("--input", "a.nii", "--output_dir", "out"),
    ]
    assert words.count("--bundle_root") == 1
    assert config_command("detect", ["--bundle_root", "x"]).count("--bundle_root") == 1


def test_a_config_command_is_printed_and_takes_the_place_of_this_process(
    bundle_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: called.append(arguments))
    monkeypatch.setenv("PYTHONPATH", "before")
    main(["evaluate", "my data"])
    ((program, words, environment),) = called
    assert program == words[0] == sys.executable
    assert environment["PYTHONPATH"].split(os.pathsep) == [str(bundle_root), "before"]
    said = capsys.readouterr().out
    assert said == (
        "Running: python -m monai.bundle run evaluating --config_file configs/evaluate.json --dataset_dir 'my data'\n"
    )


def test_tools_run_with_their_options_and_unknown_commands_are_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^Error: Expected --format onnx or torch, got '1_0'"):
        main(["export", "a", "b", "--format", "1_0"])
    with pytest.raises(SystemExit, match=r"^Error: Expected one of the commands detect, train.*got 'detct'"):
        main(["detct", "a"])
