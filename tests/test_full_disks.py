"""Inference and training on a real disk that is full or read-only: one line, nothing half written, and they resume."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from scripts.data.intensity import IntensityWindow
from scripts.data.scans.find_scans import find_scans
from scripts.data.slabs.slab_reader import resample_z
from scripts.inference.outputs.html.report_page import ReportWriter
from scripts.inference.outputs.label_map import label_map
from scripts.inference.outputs.result_folder import RECORD
from scripts.inference.outputs.result_writer import ResultWriter
from scripts.inference.volume_detector import SlabCutter, VolumeDetector
from scripts.training.resuming import checkpoints
from scripts.workflows.delivery import remote_results
from scripts.workflows.infer_scans import ScanRunner
from support.clean_processes import clean_process
from support.fake_engines import fake_training
from support.fake_scans import BlobDetector, ball_scan
from support.fake_weights import weights_of
from support.small_disks import Disk, assert_on_a_small_disk, on_a_small_disk


def run(inputs: Path, output: Path) -> None:
    detector = VolumeDetector(SlabCutter(resample_z), IntensityWindow(), progress=False)
    writer = ResultWriter(output, extra={"labelmap": label_map, "report": ReportWriter(threads=1)})
    ScanRunner(find_scans(inputs), detector, weights_of(BlobDetector(), {"name": "blob"}), writer).main()


def finished(folder: Path) -> dict[str, list[str]]:
    """The files of each scan that counts as done."""
    return {path.parent.name: sorted(os.listdir(path.parent)) for path in folder.rglob(RECORD)}


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(4):
        hu = ball_scan(shape=(6, 40, 56), centre_mm=(30.0, 16.0, 6.0))
        image = nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-1.0, -1.0, 2.5, 1.0]))
        nibabel.save(image, tmp_path / "in" / f"scan_{number}.nii")
    (tmp_path / "disk").mkdir()
    return tmp_path / "in"


def test_inference_on_a_full_disk_does_what_fits_and_then_the_rest(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(scans, tmp_path / "whole")
    whole = finished(tmp_path / "whole")
    size = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file()) // 1024
    # The check before the work would keep it from ever filling the disk.
    monkeypatch.setattr(remote_results, "check_output_folder", lambda path, **_: path)

    def fill(disk: Disk) -> None:
        done = 0
        for share in (0.1, 0.4, 0.8):
            disk.resize(max(4, int(share * size)))
            with pytest.raises(SystemExit) as error:
                run(scans, disk.folder / "out")
            heading, *lines = str(error.value.code).splitlines()
            assert "scans failed" in heading
            assert all("No space left on device" in line for line in lines), lines
            found = finished(disk.folder / "out")
            assert all(whole[name] == files for name, files in found.items())
            assert len(lines) == 4 - len(found)
            assert len(found) >= done
            done = len(found)
        assert 0 < done < 4
        disk.resize(1 << 16)
        run(scans, disk.folder / "out")
        assert finished(disk.folder / "out") == whole
        assert not list((disk.folder / "out").rglob(".*part*"))

    assert_on_a_small_disk(tmp_path / "disk", fill)


def test_inference_on_a_disk_that_is_read_only_is_a_line_at_once(scans: Path, tmp_path: Path) -> None:
    def protect(disk: Disk) -> None:
        disk.protect()
        with pytest.raises(SystemExit, match=r"^Expected a folder for the results .*Read-only file system\.$"):
            run(scans, disk.folder / "out")

    assert_on_a_small_disk(tmp_path / "disk", protect)


def train_on_a_small_disk(folder: Path, log: Path) -> None:
    """Train where the disk fills up in the middle, and then with room again."""

    def work(disk: Disk) -> None:
        ends = []
        vars(checkpoints)["check_output_folder"] = lambda path, **_: path
        for size in (4, 12, 20):
            disk.resize(size)
            try:
                fake_training(folder / "run")
            except OSError as error:
                ends.append(str(error))
        assert len(ends) == 3
        assert all("No space left" in end and "\n" not in end for end in ends), ends
        disk.resize(1 << 16)
        fake_training(folder / "run")
        (log.parent / "model.pt").write_bytes((folder / "run" / "model.pt").read_bytes())
        log.write_text(" ".join(sorted(os.listdir(folder / "run"))))

    logging.disable(logging.CRITICAL)
    try:
        if not on_a_small_disk(folder, work):
            log.write_text("failed")
    except NotImplementedError:
        log.write_text("skip")


@pytest.mark.slow
def test_training_on_a_full_disk_ends_in_a_line_and_resumes(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    process = clean_process(train_on_a_small_disk, tmp_path / "disk", tmp_path / "log")
    straight = clean_process(fake_training, tmp_path / "straight")
    for one in (process, straight):
        one.start()
        one.join()
    said = (tmp_path / "log").read_text()
    if said == "skip":
        pytest.skip("this system does not let a process have mounts of its own")
    assert said == " ".join(sorted(os.listdir(tmp_path / "straight")))
    saved = [
        torch.load(folder / "model.pt", weights_only=True)["model"] for folder in (tmp_path, tmp_path / "straight")
    ]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[1])
