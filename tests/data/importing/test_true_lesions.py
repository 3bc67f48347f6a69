"""Lesions: which slices they are on, which become key slices, and which show none."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.data.importing.true_lesions import (
    ScanTruth,
    TrueLesion,
    background_slices,
    join_slices,
    key_slices,
    solid_lesion,
)


def lesion(slices: list[int], sides: list[float], form: str = "outline", name: str = "a", x: float = 0.0) -> TrueLesion:
    """Square boxes of some sides on some slices."""
    boxes = np.array([[x, 0, x + side, side] for side in sides], dtype=float)
    return TrueLesion(name, np.array(slices), boxes, form, "test")  # type: ignore[arg-type]


def test_the_widest_slice_is_the_middle_one_of_equals() -> None:
    assert lesion([3, 4, 5, 6, 7], [2, 9, 9, 9, 3]).widest == 5
    assert lesion([3, 4], [2, 9]).widest == 4
    assert lesion([3, 4], [2, 9]).box_on(3).tolist() == [0, 0, 2, 2]  # type: ignore[union-attr]
    assert lesion([3, 4], [2, 9]).box_on(5) is None


def test_a_lesion_that_comes_twice_counts_once() -> None:
    one, longer, other = lesion([3, 4], [2, 9]), lesion([3, 4, 5], [2, 9, 2]), lesion([3, 4], [2, 9], name="b")
    truth = ScanTruth.joined([ScanTruth((one, longer)), ScanTruth((lesion([3, 4], [2, 9]), other, one))])
    assert [found.name for found in truth.lesions] == ["a", "a", "b"]
    assert truth.notes == ("Left out 2 lesion(s) that came twice, box and name (test).",)
    labels = [lesion([number], [5], "slices") for number in (3, 3, 4)]
    (joined,) = ScanTruth.joined([ScanTruth((label,)) for label in labels]).lesions
    assert joined.slices.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("z1", "z2", "slices"),
    [
        (2.0, 5.0, [2, 3, 4]),
        (2.4, 4.6, [2, 3, 4]),
        (2.6, 3.4, [3]),
        (3.9, 4.2, [4]),
        (-2, 1.2, [0]),
        (7.2, 20, [7, 8, 9]),
    ],
)
def test_a_box_is_on_the_slices_whose_middle_it_holds(z1: float, z2: float, slices: list[int]) -> None:
    found = solid_lesion("a", np.array([1, 2, z1, 4, 6, z2], dtype=float), 10, "test")
    assert found.slices.tolist() == slices
    assert (found.boxes == [1, 2, 4, 6]).all()


def test_key_slices_of_an_outline_are_where_it_is_large() -> None:
    one = lesion(list(range(10, 17)), [2, 5, 9, 10, 9, 6, 3])
    assert key_slices(one, 2.5) == [11, 12, 13, 14, 15]
    assert key_slices(one, 1.0) == [13]
    assert key_slices(one, 1.25) == [11, 13, 15]
    assert key_slices(one, 2.5, "widest") == [13]
    assert key_slices(one, 1.0, "all") == list(range(10, 17))


def test_key_slices_of_a_box_are_in_its_middle_half() -> None:
    one = solid_lesion("a", np.array([0, 0, 4, 9, 9, 12.0]), 20, "test")
    assert key_slices(one, 2.5) == [6, 7, 8, 9]
    assert key_slices(solid_lesion("a", np.array([0, 0, 4, 9, 9, 5.0]), 20, "test"), 2.5) == [4]


def test_labels_on_neighbouring_slices_are_one_lesion() -> None:
    labels = [lesion([n], [8], "slices") for n in (4, 3, 5, 9)]
    labels += [lesion([4], [8], "slices", x=40), lesion([6], [8], "slices", name="b")]
    found = [(one.name, one.slices.tolist(), one.form) for one in join_slices(labels)]
    assert found == [
        ("a", [3, 4, 5], "outline"),
        ("a", [4], "slices"),
        ("b", [6], "slices"),
        ("a", [9], "slices"),
    ]


def test_two_overlapping_labels_of_one_slice_stay_two() -> None:
    assert [one.slices.tolist() for one in join_slices([lesion([4], [8], "slices"), lesion([4], [8], "slices")])] == [
        [4],
        [4],
    ]


def test_what_is_labelled_is_not_empty() -> None:
    truth = ScanTruth.joined(
        [ScanTruth(empty=(3, 4)), ScanTruth((lesion([4], [8], "slices"),), ("odd",)), ScanTruth(notes=("odd",))]
    )
    assert (truth.empty, truth.notes, len(truth.lesions)) == ((3,), ("odd",), 1)


def test_slices_without_a_lesion_keep_away_from_every_lesion() -> None:
    truth = ScanTruth((lesion([20, 21], [5, 5]),), unsure=(40,))
    found = background_slices(truth, 60, count=4, apart=4)
    assert len(found) == 4
    assert all(abs(number - taken) > 4 for number in found for taken in (20, 21, 40))
    assert min(np.diff(found)) > 4
    assert background_slices(truth, 60, count=0, apart=4) == []
    assert background_slices(ScanTruth((lesion([2], [5]),)), 5, count=3, apart=4) == []
    assert background_slices(ScanTruth(), 1, count=3, apart=4) == [0]


def test_labels_on_slices_of_uneven_distances_are_neighbours_by_their_ranks() -> None:
    labels = [lesion([number], [9], "slices") for number in (0, 2, 5)]
    ranks = np.array([0, 0, 1, 1, 2, 2])
    (joined,) = join_slices(labels, ranks)
    assert joined.slices.tolist() == [0, 2, 5]
    assert len(join_slices(labels)) == 3
