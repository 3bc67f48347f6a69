"""The scan after is moved onto the scan before, and the page holds both."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np

from scripts.inference.outputs.html.report_reading import ReportVolume
from scripts.workflows.comparing.change_page import change_page, moved_onto
from support.browser import Browser, chromium
from support.fake_scans import AIR_HU, ball_scan


def volumes() -> tuple[ReportVolume, ReportVolume, np.ndarray]:
    """A ball, the same body cut and shifted by whole voxels, and the motion between them."""
    affine = np.diag([1.0, 1.0, 2.5, 1.0])
    motion = np.eye(4)
    motion[:3, 3] = 4, -3, 5
    hu = ball_scan()
    # Voxel i of the later scan is voxel i - shift of the earlier one.
    later = np.roll(hu, (2, -3, 4), axis=(0, 1, 2))[1:]
    there = affine.copy()
    there[2, 3] = 2.5
    return ReportVolume(hu, affine, "a"), ReportVolume(later, there, "b"), motion


def test_scan_after_lies_on_the_scan_before() -> None:
    before, after, motion = volumes()
    found = moved_onto(before, after, motion)
    # Where both reach.
    np.testing.assert_array_equal(found[:9, 3:, :52], before.hu[:9, 3:, :52])
    assert (found[10:] == AIR_HU).all()


def test_page_has_both_scans_and_escapes_texts() -> None:
    before, after, motion = volumes()
    changes = [
        {"state": "new", "before": None, "after": 1, "before_box": None, "after_box": [1, 2, 3, 4, 5, 6]},
    ]
    texts = {"title": "<b>", "notices": ["no <i>"], "summary": ["a & b"], "about": [("<dt>", "</dd>")]}
    page = change_page(before, after, motion, changes, texts).decode()
    for raw in ("<b>", "no <i>", "a & b", "</dd></dd>"):
        assert raw not in page
    found = re.search(r'id="data">(.*?)</script>', page)
    assert found
    data = json.loads(found[1])
    assert data["shape"] == [12, 40, 56]
    assert data["heights"] == [2.5 * z for z in range(12)]
    assert data["changes"][0]["after_box"] == [1, 2, 3, 4, 5, 6]
    assert {f'id="{letter}{z}"' in page for letter in "st" for z in range(12)} == {True}


def test_heights_are_those_of_the_middles_of_tilted_slices() -> None:
    before, after, motion = volumes()
    affine = np.diag([1.0, 1.0, 2.5, 1.0])
    affine[2, 1] = 0.25
    texts = {"title": "", "notices": [], "summary": [], "about": []}
    page = change_page(ReportVolume(before.hu, affine, "a"), after, motion, [], texts).decode()
    found = re.search(r'id="data">(.*?)</script>', page)
    assert found
    np.testing.assert_allclose(json.loads(found[1])["heights"], 2.5 * np.arange(12) + 0.25 * 39 / 2, atol=0.006)


def test_thin_slices_are_thinned_out_with_their_boxes() -> None:
    before, after, motion = volumes()
    affine = np.diag([1.0, 1.0, 0.5, 1.0])
    thin = ReportVolume(before.hu, affine, "a")
    changes = [{"state": "gone", "before": 1, "after": None, "before_box": [0, 0, 4, 9, 9, 8], "after_box": None}]
    page = change_page(thin, after, motion, changes, {"title": "", "notices": [], "summary": [], "about": []}).decode()
    found = re.search(r'id="data">(.*?)</script>', page)
    assert found
    data = json.loads(found[1])
    assert (data["shape"][0], data["heights"]) == (3, [0, 2, 4])
    assert data["changes"][0]["before_box"] == [0, 0, 1, 9, 9, 2]


_RECORD = (
    "(() => { window.written = []; const own = CanvasRenderingContext2D.prototype.fillText;"
    " CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {"
    " const label = this.canvas.id === 'before' && text.includes(': ');"
    " if (label) window.written.push([x, y, this.measureText(text).width]);"
    " own.call(this, text, x, y); }; })()"
)


def test_labels_of_lesions_at_one_place_do_not_cover_each_other(tmp_path: Path) -> None:
    chromium()
    before, after, motion = volumes()
    boxes = [[20 + shift, 10 + shift, 0, 30, 20, 12] for shift in (0, 0, 1, 3)]
    changes = [
        {"state": "unchanged", "before": number, "after": number, "before_box": box, "after_box": box}
        for number, box in enumerate(boxes, 1)
    ]
    texts = {"title": "", "notices": [], "summary": [], "about": []}
    (tmp_path / "changes.html").write_bytes(change_page(before, after, motion, changes, texts))
    browser = Browser(tmp_path / "profile", (1300, 800))
    try:
        browser.open(tmp_path / "changes.html")
        browser.wait("document.body.dataset.shown !== undefined")
        browser.evaluate(_RECORD)
        browser.key("Home")
        browser.wait("window.written.length >= 4")
        labels = browser.evaluate("window.written.slice(0, 4)")
    finally:
        browser.close()
    for (x, y, width), (other_x, other_y, other_width) in itertools.combinations(labels, 2):
        assert x > other_x + other_width or other_x > x + width or abs(y - other_y) >= 15
