"""``python -m scripts.synthetic``: what it prints and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.cli import command_line
from scripts.tools import make_synthetic

BUNDLE = Path(__file__).resolve().parents[2] / "mp3d_bundle"
FEW = {"num_train": 1, "num_validation": 1, "num_test": 1, "image_size": 64, "margin_mm": 2.5}


def test_the_command_writes_a_data_set(tmp_path: Path) -> None:
    arguments = [f"--{name}={value}" for name, value in FEW.items()]
    words = ["--output", str(tmp_path / "set"), "--workers=1", "--seed=9", *arguments]
    command_line("tools.make_synthetic", "main", words)
    assert json.loads((tmp_path / "set" / "synthetic.json").read_text())["seed"] == 9
    assert (tmp_path / "set" / "DL_info.csv").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_train": 0}, "num_train of at least 1, got 0"),
        ({"pixel_spacing": -1}, "pixel_spacing"),
        ({"image_size": 16}, "image_size of 32 to 4096 px, got 16"),
        ({"preset": "tiny"}, "preset among small, hard, deeplesion, study, got 'tiny'"),
        ({"workers": 0}, "at least 1 worker, got 0"),
        ({"seed": -1}, "seed of at least 0, got -1"),
        ({"imagesize": 64}, "got 'imagesize'"),
    ],
)
def test_a_bad_argument_ends_in_one_line_and_writes_nothing(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    words = [f"--{name}={value}" for name, value in {"output": tmp_path / "set", **FEW, **changes}.items()]
    with pytest.raises(SystemExit) as stopped:
        command_line("tools.make_synthetic", "main", words)
    text = str(stopped.value)
    assert text.startswith("Error: ")
    assert message in text
    assert "\n" not in text
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_content_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="has content"):
        make_synthetic.main(str(tmp_path), workers=1, **FEW)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_generator_needs_no_pytorch() -> None:
    code = (
        "import sys, scripts.tools.make_synthetic; print(sorted({'torch', 'monai', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=BUNDLE, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
