"""The import path that other programs read scans by."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
# Another program's own lines: the bundle's folder on the path and nothing else of this project.
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from scripts.data.scan_paths import find_scans
for source in find_scans(sys.argv[2]):
    with source.open() as scan:
        sys.stdout.write(f"{scan.hu.shape} {scan.hu.min()} {scan.hu.max()} {len(scan.notes)}")
"""


def test_another_program_reads_a_scan(tmp_path: Path) -> None:
    hu = np.full((6, 20, 24), -1000, np.int16)
    hu[1:5, 4:16, 4:20] = 40
    image = nib.Nifti1Image(hu.transpose(2, 1, 0), np.diag([0.7, 0.7, 2.5, 1.0]))
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, 1)
    nib.save(image, tmp_path / "scan.nii.gz")
    command = [sys.executable, "-c", PROGRAM, str(REPOSITORY / "mp3d_bundle"), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(6, 20, 24) -1000 40 0"
