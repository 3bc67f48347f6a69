"""Results depend on the scan, the weights and the settings alone: not on threads, other scans, place or environment.

Batch size and order are in `tests/inference/test_volume_detector.py`, shares and order of a list in
`tests/workflows/test_shared_lists.py`, loader processes of a training in `tests/test_interruptions.py`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from scripts.data.intensity import IntensityWindow
from scripts.data.scans.find_scans import find_scans
from scripts.data.slabs.slab_reader import resample_z
from scripts.inference.outputs.result_writer import ResultWriter
from scripts.inference.volume_detector import SlabCutter, VolumeDetector
from scripts.tools.export_detector import nearest_gaps
from scripts.weights import load_network
from scripts.workflows.infer_scans import ScanRunner
from support.fake_scans import ball_scan, scan_of
from support.fake_weights import weights_of

BUNDLE = Path(__file__).resolve().parents[1] / "mp3d_bundle"
# What sums taken in another order may change, far above what was seen: pixels, and points of the score.
PIXELS, SCORE = 1e-3, 1e-4


def textured(slices: int = 6, seed: int = 0) -> np.ndarray:
    """A body in which the demo's weights find many boxes."""
    hu = ball_scan(shape=(slices, 64, 80), centre_mm=(40, 30, 8), radius_mm=9)
    grain = np.random.default_rng(seed).normal(0, 60, hu.shape).astype(np.int16)
    return np.where(hu > -500, hu + grain, hu)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return load_network(BUNDLE / "models" / "demo.pt")[0].eval()


@pytest.fixture
def threads_as_before() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads_as_before")
def test_threads_change_last_digits_alone_and_nothing_else_changes_a_bit(network: torch.nn.Module) -> None:
    detector = VolumeDetector(SlabCutter(resample_z), IntensityWindow(), score_threshold=0.0, progress=False)
    scan, found = scan_of(textured()), {}
    for threads in (1, 2, 4, 1):
        torch.set_num_threads(threads)
        one = detector(scan, network)
        torch.manual_seed(threads)
        again = detector(scan, network)
        assert np.array_equal(one.boxes, again.boxes)
        assert np.array_equal(one.scores, again.scores)
        found.setdefault(threads, []).append(one)
    assert len(found[1][0].scores) > 50
    assert np.array_equal(found[1][0].boxes, found[1][1].boxes)
    for threads in (2, 4):
        for at in range(len(found[1][0].positions)):
            pair = [
                (torch.from_numpy(one.boxes[one.slices == at]), torch.from_numpy(one.scores[one.slices == at]))
                for one in (found[1][0], found[threads][0])
            ]
            pixels, score = nearest_gaps(*pair)
            print(f"{threads} threads, slice {at}: {pixels:.1e} px, {score:.1e}")
            assert (pixels < PIXELS, score < SCORE) == (True, True), (threads, at)


def write(path: Path, hu: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-1.0, -1.0, 2.5, 1.0])), path)


def files_of(folder: Path, place: Path) -> dict[str, bytes]:
    """Every file without times and the path that the scan had; the record, whose hashes hold both, is left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "finished.json":
            content = path.read_bytes().replace(str(place).encode(), b"PLACE")
            found[path.relative_to(folder).as_posix()] = re.sub(rb'"timing_s": \{[^}]*\}', b"", content)
    return found


def test_a_scan_alone_elsewhere_and_among_others_gives_the_same_files(network: torch.nn.Module, tmp_path: Path) -> None:
    for name, seed in (("b", 0), ("a", 1), ("c", 2)):
        write(tmp_path / "many" / f"{name}.nii", textured(3, seed))
    (tmp_path / "other place").mkdir()
    shutil.copy(tmp_path / "many" / "b.nii", tmp_path / "other place" / "b.nii")
    for inputs in ("many", "other place"):
        detector = VolumeDetector(SlabCutter(resample_z), IntensityWindow(), progress=False)
        writer = ResultWriter(tmp_path / f"out of {inputs}", outputs=("json", "csv"))
        weights = weights_of(network, {"name": "demo"})
        ScanRunner(find_scans(tmp_path / inputs), detector, weights, writer).main()
    among = files_of(tmp_path / "out of many" / "b", tmp_path / "many")
    (alone,) = {path.parent for path in (tmp_path / "out of other place").rglob("lesions.json")}
    assert len(among) >= 3
    assert files_of(alone, tmp_path / "other place") == among


@pytest.mark.slow
def test_the_command_does_not_depend_on_its_environment(tmp_path: Path) -> None:
    write(tmp_path / "scan.nii", textured())
    settings = [
        {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C", "HOME": str(tmp_path)},
        {"PYTHONHASHSEED": "77", "TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8", "COLUMNS": "30", "LANG": "de_DE"},
    ]
    found = []
    for number, own in enumerate(settings):
        output = tmp_path / f"out_{number}"
        words = ["scripts", "detect", str(tmp_path / "scan.nii"), "--output_dir", str(output), "--device", "cpu"]
        command = [sys.executable, "-m", *words, "--engine", "torch"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **own}
        done = subprocess.run(command, cwd=BUNDLE, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.append(files_of(output, tmp_path))
    assert len(found[0]) >= 3
    assert found[0] == found[1]
