"""``python -m scripts``: the list of commands, and the ``monai.bundle`` command behind each."""

from __future__ import annotations

import json
import os
import shlex
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
    assert config_command("detect", ["--overlays", "2", "a", "--amp=True", "b"]) == [
        *start, "--input", "['a', 'b']", "--overlays", "2", "--amp=True"
    ]  # fmt: skip
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
    tmp_path: Path, bundle_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: called.append(arguments))
    monkeypatch.setenv("PYTHONPATH", "before")
    (tmp_path / "my data" / "Images_png").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    main(["evaluate", "my data", "--checkpoint", str(bundle_root / "models" / "demo.pt")])
    ((program, words, environment),) = called
    assert program == words[0] == sys.executable
    assert environment["PYTHONPATH"].split(os.pathsep) == [str(bundle_root), "before"]
    said = capsys.readouterr().out
    assert said.startswith("Running: python -m monai.bundle run evaluating --config_file ")
    assert "--dataset_dir 'my data' --checkpoint " in said


def test_tools_run_with_their_options_and_unknown_commands_are_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^Error: Expected --format onnx or torch, got '1_0'"):
        main(["export", "a", "b", "--format", "1_0"])
    with pytest.raises(SystemExit, match=r"^Error: Expected one of the commands detect, train.*got 'detct'"):
        main(["detct", "a"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["detct"], r"got 'detct'\. Did you mean detect\?$"),
        (["Detect", "a"], r"Did you mean detect\?$"),
        (["--input", "a"], "got '--input'"),
        ([""], r"got ''\.$"),
        (["--", "detect"], "got '--'"),
        (["detect"], r"^Error: Expected INPUT, got none\. Type python -m scripts detect INPUT\.$"),
        (["train", "--max_epochs", "2"], "Expected DATASET_DIR, got none"),
        (["evaluate-volumes"], "Expected DATASET_DIR, got none"),
        (["detect", "none.nii.gz"], "for --input, found nothing at none.nii.gz"),
        (["detect", "a 1", "none,2.nii"], "for --input, found nothing at none,2.nii"),
        (["detect", "a 1", "--input", "a 1"], "Expected INPUT once, got 'a 1' and --input"),
        (["detect", "a 1", "--scor_threshold", "1"], "did you mean --score_threshold"),
        (["detect", "a 1", "-x", "1"], "Unknown option --x"),
        (["detect", "a 1", "--checkpoint", "none.pt"], "found nothing at none.pt"),
        (["train", "a 1"], "Expected a folder for --dataset_dir, found a file at a 1"),
        (["train", ".", "2026-11-28"], "Expected one DATASET_DIR, got also '2026-11-28'"),
        (["train", "2026-11-28"], "found nothing at 2026-11-28"),
        (["evaluate", "."], r"Expected weights in .*models/none\.pt, found no file\. Name others by --checkpoint"),
        (["synthetic"], r"^Error: Expected OUTPUT, got none"),
        (["synthetic", "a", "--workers", "two"], "Expected a whole number for --workers, got 'two'"),
        (["export", "a"], r"^Error: Expected TARGET, got none"),
        (["complexity", "--size", "big"], "Expected a whole number for --size, got 'big'"),
        (["demo", "a", "--max_epochs", "few"], "Expected a whole number for --max_epochs, got 'few'"),
    ],
)
def test_wrong_command_lines_end_in_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(door, "TRAINED", Path("models/none.pt"))
    monkeypatch.setattr(door, "DATA", Path("data/none"))
    monkeypatch.setattr(os, "execve", lambda *arguments: pytest.fail("the command was run"))
    (tmp_path / "a 1").write_text("something")
    with pytest.raises(SystemExit, match=message) as ended:
        main(words)
    assert "\n" not in str(ended.value.code)


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["detect", "a 1"], "--input 'a 1'"),
        (["detect", "--overlays", "2", "2026-11-28"], "--input 2026-11-28 --overlays 2"),
        (["detect", "a,b", "1"], """--input "['a,b', '1']\""""),
        (["detect", "--config_file", "a 1"], "--config_file 'a 1'"),
        (["train", "1e5", "--train#dataloader#batch_size", "3"], "--dataset_dir 1e5 --train#dataloader#batch_size 3"),
        (["evaluate-volumes", "--labels", "x", "--predictions", "y"], "--labels x --predictions y"),
    ],
)
def test_odd_names_are_passed_on(
    words: list[str], given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execve", lambda *arguments: None)
    for name in ("a 1", "a,b", "1"):
        (tmp_path / name).write_text("something")
    for name in ("2026-11-28", "1e5"):
        (tmp_path / name / "Images_png").mkdir(parents=True)
    main(words)
    assert shlex.split(given) == shlex.split(capsys.readouterr().out.splitlines()[-1])[-len(shlex.split(given)) :]


def test_help_and_version(capsys: pytest.CaptureFixture[str], bundle_root: Path) -> None:
    for words in (["help", "detect"], ["--help", "detect"], ["detect", "a", "-h"], ["detect", "--", "--help"]):
        main(words)
        assert capsys.readouterr().out.startswith("python -m scripts detect INPUT")
    main(["--version"])
    metadata = json.loads((bundle_root / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert capsys.readouterr().out.strip() == metadata["version"]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8:strict"])
def test_names_that_the_output_cannot_show_are_escaped(encoding: str, bundle_root: Path, tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xc3\xa4\xff")
    os.mkdir(folder)
    Path(folder, "a.nii").write_bytes(b"no scan")
    done = subprocess.run(
        [sys.executable, "-m", "scripts", "detect", folder, "--checkpoint", "models/demo.pt", "--output_dir", folder],
        cwd=bundle_root,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("Running: ")
    assert r"\udcff" in done.stdout.splitlines()[0]
    assert done.stderr.splitlines()[-1].startswith("Expected a complete NIfTI file")


def test_a_working_folder_that_is_gone_ends_in_one_line(tmp_path: Path, bundle_root: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"cd '{gone}' && rmdir '{gone}' && exec '{sys.executable}' -m scripts detect a"
    environment = {**os.environ, "PYTHONPATH": str(bundle_root)}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("Error: Expected a working folder that exists")
    assert done.returncode == 1


def test_output_that_cannot_be_written_ends_in_one_line(bundle_root: Path) -> None:
    for words in ([], ["detect", "--help"], ["detect", "models", "--checkpoint", "models/demo.pt"]):
        command = [sys.executable, "-u", "-m", "scripts", *words]
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(command, cwd=bundle_root, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert done.stderr.splitlines() == ["Error: [Errno 28] No space left on device"]
        assert done.returncode == 1
