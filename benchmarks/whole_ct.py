"""A whole CT from its file to its list of lesions by the full-size network: `configs/inference.json` as users run it.

The weights are untrained, the scan is a body of soft tissue with noise whose slices lie as far apart as the network's.
``LATTICE=8`` is the number of slices, ``OPTIONS`` more options, such as ``OPTIONS="--precision bfloat16"``. The time
is that of the process, so that it includes imports and the conversion of the network, unless ``WARM=1`` runs a scan of
two slices first, after which the converted network is there. Made for
``python -m benchmarks --compare REVISION whole_ct 1``.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks._timing import record
from benchmarks.growth import measured_bundle, write_scan
from scripts.networks import mp3d_fpn
from scripts.weights import save_weights

LATTICE, SIDE = int(os.environ.get("LATTICE", "8")), 512
DEFINITION = {"_target_": "scripts.networks.mp3d_fpn", "num_slices": 9}


def untrained(folder: Path) -> Path:
    """A weights file of an untrained network."""
    torch.manual_seed(0)
    return save_weights(folder / "untrained.pt", mp3d_fpn(), DEFINITION, {})


def seconds(scan: Path, output: Path, weights: Path, options: list[str]) -> float:
    """Wall time of inference of a scan in a process of its own.

    Raises:
        RuntimeError: If it fails.
    """
    command = [sys.executable, "-m", "monai.bundle", "run", "inferring", "--config_file", "configs/inference.json"]
    command += ["--input", str(scan), "--output_dir", str(output), "--checkpoint", str(weights), *options]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=measured_bundle(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Expected inference to run, got: {(done.stdout + done.stderr)[-500:]}")
    return time.perf_counter() - start


def main() -> None:
    """Print the time, its parts and JSON."""
    options = shlex.split(os.environ.get("OPTIONS", ""))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan, weights = folder / "scan.nii", untrained(folder)
        if os.environ.get("WARM") == "1":
            write_scan(scan, 2, SIDE)
            seconds(scan, folder / "warm", weights, options)
        write_scan(scan, LATTICE, SIDE)
        spent = seconds(scan, folder / "out", weights, options)
        (document,) = (folder / "out").rglob("lesions.json")
        read = json.loads(document.read_text(encoding="utf-8"))
    print(f"{LATTICE} slices of {SIDE} x {SIDE}: {spent:.1f} s; parts {read.get('timing_s')}")
    record("whole CT", {f"{LATTICE} slices": spent})
    print(json.dumps({"slices": LATTICE, "seconds": spent, "options": options, "timing_s": read.get("timing_s")}))


if __name__ == "__main__":
    main()
