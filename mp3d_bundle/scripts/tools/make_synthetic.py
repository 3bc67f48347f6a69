"""Write a synthetic data set: ``python -m scripts.synthetic --output DIR [--preset small] [--SETTING VALUE ...]``."""

from __future__ import annotations

import logging

from ..data.synthetic import generate


def main(
    output: str, preset: str = "small", *, seed: int = 0, workers: int = 2, overwrite: bool = False, **settings: object
) -> None:
    """Write a synthetic data set: slices like CT, with lesions, in DeepLesion's format.

    The slices hold vessels and bowel, too.

    Any setting of a preset can be given as a flag, e.g. --num_train 500 --num_validation 50 --num_test 50
    --image_size 128 --pixel_spacing 1.2 --margin_mm 12.5 --num_scans 2 --irregularities. docs/synthetic.md
    describes them.

    Args:
        output: Folder to create.
        preset: small, hard, study or deeplesion; see docs/synthetic.md.
        seed: The same seed and settings give the same bytes.
        workers: Processes.
        overwrite: Replace an earlier synthetic data set.
        settings: Single settings, see ``Settings`` in scripts/data/synthetic_presets.py.

    Raises:
        ValueError: If a setting is unknown or impossible.
        FileExistsError: If the folder has content and must not be replaced.
        OSError: If writing fails; nothing is left behind.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    generate(output, preset, seed=seed, workers=workers, overwrite=overwrite, **settings)
