"""The rule that detects values other than Hounsfield units, on the real scans of the tests: whole, cropped, shifted.

`python -m benchmarks hounsfield_rule` needs the sample data (``../shared/data``) and prints how many of each kind are
accepted, accepted with a note, and rejected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scripts.data.scans.find_scans import find_scans
from scripts.data.scans.hounsfield_check import check_distribution

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FOLDERS = ("volumes", "real", "deeplesion/Images_png")
PADDINGS = (-1, -1000, -1024, -2000, -2048, -3024, -32768)
CROPS, CROP_SIZES = 6, (5, 12, 40, 100)


def scans() -> Iterator[np.ndarray]:
    """The HU ``(Z, H, W)`` of every scan; masks are rejected and skipped."""
    labels = DATA / "deeplesion" / "DL_info_subset_1349.csv"
    for folder in FOLDERS:
        for source in find_scans(DATA / folder, annotations=labels, spacing=[0.8, 0.8, 5.0]):
            try:
                with source.open() as scan:
                    yield scan.hu
            except (OSError, ValueError) as error:
                print(f"passed over: {source.name} ({' '.join(str(error).split())[:90]}...)", flush=True)


def verdict(hu: np.ndarray) -> str:
    """Outcome of the rule for values."""
    try:
        return "noted" if check_distribution(hu, float(hu.min()), float(hu.max())) else "taken"
    except ValueError:
        return "refused"


def real_forms(hu: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """The scan, crops of it, and regions of only bone or soft tissue."""
    yield "scan", hu
    for size in CROP_SIZES:
        for _ in range(CROPS):
            z, y, x = (int(rng.integers(0, max(1, n - size))) for n in hu.shape)
            yield f"crop of {size} pixels, 3 slices", hu[z : z + 3, y : y + size, x : x + size]
    bone = np.argwhere(hu > 400)
    for z, y, x in bone[rng.permutation(len(bone))[:CROPS]]:
        low = np.maximum(np.array([z - 1, y - 3, x - 3]), 0)
        yield "7 pixels around bone, 3 slices", hu[low[0] : z + 2, low[1] : y + 4, low[2] : x + 4]
    for name, inside in (("bone voxels alone", hu > 150), ("soft voxels alone", (hu > -60) & (hu < 160))):
        if inside.any():
            yield name, hu[inside][:20_000].reshape(-1, 1, 1)


def shifted_forms(hu: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The scan as stored in files without an intercept, or in pictures."""
    stored = np.clip(hu.astype(np.int32), -1024, None) + 1024
    for offset in (1024, 1000):
        yield f"stored values, {offset}", np.maximum(stored + offset - 1024, 0)
    for padding in PADDINGS:
        values = stored.copy()
        values[:, : max(1, hu.shape[1] // 12)] = padding
        yield "stored values with padding", values
    yield "stored values times 16", stored * 16
    yield "offset of 8192", hu.astype(np.int32) + 8192
    yield "1000 too low", hu.astype(np.int32) - 1000
    yield "500 too high", hu.astype(np.int32) + 500
    for factor in (10, 2, 0.5):
        yield f"{factor:g} times the values", np.rint(hu * factor)
    yield "cut off at -160 and 240", np.clip(hu, -160, 240)
    for low, high in ((-160, 240), (-1000, 400)):
        yield "8-bit picture", np.rint((np.clip(hu, low, high) - float(low)) * (255 / (high - low)))


def main() -> None:
    """Print the figures."""
    if not DATA.is_dir():
        print(f"No scans: {DATA} is not there")
        return
    rng = np.random.default_rng(0)
    counts: dict[str, Counter[str]] = {}
    for hu in scans():
        forms = [*real_forms(hu, rng), *shifted_forms(hu)]
        for name, values in forms:
            values = np.clip(values, -32768, 32767).astype(np.int16)
            counts.setdefault(name, Counter())[verdict(values)] += 1
    for name, found in counts.items():
        print(f"{name}: " + ", ".join(f"{found[key]} {key}" for key in ("taken", "noted", "refused")))


if __name__ == "__main__":
    main()
