"""No page has a fault that axe-core finds, on a wide and on a narrow window.

axe-core comes with the package axe-playwright-python, which is no dependency of the project: the test is skipped
without it, or without a browser.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scripts.inference.outputs.html.gallery import GalleryItem, write_gallery
from scripts.inference.outputs.result_writer import ResultWriter
from scripts.tools.comparing.compare_results import compare
from scripts.tools.import_set import main
from support.browser import Browser
from support.fake_results import parts, results_of
from support.fake_scans import ball_scan, scan_of
from support.fake_truth import write_nifti_case, write_yolo

BOXES, SCORES = [(24, 10, 4, 37, 23, 9), (60, 30, 2, 70, 41, 5)], (0.9, 0.4)
_RULES = (
    "axe.run(document, {resultTypes: ['violations']}).then((told) => told.violations.map("
    "(one) => one.id + ': ' + one.nodes.map((node) => node.target.join(' ')).join(', ')))"
)


@pytest.fixture(scope="module")
def axe() -> str:
    package = importlib.util.find_spec("axe_playwright_python")
    if package is None or package.origin is None:
        pytest.skip("axe-playwright-python, which brings axe-core, is not installed")
    return Path(package.origin).with_name("axe.min.js").read_text(encoding="utf-8")


def report(folder: Path) -> Path:
    results = results_of(scan_of(ball_scan(), (1.0, 1.0, 2.5)), BOXES, SCORES)
    ResultWriter(folder, outputs=("json", "report"))(*parts(results))
    return next(folder.rglob("report.html"))


def comparison(folder: Path) -> Path:
    page = report(folder / "results")
    compare(str(page.parent), str(page.parent), str(folder / "changes"))
    return folder / "changes" / "changes.html"


def set_report(folder: Path) -> Path:
    write_nifti_case(folder, "case")
    write_yolo(folder / "labels")
    main(
        str(folder / "images"),
        str(folder / "set"),
        str(folder / "labels"),
        slice_frame="from_head",
        slices_from=1,
        classes=["tumour=0"],
        key_slices="all",
        split=(1, 0, 0),
    )
    return folder / "set" / "report.html"


def gallery(folder: Path) -> Path:
    box = np.array([30.0, 40.0, 50.0, 60.0])
    predicted = {"boxes": box[None], "scores": np.array([0.5]), "hit": np.array([True])}
    hu = np.full((96, 128), 50, dtype=np.int16)
    one = GalleryItem("hit", "a", hu, (-175.0, 275.0), box, 0.5, predicted=predicted, true_boxes=box[None])
    return write_gallery([one], folder, notice="not real")


@pytest.mark.parametrize("make", [report, comparison, set_report, gallery])
def test_axe_finds_nothing(make: Callable[[Path], Path], browser: Browser, axe: str, tmp_path: Path) -> None:
    page = make(tmp_path)
    for width in (1300, 400):
        browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        browser.open(page)
        if make in (report, comparison):
            browser.wait("document.body.dataset.shown !== undefined")
        browser.evaluate(f"{axe}; 0")
        assert browser.evaluate(_RULES) == []


def test_axe_finds_a_fault(browser: Browser, axe: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<html><body><img src='a.png'></body></html>", encoding="utf-8")
    browser.open(tmp_path / "page.html")
    browser.evaluate(f"{axe}; 0")
    assert any(told.startswith("image-alt: img") for told in browser.evaluate(_RULES))
