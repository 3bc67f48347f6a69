"""Outlines, axes, tags and the archive's numbers in the report page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.data.scans.scan import read_scan
from scripts.inference.detections import ScanResult
from scripts.inference.lesion_outlines import outline_of
from scripts.inference.outputs.html.report_page import ReportWriter
from support.fake_dicom import write_ct
from support.fake_results import TAGGED, elliptic, results_of
from support.fake_scans import ball_scan, scan_of

BOX = (24.0, 10.0, 4.0, 37.0, 23.0, 9.0)


def data_of(page: bytes) -> dict[str, Any]:
    """What the script of a page is given."""
    found = re.search(rb'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> tuple[ScanResult, bytes]:
    tags = {"SeriesNumber": 4, "SeriesDescription": "Thorax <2.5>", "StudyDate": "20260102"}
    folder = write_ct(tmp_path_factory.mktemp("series"), ball_scan(), spacing=(1.0, 1.0, 2.5), **tags)
    results = results_of(read_scan(folder), [BOX], (0.9,), model=TAGGED, fields=elliptic)
    return results, ReportWriter()(results)["report.html"]


def test_outlines_and_axes_are_drawn_in_place_of_boxes(masked: tuple[ScanResult, bytes]) -> None:
    results, page = masked
    (one,) = data_of(page)["lesions"]
    axes = results.entries[0]["axes"]
    assert one["axes"] == [axes["long_axis_mm"], axes["short_axis_mm"], "mask"]
    assert one["volume"] == results.entries[0]["volume"]["estimate_ml"]
    assert one["tags"] == [["nodule", 0.9], ["cyst", 0.7], ["liver", 0.5]]
    assert len(one["lines"]) == len(one["members"]) == 5
    for row, lines in zip(results.lesions[0].members, one["lines"], strict=True):
        outline = outline_of(results.found, row, results.scan.spacing)
        assert outline is not None
        assert outline.polygon is not None
        assert outline.axes is not None
        polygon, long, short = lines
        assert polygon[0] == polygon[-1]
        np.testing.assert_allclose(polygon[:-1], outline.polygon, atol=0.006)
        np.testing.assert_allclose([*long, *short], outline.axes, atol=0.006)


def test_slices_are_counted_as_the_archive_counts_them(masked: tuple[ScanResult, bytes]) -> None:
    results, page = masked
    data = data_of(page)
    # `write_ct` numbers from the head down.
    assert data["images"] == list(range(12, 0, -1))
    assert data["images"][data["lesions"][0]["key"]] == results.entries[0]["image"]["instance_number"]
    assert b"<h1>Lesions in series 4, Thorax &lt;2.5&gt;, study of 20260102, accession number A1</h1>" in page
    assert "Müller".encode() not in page
    about = dict(map(tuple, data["about"]))
    assert about["Series number"] == "4"
    assert about["Series UID"] == results.scan.series
    assert about["Tags from a score of"] == "0.5"


def test_boxes_of_other_scans_stay_and_say_that_sizes_are_estimates() -> None:
    data = data_of(ReportWriter()(results_of(scan_of(ball_scan(), path=Path("a.nii")), [BOX], (0.9,)))["report.html"])
    (one,) = data["lesions"]
    assert one["axes"] == [13.0, 13.0, "box"]
    assert one["lines"] == [[]] * 5
    assert one["tags"] == []
    assert data["images"] is None
