"""A DICOM series with a ball in it, read once for the tests of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.data.scans.scan import Scan, read_scan
from support.fake_truth import write_dicom_case


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dicom_case(tmp_path_factory.mktemp("dicom") / "CT")


@pytest.fixture(scope="module")
def scan(series: Path) -> Scan:
    return read_scan(series)
