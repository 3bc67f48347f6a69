"""Changes of lesions between two scans: each lesion is in the table once, with the right state and sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scripts.workflows.comparing.lesion_changes import (
    ChangeRule,
    Timepoint,
    class_changed,
    list_changes,
    match_lesions,
    sum_up,
)

SHAPE = (100, 200, 200)


def timepoint(*lesions: tuple[float, float, float, float], source: str = "box", box: float = 1.0) -> Timepoint:
    """Lesions of x, y, z in mm and a long axis, in a scan of voxels of 1 mm; boxes are longer by a factor."""
    entries = [
        {
            "lesion": number,
            "center_lps_mm": list(middle),
            "axes": {"long_axis_mm": long, "source": source},
            "size_mm": [long * box / 2, long * box, 99.0],
        }
        for number, (*middle, long) in enumerate(lesions, start=1)
    ]
    return Timepoint(entries, np.eye(4), SHAPE)


def states(changes: list[dict[str, Any]]) -> dict[tuple[int | None, int | None], str]:
    return {(one["before"], one["after"]): one["state"] for one in changes}


def moved(x: float, y: float, z: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix


def test_every_state_and_the_sums() -> None:
    before = timepoint((50, 50, 50, 20), (80, 50, 50, 20), (50, 90, 50, 20), (120, 90, 50, 12), (50, 50, 95, 8))
    after = timepoint((49, 60, 52, 30), (80, 60, 51, 15), (51, 101, 50, 21), (160, 160, 10, 9), (10, 5, 50, 7))
    # The body lies 10 mm further back: slices above 94 are out of the field, and rows below 10 are new in it.
    shift = moved(0, 10, 6)
    changes = list_changes(before, after, shift)
    assert states(changes) == {
        (1, 1): "grown",
        (2, 2): "shrunk",
        (3, 3): "unchanged",
        (None, 4): "new",
        (None, 5): "not in the scan before",
        (4, None): "gone",
        (5, None): "not in the scan after",
    }
    first = changes[0]
    assert (first["long_axis_before_mm"], first["long_axis_after_mm"]) == (20, 30)
    assert (first["change_mm"], first["change_percent"]) == (10, 50)
    sums = sum_up(changes)
    assert sums["sum_of_long_axes_in_both"] == {"before_mm": 60, "after_mm": 66, "change_percent": 10}
    # With the new one and the gone one, without those that only one scan covers.
    assert sums["sum_of_long_axes_of_all"] == {"before_mm": 72, "after_mm": 75, "change_percent": 4.2}
    assert sums["counts"]["new"] == sums["counts"]["not in the scan after"] == 1


def called(scan: Timepoint, *names: str) -> Timepoint:
    entries = [{**one, "class": name} for one, name in zip(scan.lesions, names, strict=True)]
    return Timepoint(entries, scan.index_from_lps, scan.shape)


def test_a_pair_of_one_class_is_preferred_but_place_comes_first() -> None:
    before = timepoint((50, 50, 50, 10))

    def pairs(far: float, *names: str) -> list[tuple[int | None, int | None]]:
        """Pairs with one lesion 3 mm away, and another one so far away on the other side."""
        after = called(timepoint((53, 50, 50, 10), (50 - far, 50, 50, 10)), *names)
        changes = list_changes(called(before, "node"), after, np.eye(4))
        return [(one["before"], one["after"]) for one in changes if one["before"] is not None]

    # 15 mm are allowed, and 7.5 of them are what another class counts for.
    assert pairs(10, "tumour", "node") == [(1, 2)]
    assert pairs(11, "tumour", "node") == [(1, 1)]
    assert pairs(4, "node", "node") == [(1, 1)]
    assert pairs(4, "tumour", "tumour") == [(1, 1)]
    # No pair is lost because of its class, however far apart within the rule.
    far = list_changes(called(before, "node"), called(timepoint((64, 50, 50, 10)), "tumour"), np.eye(4))
    assert (len(far), far[0]["class_before"], far[0]["class_after"], class_changed(far[0])) == (
        1,
        "node",
        "tumour",
        True,
    )
    # Results without classes pair by place alone, and say nothing of classes.
    mixed = list_changes(before, called(timepoint((53, 50, 50, 10)), "tumour"), np.eye(4))
    assert (mixed[0]["class_before"], class_changed(mixed[0])) == (None, False)
    assert "class_before" not in list_changes(before, before, np.eye(4))[0]


def test_boxes_are_not_compared_with_masks() -> None:
    """The same lesions, once as boxes and once as masks: nothing shrank."""
    places = ((50.0, 50.0, 50.0), (90.0, 90.0, 50.0), (150.0, 90.0, 50.0))
    before = timepoint(*((*place, 20.0) for place in places))
    after = timepoint(*((*place, 15.0) for place in places[:2]), source="mask", box=4 / 3)
    for one, other, own in ((before, after, ("box", "mask")), (after, before, ("mask", "box"))):
        first, second, single = list_changes(one, other, np.eye(4))
        for pair in (first, second):
            assert (pair["state"], pair["long_axis_before_mm"], pair["long_axis_after_mm"]) == ("unchanged", 20, 20)
            assert (pair["axes_source_before"], pair["axes_source_after"], pair["compared_by"]) == (*own, "box")
        assert single["compared_by"] == "box"
    # With a source in common only what differs is compared by boxes.
    mixed = Timepoint([after.lesions[0], before.lesions[1], before.lesions[2]], np.eye(4), SHAPE)
    changes = list_changes(mixed, after, np.eye(4))
    assert [one["compared_by"] for one in changes] == ["mask", "box", "box"]
    assert [one["state"] for one in changes] == ["unchanged", "unchanged", "gone"]
    assert changes[0]["long_axis_before_mm"] == 15


def test_the_matching_is_the_best_of_all_and_not_the_first() -> None:
    # Each for itself, lesion 1 would take lesion 1 of the other, which is the only one near lesion 2.
    before, after = timepoint((50, 50, 50, 10), (62, 50, 50, 10)), timepoint((56, 50, 50, 10), (40, 50, 50, 10))
    assert match_lesions(before, after, np.eye(4), ChangeRule()) == [(0, 1), (1, 0)]


def test_a_large_lesion_may_move_farther_than_a_small_one() -> None:
    for long, same in ((10.0, False), (41.0, True)):
        changes = list_changes(timepoint((50, 50, 50, long)), timepoint((70, 50, 50, long)), np.eye(4))
        assert (len(changes) == 1) == same


@pytest.mark.parametrize(
    ("before", "after", "state"),
    [(20, 24, "grown"), (20, 23.9, "unchanged"), (20, 16, "shrunk"), (6, 7.9, "unchanged"), (6, 8, "grown")],
)
def test_small_changes_are_none(before: float, after: float, state: str) -> None:
    (one,) = list_changes(timepoint((50, 50, 50, before)), timepoint((50, 50, 50, after)), np.eye(4))
    assert one["state"] == state


def test_swapping_the_scans_swaps_the_states() -> None:
    rng = np.random.default_rng(0)
    first = timepoint(*((*point, 12.0) for point in rng.uniform(10, 90, (9, 3))))
    last = timepoint(
        *((*(point + rng.normal(0, 3, 3)), 12.0) for point in first.middles[2:] + np.array([4.0, 0.0, 1.0]))
    )
    shift = moved(4, 0, 1)
    forth = states(list_changes(first, last, shift))
    back = states(list_changes(last, first, np.linalg.inv(shift)))
    swap = {"new": "gone", "gone": "new"}
    assert {(i, j): swap.get(state, state) for (j, i), state in back.items()} == forth
    assert set(forth.values()) == {"unchanged", "gone"}


def test_no_lesion_on_either_side() -> None:
    none, one = timepoint(), timepoint((50, 50, 50, 10))
    assert list_changes(none, none, np.eye(4)) == []
    assert states(list_changes(none, one, np.eye(4))) == {(None, 1): "new"}
    assert states(list_changes(one, none, np.eye(4))) == {(1, None): "gone"}
    assert sum_up([])["sum_of_long_axes_in_both"]["change_percent"] is None
