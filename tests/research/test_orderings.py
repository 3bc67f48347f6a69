"""Verdicts: an interval on one side of zero decides, one seed never does."""

from __future__ import annotations

import pytest

from research.orderings import CONFIRMED, NOT_RUN, REFUTED, UNDECIDED, judge, parse_claim, verdict
from research.study_plan import load_study
from research.study_results import Estimate, Outcome


def span(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, 1.0, (low, high), 3)


@pytest.mark.parametrize(
    ("relation", "low", "high", "expected"),
    [
        (">", 0.1, 5, CONFIRMED), (">", -5, -0.1, REFUTED), (">", -1, 5, UNDECIDED), (">", 0, 5, UNDECIDED),
        (">=", -2, 5, CONFIRMED), (">=", 1, 5, CONFIRMED), (">=", -2, -1, REFUTED), (">=", -9, 1, UNDECIDED),
        ("~", -2, 2, CONFIRMED), ("~", 4, 9, REFUTED), ("~", -9, -4, REFUTED), ("~", -1, 9, UNDECIDED),
        ("~", -9, 9, UNDECIDED),
    ],
)  # fmt: skip
def test_verdicts(relation: str, low: float, high: float, expected: str) -> None:
    assert verdict(relation, span(low, high), 3.0) == expected


@pytest.mark.parametrize("relation", [">", ">=", "~"])
def test_one_seed_decides_nothing(relation: str) -> None:
    assert verdict(relation, Estimate(40.0, None, None, 1), 3.0) == UNDECIDED
    assert verdict(relation, None, 3.0) == NOT_RUN


def test_claims_are_read() -> None:
    assert parse_claim("a > b").terms == ((1, "a"), (-1, "b"))
    assert parse_claim("a@20 - b@20 > a - b").terms == ((1, "a@20"), (-1, "b@20"), (-1, "a"), (1, "b"))
    assert parse_claim("a >= b").relation == ">="
    for text in ("a", "a < b", "a - b - c > d", "a > ", "a b > c"):
        with pytest.raises(ValueError, match="Expected"):
            parse_claim(text)


def test_every_claim_of_the_tables_names_settings() -> None:
    study = load_study()
    for ordering in study.orderings:
        assert ordering["table"] in study.tables
        for _, name in parse_claim(ordering["claim"]).terms:
            for profile in study.profiles.values():
                study.resolve(ordering["table"], name, profile)


def test_a_difference_of_differences_is_judged() -> None:
    study = load_study()
    values = {"a": (60, 61, 62), "b": (50, 51, 52), "c": (70, 71, 72), "d": (69, 69.5, 71)}

    def outcome_of(table: str, name: str) -> Outcome:
        results = {seed: {"metrics": {"ap50": value / 100}} for seed, value in enumerate(values[name])}
        return Outcome(study.resolve("1", "mp3d_9", study.profiles["full"]), results)

    ordering = {"claim": "a - b > c - d", "table": "5"}
    found, said = judge(ordering, outcome_of, "MAP@0.5", 3.0)
    assert found is not None
    assert found.mean == pytest.approx(10 - np_mean([1, 1.5, 1]))
    assert said == CONFIRMED


def np_mean(values: list[float]) -> float:
    return sum(values) / len(values)
