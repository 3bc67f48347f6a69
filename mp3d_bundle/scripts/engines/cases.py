"""From a sample and its detections to the case that metrics and reports take."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import boxes as geometry

_PASSED_ON = ("patient", "image", "slice_interval", "spacing", "lesion_type", "noisy", "window")


def to_case(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Bring one image's detections to pixels of the original image, beside the lesions as annotated.

    Args:
        data: A sample after the transforms, ``image`` (D, H, W), with the detections in it added as
            ``pred``: ``boxes`` (M, 4) in slab pixels and ``scores`` (M,). Its ``scale_factor`` (2,) says
            how many slab pixels make an original pixel, along x and y; its ``record`` holds what was
            annotated.

    Returns:
        ``case``: ``id``, ``boxes`` (M, 4), ``scores`` (M,), ``true_boxes`` (N, 4), ``width``, ``height``,
        and of the record whatever else metrics can use; ``image`` is the path of the key slice.
    """
    record, found = data["record"], data["pred"]
    factor_x, factor_y = (1 / float(factor) for factor in data["scale_factor"])
    height, width = data["image"].shape[-2:]
    case = {
        "id": record["file_name"],
        "boxes": geometry.scale(_array(found["boxes"]).reshape(-1, 4), factor_x, factor_y),
        "scores": _array(found["scores"]),
        "true_boxes": _array(record["box"]).reshape(-1, 4),
        "width": round(int(width) * factor_x),
        "height": round(int(height) * factor_y),
    }
    return {"case": {**case, **{name: record[name] for name in _PASSED_ON if name in record}}}


def cases_of(output: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cases in an evaluator's output after :func:`to_case`: the metric's ``output_transform``."""
    return [image["case"] for image in output]


def _array(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)
