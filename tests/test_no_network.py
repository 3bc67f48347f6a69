"""Nothing reaches for a network while it runs: with every connection cut, a CT gets its lesions and a set is made.

The cut is in Python's sockets, below every library that is used here. Compiled code that opens sockets by itself would
pass it; where the system lets a process have a network of its own, the test takes one without any.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from support.fake_scans import ball_scan

BUNDLE = Path(__file__).resolve().parents[1] / "mp3d_bundle"
# Python reads it at its start, in this process and in all that it starts.
CUT = """
import os, socket
def connect(self, address):
    if self.family != socket.AF_UNIX:
        with open(os.environ["MP3D_CALLS"], "a") as calls:
            calls.write(f"{address}\\n")
        raise OSError("the network is cut")
    return kept(self, address)
def look_up(name, *rest, **more):
    with open(os.environ["MP3D_CALLS"], "a") as calls:
        calls.write(f"{name}\\n")
    raise OSError("the network is cut")
kept = socket.socket.connect
socket.socket.connect = socket.socket.connect_ex = connect
socket.getaddrinfo = socket.gethostbyname = look_up
"""


def alone() -> list[str]:
    """Words that run a command in a network without any way out; none where the system does not allow that."""
    words = ["unshare", "--net", "--map-root-user"]
    usable = shutil.which("unshare") and not subprocess.run([*words, "true"], capture_output=True).returncode
    return words if usable else []


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "cut").mkdir(exist_ok=True)
    (folder / "cut" / "sitecustomize.py").write_text(CUT)
    settings = {"PYTHONPATH": str(folder / "cut"), "MP3D_CALLS": str(folder / "calls"), "OMP_NUM_THREADS": "1"}
    command = [*alone(), sys.executable, "-m", *words]
    return subprocess.run(command, cwd=BUNDLE, env=os.environ | settings, capture_output=True, text=True)


def test_the_cut_would_notice_a_call(tmp_path: Path) -> None:
    code = tmp_path / "cut" / "calls_home.py"
    code.parent.mkdir()
    code.write_text("import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9/', timeout=5)\n")
    done = run(tmp_path, "calls_home")
    assert done.returncode == 1
    assert "the network is cut" in done.stderr
    assert "127.0.0.1" in (tmp_path / "calls").read_text()


@pytest.mark.parametrize("engine", ["torch", pytest.param("openvino", marks=pytest.mark.slow)])
def test_lesions_of_a_ct_without_a_network(tmp_path: Path, engine: str) -> None:
    hu = ball_scan(shape=(4, 40, 56), centre_mm=(30, 16, 5))
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-1.0, -1.0, 2.5, 1.0])), tmp_path / "a.nii")
    # A copy, next to which a converted network may be kept.
    shutil.copy(BUNDLE / "models" / "demo.pt", tmp_path)
    words = ["scripts", "detect", str(tmp_path / "a.nii"), "--output_dir", str(tmp_path / "out"), "--engine", engine]
    done = run(tmp_path, *words, "--checkpoint", str(tmp_path / "demo.pt"), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").is_file()
    assert not (tmp_path / "calls").exists(), (tmp_path / "calls").read_text()


@pytest.mark.slow
def test_a_set_a_training_and_an_evaluation_without_a_network(tmp_path: Path) -> None:
    counts = ["--num_train", "6", "--num_validation", "3", "--num_test", "3", "--workers", "1"]
    data = ["--dataset_dir", str(tmp_path / "set"), "--num_workers", "1"]
    weights, scores = tmp_path / "run" / "model.pt", tmp_path / "scores"
    narrow = "['configs/train.json','configs/variants/size_narrow.yaml']"
    bundle = ["monai.bundle", "run"]
    train = ["training", "--config_file", narrow, *data, "--output_dir", str(weights.parent), "--max_epochs", "1"]
    evaluate = ["evaluating", "--config_file", "configs/evaluate.json", *data, "--checkpoint", str(weights)]
    for words, result in (
        (["scripts.synthetic", "--output", str(tmp_path / "set"), *counts], tmp_path / "set" / "DL_info.csv"),
        ([*bundle, *train], weights),
        ([*bundle, *evaluate, "--output_dir", str(scores)], scores / "metrics.json"),
    ):
        done = run(tmp_path, *words)
        assert done.returncode == 0, done.stderr
        assert result.is_file()
    assert not (tmp_path / "calls").exists(), (tmp_path / "calls").read_text()
