"""Detections as COCO's results format has them, for programs that read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...boxes import to_coco
from ..free_response.class_cases import classes_told


def coco_results(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each detection, best first in its image.

    Args:
        cases: See `scripts.metrics.cases`.

    Returns:
        ``image_id``: the id of the case, for slices the name of their file; ``category_id``: the place of the class
        among those of the data set, from 1 (0 for a class that it has not), or 1 where they are not told; ``bbox``: x,
        y, width, height in pixels of the stored image, whose first pixel begins at 0; ``score``. See
        https://cocodataset.org/#format-results, where ids of images are numbers.
    """
    found = []
    numbers = {name: place for place, name in enumerate(classes_told(cases), start=1)} if cases else {}
    for case in cases:
        scores = np.asarray(case["scores"], dtype=np.float64)
        boxes = to_coco(np.asarray(case["boxes"], dtype=np.float64).reshape(-1, 4))
        for row in np.argsort(-scores, kind="stable"):
            found.append(
                {
                    "image_id": case["id"],
                    "category_id": numbers.get(str(case["classes"][row]), 0) if numbers else 1,
                    "bbox": boxes[row].tolist(),
                    "score": float(scores[row]),
                }
            )
    return found
