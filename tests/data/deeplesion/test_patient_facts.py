"""Sex, age and position of the rows of DL_info.csv, by example and to the records."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from scripts.data.deeplesion.patient_facts import AGE, FIELDS, LOCATION, SEX, PatientFacts, facts_of_series
from scripts.data.deeplesion.splits import load_records
from scripts.data.synthetic import generate


def facts(sex: str = "M", age: str = "62", location: str = "0.1, 0.2, 0.75") -> list[float]:
    cells = {SEX: sex, AGE: age, LOCATION: location}
    found = PatientFacts()(cells, 0, np.zeros(4), "DL_info.csv row 2")
    return [float(found[name]) for name in FIELDS]


def test_what_a_row_says() -> None:
    assert facts() == [1.0, 62.0, 0.75]
    assert facts("f", "0.5", "0,0,1") == [0.0, 0.5, 1.0]
    assert all(math.isnan(value) for value in facts("", "", ""))
    assert math.isnan(facts(location="0.1,0.2,NaN")[2])


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"sex": "X"}, "Expected M or F as Patient_gender, got 'X' in DL_info.csv row 2"),
        ({"age": "-1"}, "from 0 to 150 in Patient_age, got '-1'"),
        ({"age": "old"}, "from 0 to 150 in Patient_age, got 'old'"),
        ({"location": "0.5"}, "3 numbers as Normalized_lesion_location"),
        ({"location": "0,0,1.2"}, "from 0 to 1 in Normalized_lesion_location, got '0,0,1.2'"),
        ({"location": "0,0,inf"}, "from 0 to 1 in Normalized_lesion_location"),
    ],
)
def test_cells_that_say_something_else_are_named(cells: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        facts(**cells)


def test_records_have_the_patient_where_they_are_asked_to(tmp_path: Path) -> None:
    generate(tmp_path, "small", seed=1, workers=1, num_train=2, num_validation=1, num_test=1)
    with (tmp_path / "DL_info.csv").open(newline="") as file:
        rows = {row["File_name"]: row for row in csv.DictReader(file)}
    for record in load_records(tmp_path, "train", patients=True):
        row, lesions = rows[record["file_name"]], record["instances"]
        count = len(lesions["boxes"])
        assert lesions["male"].tolist() == [float(row[SEX] == "M")] * count
        np.testing.assert_allclose(lesions["age"], [float(row[AGE])] * count)
        assert lesions["position"].dtype == np.float32
        assert lesions["position"].shape == (count,)
    assert not set(FIELDS) & set(load_records(tmp_path, "train")[0]["instances"])


def test_sex_and_age_of_each_series(tmp_path: Path) -> None:
    generate(tmp_path, "small", seed=1, workers=1, num_train=2, num_validation=1, num_test=1)
    path = tmp_path / "DL_info.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    known = facts_of_series(path)
    assert known.keys() == {row["File_name"][:12] for row in rows}
    for row in rows:
        assert known[row["File_name"][:12]] == pytest.approx((float(row[SEX] == "M"), float(row[AGE])))
    for row in rows:
        row |= {SEX: "", AGE: "", "File_name": row["File_name"][:12] + "/" + row["File_name"][13:]}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    unknown = facts_of_series(path)
    assert unknown.keys() == known.keys()
    assert np.isnan(list(unknown.values())).all()
