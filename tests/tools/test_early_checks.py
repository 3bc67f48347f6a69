"""Wrong command lines that are noticed before the work is imported, each in the words of the work itself."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from scripts import cli
from scripts.__main__ import TOOLS
from scripts.data.scans.dicom.dicom_zip import ZIP_SUFFIX
from scripts.data.scans.remote_scans import VOLUME_SUFFIXES
from scripts.data.scans.scan_lists import LIST_SUFFIX
from scripts.tools import early_checks, export_detector


@pytest.fixture(autouse=True)
def nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def reject(name: str) -> None:
        raise AssertionError(f"{name} was imported")

    monkeypatch.setattr(cli.importlib, "import_module", reject)


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("synthetic", ["out", "--num_trian", "3"], "settings among .*num_train.*, got 'num_trian'"),
        ("synthetic", ["out", "huge"], "a preset among small.*, got 'huge'"),
        ("synthetic", ["out", "--image_size", "0"], "image_size"),
        ("synthetic", ["out", "--seed=-1"], "a seed of at least 0, got -1"),
        ("synthetic", ["out", "--workers", "0"], "at least 1 worker, got 0"),
        ("export", ["none.pt", "out"], r"a weights file, found no file none\.pt\. See models"),
        ("export", ["here.pt", "out", "tensorrt"], "--format onnx or torch, got 'tensorrt'"),
        ("convert", ["none.pth", "out"], r"a weights file, found no file none\.pth"),
        ("convert", ["here.pt", "out", "--to", "onnx"], "--to bundle or --to authors, got 'onnx'"),
        (
            "convert",
            ["here.pt", "out", "--to", "authors", "--isotropic"],
            "--isotropic with --to bundle alone, got it with",
        ),
        ("convert", ["here.pt", "out", "--to", "authors", "--tags", "a.json"], "--tags with --to bundle alone, got it"),
        ("export", ["here.pt", "here.pt"], r"a target other than the source, got here\.pt: it would replace"),
        ("export", ["here.pt", "empty"], "a path to write a file to, got empty, which is a folder"),
        ("export", ["here.pt", "/dev/null"], "got /dev/null, which is a device"),
        ("convert", ["here.pt", "/dev/null"], "got /dev/null, which is a device"),
        ("operating-points", ["here.pt", "empty", "--target", "/dev/null"], "got /dev/null, which is a device"),
        ("convert", ["here.pt", "empty/../here.pt"], r"a target other than the source, got .*here\.pt: it"),
        ("operating-points", ["none.pt", "."], r"found no file none\.pt"),
        ("operating-points", ["here.pt", "empty"], r"the folder of an evaluation, found no metrics\.json in empty"),
        ("operating-points", ["here.pt", "empty", "--box_treshold", "1"], "settings box_threshold .*'box_treshold'"),
        ("score", ["none.csv", "here.pt"], r"there is nothing at none\.csv"),
        ("score", ["here.pt", "none.json"], r"there is nothing at none\.json"),
        ("import", ["none", "out"], "the scans at none, but there is nothing"),
        ("import", ["here.pt", "out"], r"scans as images: a folder .*\.nii\.gz.*, got the file here\.pt"),
        ("import", ["empty", "out", "none"], "the truth at none, but there is nothing"),
        ("import", ["empty", "out", "--split", "[0.7,0.7,0.1]"], "add up to 1"),
        ("import", ["empty", "out", "--split", "0.7"], "three shares as split, got 0.7"),
        ("import", ["empty", "out", "--split_file", "none.csv"], "the splits at none.csv, but there is nothing"),
        ("import", ["empty", "out", "--folds", "1"], "0 or at least 2 folds, got 1"),
    ],
)
def test_a_wrong_command_line_is_noticed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.pt").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=f"^Error: Expected .*{message}") as stopped:
        cli.command_line(*TOOLS[command], words)
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("synthetic", ["out", "study", "--num_train", "3", "--workers", "1"]),
        ("export", ["here.pt", "out", "--format", "torch"]),
        ("convert", ["here.pt", "out", "--to", "mmdet"]),
        ("score", ["here.pt", "empty", "--rule", "MULAN"]),
        ("import", ["empty", "out"]),
        ("import", ["empty", "out", "--split", "[0.8,0.2,0]", "--folds", "5"]),
    ],
)
def test_a_right_one_reaches_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.pt").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AssertionError, match=rf"scripts\.{TOOLS[command][0]} was imported"):
        cli.command_line(*TOOLS[command], words)


@pytest.mark.parametrize("door", early_checks.CHECKS)
def test_a_check_takes_arguments_of_its_command(door: tuple[str, str]) -> None:
    signature: Any = cli.described(*door)[0]
    checked = inspect.signature(early_checks.CHECKS[door]).parameters
    for name, parameter in checked.items():
        if parameter.kind != parameter.VAR_KEYWORD:
            own = signature.parameters[name]
            assert own.kind == own.VAR_KEYWORD or own.default == parameter.default


def test_the_formats_are_those_of_the_export() -> None:
    assert tuple(export_detector.FORMATS) == early_checks.EXPORT_FORMATS


def test_the_endings_of_scans_are_those_of_the_readers() -> None:
    assert (*VOLUME_SUFFIXES, ZIP_SUFFIX, LIST_SUFFIX) == early_checks.SCAN_FILES
