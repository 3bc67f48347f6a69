"""A category is found by its number or its name, and only if one category fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scripts.workflows.scoring.detected_categories import one_category, tell_unknown, with_known_categories

CATEGORIES: list[dict[str, Any]] = [{"id": 1, "name": "node"}, {"id": 2, "name": "1"}, {"id": 3, "name": "node"}]


def test_numbers_are_ids_and_texts_are_ids_or_names() -> None:
    assert [one_category(CATEGORIES, wanted, "here") for wanted in (1, 1.0, 2, "2", " 3 ")] == [1, 1, 2, 2, 3]
    assert one_category([{"id": "a", "name": "b"}], "b", "here") == "a"


@pytest.mark.parametrize("wanted", ["1", "node"])
def test_what_fits_two_categories_is_named(wanted: str) -> None:
    with pytest.raises(ValueError, match=rf"Expected one category, got '{wanted}', which fits node \(1\), .*, here\."):
        one_category(CATEGORIES, wanted, "here")


@pytest.mark.parametrize("wanted", [0, "0", 1.5, True, "liver"])
def test_what_fits_none_is_named(wanted: object) -> None:
    with pytest.raises(ValueError, match=r"one of the categories node \(1\), 1 \(2\), node \(3\), got .* here"):
        one_category(CATEGORIES, wanted, "here")
    with pytest.raises(ValueError, match="got 'nameless' here"):
        one_category([{"name": "nameless"}], "nameless", "here")


def test_detections_get_the_ids_of_the_truth() -> None:
    rows = [("a", kind, [0.0, 0.0, 1.0, 1.0], 0.5, place) for place, kind in enumerate((2, "3", 1))]
    assert [kind for _, kind, *_ in with_known_categories(rows, CATEGORIES, Path("r.json"))] == [2, 3, 1]
    for kind, name, place in ((None, "r.json", "entry 7"), ("", "r.csv", "line 7")):
        with pytest.raises(ValueError, match=rf"got none in {place} of {name}"):
            with_known_categories([*rows, ("a", kind, [0, 0, 1, 1], 0.5, 7)], CATEGORIES, Path(name))


def test_categories_that_the_truth_does_not_have_are_told(caplog: pytest.LogCaptureFixture) -> None:
    known = {"3": "tumour", "tumour": "tumour"}
    tell_unknown([3, "tumour"], known, Path("r.json"))
    assert caplog.text == ""
    tell_unknown([3, 4, "node"], known, Path("r.json"))
    assert "r.json: 2 of 3 detections are of a category that the truth does not have (4 the first)" in caplog.text
