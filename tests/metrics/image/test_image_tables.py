"""Rows of the CSV files of images."""

from __future__ import annotations

from scripts.metrics.bootstrap import Bootstrap
from scripts.metrics.cases import check_cases
from scripts.metrics.froc import curve_from_matches
from scripts.metrics.image.image_evaluation import evaluate
from scripts.metrics.image.image_tables import detection_rows, image_tables, lesion_rows, threshold_rows
from scripts.metrics.matching import match_detections
from support.fake_evaluations import image_cases


def test_rows_without_optional_keys() -> None:
    keys = ("id", "patient", "boxes", "scores", "true_boxes", "width", "height")
    from_cases = [{key: case[key] for key in keys} for case in image_cases(3)]
    matches = match_detections(from_cases)
    rows = list(lesion_rows(from_cases, matches, [None, 0.0]))
    assert [row[7:11] for row in rows] == [(None, None, None, None)] * 3
    assert [row[-2] for row in rows] == [0, 0, 0]
    assert len(list(detection_rows(from_cases, matches))) == 21
    assert [row[0] for row in threshold_rows(matches, [None, 0.25])][3:6] == [0.1, 0.2, 0.25]


def test_every_row_has_a_cell_for_each_column() -> None:
    cases = check_cases(
        [{**case, "fields": {"age": range(len(case["boxes"]))}, "true_fields": {}} for case in image_cases(6)]
    )
    matches = match_detections(cases)
    metrics = evaluate(cases, bootstrap=Bootstrap(resamples=5))
    tables = image_tables(cases, metrics, matches, [curve_from_matches(matches)])
    assert set(tables) == {"sensitivity", "froc", "thresholds", "detections", "true_lesions"}
    for name, (header, rows) in tables.items():
        lengths = {len(row) for row in rows}
        assert lengths == {len(header)}, name
    assert tables["detections"][0][-1] == "age"
