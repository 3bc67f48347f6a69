"""Classes by patterns of names; nothing is left out without a note."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.data.importing.lesion_classes import ClassRule
from scripts.data.importing.true_lesions import ScanTruth, TrueLesion


def lesion(name: str, at: int) -> TrueLesion:
    return TrueLesion(name, np.array([at]), np.array([[0.0, 0, 5, 5]]), "outline", "test")


def test_without_a_rule_all_are_lesions() -> None:
    truth = ClassRule.read(None).apply(ScanTruth((lesion("liver", 1), lesion("2", 2))))
    assert [one.name for one in truth.lesions] == ["lesion", "lesion"]
    assert not truth.notes


def test_patterns_choose_the_class_and_the_rest_is_named() -> None:
    rule = ClassRule.read(["tumour=GTV*", "node=LN*", "tumour=mass"])
    assert (rule.classes, rule.patterns) == (("tumour", "node"), (("GTV*", "mass"), ("LN*",)))
    truth = rule.apply(
        ScanTruth((lesion("gtv 1", 1), lesion("LN3", 2), lesion("BODY", 3), lesion("Mass", 4)), ("odd",))
    )
    assert [one.name for one in truth.lesions] == ["tumour", "node", "tumour"]
    assert truth.notes == ("odd", "Left out 1 called 'BODY', which belongs to no class.")
    # Where something else is, there is not certainly nothing.
    assert truth.unsure == (3,)


@pytest.mark.parametrize("words", [[], ["=x"], ["a="], ["a\0b"]])
def test_words_that_make_no_class(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^Expected"):
        ClassRule.read(words)
