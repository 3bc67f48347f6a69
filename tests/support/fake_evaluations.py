"""Folders as evaluations write them, made of random boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from scripts.metrics.bootstrap import Bootstrap
from scripts.metrics.image.image_report import write_report


def evaluation_in(
    folder: Path, *, images: int = 60, boxes: int = 6, seed: int = 0, origin: dict[str, Any] | None = None
) -> Path:
    """Write the evaluation of a detector whose first box of each image is right, with a somewhat higher score."""
    generator = np.random.default_rng(seed)
    cases = []
    for index in range(images):
        corner = generator.uniform(0, 60, (boxes, 2))
        found = np.hstack([corner, corner + 20])
        scores = generator.uniform(0, 0.8, boxes)
        scores[0] += 0.2
        cases.append(
            {
                "id": f"{index}.png", "patient": str(index // 2), "width": 96, "height": 90, "boxes": found,
                "scores": scores, "true_boxes": found[:1] + 1,
            }
        )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    about: Any = {"dataset_name": "fakes validation", "notice": "Made up.", "origin": origin}
    write_report(cases, folder, bootstrap=Bootstrap(resamples=0), **about)
    return folder
