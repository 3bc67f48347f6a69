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


def test_labels_called_ignore_are_regions_before_any_class() -> None:
    truth = ScanTruth((lesion("Ignore", 1), lesion("mass", 2), lesion("unclear 3", 4)))
    found = ClassRule.read(None).apply(truth)
    assert [one.name for one in found.regions] == ["Ignore"]
    assert [one.name for one in found.lesions] == ["lesion", "lesion"]
    found = ClassRule.read(["mass"], ["unclear*"]).apply(truth)
    assert [one.name for one in found.regions] == ["unclear 3"]
    # Left out by its class, not ignored: something is there.
    assert found.unsure == (1,)
    with pytest.raises(ValueError, match="names or patterns as ignore"):
        ClassRule.read(None, [" "])


def test_blanks_around_a_name_change_nothing() -> None:
    truth = ScanTruth((lesion("ignore ", 1), lesion(" mass ", 2)))
    found = ClassRule.read(["mass"]).apply(truth)
    assert ([one.name for one in found.lesions], len(found.regions), found.notes) == (["mass"], 1, ())


def test_a_slice_with_nothing_but_a_region_shows_no_lesion_elsewhere() -> None:
    alone = TrueLesion("ignore", np.array([3]), np.array([[0.0, 0, 5, 5]]), "slices", "test")
    assert ClassRule.read(None).apply(ScanTruth((alone,))).empty == (3,)
    found = ClassRule.read(None).apply(ScanTruth((alone, lesion("mass", 3))))
    assert (found.empty, len(found.regions)) == ((), 1)


def test_a_label_of_one_of_several_files_is_meant_by_file_value_or_both() -> None:
    truth = ScanTruth((lesion("1", 1).of_file("liver"), lesion("1", 3).of_file("liver_lesions")))
    for pattern in ("liver_lesions", "liver_les*:1"):
        found = ClassRule.read([f"tumour={pattern}"]).apply(truth)
        assert [(one.name, int(one.slices[0])) for one in found.lesions] == [("tumour", 3)]
        assert found.notes == ("Left out 1 called 'liver:1', which belongs to no class.",)
    assert ClassRule.read(["tumour=1"]).taken(truth) == {"liver:1": 1, "liver_lesions:1": 1}
    assert len(ClassRule.read(None, ["liver"]).apply(truth).regions) == 1
