"""Lesions at chosen places of a scan, as every maker of result files is given them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scripts.data.scans.scan import Scan
from scripts.inference.detections import Lesion, ScanResult, SliceBoxes
from scripts.inference.outputs.lesions_document import calibration_of, describe_lesions, describe_run
from scripts.inference.outputs.measurements import tagging_in
from scripts.inference.outputs.named_classes import classes_in
from scripts.instances import select

MODEL = {"name": "demo", "notice": "Synthetic weights.", "path": "/somewhere/demo.pt", "sha256": "ab" * 32}

TAGS = ("lung", "nodule", "liver", "cyst")
# Weights of two classes.
CLASSES = {**MODEL, "classes": ["tumour", "lymph node"]}
TAGGED = {**MODEL, "recipe": {"tags": list(TAGS)}}


def elliptic(boxes: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of ellipses that touch the sides of 3/4 of each box, and scores of four tags, like MULAN's fields."""
    y, x = np.mgrid[:28, :28] / 13.5 - 1
    mask = np.clip(8 * (0.75 - np.hypot(x, y)) + 0.5, 0, 1)
    tags = np.tile([0.2, 0.9, 0.5, 0.7], (len(boxes), 1))
    return {"masks": np.tile(mask, (len(boxes), 1, 1)), "tag_scores": tags}


def classed(boxes: np.ndarray) -> dict[str, np.ndarray]:
    """Labels of boxes, 2 of those on the patient's right half of a scan 56 pixels wide, else 1."""
    return {"labels": np.where(boxes[:, 0] < 20, 2, 1)}


def parts(result: ScanResult) -> tuple[Any, SliceBoxes, Sequence[Lesion]]:
    """Scan, slice boxes and lesions, as a `ResultWriter` takes them."""
    return result.scan, result.found, result.lesions


def results_of(
    scan: Scan,
    boxes: Sequence[Sequence[float]],
    scores: Sequence[float],
    calibration: Mapping[str, Any] | None = None,
    *,
    model: Mapping[str, Any] = MODEL,
    fields: Callable[[np.ndarray], Mapping[str, np.ndarray]] | None = None,
) -> ScanResult:
    """Lesions with given boxes, best first; the lattice is the slices of the scan.

    Args:
        scan: The scan.
        boxes: ``x1, y1, z1, x2, y2, z2`` canonical edges each.
        scores: One per box, falling; slices away from the middle one score less.
        calibration: What makes probabilities of scores.
        model: The weights.
        fields: The slice boxes ``(N, 4)`` to further fields of them.
    """
    rows: list[tuple[int, Sequence[float], float, int]] = []
    for number, (box, score) in enumerate(zip(boxes, scores, strict=True)):
        first, last = int(np.floor(box[2])), int(np.ceil(box[5])) - 1
        middle = (first + last) // 2
        rows += [
            (z, (box[0], box[1], box[3], box[4]), score - 0.001 * abs(z - middle), number)
            for z in range(first, last + 1)
        ]
    rows.sort(key=lambda row: row[0])
    depth = len(scan.hu)
    found = SliceBoxes(
        boxes=np.array([row[1] for row in rows], dtype=np.float64).reshape(-1, 4),
        scores=np.array([row[2] for row in rows], dtype=np.float64),
        slices=np.array([row[0] for row in rows], dtype=np.int64),
        positions=np.arange(depth, dtype=np.float64),
        thickness=1.0,
        examined=np.ones(depth, dtype=bool),
        shape=(depth, scan.hu.shape[1], scan.hu.shape[2]),
        scale=(1.0, 1.0),
    )
    found = replace(found, fields=dict(fields(found.boxes)) if fields else {})
    lesions = []
    for number, (box, score) in enumerate(zip(boxes, scores, strict=True)):
        members = tuple(at for at, row in enumerate(rows) if row[3] == number)
        best = max(members, key=lambda at: found.scores[at])
        lesions.append(Lesion(np.array(box, float), score, int(found.slices[best]), found.boxes[best], members,
                              select(found.fields, best)))  # fmt: skip
    model = {**model, "calibration": calibration}
    head = describe_run(scan, found, model, {"score_threshold": 0.3})
    known: dict[str, Any] = {"calibration": calibration_of(model), "tagging": tagging_in(head)}
    entries = describe_lesions(scan, found, lesions, classes=classes_in(head), **known)
    document = {**head, "timing_s": {"read": 0.1}, "lesions": entries}
    return ScanResult(scan, found, lesions, document)
