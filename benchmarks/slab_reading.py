"""Reading one sample of nine slices: MONAI's LoadImage + Spacing + ScaleIntensityRange against the slab reader.

The slab reader reads the PNGs, and the store that `python -m scripts.prepare` makes of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, ScaleIntensityRange, Spacing

from benchmarks._timing import compare
from scripts.data.slabs import slice_store
from scripts.data.slabs.slab_reader import IntensityWindow, SlabReader, read_slice

SIDE, SLICES, SPACING = 512, 9, 2.5
LOW, HIGH = -1024.0, 1050.0
INTERVALS = (1.0, 2.5, 5.0)
# DeepLesion keeps 30 mm on both sides of the key slice.
SUB_VOLUME_MM = 30.0


def write_series(folder: Path, interval: float, seed: int) -> dict[str, Any]:
    """Write 16-bit PNGs that look and compress like CT (about 200 KB each); return the record of the middle one."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    body = (rows / 0.33) ** 2 + (columns / 0.44) ** 2
    organs = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)), (0, 0), 24) * 1500
    each_side = int(SUB_VOLUME_MM / interval)
    for number in range(1, 2 * each_side + 2):
        hu = np.where(body < 1, 40 + organs * np.cos(0.1 * interval * number), -1000.0)
        hu += rng.normal(0, np.where(body < 1, 12, 4), (SIDE, SIDE))
        hu = np.where(np.hypot(rows, columns) < 0.5, hu, -3024).round()
        cv2.imwrite(str(folder / f"{number:03d}.png"), (hu + 32768).astype(np.uint16), [cv2.IMWRITE_PNG_COMPRESSION, 6])
    key = each_side + 1
    return {
        "image": str(folder / f"{key:03d}.png"),
        "series": folder.name,
        "key_slice": key,
        "slice_interval": interval,
        "slice_range": (1, 2 * each_side + 1),
    }


def by_slab_reader(record: dict[str, Any]) -> Callable[[], np.ndarray]:
    """A call that reads the sample with this project's reader: ``(D, H, W)`` on the scale of 0 to 255."""
    reader, window = SlabReader(SLICES, spacing=SPACING), IntensityWindow(LOW, HIGH, mean=0.0, std=1.0)
    return lambda: window(reader(record), inplace=True)


def by_monai(record: dict[str, Any]) -> Callable[[], np.ndarray]:
    """A call that reads the same sample with MONAI's transforms from the span of slices that it needs."""
    key, interval = record["key_slice"], record["slice_interval"]
    reach = round(SPACING * (SLICES // 2) / interval)
    folder = Path(record["image"]).parent
    paths = [folder / f"{number:03d}.png" for number in range(key - reach, key + reach + 1)]
    load = LoadImage(image_only=True)
    respace = Spacing(pixdim=(1.0, 1.0, SPACING), mode="bilinear", padding_mode="border")
    window = ScaleIntensityRange(LOW + 32768, HIGH + 32768, 0.0, 255.0, clip=True)
    affine = torch.diag(torch.tensor([1.0, 1.0, interval, 1.0], dtype=torch.float64))

    def call() -> np.ndarray:
        # A list of files is stacked as channels (Z, W, H); as a volume it is (1, W, H, Z).
        volume = torch.from_numpy(np.asarray(load(paths))).permute(1, 2, 0)[None]
        volume = window(respace(MetaTensor(volume, affine=affine)))
        return np.asarray(volume[0]).transpose(2, 1, 0)

    return call


def stored(record: dict[str, Any]) -> dict[str, Any]:
    """The same record in a store next to its series."""
    folder = Path(record["image"]).parent
    target, names = folder.with_name(f"{folder.name}_store"), slice_store.png_names(folder)
    slice_store.write_series(target, names, list(names), lambda name: read_slice(folder / name), "benchmark")
    return {**record, "image": str(target / Path(record["image"]).name)}


def check_equal(cases: dict[str, Callable[[], np.ndarray]]) -> None:
    """Raise RuntimeError unless all cases give the same sample."""
    first, *others = (call() for call in cases.values())
    for other in others:
        if first.shape != other.shape or not np.allclose(first, other, rtol=0, atol=1e-3):
            raise RuntimeError("The samples differ, so that their times cannot be compared.")


def main() -> None:
    """Print the figures, with one thread (a worker process of a data loader) and with all."""
    everything = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        for interval in INTERVALS:
            series = Path(folder) / f"interval_{interval}"
            series.mkdir()
            record = write_series(series, interval, seed=0)
            kilobytes = Path(record["image"]).stat().st_size / 1000
            cases = {
                "MONAI LoadImage, Spacing, ScaleIntensityRange": by_monai(record),
                "SlabReader, IntensityWindow": by_slab_reader(record),
                "the same from a store": by_slab_reader(stored(record)),
            }
            check_equal(cases)
            for threads in sorted({1, everything}):
                torch.set_num_threads(threads)
                cv2.setNumThreads(threads)
                slices = f"{SLICES} slices at {SPACING} mm from {SIDE} x {SIDE} PNGs of {kilobytes:.0f} KB"
                compare(f"{slices} at {interval} mm, {threads} thread(s)", cases, rounds=9)


if __name__ == "__main__":
    main()
