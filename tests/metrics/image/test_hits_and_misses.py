"""The list of hits, misses and false positives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scripts.metrics.froc_numbers import counts_at
from scripts.metrics.image.hits_and_misses import FALSE_POSITIVE, HIT, MISS, list_findings
from scripts.metrics.matching import STRICT, match_detections

FIRST = [100.0, 100.0, 140.0, 130.0]
SECOND = [300.0, 300.0, 330.0, 340.0]
NOWHERE = [500.0, 10.0, 540.0, 50.0]


def case(name: str, boxes: Any, scores: Any, true_boxes: Any) -> dict[str, Any]:
    return {"id": name, "boxes": boxes, "scores": scores, "true_boxes": true_boxes, "width": 640, "height": 512}


CASES = [
    case("a", [FIRST, FIRST, NOWHERE, SECOND], [0.9, 0.8, 0.6, 0.3], [FIRST, SECOND]),
    case("b", [NOWHERE], [0.7], [FIRST]),
    case("c", [], [], []),
]


def test_every_lesion_and_every_false_positive_is_listed() -> None:
    findings = list_findings(CASES, 0.5)
    listed = [(item["kind"], item["case"]["id"], item["box"].tolist()) for item in findings]
    assert listed == [
        (HIT, "a", FIRST),
        (MISS, "a", SECOND),
        (MISS, "b", FIRST),
        (FALSE_POSITIVE, "b", NOWHERE),
        (FALSE_POSITIVE, "a", NOWHERE),
    ]
    scores = [item["score"] for item in findings]
    assert scores[:2] == [0.9, 0.3]  # the second was found below the threshold
    assert np.isnan(scores[2])
    assert scores[3:] == [0.7, 0.6]


def test_only_detections_above_the_threshold_are_shown() -> None:
    predicted = list_findings(CASES, 0.5)[0]["predicted"]
    assert predicted["scores"].tolist() == [0.9, 0.8, 0.6]
    assert predicted["boxes"].tolist() == [FIRST, FIRST, NOWHERE]
    assert predicted["hit"].tolist() == [True, True, False]


def test_a_strict_rule_lists_duplicates() -> None:
    kinds = [item["kind"] for item in list_findings(CASES, 0.5, STRICT)]
    assert kinds.count(FALSE_POSITIVE) == 3


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.65, float("inf")])
def test_the_list_agrees_with_the_counts(threshold: float) -> None:
    kinds = [item["kind"] for item in list_findings(CASES, threshold)]
    counts = counts_at(match_detections(CASES), threshold)
    assert kinds.count(HIT) == counts["lesions_found"]
    assert kinds.count(MISS) == counts["lesions_missed"]
    assert kinds.count(FALSE_POSITIVE) == counts["false_positives"]
