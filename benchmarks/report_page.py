"""The report page of 600 slices of 512 x 512 pixels, against one lossless 16-bit PNG for each slice."""

from __future__ import annotations

import base64
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from benchmarks._timing import compare
from scripts.data.scans.scan import Scan
from scripts.inference.detections import ScanResult, SliceBoxes, link_boxes
from scripts.inference.outputs.html.report_page import ReportWriter
from scripts.inference.outputs.lesions_document import describe_lesions, describe_run

SHAPE, SPACING = (600, 512, 512), (0.75, 0.75, 1.0)
# Noise of a thin slice: it takes most of the space.
NOISE_HU = 25.0


def make_scan() -> Scan:
    """A body of ellipses (fat, organs, a spine, two lungs) with noise, -1024 outside the field of view."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]] / SHAPE[1] - 0.5
    noise = rng.normal(0, NOISE_HU, (32, *SHAPE[1:])).astype(np.float32)
    hu = np.empty(SHAPE, dtype=np.int16)
    for z in range(SHAPE[0]):
        wave = 0.03 * np.sin(z / 40)
        plane = np.full(SHAPE[1:], -1000.0, dtype=np.float32)
        for value, row, column, high, wide in (
            (-90, 0.0, 0.0, 0.33, 0.44),
            (45, 0.0, 0.0, 0.29, 0.40),
            (-860, -0.05, -0.19, 0.17 + wave, 0.13),
            (-860, -0.05, 0.19, 0.17 - wave, 0.13),
            (600, 0.2, 0.0, 0.05, 0.05),
            (160, -0.05 + wave, 0.0, 0.06, 0.05),
        ):
            plane[((rows - row) / high) ** 2 + ((columns - column) / wide) ** 2 < 1] = value
        plane += noise[z % len(noise)]
        plane[rows**2 + columns**2 > 0.25] = -1024
        hu[z] = plane
    return Scan(hu, np.diag([*SPACING, 1.0]), np.eye(4), SHAPE[::-1], Path("scan.nii"), ())


def main() -> None:
    """Print the figures."""
    scan = make_scan()
    slices = np.repeat(np.arange(20, 580, 20), 10) + np.tile(np.arange(10), 28)
    found = SliceBoxes(
        boxes=np.tile([200.0, 220.0, 230.0, 245.0], (len(slices), 1)),
        scores=np.linspace(0.9, 0.1, len(slices)),
        slices=slices,
        positions=np.arange(SHAPE[0], dtype=float),
        thickness=1.0,
        examined=np.ones(SHAPE[0], dtype=bool),
        shape=SHAPE,
        scale=(1.0, 1.0),
    )
    lesions = link_boxes(found)
    document = {**describe_run(scan, found, {}, {}), "lesions": describe_lesions(scan, found, lesions)}
    sizes: dict[str, float] = {}

    def page() -> None:
        sizes["report page"] = len(ReportWriter()(ScanResult(scan, found, lesions, document))["report.html"])

    def lossless() -> None:
        def encode(plane: np.ndarray) -> int:
            # DeepLesion's own form: HU + 32768.
            return len(base64.b64encode(cv2.imencode(".png", (plane.astype(np.int32) + 32768).astype(np.uint16))[1]))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            sizes["16-bit PNGs"] = sum(pool.map(encode, scan.hu))

    compare(f"{SHAPE[0]} slices, {os.cpu_count()} threads", {"16-bit PNGs": lossless, "report page": page}, rounds=3)
    for name, size in sizes.items():
        print(f"  {name:<44} {size / 1e6:10.1f} MB   {sizes['16-bit PNGs'] / size:7.2f}x smaller")


if __name__ == "__main__":
    main()
