"""A report page is read back: its scan where it was and about as it was, and nothing else is taken for one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from scripts.inference.outputs.html.report_page import ReportWriter
from scripts.inference.outputs.html.report_reading import read_report
from scripts.inference.outputs.lesions_document import result_sha256
from support.fake_results import results_of
from support.fake_scans import ball_scan, scan_of

SPACING = (0.7, 0.9, 2.5)


@pytest.fixture(scope="module")
def page() -> bytes:
    return ReportWriter()(results_of(scan_of(ball_scan(), SPACING), [(24, 10, 4, 37, 23, 9)], (0.9,)))["report.html"]


def test_values_and_places_are_those_of_the_scan(page: bytes, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_bytes(page)
    volume = read_report(tmp_path / "report.html")
    scan = scan_of(ball_scan(), SPACING)
    assert volume.result == result_sha256(results_of(scan, [(24, 10, 4, 37, 23, 9)], (0.9,)).document)
    np.testing.assert_allclose(volume.affine, scan.affine, atol=1e-5)
    assert volume.hu.shape == scan.hu.shape
    assert np.median(np.abs(volume.hu - scan.hu)) < 4


def test_large_slices_are_reduced_in_place(page: bytes, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_bytes(page)
    volume = read_report(tmp_path / "report.html", longest_side=28)
    assert volume.hu.shape == (12, 20, 28)
    # Voxel 0 covers the first two columns and rows.
    np.testing.assert_allclose(volume.affine @ [0, 0, 0, 1], [0.35, 0.45, 0, 1])
    np.testing.assert_allclose(np.diag(volume.affine), [1.4, 1.8, 2.5, 1])
    z, y, x = np.array(np.nonzero(volume.hu > 300)).mean(axis=1)
    np.testing.assert_allclose((volume.affine @ [x, y, z, 1])[:3], [21, 14.4, 15], atol=0.7)


def test_other_pages_are_rejected_in_one_line(page: bytes, tmp_path: Path) -> None:
    for name, content in {
        "text": b"<html>",
        "a slice is missing": page.replace(b'id="s3"', b'id="x3"'),
        "a slice is damaged": page.replace(b'id="s3">', b'id="s3">AAAA'),
        "geometry": page.replace(b'"affine":', b'"other":'),
        "an endless number of slices": page.replace(b'"shape":[12', b'"shape":[1000000000000'),
        "no end": page.replace(b'"shape":[12', b'"shape":[Infinity'),
        "no rows": page.replace(b'"shape":[12,40', b'"shape":[12,0'),
        "a flat matrix": re.sub(rb'"affine":\[\[[^\]]*', b'"affine":[[0,0,0,0', page),
        "a place out of this world": re.sub(rb'"affine":\[\[[^\]]*', b'"affine":[[1e300,0,0,0', page),
        "no numbers": page.replace(b'"shape":[12', b'"shape":["a"'),
    }.items():
        assert content != page, name
        (tmp_path / "report.html").write_bytes(content)
        with pytest.raises(ValueError, match=r"Expected a report\.html of this version") as caught:
            read_report(tmp_path / "report.html")
        assert "\n" not in str(caught.value)
