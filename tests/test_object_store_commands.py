"""Command lines with S3, served on this machine: ``detect``, and ``batch`` where Ray is installed as well."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.tools.batch.run_batch import HAS_RAY
from support.fake_scans import ball_scan
from support.stores import contents, needs_s3, open_bucket, upload

pytestmark = needs_s3

BUNDLE = Path(__file__).resolve().parents[1] / "mp3d_bundle"
OPTIONS = ("--checkpoint=models/demo.pt", "--device=cpu", "--outputs=json,csv", "--engine=torch")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield from open_bucket("s3", monkeypatch)


def module(*words: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", *words], cwd=BUNDLE, env=settings, capture_output=True, text=True)


def make_scans(folder: Path, url: str) -> None:
    for number in (1, 2, 3):
        (folder / f"p{number}").mkdir(parents=True)
        volume = nibabel.Nifti1Image(ball_scan(shape=(6, 40, 56)).transpose(2, 1, 0), np.diag([-1.0, -1.0, 2.5, 1.0]))
        nibabel.save(volume, folder / f"p{number}" / "ct.nii.gz")
    (folder / "scans.txt").write_text("".join(f"{url}/p{number}/ct.nii.gz\n" for number in (1, 2, 3)))
    upload(folder, url)


def test_detect_reads_a_list_in_s3_and_writes_there(bucket: str, tmp_path: Path) -> None:
    make_scans(tmp_path / "in", f"{bucket}/in")
    words = ("scripts", "detect", f"{bucket}/in/scans.txt", "--output_dir", f"{bucket}/out", *OPTIONS)
    done = module(*words, "--shard", "0/2")
    assert done.returncode == 0, done.stderr
    assert {name.partition("/")[0] for name in contents(f"{bucket}/out")} == {"p1", "p3"}
    done = module(*words)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("skipped, its results are in") == 2
    assert {name for name in contents(f"{bucket}/out") if name.endswith("lesions.csv")} == {
        f"p{number}/ct/lesions.csv" for number in (1, 2, 3)
    }
    missing = module("scripts", "detect", f"{bucket}/none.nii", "--output_dir", f"{bucket}/out", *OPTIONS)
    assert missing.returncode == 1
    assert f"Expected an object at {bucket}/none.nii, found none." in missing.stderr
    assert "Traceback" not in missing.stderr


@pytest.mark.skipif(not HAS_RAY, reason="ray is not installed: `make ray` installs it")
def test_a_batch_reads_a_list_in_s3_and_writes_there(bucket: str, tmp_path: Path) -> None:
    make_scans(tmp_path / "in", f"{bucket}/in")
    words = ("scripts.batch", f"--input={bucket}/in/scans.txt", f"--output_dir={bucket}/out", *OPTIONS)
    done = module(*words)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(contents(f"{bucket}/out")["batch.csv"].decode())))
    assert [(row["path"], row["status"]) for row in rows] == [
        (f"{bucket}/in/p{number}/ct.nii.gz", "done") for number in (1, 2, 3)
    ]
