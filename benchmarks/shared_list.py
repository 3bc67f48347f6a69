"""A list of 200 small scans: two processes with a thread each against one, in the same run; by Ray too where it is.

    python -m benchmarks shared_list            MP3D_SCANS=50 for another number of scans

Each time is that of the whole command, its start included. The results of all ways are compared byte by byte.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np

from scripts.tools.batch.run_batch import HAS_RAY

BUNDLE = Path(__file__).resolve().parents[1] / "mp3d_bundle"
SCANS = int(os.environ.get("MP3D_SCANS", "200"))
SHAPE = (24, 96, 96)
OPTIONS = ("--checkpoint=models/demo.pt", "--device=cpu", "--outputs=json,csv", "--engine=torch")


def make_scans(folder: Path) -> Path:
    """A body with noise and a ball in it in every scan; the list of their paths."""
    grid = np.stack(np.meshgrid(*(np.arange(side) for side in SHAPE), indexing="ij"))
    body = ((grid[1:] - 47.5) ** 2).sum(0) < 42**2
    paths = []
    for number in range(SCANS):
        generator = np.random.default_rng(number)
        hu = np.where(body, 40.0, -1000.0) + generator.normal(0, 12, SHAPE)
        centre = np.array([12, *generator.uniform(30, 66, 2)]).reshape(3, 1, 1, 1)
        hu[((grid - centre) ** 2).sum(0) < 36] += 90
        paths.append(folder / f"ct_{number:03d}.nii.gz")
        affine = np.diag([-2.0, -2.0, 2.5, 1.0])
        nibabel.save(nibabel.Nifti1Image(hu.round().astype(np.int16).transpose(2, 1, 0), affine), paths[-1])
    listed = folder / "scans.txt"
    listed.write_text("".join(f"{path}\n" for path in paths))
    return listed


def seconds(*commands: list[str]) -> float:
    """How long commands take that run at the same time, a thread each."""
    start = time.perf_counter()
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = {"cwd": BUNDLE, "env": settings, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    running = [subprocess.Popen([sys.executable, "-m", *words], **quiet) for words in commands]
    told = [one.communicate()[1].decode(errors="replace") for one in running]
    if any(one.returncode for one in running):
        sys.exit("\n".join(told)[-2000:])
    return time.perf_counter() - start


def results(folder: Path) -> dict[str, bytes]:
    """All results by name, without the time that they took."""
    return {
        path.relative_to(folder).as_posix(): re.sub(rb'"timing_s": \{[^}]*\}', b"", path.read_bytes())
        for path in sorted(folder.rglob("lesions.*"))
    }


def main() -> None:
    """Do the list in each way."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listed = make_scans(folder)
        first = folder / "first.txt"
        first.write_text(listed.read_text().splitlines()[0] + "\n")

        def detect(scans: Path, output: str, *more: str) -> list[str]:
            words = [str(scans), f"--output_dir={folder / output}", "--progress=False", *OPTIONS, *more]
            return ["scripts", "detect", *words]

        start = seconds(detect(first, "first"))
        one = seconds(detect(listed, "one"))
        two = seconds(*(detect(listed, "two", f"--shard={share}/2") for share in (0, 1)))
        print(f"{SCANS} scans of {SHAPE}; one scan alone, with the start of a process: {start:.1f} s")
        print(f"one process {one:.1f} s, two shares {two:.1f} s: {one / two:.2f} times the rate")
        ways = ["two"]
        if HAS_RAY:
            batch = ["scripts.batch", f"--input={listed}", f"--output_dir={folder / 'ray'}", "--workers=2", *OPTIONS]
            by_ray = seconds(batch)
            print(f"batch with two workers {by_ray:.1f} s: {one / by_ray:.2f} times the rate")
            ways.append("ray")
        wanted = results(folder / "one")
        for way in ways:
            print(f"{way}: {'the same results' if results(folder / way) == wanted else 'OTHER RESULTS'}")


if __name__ == "__main__":
    main()
