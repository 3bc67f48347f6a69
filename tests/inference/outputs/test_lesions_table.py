"""The table of the lesions: what a network measures is in it as in the JSON."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from scripts.data.scans.scan import read_scan
from scripts.inference.detections import ScanResult
from scripts.inference.outputs.lesions_table import lesion_table
from support.fake_dicom import write_ct
from support.fake_results import TAGGED, elliptic, results_of
from support.fake_scans import ball_scan, scan_of

BOXES = [(24.0, 10.0, 4.0, 37.0, 23.0, 9.0), (5.0, 26.0, 1.0, 12.0, 34.0, 2.0)]


def rows_of(results: ScanResult) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(lesion_table(results)["lesions.csv"].decode())))


def test_a_description_of_a_series_is_no_formula(tmp_path: Path) -> None:
    folder = write_ct(tmp_path / "ct", ball_scan(), SeriesDescription="=1+1", AccessionNumber="@A1")
    row = rows_of(results_of(read_scan(folder), BOXES[:1], (0.9,)))[0]
    assert (row["series_description"], row["accession_number"]) == ("'=1+1", "'@A1")


def points_of(text: str) -> list[list[float]]:
    return [[float(value) for value in point.split(" ")] for point in text.split("; ")]


def test_outlines_and_ends_of_axes_are_those_of_the_json() -> None:
    scan = scan_of(ball_scan(), (1.0, 1.5, 2.5))
    results = results_of(scan, BOXES, (0.9, 0.4), model=TAGGED, fields=elliptic)
    rows = rows_of(results)
    assert len(rows) == 2
    for row, entry in zip(rows, results.entries, strict=True):
        np.testing.assert_allclose(points_of(row["outline_lps_mm"]), entry["outline"]["lps_mm"], rtol=1e-5)
        for name in ("long_axis", "short_axis"):
            ends = points_of(row[f"{name}_lps_mm"])
            np.testing.assert_allclose(ends, entry["axes"][f"{name}_lps_mm"], rtol=1e-5)
            length = np.linalg.norm(np.subtract(*ends))
            assert length == pytest.approx(float(row[f"{name}_mm"]), abs=0.01)


def test_results_of_boxes_have_no_such_columns() -> None:
    (row,) = rows_of(results_of(scan_of(ball_scan()), BOXES[:1], (0.9,)))
    assert not {"outline_lps_mm", "long_axis_lps_mm", "short_axis_lps_mm"} & set(row)


def test_the_columns_are_there_where_nothing_was_found() -> None:
    results = results_of(scan_of(ball_scan()), [], [], model=TAGGED, fields=elliptic)
    assert "outline_lps_mm" in lesion_table(results)["lesions.csv"].decode()
