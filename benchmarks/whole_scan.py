"""A whole scan through inference: windows of one lattice against resampling every window, and peak memory.

Memory is measured in separate processes, from loading the network to writing the report page, for 600
slices of 512 x 512 pixels. Only a few slices show a body, so that the full-size network runs a few times instead of
for an hour: memory does not depend on the number of runs.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Orientation, Spacing

from scripts.data.intensity import IntensityWindow
from scripts.data.scans.scan import read_scan
from scripts.data.slabs.slab_reader import resample_z
from scripts.inference.detections import ScanResult, link_boxes
from scripts.inference.outputs.html.report_page import ReportWriter
from scripts.inference.outputs.lesions_document import describe_lesions, describe_run
from scripts.inference.volume_detector import SlabCutter, VolumeDetector
from scripts.networks import mp3d_fpn

SLICES, SIDE, PIXEL_MM, LATTICE_MM, REACH = 600, 512, 0.8, 2.5, 4
WINDOWED_SLICES, WINDOWED_MM = 100, 1.0
# mm between slices: the lattice has fewer slices than the scan, or twice as many.
DISTANCES = (1.0, 5.0)
SHOWN = 2
ROUNDS = 3


def make_hu(slices: int, shown: int) -> np.ndarray:
    """``(slices, 512, 512)`` int16 of air with a body in the ``shown`` middle ones."""
    hu = np.full((slices, SIDE, SIDE), -1000, dtype=np.int16)
    low = (slices - shown) // 2
    noise = np.random.default_rng(0).integers(-60, 120, (SIDE - 160, SIDE - 160))
    hu[low : low + shown, 80:-80, 80:-80] = noise
    return hu


def windows() -> None:
    """Print how long it takes to make the network's input of every lattice slice."""
    hu, intensity = make_hu(WINDOWED_SLICES, WINDOWED_SLICES), IntensityWindow()
    spacing = (PIXEL_MM, PIXEL_MM, WINDOWED_MM)
    centres = SlabCutter(resample_z)(hu, spacing).positions * WINDOWED_MM

    def one_by_one() -> float:
        total = 0.0
        for centre in centres:
            targets = centre + np.arange(-REACH, REACH + 1) * LATTICE_MM
            slab = resample_z(hu, np.arange(len(hu)) * WINDOWED_MM, targets)
            total += float(intensity(torch.from_numpy(slab)[None])[0, REACH, 256, 256])
        return total

    def lattice() -> float:
        slabs = SlabCutter(resample_z)(hu, spacing)
        numbers = range(len(slabs.positions))
        return sum(float(slabs.batch([at], slabs.volume, intensity)[0, REACH, 256, 256]) for at in numbers)

    # The lattice is rounded to whole HU.
    if not np.isclose(one_by_one(), lattice(), rtol=1e-3, atol=0.05 * len(centres)):
        raise RuntimeError("Expected the same slabs both ways.")
    print(f"{len(centres)} windows, processor time (best of {ROUNDS})")
    peer = None
    for name, make in {"every window resampled": one_by_one, "windows of one lattice": lattice}.items():
        seconds = min(processor_seconds(make) for _ in range(ROUNDS))
        peer = peer or seconds
        print(f"  {name:<44} {1000 * seconds:10.1f} ms   {peer / seconds:7.2f}x", flush=True)


def processor_seconds(call: Callable[[], object]) -> float:
    """Processor time of a call: unlike wall time it does not depend on other work of the machine."""
    start = time.process_time()
    call()
    return time.process_time() - start


def peak_bytes() -> int:
    """Peak memory of this process so far (Linux counts in KiB, macOS in bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_bytes() -> int:
    """Current memory of this process, or its peak if the system does not report it."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return peak_bytes()


def detect(path: str) -> None:
    """Print the memory of a scan from reading to its report page, with the full-size network, untrained."""
    network = mp3d_fpn().eval()
    before, start = resident_bytes(), time.perf_counter()
    scan = read_scan(path)
    found = VolumeDetector(SlabCutter(resample_z), IntensityWindow(), batch_size=1, progress=False)(scan, network)
    detected = time.perf_counter()
    lesions = link_boxes(found)[:10]
    document = {**describe_run(scan, found, {}, {}), "lesions": describe_lesions(scan, found, lesions)}
    ReportWriter()(ScanResult(scan, found, lesions, document))
    seconds = {"detect": detected - start, "report": time.perf_counter() - detected}
    print(json.dumps({"bytes": peak_bytes() - before, "seen": int(found.examined.sum()), **seconds}))


def resample_with_monai(path: str) -> None:
    """Print the memory for resampling the scan onto the lattice with MONAI's transforms, without a network."""
    before, start = resident_bytes(), time.perf_counter()
    pixdim = (PIXEL_MM, PIXEL_MM, LATTICE_MM)
    Compose([LoadImage(), EnsureChannelFirst(), Orientation("LPS", labels=None), Spacing(pixdim)])(path)
    print(json.dumps({"bytes": peak_bytes() - before, "seconds": time.perf_counter() - start}))


def in_own_process(function: str, path: Path) -> dict[str, float]:
    """Call a function of this module in a separate process."""
    code = f"import sys; from benchmarks.whole_scan import {function}; {function}(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(1)
    windows()
    for distance in DISTANCES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "scan.nii.gz"
            affine = np.diag([-PIXEL_MM, -PIXEL_MM, distance, 1.0])
            nibabel.save(nibabel.Nifti1Image(make_hu(SLICES, SHOWN).transpose(2, 1, 0), affine), path)
            print(f"{SLICES} x {SIDE} x {SIDE}, slices {distance:g} mm apart: peak memory", flush=True)
            peer = in_own_process("resample_with_monai", path)
            print(
                f"  {'MONAI transforms onto the lattice, no network':<50} {peer['bytes'] / 2**30:6.2f} GiB", flush=True
            )
            own = in_own_process("detect", path)
            size, ratio = own["bytes"] / 2**30, peer["bytes"] / own["bytes"]
            print(f"  {'reading, network, report, without the model':<50} {size:6.2f} GiB {ratio:6.2f}x less")
            print(
                f"  {own['detect']:.1f} s to read and detect in {own['seen']:.0f} slices, {own['report']:.1f} s report"
            )


if __name__ == "__main__":
    main()
