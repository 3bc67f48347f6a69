"""The paper's orderings, compared with our runs: confirmed, refuted or undecided."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from research.study_results import Estimate, Outcome, difference

CONFIRMED, REFUTED, UNDECIDED, NOT_RUN = "confirmed", "refuted", "undecided", "not run"
_CLAIM = re.compile(r"^\s*(.+?)\s+(>=|>|~)\s+(.+?)\s*$")


@dataclass(frozen=True)
class Claim:
    """An ordering of settings.

    Attributes:
        terms: Weight and name (``setting`` or ``setting@share``) of each setting; the claim is about their sum.
        relation: ``">"`` (the sum is above 0), ``">="`` (not below) or ``"~"`` (0 within the margin).
    """

    terms: tuple[tuple[float, str], ...]
    relation: str


def parse_claim(text: str) -> Claim:
    """Read ``"a > b"``, ``"a >= b"``, ``"a ~ b"`` or ``"a - b > c - d"``.

    Raises:
        ValueError: If the text is not of that form.
    """
    match = _CLAIM.match(text)
    if match is None:
        raise ValueError(f"Expected a claim like 'a > b', 'a >= b', 'a ~ b' or 'a - b > c - d', got {text!r}.")
    terms = []
    for side, sign in ((match[1], 1.0), (match[3], -1.0)):
        names = [name.strip() for name in side.split(" - ")]
        if not 1 <= len(names) <= 2 or not all(re.fullmatch(r"\w+(@\d+)?", name) for name in names):
            raise ValueError(f"Expected one setting or a difference of two, got {side!r} in {text!r}.")
        terms += [(sign, names[0])] + [(-sign, name) for name in names[1:]]
    return Claim(tuple(terms), match[2])


def verdict(relation: str, found: Estimate | None, margin: float) -> str:
    """Whether a difference confirms a relation, by its 95 % interval over seeds.

    ``">"`` is confirmed by an interval above 0 and refuted by one below. ``">="`` is refuted by an interval below 0
    and confirmed by one above minus the margin. ``"~"`` is confirmed by an interval within the margin and refuted by
    one outside of it. Anything else is undecided, and so is a single seed.

    Args:
        relation: ``">"``, ``">="`` or ``"~"``.
        found: The difference in points; None if it was not measured.
        margin: Points that count as equal.
    """
    if found is None:
        return NOT_RUN
    if found.interval is None:
        return UNDECIDED
    low, high = found.interval
    if relation == ">":
        return CONFIRMED if low > 0 else REFUTED if high < 0 else UNDECIDED
    if relation == ">=":
        return REFUTED if high < 0 else CONFIRMED if low > -margin else UNDECIDED
    within, outside = low >= -margin and high <= margin, low > margin or high < -margin
    return CONFIRMED if within else REFUTED if outside else UNDECIDED


def judge(
    ordering: Mapping[str, str], outcome_of: Callable[[str, str], Outcome], column: str, margin: float
) -> tuple[Estimate | None, str]:
    """The difference that an ordering is about, and the verdict.

    Args:
        ordering: ``claim`` and ``table`` of ``tables.yaml``.
        outcome_of: Gives the outcome of a table's setting by their names.
        column: Figure to compare.
        margin: Points that count as equal.
    """
    claim = parse_claim(ordering["claim"])
    found = difference([(weight, outcome_of(ordering["table"], name)) for weight, name in claim.terms], column)
    return found, verdict(claim.relation, found, margin)
