"""Splits are by patient, whatever their order; a patient in two is an error."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from scripts.data.importing.patient_splits import SplitRule, assign_splits, make_folds, patient_key, read_pairs

PATIENTS = {patient_key(f"P{n}"): [f"scan_{n}_a", f"scan_{n}_b"] for n in range(20)}


def test_drawn_splits_depend_on_names_and_seed_alone() -> None:
    found = assign_splits(PATIENTS, SplitRule())
    assert Counter(found.values()) == {1: 14, 2: 3, 3: 3}
    assert assign_splits(dict(reversed(PATIENTS.items())), SplitRule()) == found
    assert assign_splits(PATIENTS, SplitRule(seed=1)) != found


@pytest.mark.parametrize("count", [1, 2, 3])
def test_there_is_always_a_patient_to_train_on(count: int) -> None:
    found = assign_splits(dict(list(PATIENTS.items())[:count]), SplitRule((0.1, 0.45, 0.45)))
    assert 1 in found.values()
    assert len(found) == count


def write(path: Path, text: str) -> SplitRule:
    path.write_text(text)
    return SplitRule(file=path)


def test_splits_of_a_file_by_patient_or_scan(tmp_path: Path) -> None:
    patients = {patient_key("A"): ["1", "2"], patient_key("B"): ["3"]}
    wanted = {patient_key("A"): 2, patient_key("B"): 3}
    assert assign_splits(patients, write(tmp_path / "a.csv", "patient,split\nA,val\nB,TEST\n")) == wanted
    assert assign_splits(patients, write(tmp_path / "b.csv", "Scan,Split\n1,2\n2,validation\n3,test\n")) == wanted


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("patient,split\nA,train\nB,test\nA,test\n", r"got 'A' \(line 2\) in train and 'A' \(line 4\), of"),
        ("scan,split\n1,train\n2,test\n3,test\n", "got '1' .line 2. in train and '2' .line 3., of the same"),
        ("patient,split\nA,train\n", "none for 1, that of scan 3 the first"),
        ("patient,split\nA,train\nB,test\nC,test\n", "a patient of the import, got 'C' in line 4"),
        ("patient,split\nA,train\nB,some\n", "train, validation or test, got 'some' in line 3"),
        ("patient,part\nA,1\n", "the columns patient or scan and split, got patient, part"),
        ("patient,split\nA,\n", "a patient and a split in every row"),
        ("", "the columns"),
    ],
)
def test_files_that_say_too_little_or_too_much(tmp_path: Path, text: str, what: str) -> None:
    patients = {patient_key("A"): ["1", "2"], patient_key("B"): ["3"]}
    with pytest.raises(ValueError, match=what):
        assign_splits(patients, write(tmp_path / "a.csv", text))


def test_every_patient_is_validated_once_and_test_patients_never() -> None:
    rule = SplitRule(folds=5)
    splits = assign_splits(PATIENTS, rule)
    folds = make_folds(splits, rule)
    assert len(folds) == 5
    for name, number in splits.items():
        assert sorted(fold[name] for fold in folds) == ([3] * 5 if number == 3 else [1, 1, 1, 1, 2])
    with pytest.raises(ValueError, match="at least 30 patients to train on"):
        make_folds(splits, SplitRule(folds=30))
    assert make_folds(splits, SplitRule()) == []


@pytest.mark.parametrize(
    "values", [{"shares": (0.5, 0.5, 0.5)}, {"shares": (0, 0.5, 0.5)}, {"folds": 1}, {"folds": -2}, {"folds": True}]
)
def test_rules_that_cannot_be(values: dict) -> None:
    with pytest.raises(ValueError, match=r"^Expected"):
        SplitRule(**values)


def test_a_set_may_be_for_testing_alone() -> None:
    assert set(assign_splits(PATIENTS, SplitRule((0, 0, 1))).values()) == {3}
    assert set(assign_splits({"only": ["1"]}, SplitRule((0.0, 0.0, 1.0))).values()) == {3}
    with pytest.raises(ValueError, match="with some to train on or all to test"):
        SplitRule((0, 1, 0))


def test_pairs_of_a_table_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="a table as UTF-8 text"):
        read_pairs(tmp_path / "a.csv", ("scan",), "patient")
