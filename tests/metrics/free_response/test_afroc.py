"""Laws of the figures of merit of free-response studies, and their definition written out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from scripts.metrics.bootstrap import Bootstrap
from scripts.metrics.free_response.afroc import FIGURES, afroc, case_scores, lesion_scores, resample_afroc
from scripts.metrics.matching import RELEASED, FrocRule, Matches, match_overlaps

LEVELS = np.linspace(0.1, 0.9, 5)


def matched(*images: tuple[int, Sequence[tuple[float, int | None]]], rule: FrocRule = RELEASED) -> Matches:
    """Matches of images, each with its number of lesions and its marks: a score, and the lesion that it hits."""
    overlaps, scores = [], []
    for count, marks in images:
        overlap = np.zeros((len(marks), count))
        for row, (_, lesion) in enumerate(marks):
            if lesion is not None:
                overlap[row, lesion] = 1.0
        overlaps.append(overlap)
        scores.append(np.array([score for score, _ in marks]))
    return match_overlaps(overlaps, scores, rule)


def at_random(seed: int, images: int = 24) -> Matches:
    """Images with 0 to 2 lesions and marks of five scores, so that many are equal."""
    generator = np.random.default_rng(seed)
    made = []
    for number in range(images):
        count = number % 3
        lesions: list[int | None] = [None, *range(count)]
        marks = generator.integers(0, 4)
        made.append((count, [(float(generator.choice(LEVELS)), lesions[generator.integers(len(lesions))])
                             for _ in range(marks)]))  # fmt: skip
    return matched(*made)


def value(matches: Matches, figure: str) -> float:
    return float(resample_afroc(matches, np.ones((1, matches.num_images), dtype=np.int64), figure)[0])


def written_out(matches: Matches, figure: str) -> float:
    """The definition: every lesion against every case's false marks."""
    false_marks, lesions = case_scores(matches), lesion_scores(matches)
    counts = np.bincount(matches.lesion_image, minlength=matches.num_images)
    total = norm = 0.0
    for (image, score), rival in itertools.product(
        zip(matches.lesion_image, lesions, strict=True), range(matches.num_images)
    ):
        if figure.endswith("1") or counts[rival] == 0:
            share = 1 / counts[image] if figure.startswith("w") else 1.0
            total += share * (1.0 if score > false_marks[rival] else 0.5 if score == false_marks[rival] else 0.0)
            norm += share
    return float(total / norm)


@pytest.mark.parametrize("figure", FIGURES)
def test_it_is_the_definition(figure: str) -> None:
    for seed in range(6):
        assert value(at_random(seed), figure) == pytest.approx(written_out(at_random(seed), figure), abs=1e-12)


@pytest.mark.parametrize("figure", FIGURES)
def test_a_perfect_reader_has_one_and_a_reversed_one_zero(figure: str) -> None:
    good = matched((1, [(0.9, 0), (0.2, None)]), (2, [(0.8, 0), (0.7, 1)]), (0, [(0.6, None)]), (0, []))
    assert value(good, figure) == 1.0
    bad = matched((1, [(0.1, 0), (0.9, None)]), (2, [(0.9, None)]), (0, [(0.6, None)]), (0, [(0.5, None)]))
    assert value(bad, figure) == 0.0
    assert value(matched((1, []), (2, []), (0, []), (0, [])), figure) == 0.5


def test_scores_of_one_distribution_give_a_half() -> None:
    generator = np.random.default_rng(0)
    marks = generator.normal(size=(2, 4000))
    images: list[Any] = [(1, [(float(score), 0)]) for score in marks[0]]
    images += [(0, [(float(score), None)]) for score in marks[1]]
    # The standard error of an AUC of 4,000 against 4,000 is 0.0065.
    assert value(matched(*images), "jafroc") == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("figure", FIGURES)
def test_only_the_order_of_the_scores_counts(figure: str) -> None:
    for seed in range(4):
        matches = at_random(seed)
        changed = replace(matches, scores=np.exp(5 * matches.scores) - 100)
        assert value(changed, figure) == value(matches, figure)


def test_cases_of_many_lesions_weigh_more_unless_it_is_weighted() -> None:
    # Five lesions of one case are found, the lesion of the other is missed.
    matches = matched((5, [(0.9, n) for n in range(5)]), (1, []), (0, [(0.5, None)]))
    assert value(matches, "jafroc") == pytest.approx(5 / 6)
    assert value(matches, "wafroc") == pytest.approx(1 / 2)


def test_a_second_box_on_a_lesion_is_a_false_mark_by_the_strict_rule_alone() -> None:
    images = ((1, [(0.9, 0), (0.8, 0)]), (1, [(0.7, 0)]))
    assert value(matched(*images), "jafroc1") == 1.0
    assert value(matched(*images, rule=RELEASED.strict()), "jafroc1") == pytest.approx(3 / 4)


def test_without_cases_for_false_marks_or_without_lesions_it_is_not_defined() -> None:
    weights = np.ones((3, 2), dtype=np.int64)
    found = afroc(matched((1, [(0.9, 0)]), (1, [])), weights)
    assert found["jafroc"] == found["wafroc"] == {"value": None, "interval": None}
    assert found["jafroc1"]["value"] == 0.75
    none = afroc(matched((0, [(0.9, None)]), (0, [])), weights)
    assert all(figure == {"value": None, "interval": None} for figure in none.values())


def test_a_case_drawn_twice_counts_as_two() -> None:
    images = ((1, [(0.9, 0), (0.4, None)]), (2, [(0.3, 1)]), (0, [(0.5, None)]), (0, []))
    weight = np.array([2, 1, 0, 3])
    repeated = matched(*(image for image, times in zip(images, weight, strict=True) for _ in range(times)))
    for figure in FIGURES:
        drawn = resample_afroc(matched(*images), weight[None], figure)[0]
        assert drawn == pytest.approx(value(repeated, figure), abs=1e-12)


def test_the_interval_holds_the_value_and_follows_the_patients() -> None:
    matches = at_random(3, images=60)
    weights = Bootstrap(resamples=200, seed=1).weights([f"{number // 2}" for number in range(60)])
    for figure in afroc(matches, weights).values():
        assert figure["value"] is not None
        assert figure["interval"] is not None
        assert figure["interval"][0] < figure["value"] < figure["interval"][1]
