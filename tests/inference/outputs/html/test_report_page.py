"""The report page: whole in one file, right in its numbers, and usable in a real browser by mouse and keyboard."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from scripts.inference.detections import ScanResult
from scripts.inference.outputs.html.report_page import BLEND, COARSE, FINE, ReportWriter, encode_slices
from support.browser import Browser
from support.fake_results import MODEL, results_of
from support.fake_scans import ball_scan, scan_of

SPACING = (1.0, 1.0, 2.5)
# In slices 3..7, 8..9 and 1; the ball is in the first.
BOXES = [(24.0, 10.0, 4.0, 37.0, 23.0, 9.0), (5.0, 6.0, 8.0, 12.0, 14.0, 10.0), (40.0, 30.0, 1.0, 50.0, 36.0, 2.0)]
SCORES = (0.93, 0.6, 0.35)


def noisy_scan() -> np.ndarray:
    """A body with a ball, air, bone and noise."""
    hu = ball_scan().astype(np.float64)
    hu[:, 30:34, 20:30] = 1200
    return (hu + np.random.default_rng(0).normal(0, 8, hu.shape)).round().astype(np.int16)


@pytest.fixture(scope="module")
def results() -> ScanResult:
    return results_of(scan_of(noisy_scan(), SPACING, Path('CT & <b>"case".nii')), BOXES, SCORES)


@pytest.fixture(scope="module")
def page(results: ScanResult) -> str:
    (name, content), *rest = ReportWriter()(results).items()
    assert name == "report.html"
    assert not rest
    return content.decode()


class Elements(HTMLParser):
    """All elements of a page with their attributes, and the text of each that has an id."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._inside: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("id")

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[self._inside] = self.texts.get(self._inside, "") + data


def decoded(picture: bytes, height: int, width: int, offset: int) -> np.ndarray:
    """HU of a slice, as the page puts them together."""
    both = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert both.shape == (offset + height, width)
    fine = FINE[0] + both[:height] / 255 * (FINE[1] - FINE[0])
    values, greys = np.array(COARSE).T
    coarse = np.interp(both[offset:], greys, values)
    share = np.interp(coarse, BLEND, (0, 1, 1, 0))
    return coarse + share * (fine - coarse)


def test_page_needs_nothing_else(page: str) -> None:
    elements = Elements(page).elements
    links = [value for _, attributes in elements for name, value in attributes.items() if name in ("src", "href")]
    assert links
    assert all(str(link).startswith("data:image/jpeg;base64,") for link in links)
    assert {tag for tag, _ in elements}.isdisjoint({"link", "iframe", "object", "embed", "base"})
    addresses = set(re.findall(r"https?://[^\"'\s]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    (policy,) = (found["content"] for tag, found in elements if found.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'; img-src data:;")


def test_page_says_what_it_is(page: str, results: ScanResult) -> None:
    for notice in results.document["notices"]:
        assert f"<p>{notice}</p>" in page
    assert "<h1>Lesions in CT &amp; &lt;b&gt;&quot;case&quot;.nii</h1>" in page
    assert '<b>"case"' not in page
    assert not re.search(r"%[A-Z]+%", page)


def test_slices_in_the_page_are_those_of_the_scan(page: str, results: ScanResult) -> None:
    found = Elements(page)
    data = json.loads(found.texts["data"])
    hu = results.scan.hu
    depth, height, width = data["shape"]
    assert (depth, height, width) == hu.shape
    assert f"s{depth}" not in found.texts
    for z in range(depth):
        error = decoded(base64.b64decode(found.texts[f"s{z}"]), height, width, data["picture"][2]) - hu[z]
        tissue = np.abs(hu[z] - 40) < 100
        assert np.sqrt(np.mean(error[tissue] ** 2)) < 8
        assert np.sqrt(np.mean(error**2)) < 25


def test_numbers_in_the_page_are_those_of_the_results(page: str, results: ScanResult) -> None:
    data = json.loads(Elements(page).texts["data"])
    assert [one["number"] for one in data["lesions"]] == [1, 2, 3]
    assert data["threshold"] == 0.3
    assert data["numbers"] == list(range(12))
    np.testing.assert_allclose(data["heights"], 2.5 * np.arange(12))
    for one, lesion, entry in zip(data["lesions"], results.lesions, results.document["lesions"], strict=True):
        assert (one["score"], one["size"]) == (entry["score"], entry["size_mm"])
        assert data["numbers"][one["key"]] == entry["key_slice"]
        np.testing.assert_allclose(one["box"], lesion.box)
        rows = list(lesion.members)
        np.testing.assert_allclose(np.array(one["members"])[:, 1:5], results.found.boxes[rows])
        np.testing.assert_allclose(np.array(one["members"])[:, 0], results.found.slices[rows])


def test_slices_get_smaller_until_they_fit() -> None:
    hu = np.random.default_rng(0).normal(40, 60, (20, 200, 300)).astype(np.int16)
    sizes = []
    for room in (4e6, 1e6, 2.5e5, 1e5):
        pictures = encode_slices(hu, max_bytes=room)
        assert len(pictures.content) == 20
        assert sum(len(picture) for picture in pictures.content) * 4 / 3 <= room
        width, height = pictures.size
        assert width / height == pytest.approx(1.5, rel=0.02)
        decoded(pictures.content[3], height, width, pictures.offset)
        sizes.append((width, pictures.quality))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == (300, 90)
    assert sizes[-1][0] < 300
    with pytest.raises(ValueError, match=r"Expected space for 20 slices in the report, 0\.001 MB is not enough\."):
        encode_slices(hu, max_bytes=1e3)


def test_large_slices_are_reduced_and_small_ones_are_not_enlarged() -> None:
    assert encode_slices(np.zeros((1, 700, 1024), np.int16), max_bytes=1e7).size == (512, 350)
    assert encode_slices(np.zeros((1, 3, 5), np.int16), max_bytes=1e7).size == (5, 3)


def test_extreme_values_are_shown_as_the_nearest_grey() -> None:
    hu = np.array([[[-32768, -3024, -1350, -200, 40, 300, 2000, 32767]]], dtype=np.int16).repeat(8, axis=1)
    pictures = encode_slices(hu.repeat(8, axis=2), max_bytes=1e6)
    shown = decoded(pictures.content[0], 8, 64, pictures.offset)[4, 4::8]
    np.testing.assert_allclose(shown, [-1350, -1350, -1350, -200, 40, 300, 2000, 2000], atol=25)


def test_no_lesion_is_a_page_too() -> None:
    arguments = results_of(scan_of(ball_scan()), [], [])
    page = ReportWriter()(arguments)["report.html"].decode()
    assert json.loads(Elements(page).texts["data"])["lesions"] == []


# ---- in a browser ----


@pytest.fixture
def opened(browser: Browser, page: str, tmp_path: Path) -> Browser:
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    browser.events.clear()
    browser.open(path)
    browser.wait("document.body.dataset.shown !== undefined")
    return browser


def shown(browser: Browser, z: int) -> bool:
    browser.wait(f"document.body.dataset.shown === '{z}'", 10)
    return True


def windowed(browser: Browser, level: int, width: int) -> bool:
    browser.wait(f"document.body.dataset.window === '{level} {width}'", 10)
    return True


def text(browser: Browser, selector: str) -> str:
    return browser.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")


def visible(browser: Browser) -> list[str]:
    """The lesions in the list."""
    return browser.evaluate("[...document.querySelectorAll('#lesions li')].filter((one) => !one.hidden)"
                            ".map((one) => one.textContent)")  # fmt: skip


def grey_at(browser: Browser, column: float, row: float) -> list[int]:
    """What the page shows at a place of the slice: it fits the canvas, which is wider than the slice is."""
    return browser.evaluate(
        "(() => { const c = document.getElementById('image'); const dots = c.width / c.clientWidth;"
        f" const scale = Math.min(c.clientWidth / 56, c.clientHeight / 40);"
        f" const x = (c.clientWidth - 56 * scale) / 2 + {column} * scale;"
        f" const y = (c.clientHeight - 40 * scale) / 2 + {row} * scale;"
        " return [...c.getContext('2d').getImageData(Math.round(x * dots), Math.round(y * dots), 1, 1).data]; })()"
    )


def test_page_opens_at_the_best_lesion_without_asking_the_network(opened: Browser, tmp_path: Path) -> None:
    assert shown(opened, 6)
    assert text(opened, "#status") == "Slice 6 (0 to 11), z 15.0 mm; lesion 1 (0.93)"
    assert text(opened, "#count") == "3 of 3"
    assert "Not a medical device" in text(opened, ".notices")
    # Ball white, body grey, air black in the soft tissue window; the box around the ball is coloured.
    assert grey_at(opened, 30, 16)[0] > 250
    assert 100 < grey_at(opened, 15, 16)[0] < 160
    assert grey_at(opened, 1, 16)[0] < 10
    red, green, blue, _ = grey_at(opened, 23.9, 12)
    assert blue > red + 60
    assert green > red + 60
    opened.screenshot(tmp_path / "page.png")
    assert cv2.imread(str(tmp_path / "page.png")).std() > 20
    requests = [event["params"]["request"]["url"] for event in opened.events if event["method"].endswith("WillBeSent")]
    assert all(url.startswith(("file:", "data:")) for url in requests)
    assert sum(url.startswith("file:") for url in requests) == 1
    bad = [event for event in opened.events if event["method"] == "Runtime.exceptionThrown"]
    # The test's own reading of the canvas is worth a warning, no more.
    entries = [event["params"]["entry"] for event in opened.events if event["method"] == "Log.entryAdded"]
    bad += [entry for entry in entries if entry["level"] == "error"]
    assert not bad


@pytest.mark.parametrize(
    ("keys", "z"),
    [
        (["ArrowDown", "ArrowDown"], 4),
        (["ArrowUp"], 7),
        (["Home"], 11),
        (["End"], 0),
        (["PageUp"], 11),
        (["Home", "PageDown"], 1),
        (["End", "ArrowDown"], 0),
        (["n"], 8),
        (["p"], 1),
        (["ArrowRight", "ArrowRight"], 1),
        (["n", "n", "n"], 6),
    ],
)
def test_keys_go_through_slices_and_lesions(opened: Browser, keys: list[str], z: int) -> None:
    for key in keys:
        opened.key(key)
    assert shown(opened, z)


def test_wheel_goes_towards_the_feet(opened: Browser) -> None:
    x, y = opened.middle("#image")
    opened.mouse("mouseWheel", x, y, deltaX=0, deltaY=120)
    assert shown(opened, 5)
    opened.mouse("mouseWheel", x, y, deltaX=0, deltaY=-120)
    opened.mouse("mouseWheel", x, y, deltaX=0, deltaY=-120)
    assert shown(opened, 7)


def test_windows_by_key_and_by_button(opened: Browser) -> None:
    soft = grey_at(opened, 15, 16)[0]
    opened.key("1")
    assert windowed(opened, -600, 1500)
    lung = grey_at(opened, 15, 16)[0]
    opened.click(*opened.middle("[data-low='-450']"))
    assert windowed(opened, 300, 1500)
    bone = grey_at(opened, 15, 16)[0]
    # 40 HU in each window; a lesion jumped to keeps the window that was asked for.
    assert abs(soft - 127) < 20
    assert abs(lung - 236) < 12
    assert abs(bone - 83) < 12
    opened.key("n")
    assert shown(opened, 8)
    assert text(opened, "#levelvalue") == "300"


def test_dragging_changes_the_window(opened: Browser) -> None:
    x, y = opened.middle("#image")
    opened.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
    opened.mouse("mouseMoved", x + 50, y + 20, button="left", buttons=1)
    opened.mouse("mouseReleased", x + 50, y + 20, button="left", clickCount=1)
    opened.wait("Number(document.getElementById('widthvalue').textContent) > 430")
    opened.wait("Number(document.getElementById('levelvalue').textContent) > 50")


def test_threshold_hides_lesions_everywhere(opened: Browser) -> None:
    opened.evaluate("document.getElementById('threshold').focus()")
    for _ in range(31):
        opened.key("ArrowRight")
    opened.wait("document.getElementById('count').textContent === '1 of 3'")
    assert len(visible(opened)) == 1
    assert visible(opened)[0].startswith("#10.93")
    marks = "[...document.querySelectorAll('#coronal rect')].filter((one) => one.style.display !== 'none').length"
    opened.wait(f"{marks} === 1")
    # The keys of the slider moved no slice.
    assert shown(opened, 6)
    opened.evaluate("(() => { const t = document.getElementById('threshold'); t.value = 1;"
                    " t.dispatchEvent(new Event('input')); })()")  # fmt: skip
    opened.wait("!document.getElementById('none').hidden")
    opened.wait("document.getElementById('status').textContent.indexOf('lesion') < 0")
    assert abs(int(grey_at(opened, 23.9, 12)[2]) - int(grey_at(opened, 23.9, 12)[0])) < 5


def test_list_and_overview_jump(opened: Browser) -> None:
    assert [line[:6] for line in visible(opened)] == ["#10.93", "#20.60", "#30.35"]
    opened.click(*opened.middle("#lesions li:nth-child(3) button"))
    assert shown(opened, 1)
    assert opened.evaluate("document.querySelector('#lesions li:nth-child(3) button').ariaCurrent") == "true"
    opened.evaluate("document.getElementById('sagittal').scrollIntoView({ block: 'center' })")
    x, y, wide, high = opened.evaluate("(() => { const r = document.getElementById('sagittal').getBoundingClientRect();"
                                       " return [r.x, r.y, r.width, r.height]; })()")  # fmt: skip
    # Lesion 2 from the side: rows 6 to 14 of 40, slices 8 and 9 of 12 from below.
    opened.click(x + wide * 7 / 40, y + high * (1 - 9 / 12))
    assert shown(opened, 8)
    assert opened.evaluate("document.querySelector('#lesions li:nth-child(2) button').ariaCurrent") == "true"
    # Elsewhere the click goes to the slice there.
    opened.click(x + wide * 38 / 40, y + high * 0.5 / 12)
    assert shown(opened, 11)


def test_operating_points_and_probabilities(browser: Browser, results: ScanResult, tmp_path: Path) -> None:
    calibration = {"scores": [0.0, 1.0], "probabilities": [0.0, 0.5]}
    model = {**MODEL, "notice": None}
    arguments = results_of(results.scan, BOXES, SCORES, calibration, model=model)
    page = ReportWriter(operating_points={"4": 0.1, "0.5": 0.7})(arguments)["report.html"]
    (tmp_path / "points.html").write_bytes(page)
    browser.open(tmp_path / "points.html")
    assert shown(browser, 6)
    assert visible(browser)[0].startswith("#10.93 47 %")
    assert text(browser, "#points").endswith("validation: 0.54")
    # What the run left out no threshold brings back.
    assert browser.evaluate("document.querySelector('#points button:last-child').disabled")
    browser.click(*browser.middle("#points button"))
    browser.wait("document.getElementById('count').textContent === '1 of 3'")
    assert text(browser, "#thresholdvalue") == "0.70"


def test_weights_with_a_notice_of_their_own_show_no_probability(results: ScanResult) -> None:
    calibration = {"scores": [0.0, 1.0], "probabilities": [0.0, 0.5]}
    arguments = results_of(results.scan, BOXES, SCORES, calibration)
    data = json.loads(Elements(ReportWriter()(arguments)["report.html"].decode()).texts["data"])
    assert [lesion["probability"] for lesion in data["lesions"]] == [None] * len(BOXES)


def test_everything_is_reached_by_the_tab_key(opened: Browser) -> None:
    reached = set()
    for _ in range(45):
        opened.call("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.add(opened.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert {"image", "slice", "threshold", "level", "width", "boxes", "Lung", "Bone", "fit"} <= reached
    assert any(one.startswith("#2") for one in reached)


def test_page_without_lesions_opens_in_the_middle(browser: Browser, tmp_path: Path) -> None:
    arguments = results_of(scan_of(ball_scan()), [], [])
    (tmp_path / "none.html").write_bytes(ReportWriter()(arguments)["report.html"])
    browser.open(tmp_path / "none.html")
    assert shown(browser, 6)
    assert not browser.evaluate("document.getElementById('none').hidden")
    assert text(browser, "#none") == "No lesion was found."
    for key in ("n", "p", "b"):
        browser.key(key)
    assert shown(browser, 6)
