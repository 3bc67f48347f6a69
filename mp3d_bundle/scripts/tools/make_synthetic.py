"""Write a synthetic data set: ``python -m scripts.synthetic --output DIR [--preset small] [--SETTING VALUE ...]``."""

from __future__ import annotations

import logging
import sys

from ..data.synthetic import generate


def main(
    output: str, preset: str = "small", *, seed: int = 0, workers: int = 2, overwrite: bool = False, **settings: object
) -> None:
    """Write CT-like slices with lesions, vessels and bowel in DeepLesion's own format.

    Any setting of a preset can be given as a flag, e.g. --num_train 500 --num_validation 50 --num_test 50
    --image_size 128 --pixel_spacing 1.2 --margin_mm 12.5 --num_scans 2 --irregularities. docs/synthetic.md
    describes them.

    Args:
        output: Folder to make.
        preset: small, hard, study or deeplesion; see docs/synthetic.md.
        seed: The same seed and settings give the same bytes.
        workers: Processes.
        overwrite: Replace an earlier synthetic data set.
        settings: Single settings, see ``scripts.data.synthetic.Settings``.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        generate(str(output), preset, seed=seed, workers=workers, overwrite=overwrite, **settings)
    except (ValueError, OSError) as error:
        sys.exit(f"synthetic: {error}")
