"""Cases one class at a time: what belongs to a class stays, and every image does."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.metrics.cases import check_cases
from scripts.metrics.free_response.class_cases import classes_told, named, names_in_set, of_class
from support.fake_evaluations import image_cases, with_classes

NAMES = ("tumour", "node")


def test_each_box_and_lesion_is_in_the_cases_of_its_class_alone() -> None:
    cases = check_cases(with_classes(image_cases(), NAMES))
    parts = {name: check_cases(of_class(cases, name)) for name in NAMES}
    for number, case in enumerate(cases):
        for key in ("scores", "boxes", "true_boxes", "lesion_type"):
            joined = np.concatenate([parts[name][number][key] for name in NAMES])
            assert sorted(joined.tolist()) == sorted(np.asarray(case[key]).tolist())
        for name in NAMES:
            one = parts[name][number]
            assert (one["id"], one["width"]) == (case["id"], case["width"])
            assert set(one["classes"]) | set(one["true_classes"]) <= {name}


def test_further_fields_stay_with_their_boxes() -> None:
    (case,) = check_cases(
        [
            {
                **image_cases(3)[2],
                "fields": {"age": np.arange(7)},
                "true_fields": {"size": np.arange(2)},
                "classes": ["a", "b", "a", "a", "b", "c", ""],
                "true_classes": ["a", "b"],
                "ignored_boxes": [[0, 0, 5, 5]],
            }
        ]
    )
    (one,) = of_class([case], "b")
    assert one["fields"]["age"].tolist() == [1, 4]
    assert one["true_fields"]["size"].tolist() == [1]
    # Nothing is known there of any class.
    assert one["ignored_boxes"].tolist() == [[0, 0, 5, 5]]


@pytest.mark.parametrize("key", ["classes", "true_classes", "class_names"])
def test_classes_are_told_by_every_case_or_not_at_all(key: str) -> None:
    cases = with_classes(image_cases(4), NAMES)
    assert classes_told(check_cases(cases)) == NAMES
    last = 0 if key == "class_names" else -1
    cases[last] = {name: value for name, value in cases[last].items() if name != key}
    assert classes_told(check_cases(cases)) == ()
    assert classes_told(check_cases(with_classes(image_cases(4), NAMES[:1]))) == ()


@pytest.mark.parametrize("key", ["classes", "true_classes"])
def test_every_box_has_a_class(key: str) -> None:
    (case,) = with_classes(image_cases(1), NAMES)
    with pytest.raises(ValueError, match=f"Expected {key} as an array with one row for each"):
        check_cases([{**case, key: ["a"] * 20}])


@pytest.mark.parametrize(
    ("own", "known", "called"),
    [
        (("a", "b"), ("b", "a"), ("a", "b")),
        (("a", "c", "d"), ("b", "a"), ("a", "c", "d")),
        (("class 1", "class 2"), ("b", "a"), ("b", "a")),
        (("class 1", "class 2", "class 3"), ("b", "a"), None),
        (("lesion",), ("b", "a"), None),
        (("a", "b"), ("lesion",), None),
        (("a", "b"), (), None),
    ],
)
def test_classes_meet_by_name_or_else_by_number(
    own: tuple[str, ...], known: tuple[str, ...], called: tuple[str, ...] | None
) -> None:
    assert names_in_set(own, known) == called


def test_labels_count_from_one() -> None:
    assert named(np.array([2, 1, 3]), NAMES).tolist() == ["node", "tumour", ""]
    assert named(np.zeros(0, dtype=np.int64), NAMES).shape == (0,)
