"""Inference of a list that is stopped or killed: nothing is half written, and the same command does the rest."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from scripts.data.intensity import IntensityWindow
from scripts.data.scans.find_scans import find_scans
from scripts.data.slabs.slab_reader import resample_z
from scripts.inference.outputs.html.report_page import ReportWriter
from scripts.inference.outputs.label_map import label_map
from scripts.inference.outputs.result_folder import RECORD
from scripts.inference.outputs.result_writer import ResultWriter
from scripts.inference.outputs.slicer_nodes import slicer_markups
from scripts.inference.volume_detector import SlabCutter, VolumeDetector
from scripts.interrupts import Stopped, run_command, stopped_by_signals
from scripts.workflows.infer_scans import ScanRunner
from support.fake_scans import BlobDetector, Seen, ball_scan
from support.fake_weights import weights_of
from support.killed_copies import status_of_a_copy

BUNDLE = Path(__file__).resolve().parents[1] / "mp3d_bundle"


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans with a ball each, at different places."""
    folder = tmp_path_factory.mktemp("scans")
    for number in range(3):
        hu = ball_scan(centre_mm=(30.0, 16.0, 12.0 + 3 * number))
        affine = np.diag([-1.0, -1.0, 2.5, 1.0])
        nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), affine), folder / f"scan_{number}.nii")
    return folder


def runner(inputs: Path, output: Path, **changes: Any) -> ScanRunner:
    detector = VolumeDetector(SlabCutter(resample_z), IntensityWindow(), progress=False)
    weights = weights_of(BlobDetector(), {"name": "blob"})
    extra = {"slicer": slicer_markups, "labelmap": label_map, "report": ReportWriter(threads=1)}
    return ScanRunner(find_scans(inputs), detector, weights, ResultWriter(output, extra=extra), **changes)


def results(folder: Path) -> dict[str, Any]:
    """Every file below a folder; of JSON what does not change from run to run."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content: Any = path.read_bytes()
        if path.suffix == ".json":
            content = json.loads(content)
            content.pop("timing_s", None)
        if path.name == RECORD:
            content["files"] = sorted(content["files"])
        found[str(path.relative_to(folder))] = content
    return found


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_a_list_killed_at_random_ends_as_if_it_never_was(scans: Path, tmp_path: Path, kills: int) -> None:
    start = time.perf_counter()
    runner(scans, tmp_path / "whole").main()
    whole = results(tmp_path / "whole")
    longest = 1.2 * (time.perf_counter() - start)
    choose, killed = random.Random(kills), 0
    for number in range(kills):
        output = tmp_path / f"out_{number // 5}"
        # The first run in a folder has most to do. Those that find scans finished are over before many of the kills.
        seconds = choose.uniform(0, longest / 2 if number % 5 == 0 else longest)
        killed += status_of_a_copy(runner(scans, output).main, kill_after=seconds) == -signal.SIGKILL
        for lesions in output.rglob("lesions.json"):
            # If it exists, all files of its scan exist.
            prefix = f"{lesions.parent.name}/"
            expected = {name for name in whole if name.startswith(prefix) and not name.endswith(RECORD)}
            assert expected <= {str(path.relative_to(output)) for path in output.rglob("*")}
    for output in {tmp_path / f"out_{number // 5}" for number in range(kills)}:
        runner(scans, output).main()
        assert results(output) == whole
    assert killed >= kills // 5


def test_the_signal_ends_the_work_and_says_how_to_resume(
    scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        caplog.clear()
        output = tmp_path / str(status)
        run = runner(scans, output)
        calls: list[int] = []

        def stop_in_the_second_scan(*_: Any, calls: list[int] = calls, number: int = number) -> None:
            calls.append(number)
            # Twelve slices a scan, four to a call.
            if len(calls) == 5:
                os.kill(os.getpid(), number)

        run.weights.load().register_forward_pre_hook(stop_in_the_second_scan)
        with pytest.raises(SystemExit) as ended:
            run.main()
        assert ended.value.code == status
        assert f"Stopped by {signal.Signals(number).name}: 1 of 3 scans are done." in caplog.text
        assert "same command" in caplog.text
        assert [path.parent.name for path in output.rglob("lesions.json")] == ["scan_0"]
        assert not list(output.rglob(".part"))
        with caplog.at_level(logging.INFO):
            runner(scans, output).main()
        assert caplog.text.count(": skipped, its results are in") == 1
        assert len(list(output.rglob("lesions.json"))) == 3


def test_signals_are_given_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Stopped, match="SIGTERM"), stopped_by_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before

    def elsewhere() -> None:
        with stopped_by_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    found: list[Any] = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [before[0]]


def test_what_goes_wrong_in_the_middle_is_a_line_for_each_scan(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = shutil.copytree(scans, tmp_path / "in")
    run = runner(inputs, tmp_path / "out")
    (inputs / "scan_1.nii").unlink()
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if "scan_2" in path.parts and path.name == "report.html":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SystemExit) as ended:
        run.main()
    heading, absent, disk = str(ended.value.code).splitlines()
    assert heading == "2 of 3 scans failed:"
    assert re.search(r"nothing is at .*scan_1\.nii", absent)
    assert re.search(r"scan_2.*Could not write the results to .*: No space left on device", disk)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scan_0"]
    monkeypatch.undo()
    shutil.copy(scans / "scan_1.nii", inputs)
    runner(inputs, tmp_path / "out").main()
    assert len(list((tmp_path / "out").rglob(RECORD))) == 3


@pytest.mark.parametrize("call", [4, 7])
def test_an_output_folder_that_is_removed_is_not_made_anew(scans: Path, tmp_path: Path, call: int) -> None:
    run = runner(scans, tmp_path / "out")
    calls: list[int] = []

    def remove(*_: Any) -> None:
        calls.append(1)
        if len(calls) == call:
            shutil.rmtree(tmp_path / "out")

    run.weights.load().register_forward_pre_hook(remove)
    with pytest.raises(SystemExit) as ended:
        run.main()
    heading, *lines = str(ended.value.code).splitlines()
    assert heading == f"{2 if call == 4 else 1} of 3 scans failed:"
    assert all(f"The output folder {tmp_path / 'out'} has been removed." in line for line in lines)
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_is_rejected_before_the_work(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    run = runner(scans, tmp_path / "file" / "out")
    with pytest.raises(SystemExit, match=r"^Expected a folder for the results at .*out, found a file at .*file\.$"):
        run.main()
    assert run.weights.load().seen == Seen()


@pytest.mark.slow
def test_the_command_ends_with_143_and_resumes(scans: Path, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "monai.bundle", "run", "inferring", "--config_file", "configs/inference.json"),
        *("--checkpoint", "models/demo.pt", "--input", str(scans), "--output_dir", str(tmp_path)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def finished() -> list[Path]:
        """Records of finished scans, without those that are being written."""
        # Not deeper: a folder that is being written may be renamed while it is searched.
        return list(tmp_path.glob(f"scan_*/{RECORD}"))

    with subprocess.Popen(
        command, cwd=BUNDLE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while process.poll() is None and not finished():
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate()
    assert process.returncode == 143, said
    assert re.search(r"Stopped by SIGTERM: [12] of 3 scans are done\.", said), said
    done = subprocess.run(command, cwd=BUNDLE, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "skipped" in done.stderr + done.stdout
    assert len(finished()) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_runs_another_passes_signals_on_and_ends_after_it(tmp_path: Path, number: int) -> None:
    inner = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), print('saved'), "
    inner += "sys.exit(143))); print('ready', flush=True); time.sleep(60)"
    outer = f"import sys; from scripts.interrupts import run_command; run_command([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen([sys.executable, "-c", outer], cwd=BUNDLE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == "saved\n"
    assert process.returncode == 128 + number


def test_a_command_that_runs_another_has_its_status_and_environment() -> None:
    words = [sys.executable, "-c", "import os, sys; sys.exit(int(os.environ['STATUS']))"]
    assert run_command(words, {**os.environ, "STATUS": "3"}) == 3


@pytest.mark.parametrize("words", [["detect", "docs/index.md"], ["export", "models/demo.pt", "network.onnx"]])
def test_an_interruption_of_the_imports_is_a_line(words: list[str], tmp_path: Path) -> None:
    # In the place of a library: it is imported first, and interrupts itself as Ctrl-C does.
    for name in ("monai", "torch"):
        (tmp_path / f"{name}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    command = [sys.executable, "-m", "scripts", *words]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    settings: dict[str, Any] = {"cwd": BUNDLE, "env": environment, "capture_output": True, "text": True}
    # A shell without job control has its background processes ignore Ctrl-C, and their children inherit that.
    done = subprocess.run(command, check=False, preexec_fn=_heed_interrupts, **settings)
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
