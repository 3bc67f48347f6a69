"""Detections as COCO's results format has them, for programs that read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ...boxes import to_coco


def coco_results(cases: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each detection, best first in its image.

    Args:
        cases: See `scripts.metrics.cases`.

    Returns:
        ``image_id``: the id of the case, for slices the name of their file; ``category_id``: 1, as all classes are
        scored as one; ``bbox``: x, y, width, height in pixels of the stored image, whose first pixel begins at 0;
        ``score``. See https://cocodataset.org/#format-results, where ids of images are numbers.
    """
    found = []
    for case in cases:
        scores = np.asarray(case["scores"], dtype=np.float64)
        boxes = to_coco(np.asarray(case["boxes"], dtype=np.float64).reshape(-1, 4))
        for row in np.argsort(-scores, kind="stable"):
            found.append(
                {
                    "image_id": case["id"],
                    "category_id": 1,
                    "bbox": boxes[row].tolist(),
                    "score": float(scores[row]),
                }
            )
    return found
