"""Writing a small synthetic data set, against writing the same PNGs alone; one process."""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np

from benchmarks._timing import compare
from scripts.data.slabs.slab_reader import read_slice
from scripts.data.synthetic import generate

SIZES = {"num_train": 12, "num_validation": 2, "num_test": 2, "margin_mm": 10.0}
# As the generator writes them.
FAST = [cv2.IMWRITE_PNG_COMPRESSION, 1]


def main() -> None:
    """Print the figures."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "set"

        def make() -> None:
            generate(output, "small", seed=0, workers=1, overwrite=output.exists(), **SIZES)

        make()
        slices = [(read_slice(path).astype(np.int32) + 32768).astype(np.uint16) for path in output.rglob("*.png")]
        again = Path(folder) / "again.png"
        cases = {
            "its PNGs alone": lambda: [cv2.imwrite(str(again), pixels, FAST) for pixels in slices],
            "the data set": make,
        }
        compare(f"{len(slices)} slices of the synthetic set small, 96 x 96 pixels", cases)


if __name__ == "__main__":
    main()
