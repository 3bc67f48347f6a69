"""Average precision as COCO defines it, by pycocotools (the paper's MAP@0.5 is its AP50).

101-point interpolation; each lesion is matched once, the highest score first; every further detection of
the same lesion is a false positive. Regions to ignore are COCO's crowds.
All lesions count, those that the released FROC leaves out too. Areas
are computed from the boxes: the ``area`` in DeepLesion's COCO-style files is wrong.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..boxes import area, to_coco
from .cases import check_cases

# The released code's limit, in place of COCO's 100; the paper's detector gives at most 100 boxes per image itself.
MAX_DETECTIONS = 1000
ANY_AREA = (0.0, 1e10)
_AP50, _AP75 = 0, 5  # places of IoU 0.5 and 0.75 among COCO's thresholds 0.5, 0.55 .. 0.95
_CATEGORY = 1


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision and, at IoU 0.5, the matching behind it.

    ``M`` detections are pooled in descending order of score (equal scores: earlier image first), without
    those that COCO ignores.

    Attributes:
        ap50: Average precision at IoU 0.5, in [0, 1]; 0 without detections, NaN without lesions.
        ap75: The same at IoU 0.75.
        ap50_95: Mean over IoU 0.5, 0.55 .. 0.95.
        image: ``(M,)`` int64, index of the detection's case.
        scores: ``(M,)`` float64.
        true_positive: ``(M,)`` bool, whether the detection is matched to a lesion at IoU 0.5.
        lesions_per_image: ``(num_images,)`` int64, lesions that count.
    """

    ap50: float
    ap75: float
    ap50_95: float
    image: np.ndarray
    scores: np.ndarray
    true_positive: np.ndarray
    lesions_per_image: np.ndarray


def _dataset(cases: Sequence[Mapping[str, Any]], key: str) -> COCO:
    """Boxes of one key of all cases as a pycocotools data set; images and annotations count from 1."""
    annotations: list[dict[str, Any]] = []
    for image_id, case in enumerate(cases, start=1):
        boxes = case[key]
        regions = case.get("ignored_boxes") if key == "true_boxes" else None
        crowd = np.zeros(len(boxes), dtype=int)
        if regions is not None:
            boxes, crowd = np.concatenate([boxes, regions]), np.append(crowd, np.ones(len(regions), dtype=int))
        scores = case["scores"] if key == "boxes" else np.ones(len(boxes))
        for box, size, score, several in zip(to_coco(boxes), area(boxes), scores, crowd.tolist(), strict=True):
            annotations.append(
                {
                    # pycocotools takes 0 for "not matched"
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": _CATEGORY,
                    "bbox": box.tolist(),
                    "area": float(size),
                    "iscrowd": several,
                    "score": float(score),
                }
            )
    coco = COCO()
    dataset: dict[str, Any] = {
        "images": [{"id": image_id} for image_id in range(1, len(cases) + 1)],
        "categories": [{"id": _CATEGORY, "name": "lesion"}],
        "annotations": annotations,
    }
    coco.dataset = dataset  # pyright: ignore[reportAttributeAccessIssue]
    coco.createIndex()
    return coco


def _matching(images: Sequence[Any]) -> dict[str, np.ndarray]:
    """Pool pycocotools' per-image results at IoU 0.5; an image without any box is None."""
    index, scores, matched = [], [], []
    lesions = np.zeros(len(images), dtype=np.int64)
    for number, image in enumerate(images):
        if image is None:
            continue
        keep = np.asarray(image["dtIgnore"])[_AP50] == 0
        scores.append(np.asarray(image["dtScores"], dtype=np.float64)[keep])
        matched.append(np.asarray(image["dtMatches"])[_AP50][keep] > 0)
        index.append(np.full(int(keep.sum()), number))
        lesions[number] = int((np.asarray(image["gtIgnore"]) == 0).sum())
    pooled = np.concatenate([np.zeros(0), *scores])
    order = np.argsort(-pooled, kind="stable")
    return {
        "image": np.concatenate([np.zeros(0, dtype=np.int64), *index])[order],
        "scores": pooled[order],
        "true_positive": np.concatenate([np.zeros(0, dtype=bool), *matched])[order],
        "lesions_per_image": lesions,
    }


def average_precision(
    cases: Sequence[Mapping[str, Any]],
    *,
    max_detections: int = MAX_DETECTIONS,
    area_range: tuple[float, float] = ANY_AREA,
) -> AveragePrecision:
    """Compute COCO's average precision for lesions against background.

    Args:
        cases: See `scripts.metrics.cases`.
        max_detections: Only this many detections of each image count, those with the highest scores.
        area_range: Only lesions with an area in this range count, in square pixels; detections outside it
            count if they hit one.

    Returns:
        The average precisions and the matching at IoU 0.5.

    Raises:
        ValueError: If there is no case or a case is malformed.
    """
    checked = check_cases(cases)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_dataset(checked, "true_boxes"), _dataset(checked, "boxes"), "bbox")
        evaluation.params.maxDets = [max_detections]
        evaluation.params.areaRng = [list(area_range)]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    # (IoU threshold, recall point), -1 where there is no lesion
    precision = evaluation.eval["precision"][:, :, 0, 0, 0]
    precision = np.where(precision < 0, np.nan, precision)
    return AveragePrecision(
        ap50=float(precision[_AP50].mean()),
        ap75=float(precision[_AP75].mean()),
        ap50_95=float(precision.mean()),
        **_matching(evaluation.evalImgs),
    )
