"""Which lesions of two aligned scans are the same, and how they changed.

Where both results name classes, a pair of one class is preferred, but place comes first: the same lesion may be called
otherwise later.

A long axis that was measured on a mask cannot be compared with the side of a box: a pair with axes of different sources
is compared by the sides of both boxes, and so are all lesions where the two results have no source in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

BOX = "box"
STATES = ("new", "gone", "grown", "shrunk", "unchanged", "not in the scan before", "not in the scan after")
# How much farther apart two lesions of different classes count, as a share of the distance that is allowed.
OTHER_CLASS = 0.5


@dataclass(frozen=True)
class ChangeRule:
    """What counts as the same lesion, and as a change.

    Attributes:
        max_distance_mm: Middles of one lesion are at most this far apart, or half of its longer long axis if that is
            more.
        share: The long axis of a lesion that grew or shrank differs by at least this share of that before,
        least_mm: and by at least so many mm: boxes are not more exact.
    """

    max_distance_mm: float = 15.0
    share: float = 0.2
    least_mm: float = 2.0


@dataclass(frozen=True)
class Timepoint:
    """The lesions of one of the scans.

    Attributes:
        lesions: Entries of ``lesions.json``.
        index_from_lps: ``(4, 4)``, LPS mm to index (x, y, z) of its volume.
        shape: ``(Z, H, W)`` of that volume.
    """

    lesions: Sequence[Mapping[str, Any]]
    index_from_lps: np.ndarray
    shape: tuple[int, ...]

    @property
    def middles(self) -> np.ndarray:
        """``(N, 3)`` middles of the lesions in LPS mm."""
        return np.array([lesion["center_lps_mm"] for lesion in self.lesions], dtype=np.float64).reshape(-1, 3)

    @property
    def long_axes(self) -> np.ndarray:
        """``(N,)`` long axes in mm."""
        return np.array([lesion["axes"]["long_axis_mm"] for lesion in self.lesions], dtype=np.float64)

    @property
    def classes(self) -> list[str | None]:
        """The class of each; None in results of weights of one class."""
        return [lesion.get("class") for lesion in self.lesions]

    @property
    def sources(self) -> list[str]:
        """Where each long axis is from."""
        return [lesion["axes"]["source"] for lesion in self.lesions]

    def long_axis(self, row: int, source: str) -> float:
        """The long axis of a lesion in mm: its own, or the longer side of its box in its slices."""
        lesion = self.lesions[row]
        own = lesion["axes"]["source"] == source
        return float(lesion["axes"]["long_axis_mm"] if own else max(lesion["size_mm"][:2]))

    def covers(self, point: np.ndarray) -> bool:
        """Whether a point (LPS mm) is in the scan."""
        index = self.index_from_lps[:3, :3] @ point + self.index_from_lps[:3, 3]
        return bool((index >= -0.5).all() and (index <= np.array(self.shape[::-1]) - 0.5).all())


def match_lesions(before: Timepoint, after: Timepoint, matrix: np.ndarray, rule: ChangeRule) -> list[tuple[int, int]]:
    """Pairs of the same lesion: as many and as near as can be (Hungarian matching).

    Lesions of different classes count as `OTHER_CLASS` of the allowed distance farther apart than they are.

    Args:
        before: Lesions of the earlier scan.
        after: Lesions of the later one.
        matrix: ``(4, 4)`` LPS mm before to LPS mm after.
        rule: How far apart they may be.

    Returns:
        Rows of both, in the order of the earlier one.
    """
    moved = before.middles @ matrix[:3, :3].T + matrix[:3, 3]
    distances = np.linalg.norm(moved[:, None] - after.middles[None], axis=2)
    longest = np.maximum(before.long_axes[:, None], after.long_axes[None])
    cost = distances / np.maximum(rule.max_distance_mm, longest / 2)
    other = [[None not in (one, two) and one != two for two in after.classes] for one in before.classes]
    others = OTHER_CLASS * np.array(other, dtype=np.float64).reshape(cost.shape)
    # A pair that is too far apart costs more than any number of good ones.
    rows, columns = linear_sum_assignment(np.where(cost <= 1, cost + others, 1e6))
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if cost[i, j] <= 1]


def list_changes(
    before: Timepoint, after: Timepoint, matrix: np.ndarray, rule: ChangeRule | None = None
) -> list[dict[str, Any]]:
    """Every lesion of two scans, those of both in one entry.

    Args:
        before: Lesions of the earlier scan.
        after: Lesions of the later one.
        matrix: ``(4, 4)`` LPS mm before to LPS mm after.
        rule: What is the same and what is a change.

    Returns:
        ``state``, one of `STATES`; ``before`` and ``after``, the numbers of the lesion; their long axes in mm, and the
        change of them in mm and percent, None where there is none; the source of each lesion's own axes, and of these
        long axes (``compared_by``); where a result names classes, ``class_before`` and
        ``class_after``. Pairs first, then new ones, then gone ones.
    """
    rule = rule or ChangeRule()
    named = any(name is not None for name in [*before.classes, *after.classes])
    pairs = match_lesions(before, after, matrix, rule)
    found = [_entry(before, after, i, j, rule) for i, j in pairs]
    inverse = np.linalg.inv(matrix)
    for j in sorted(set(range(len(after.lesions))) - {j for _, j in pairs}):
        there = before.covers(inverse[:3, :3] @ after.middles[j] + inverse[:3, 3])
        found.append(_entry(before, after, None, j, "new" if there else "not in the scan before"))
    for i in sorted(set(range(len(before.lesions))) - {i for i, _ in pairs}):
        there = after.covers(matrix[:3, :3] @ before.middles[i] + matrix[:3, 3])
        found.append(_entry(before, after, i, None, "gone" if there else "not in the scan after"))
    return [{**one, **_classes(before, after, one)} for one in found] if named else found


def _classes(before: Timepoint, after: Timepoint, change: Mapping[str, Any]) -> dict[str, str | None]:
    """The class of the lesion of an entry in each scan."""
    return {
        f"class_{when}": next((one.get("class") for one in scan.lesions if one["lesion"] == change[when]), None)
        for when, scan in (("before", before), ("after", after))
    }


def class_changed(change: Mapping[str, Any]) -> bool:
    """Whether both scans name a class of a lesion, and not the same."""
    names = {change.get("class_before"), change.get("class_after")}
    return None not in names and len(names) > 1


def no_common_source(before: Timepoint, after: Timepoint) -> bool:
    """Whether every long axis before is of another source than every one after."""
    return bool(before.lesions) and bool(after.lesions) and set(before.sources).isdisjoint(after.sources)


def _state(before: float, after: float, rule: ChangeRule) -> str:
    change = after - before
    if abs(change) < max(rule.share * before, rule.least_mm) - 1e-9:
        return "unchanged"
    return "grown" if change > 0 else "shrunk"


def _entry(
    before: Timepoint, after: Timepoint, i: int | None, j: int | None, state: str | ChangeRule
) -> dict[str, Any]:
    """One line of the table; ``state`` is the rule where it follows from the long axes."""
    own = (None if i is None else before.sources[i], None if j is None else after.sources[j])
    known = {source for source in own if source is not None}
    used = BOX if len(known) > 1 or no_common_source(before, after) else known.pop()
    one = None if i is None else round(before.long_axis(i, used), 2)
    other = None if j is None else round(after.long_axis(j, used), 2)
    change = None if one is None or other is None else round(other - one, 2)
    if isinstance(state, ChangeRule):
        state = _state(one or 0.0, other or 0.0, state)
    return {
        "state": state,
        "before": None if i is None else before.lesions[i]["lesion"],
        "after": None if j is None else after.lesions[j]["lesion"],
        "long_axis_before_mm": one,
        "long_axis_after_mm": other,
        "change_mm": change,
        "change_percent": round(100 * change / one, 1) if change is not None and one else None,
        "axes_source_before": own[0],
        "axes_source_after": own[1],
        "compared_by": used,
    }


def sum_up(changes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of states, and sums of long axes in mm: of lesions in both scans, and of all that both scans cover."""
    pairs = [one for one in changes if one["before"] is not None and one["after"] is not None]
    covered = [one for one in changes if not one["state"].startswith("not in")]

    def total(entries: Sequence[Mapping[str, Any]], when: str) -> float:
        return round(sum(one[f"long_axis_{when}_mm"] or 0.0 for one in entries), 2)

    def sums(entries: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
        first, last = total(entries, "before"), total(entries, "after")
        return {
            "before_mm": first,
            "after_mm": last,
            "change_percent": round(100 * (last / first - 1), 1) if first else None,
        }

    return {
        "counts": {state: sum(one["state"] == state for one in changes) for state in STATES},
        "sum_of_long_axes_in_both": sums(pairs),
        "sum_of_long_axes_of_all": sums(covered),
    }
