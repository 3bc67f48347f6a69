"""COCO's own figures for many classes, by pycocotools: AP over IoU 0.5 to 0.95, AP50, AP75, and by size.

A case here is a mapping with ``id`` (a name, unique), ``image_id``, detections as ``boxes`` ``(M, 4)`` in the
slab frame in pixels of the original image, ``scores`` ``(M,)`` and ``category_ids`` ``(M,)``, and ``truth`` as
annotated: ``bbox`` ``(N, 4)`` (x, y, width, height), ``category_id``, ``area`` (which COCO uses for small,
medium and large) and ``crowd``, ``(N,)`` each. Detections on a crowd region are neither right nor wrong.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..boxes import area, to_coco
from .cases import check_upright
from .image.gather_cases import CaseMetrics, Cases

# The first six of the twelve figures of pycocotools' summary.
COCO_METRIC_NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
_REQUIRED = ("id", "image_id", "boxes", "scores", "category_ids", "truth")
_TRUTH = {"bbox": np.float64, "category_id": np.int64, "area": np.float64, "crowd": bool}


class CocoCase(TypedDict):
    """The detections and the truth of one photograph, see the head of this module."""

    id: str
    image_id: int
    boxes: np.ndarray
    scores: np.ndarray
    category_ids: np.ndarray
    truth: dict[str, np.ndarray]
    image: str
    height: int
    width: int


def check_coco_cases(cases: Cases) -> list[CocoCase]:
    """Check cases (see the head of this module) and bring them to arrays.

    Raises:
        ValueError: If a key is missing, an array has the wrong length, a value is not finite or a box ends before it
            begins; the case is named.
    """
    checked: Any = []
    for row, case in enumerate(cases):
        missing = [key for key in _REQUIRED if key not in case]
        if missing:
            raise ValueError(f"Expected cases with the keys {', '.join(_REQUIRED)}, got no {missing[0]} in case {row}.")
        boxes = np.asarray(case["boxes"], dtype=np.float64).reshape(-1, 4)
        scores = np.asarray(case["scores"], dtype=np.float64).reshape(-1)
        found = np.asarray(case["category_ids"], dtype=np.int64).reshape(-1)
        truth = {key: np.asarray(case["truth"][key], dtype=kind) for key, kind in _TRUTH.items()}
        truth["bbox"] = truth["bbox"].reshape(-1, 4)
        if len({len(boxes), len(scores), len(found)}) > 1 or len({len(values) for values in truth.values()}) > 1:
            raise ValueError(f"Expected one score and category per box in case {case['id']}, the lengths differ.")
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError(f"Expected finite boxes and scores in case {case['id']}.")
        check_upright(boxes, "boxes", str(case["id"]))
        detections = {"boxes": boxes, "scores": scores, "category_ids": found}
        checked.append({**case, "id": str(case["id"]), **detections, "truth": truth})
    return checked


def _dataset(rows: Sequence[Mapping[str, Any]], images: int, categories: Sequence[int]) -> COCO:
    """A pycocotools data set; images count from 1."""
    coco = COCO()
    # pycocotools takes 0 for "not matched".
    annotations = [{**row, "id": number} for number, row in enumerate(rows, start=1)]
    dataset: dict[str, Any] = {
        "images": [{"id": number} for number in range(1, images + 1)],
        "categories": [{"id": number} for number in categories],
        "annotations": annotations,
    }
    coco.dataset = dataset  # pyright: ignore[reportAttributeAccessIssue]
    coco.createIndex()
    return coco


def _truth(case: Mapping[str, Any], image: int) -> list[dict[str, Any]]:
    truth = case["truth"]
    keys = ("bbox", "category_id", "area", "iscrowd")
    rows = zip(*(truth[key].tolist() for key in _TRUTH), strict=True)
    return [{"image_id": image, **dict(zip(keys, row, strict=True)), "iscrowd": int(row[-1])} for row in rows]


def _detections(case: Mapping[str, Any], image: int) -> list[dict[str, Any]]:
    columns = (to_coco(case["boxes"]), case["category_ids"], area(case["boxes"]), case["scores"])
    keys = ("bbox", "category_id", "area", "score")
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [{"image_id": image, "iscrowd": 0, **dict(zip(keys, row, strict=True))} for row in rows]


def coco_average_precision(
    cases: Cases, categories: Sequence[int] | None = None
) -> tuple[dict[str, float], dict[int, float]]:
    """Compute COCO's average precision.

    Args:
        cases: See the head of this module.
        categories: Categories that count; by default all that are annotated or detected. COCO leaves those out
            that are never annotated.

    Returns:
        A float in [0, 1] for each of `COCO_METRIC_NAMES`, NaN where nothing of the kind is annotated; and for
        every category that is annotated its AP over IoU 0.5 to 0.95.

    Raises:
        ValueError: If there is no case or a case is malformed.
    """
    checked = check_coco_cases(cases)
    if not checked:
        raise ValueError("Expected at least one case (image) to evaluate, got none.")
    truth = [row for image, case in enumerate(checked, start=1) for row in _truth(case, image)]
    found = [row for image, case in enumerate(checked, start=1) for row in _detections(case, image)]
    ids = sorted(set(categories or {row["category_id"] for row in [*truth, *found]}))
    if not ids:
        return dict.fromkeys(COCO_METRIC_NAMES, float("nan")), {}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_dataset(truth, len(checked), ids), _dataset(found, len(checked), ids), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    summary = zip(COCO_METRIC_NAMES, evaluation.stats.tolist(), strict=False)
    # (IoU threshold, recall, category) for all areas and 100 detections; -1 where nothing is annotated.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    by_category = {
        number: float(precision[:, :, place].mean())
        for place, number in enumerate(ids)
        if (precision[:, :, place] > -1).all()
    }
    return {name: float("nan") if value < 0 else value for name, value in summary}, by_category


class CocoMetrics(CaseMetrics[CocoCase]):
    """COCO's AP over all images of an epoch, see `CaseMetrics` and `coco_average_precision`.

    Sets every name of `COCO_METRIC_NAMES` in ``engine.state.metrics``. `update` takes lists of cases as
    described at the head of this module.
    """

    names = COCO_METRIC_NAMES
    check = staticmethod(check_coco_cases)

    def compute(self) -> dict[str, float]:
        """Compute the metrics of all cases.

        Returns:
            A float for each of `COCO_METRIC_NAMES`.

        Raises:
            ValueError: If there is no case.
        """
        return coco_average_precision(self.cases)[0]
