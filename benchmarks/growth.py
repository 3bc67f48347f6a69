"""Time and memory of a scan by its number of slices, with the narrow network of the demo: linear, and flat.

``SLICES=30,60,120,240`` are the slices, ``SIDE=256`` the pixels of a side. Each scan has a process of its own, which
runs `configs/inference.json`; its time is that of reading, detection and linking, as ``lesions.json`` says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks._timing import record

SLICES, SIDE, SPACING = "30,60,120,240", "256", 2.5
CHECKPOINT = Path(__file__).resolve().parents[1] / "mp3d_bundle" / "models" / "demo.pt"
RUN = """
import resource
import sys
from monai.bundle import ConfigWorkflow
scan, output, checkpoint, side = sys.argv[1:]
settings = {"input": scan, "output_dir": output, "checkpoint": checkpoint, "image_size": int(side)}
flow = ConfigWorkflow("configs/inference.json", "configs/metadata.json", logging_file=False, run_id="inferring",
                      workflow_type="infer", outputs=["json"], progress=False, pixel_spacing=None, **settings)
flow.initialize()
flow.run()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@dataclass(frozen=True)
class Cost:
    """What a scan took.

    Attributes:
        slices: Its slices.
        seconds: Reading, detection and linking.
        megabytes: Highest memory of the process, in MiB.
    """

    slices: int
    seconds: float
    megabytes: float


def write_scan(path: Path, slices: int, side: int) -> None:
    """Write a body of soft tissue with noise as NIfTI, int16 HU, 2.5 mm apart."""
    rng = np.random.default_rng(slices)
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    body = (rows / 0.33) ** 2 + (columns / 0.44) ** 2 < 1
    hu = np.where(body, 40.0, -1000.0)[..., None] + rng.normal(0, 12, (side, side, slices))
    nib.save(nib.Nifti1Image(hu.round().astype(np.int16), np.diag([-0.8, -0.8, SPACING, 1.0])), path)


def measured_bundle() -> str:
    """The bundle that is measured: it comes first in the path of modules."""
    return os.environ.get("PYTHONPATH", str(CHECKPOINT.parents[1])).split(os.pathsep)[0]


def cost_of(slices: int, side: int) -> Cost:
    """Run inference on a scan in a process of its own.

    Raises:
        RuntimeError: If it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        scan, output = Path(folder) / "scan.nii", Path(folder) / "out"
        write_scan(scan, slices, side)
        command = [sys.executable, "-c", RUN, str(scan), str(output), str(CHECKPOINT), str(side)]
        done = subprocess.run(command, cwd=measured_bundle(), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"Expected inference of {slices} slices to run, got: {done.stderr[-500:]}")
        (document,) = output.rglob("lesions.json")
        timing = json.loads(document.read_text(encoding="utf-8"))["timing_s"]
    return Cost(slices, sum(timing.values()), float(done.stdout.split()[-1]))


def exponent(costs: list[Cost]) -> float:
    """Power of the number of slices that the time grows with, by least squares; 1 is linear."""
    logs = np.log([[cost.slices, cost.seconds] for cost in costs])
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def main() -> None:
    """Print the table, the exponent and JSON."""
    side = int(os.environ.get("SIDE", SIDE))
    # The first run may convert the network for its engine.
    cost_of(2, side)
    costs = [cost_of(int(slices), side) for slices in os.environ.get("SLICES", SLICES).split(",")]
    print(f"narrow network, slices of {side} x {side} pixels, {SPACING} mm apart")
    for cost in costs:
        each = 1000 * cost.seconds / cost.slices
        print(f"  {cost.slices:5d} slices {cost.seconds:8.1f} s {each:8.1f} ms a slice {cost.megabytes:8.0f} MiB")
    record(f"narrow network, {side} x {side}", {f"{cost.slices} slices": cost.seconds for cost in costs})
    growth = {"exponent": round(exponent(costs), 3)} if len(costs) > 1 else {}
    if growth:
        more = costs[-1].megabytes - costs[0].megabytes
        print(f"time grows with the power {growth['exponent']} of the slices; memory by {more:.0f} MiB")
    rows = [{"slices": cost.slices, "seconds": cost.seconds, "mebibytes": cost.megabytes} for cost in costs]
    print(json.dumps({"side": side, "costs": rows, **growth}))


if __name__ == "__main__":
    main()
