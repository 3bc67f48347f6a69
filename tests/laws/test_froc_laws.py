"""Laws of the FROC: what more or other detections may do to it."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scripts.metrics.froc import FPS_PER_IMAGE, froc_curve, sensitivity_at, threshold_at
from scripts.metrics.matching import MULAN, RELEASED, STRICT, FrocRule, match_detections
from support.drawn_values import cases

RULES = st.sampled_from([RELEASED, MULAN, STRICT])
SCORE = st.integers(1, 39).map(lambda number: number / 40)
TARGETS = (0.0, 0.1, 0.25, *FPS_PER_IMAGE)
ELSEWHERE = [380.0, 280.0, 399.0, 299.0]


def with_box(images: list[dict[str, Any]], number: int, box: Any, score: float) -> list[dict[str, Any]]:
    """The cases with one detection more in one of them."""
    changed = {
        **images[number],
        "boxes": np.concatenate([images[number]["boxes"], [box]]),
        "scores": np.append(images[number]["scores"], score),
    }
    return [*images[:number], changed, *images[number + 1 :]]


def kept_at(images: list[dict[str, Any]], threshold: float) -> list[dict[str, Any]]:
    """The cases with the detections of at least a score."""
    return [
        {**one, "boxes": one["boxes"][one["scores"] >= threshold], "scores": one["scores"][one["scores"] >= threshold]}
        for one in images
    ]


@given(cases(), RULES)
def test_curves_rise(images: list[dict[str, Any]], rule: FrocRule) -> None:
    curve = froc_curve(images, rule)
    for values in (curve.fps_per_image, curve.sensitivity, -curve.scores):
        assert (np.diff(values) >= 0).all()
    assert ((curve.sensitivity >= 0) & (curve.sensitivity <= 1)).all()
    found = sensitivity_at(curve, TARGETS)
    assert (np.diff(found) >= 0).all()
    assert ((found >= 0) & (found <= 1)).all()
    thresholds = threshold_at(curve, TARGETS)
    assert (thresholds[1:] <= thresholds[:-1]).all()


@given(cases(), RULES)
def test_perfect_detections_score_one(images: list[dict[str, Any]], rule: FrocRule) -> None:
    perfect = [{**one, "boxes": one["true_boxes"], "scores": np.full(len(one["true_boxes"]), 0.9)} for one in images]
    np.testing.assert_array_equal(sensitivity_at(froc_curve(perfect, rule), TARGETS[1:]), 1)


@given(cases(), RULES, SCORE, st.data())
def test_a_false_positive_never_helps(
    images: list[dict[str, Any]], rule: FrocRule, score: float, data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, len(images) - 1))
    more = with_box(images, number, ELSEWHERE, score)
    before, after = froc_curve(images, rule), froc_curve(more, rule)
    assert (sensitivity_at(after, TARGETS) <= sensitivity_at(before, TARGETS) + 1e-12).all()
    # Where all detections stay within a target, a worse one does too.
    assert (threshold_at(after, TARGETS) >= np.minimum(threshold_at(before, TARGETS), score)).all()
    # At a fixed threshold the same lesions are found, with one false positive more at most.
    for threshold in (0.0, 0.3, 0.5, 0.8):
        counts = [match_detections(kept_at(each, threshold), rule) for each in (images, more)]
        found, false = zip(*((one.hits.sum(), one.false_positives.sum()) for one in counts), strict=True)
        assert found[0] == found[1]
        assert false[1] - false[0] == (score >= threshold)


@given(cases(), SCORE, st.data())
def test_a_second_box_on_a_found_lesion_is_free_but_in_the_strict_rule(
    images: list[dict[str, Any]], score: float, data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, len(images) - 1))
    matches = match_detections(images, RELEASED)
    finders = matches.detection[(matches.hits > 0) & (matches.image == number)]
    if not len(finders):
        return
    finder = finders[0]
    lower = min(float(images[number]["scores"][finder]), score)
    more = with_box(images, number, images[number]["boxes"][finder], lower)
    before, after = match_detections(images, RELEASED), match_detections(more, RELEASED)
    assert (after.outcomes == "duplicate").sum() == (before.outcomes == "duplicate").sum() + 1
    np.testing.assert_array_equal(
        sensitivity_at(froc_curve(more), TARGETS[1:]), sensitivity_at(froc_curve(images), TARGETS[1:])
    )
    strict = [match_detections(each, STRICT).false_positives.sum() for each in (images, more)]
    assert strict[1] == strict[0] + 1


@given(cases(), RULES)
def test_every_lesion_is_found_once_at_most(images: list[dict[str, Any]], rule: FrocRule) -> None:
    matches = match_detections(images, rule)
    assert matches.hits.sum() == (matches.found_by >= 0).sum() <= len(matches.lesion)
    found = matches.found_by[matches.found_by >= 0]
    np.testing.assert_array_equal(np.bincount(found, minlength=len(matches.hits)), matches.hits)
    np.testing.assert_array_equal(matches.image[found], matches.lesion_image[matches.found_by >= 0])
    assert (matches.overlaps[matches.hits > 0]).all()


@given(cases(), RULES)
def test_keeping_scores_above_a_threshold_stays_within_its_target(images: list[dict[str, Any]], rule: FrocRule) -> None:
    for target, threshold in zip(TARGETS, threshold_at(froc_curve(images, rule), TARGETS), strict=True):
        left = match_detections(kept_at(images, threshold), rule)
        assert left.false_positives.sum() / len(images) <= target
