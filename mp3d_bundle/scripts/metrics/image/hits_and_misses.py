"""Hits, misses and false positives one by one, for a gallery or a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np

from ..cases import Case, check_cases
from ..matching import RELEASED, FrocRule, match_detections

Kind = Literal["hit", "miss", "false positive"]
HIT: Kind = "hit"
MISS: Kind = "miss"
FALSE_POSITIVE: Kind = "false positive"


class Kept(TypedDict):
    """A case's detections at or above the threshold, ``K`` of them.

    Keys: ``boxes`` ``(K, 4)``, ``scores`` ``(K,)`` and ``hit`` ``(K,)`` bool, whether each overlaps a lesion enough.
    """

    boxes: np.ndarray
    scores: np.ndarray
    hit: np.ndarray


class Finding(TypedDict):
    """A hit, a miss or a false positive, see `list_findings`."""

    kind: Kind
    case: Case
    box: np.ndarray
    score: float
    predicted: Kept


def list_findings(cases: Sequence[Mapping[str, Any]], threshold: float, rule: FrocRule = RELEASED) -> list[Finding]:
    """List every lesion as a hit or a miss, and every false positive, at a score threshold.

    Args:
        cases: See `scripts.metrics.cases`.
        threshold: Lowest score that counts as a detection, for example one of the metrics' ``thresholds``.
        rule: The details of the matching.

    Returns:
        One dictionary per finding: ``kind`` (`HIT`, `MISS` or `FALSE_POSITIVE`), ``case`` (the checked
        case), ``box`` ``(4,)`` (of the lesion, or of the false positive), ``score`` (of the detection that
        finds the lesion, below the threshold for a miss, NaN where none does) and ``predicted``. Lesions come
        first, in the order of the cases, then false positives, the highest score first.

    Raises:
        ValueError: If there is no case or a case is malformed.
    """
    checked = check_cases(cases)
    matches = match_detections(checked, rule)
    kept = np.flatnonzero(matches.scores >= threshold)
    by_image = kept[np.argsort(matches.image[kept], kind="stable")]
    limits = np.searchsorted(matches.image[by_image], np.arange(len(checked) + 1))
    predicted: list[Kept] = []
    for image, case in enumerate(checked):
        rows = by_image[limits[image] : limits[image + 1]]
        predicted.append(
            {
                "boxes": case["boxes"][matches.detection[rows]],
                "scores": matches.scores[rows],
                "hit": matches.overlaps[rows],
            }
        )
    findings: list[Finding] = []
    for image, lesion, score in zip(matches.lesion_image, matches.lesion, matches.found_scores, strict=True):
        findings.append(
            {
                "kind": HIT if score >= threshold else MISS,
                "case": checked[image],
                "box": checked[image]["true_boxes"][lesion],
                "score": float(score),
                "predicted": predicted[image],
            }
        )
    for row in kept[matches.false_positives[kept]]:
        case = checked[matches.image[row]]
        findings.append(
            {
                "kind": FALSE_POSITIVE,
                "case": case,
                "box": case["boxes"][matches.detection[row]],
                "score": float(matches.scores[row]),
                "predicted": predicted[matches.image[row]],
            }
        )
    return findings
