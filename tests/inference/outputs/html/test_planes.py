"""Planes, windows, film, fingers, measurements and print of the report page in a real browser."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.inference.detections import ScanResult
from scripts.inference.outputs.html.report_page import ReportWriter
from support.browser import Browser
from support.fake_results import results_of
from support.fake_scans import BALL_HU, BODY_HU, ball_scan, scan_of

SPACING = (1.0, 1.5, 2.5)
DEPTH, HEIGHT, WIDTH = 12, 40, 56
# Around the ball: columns 24 to 36, rows 7 to 14, slices 4 to 8.
BOXES = [(24.0, 6.0, 4.0, 37.0, 16.0, 9.0), (5.0, 26.0, 1.0, 12.0, 34.0, 2.0)]


@pytest.fixture(scope="module")
def results() -> ScanResult:
    hu = ball_scan(spacing=SPACING)
    noise = np.random.default_rng(0).normal(0, 5, hu.shape)
    return results_of(scan_of((hu + noise).round().astype(np.int16), SPACING), BOXES, (0.93, 0.6))


@pytest.fixture
def opened(browser: Browser, results: ScanResult, tmp_path: Path) -> Browser:
    (tmp_path / "report.html").write_bytes(ReportWriter()(results)["report.html"])
    browser.events.clear()
    for _ in range(2):
        browser.open(tmp_path / "report.html")
        browser.wait(f"document.body.dataset.decoded === '{DEPTH}'")
        browser.evaluate("localStorage.clear()")
    return browser


def at(browser: Browser, point: str) -> None:
    browser.wait(f"document.body.dataset.point === '{point}'", 10)


def place(browser: Browser, plane: str, column: float, row: float) -> tuple[float, float]:
    """Where a voxel edge (column, row from the top) of a plane is in the window."""
    counts, steps = {
        "image": ((WIDTH, HEIGHT), (SPACING[0], SPACING[1])),
        "coronalplane": ((WIDTH, DEPTH), (SPACING[0], SPACING[2])),
        "sagittalplane": ((HEIGHT, DEPTH), (SPACING[1], SPACING[2])),
    }[plane]
    x, y, wide, high = browser.evaluate(
        f"(() => {{ const r = document.getElementById('{plane}').getBoundingClientRect();"
        " return [r.x, r.y, r.width, r.height]; })()"
    )
    sides = [count * step for count, step in zip(counts, steps, strict=True)]
    scale = min(wide / sides[0], high / sides[1])
    return (
        x + (wide - sides[0] * scale) / 2 + column * steps[0] * scale,
        y + (high - sides[1] * scale) / 2 + row * steps[1] * scale,
    )


def grey(browser: Browser, plane: str, column: float, row: float) -> int:
    x, y = place(browser, plane, column, row)
    return browser.evaluate(
        f"(() => {{ const c = document.getElementById('{plane}'); const r = c.getBoundingClientRect();"
        f" const dots = c.width / r.width; return c.getContext('2d').getImageData(Math.round(({x} - r.x) * dots),"
        f" Math.round(({y} - r.y) * dots), 1, 1).data[0]; }})()"
    )


def drag(browser: Browser, start: tuple[float, float], end: tuple[float, float]) -> None:
    browser.mouse("mousePressed", *start, button="left", buttons=1, clickCount=1)
    browser.mouse("mouseMoved", *end, button="left", buttons=1)
    browser.mouse("mouseReleased", *end, button="left", clickCount=1)


def measured(browser: Browser) -> list[dict[str, Any]]:
    kept = "Object.entries(localStorage).find(([name]) => name.startsWith('mp3d review'))"
    return json.loads(browser.evaluate(f"JSON.stringify(JSON.parse({kept}[1]).measurements)"))


def test_planes_go_through_the_lesion_and_are_linked(opened: Browser) -> None:
    at(opened, "30 11 6")
    # The ball is white and the body grey in all three, the head is up.
    for plane, inside, outside in (
        ("image", (32.5, 9.5), (15.5, 30.5)),
        ("coronalplane", (29.5, 6.2), (15.5, 6.2)),
        ("sagittalplane", (10.2, 6.2), (30.5, 6.2)),
    ):
        assert grey(opened, plane, *inside) > 240
        assert 100 < grey(opened, plane, *outside) < 160
    opened.click(*place(opened, "coronalplane", 10.5, 2.5))
    at(opened, "10 11 9")
    opened.click(*place(opened, "sagittalplane", 20.5, DEPTH - 3.5))
    at(opened, "10 20 3")
    opened.click(*place(opened, "image", 40.5, 30.5))
    at(opened, "40 30 3")
    opened.key("n")
    at(opened, "8 30 1")


def test_each_plane_scrolls_by_wheel_and_keys(opened: Browser) -> None:
    x, y = opened.middle("#coronalplane")
    opened.mouse("mouseWheel", x, y, deltaX=0, deltaY=120)
    at(opened, "30 12 6")
    opened.evaluate("document.getElementById('sagittalplane').focus()")
    for key, point in (
        ("ArrowDown", "31 12 6"),
        ("PageDown", "41 12 6"),
        ("Home", "0 12 6"),
        ("End", f"{WIDTH - 1} 12 6"),
        ("ArrowUp", f"{WIDTH - 2} 12 6"),
    ):
        opened.key(key)
        at(opened, point)
    for key, point in (("ArrowRight", "54 13 6"), ("ArrowDown", "54 13 5"), ("ArrowLeft", "54 12 5")):
        opened.call("Input.dispatchKeyEvent", type="keyDown", key=key, modifiers=8)
        at(opened, point)
    said = opened.evaluate("document.getElementById('sagittalplane').ariaLabel")
    assert said == "sagittal plane, x 54.0 mm"


# Two frames later everything is drawn.
_PAINTED = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def test_windows_and_inversion(opened: Browser) -> None:
    for key, window in (("4", "30 150"), ("5", "50 350"), ("6", "40 80"), ("1", "-600 1500")):
        opened.key(key)
        opened.wait(f"document.body.dataset.window === '{window}'")
    opened.evaluate("(() => { const e = document.getElementById('width'); e.value = 700;"
                    " e.dispatchEvent(new Event('input')); })()")  # fmt: skip
    opened.wait("document.body.dataset.window === '-600 700'")
    assert opened.evaluate("document.getElementById('custom').ariaPressed") == "true"
    opened.key("2")
    opened.wait("document.body.dataset.window === '40 400'")
    opened.evaluate(_PAINTED)
    before = {plane: grey(opened, plane, 15.5, 2.2) for plane in ("coronalplane", "image")}
    opened.key("i")
    opened.wait("document.getElementById('invert').checked")
    opened.evaluate(_PAINTED)
    for plane, value in before.items():
        assert abs(grey(opened, plane, 15.5, 2.2) - (255 - value)) < 12
    opened.key("7")
    opened.wait("document.body.dataset.window === '-600 700'")


def test_ruler_and_diameters_measure_millimetres(opened: Browser) -> None:
    opened.key("r")
    drag(opened, place(opened, "image", 10, 30), place(opened, "image", 30, 20))
    # Next to it in another plane, by two clicks.
    opened.click(*place(opened, "sagittalplane", 10, 2))
    opened.click(*place(opened, "sagittalplane", 10, 10))
    opened.key("Escape")
    opened.key("d")
    drag(opened, place(opened, "image", 20, 10), place(opened, "image", 40, 10))
    drag(opened, place(opened, "image", 30, 5), place(opened, "image", 30, 25))
    opened.wait("document.querySelectorAll('#measured li').length === 3")
    first, second, third = measured(opened)
    assert first["numbers"]["length_mm"] == pytest.approx(math.hypot(20, 15), abs=0.3)
    assert (first["plane"], first["index"], first["lesion"]) == ("axial", 6, 1)
    assert second["numbers"]["length_mm"] == pytest.approx(20, abs=0.3)
    assert third["numbers"] == {
        "long_axis_mm": pytest.approx(30, abs=0.3),
        "short_axis_mm": pytest.approx(20, abs=0.3),
    }
    assert opened.evaluate("document.querySelector('#measured button').textContent").startswith(
        "lesion 1: ruler, axial: 25.0"
    )
    opened.evaluate("document.querySelector('#measured li button:last-child').click()")
    assert len(measured(opened)) == 2
    # A drag with a tool in the hand changes no window and moves no crosshair.
    assert opened.evaluate("document.body.dataset.window + ' ' + document.body.dataset.point") == "40 400 30 11 6"


def test_ellipse_has_the_mean_and_the_spread_of_the_values(opened: Browser) -> None:
    opened.key("o")
    drag(opened, place(opened, "image", 27, 8), place(opened, "image", 34, 13))
    drag(opened, place(opened, "image", 8, 24), place(opened, "image", 20, 34))
    opened.wait("document.querySelectorAll('#measured li').length === 2")
    ball, body = (one["numbers"] for one in measured(opened))
    assert ball["mean_hu"] == pytest.approx(BALL_HU, abs=25)
    assert body["mean_hu"] == pytest.approx(BODY_HU, abs=2)
    assert 3 < body["sd_hu"] < 7
    assert body["area_mm2"] == pytest.approx(math.pi * 6 * 7.5, rel=0.03)
    assert body["pixels"] == pytest.approx(math.pi * 6 * 5, rel=0.1)


def test_measuring_by_keys_alone_is_saved_in_millimetres_of_the_patient(opened: Browser, tmp_path: Path) -> None:
    opened.key("r")
    opened.key("Enter")
    for _ in range(4):
        opened.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight", modifiers=8)
    at(opened, "34 11 6")
    opened.key("Enter")
    opened.wait("document.querySelectorAll('#measured li').length === 1")
    opened.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    opened.evaluate("document.getElementById('savejson').click()")
    path = tmp_path / "lesions_reviewed.json"
    while not path.exists():
        opened.evaluate("new Promise((done) => setTimeout(done, 20))")
    (saved,) = json.loads(path.read_text())["measurements"]
    assert saved["length_mm"] == pytest.approx(4)
    assert saved["points_lps_mm"] == [[30, 16.5, 15], [34, 16.5, 15]]
    assert (saved["tool"], saved["plane"], saved["slice"], saved["lesion"]) == ("ruler", "axial", 6, 1)


def test_film_goes_through_the_slices_until_a_key(opened: Browser) -> None:
    opened.key(" ")
    opened.wait("document.body.dataset.shown === '3'")
    opened.key("b")
    assert opened.evaluate("document.getElementById('cine').ariaPressed") == "false"
    here = opened.evaluate("new Promise((done) => setTimeout(() => done(document.body.dataset.shown), 300))")
    assert opened.evaluate("new Promise((done) => setTimeout(() => done(document.body.dataset.shown), 300))") == here


def test_fingers_scroll_and_zoom(opened: Browser) -> None:
    x, y = opened.middle("#image")

    def fingers(kind: str, *points: tuple[float, float]) -> None:
        touched = [{"x": px, "y": py, "id": number} for number, (px, py) in enumerate(points)]
        opened.call("Input.dispatchTouchEvent", type=kind, touchPoints=touched)

    fingers("touchStart", (x, y))
    for step in range(1, 5):
        fingers("touchMove", (x, y - 10 * step))
    fingers("touchEnd")
    opened.wait("document.body.dataset.shown === '4'")
    fingers("touchStart", (x - 20, y), (x + 20, y))
    for step in range(1, 5):
        fingers("touchMove", (x - 20 - 5 * step, y), (x + 20 + 5 * step, y))
    fingers("touchEnd")
    # Twice as large about the middle: what was a quarter from the edge is at the edge.
    opened.wait("document.body.dataset.zoom === '2.00'")
    assert opened.evaluate("document.body.dataset.shown") == "4"


def test_print_has_a_key_image_of_each_lesion_that_is_not_rejected(opened: Browser) -> None:
    opened.evaluate(
        "window.print = () => { document.body.dataset.printed = document.querySelectorAll('#print figure').length; }"
    )
    opened.key("n")
    opened.key("x")
    opened.click(*opened.middle("#printimages"))
    opened.wait("document.body.dataset.printed === '1'")
    caption = opened.evaluate("document.querySelector('#print figcaption').textContent")
    assert "Not a medical device" in caption
    assert "Lesion 1, score 0.93" in caption
    greys = "(() => { const c = document.querySelector('#print canvas');"
    greys += " return new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size; })()"
    assert opened.evaluate(greys) > 50
    # The page itself is as it was.
    at(opened, "8 30 1")
    assert not [event for event in opened.events if event["method"] == "Runtime.exceptionThrown"]


_KEY_IMAGES = (
    "window.addEventListener('beforeprint', () => { document.body.dataset.figures = "
    "[...document.querySelectorAll('#print figcaption')].map((one) => one.textContent).join('|'); });"
)


def test_a_print_by_the_browsers_menu_has_the_key_images(opened: Browser) -> None:
    opened.evaluate(_KEY_IMAGES)
    opened.call("Page.printToPDF")
    figures = opened.evaluate("document.body.dataset.figures").split("|")
    assert len(figures) == 2
    # The texts of the notices end in full stops.
    assert all(".;" not in caption for caption in figures)
    assert opened.evaluate("document.querySelectorAll('#print figure').length") == 0


def key_images(browser: Browser) -> list[int]:
    """Sum of the greys of each key image of a print."""
    browser.evaluate(
        "window.print = () => { document.body.dataset.greys = JSON.stringify("
        "[...document.querySelectorAll('#print canvas')].map((one) => one.getContext('2d')"
        ".getImageData(0, 0, one.width, one.height).data.reduce((sum, at) => sum + at, 0))); };"
        " delete document.body.dataset.greys"
    )
    browser.evaluate("document.getElementById('printimages').click()")
    browser.wait("document.body.dataset.greys !== undefined")
    browser.evaluate("window.dispatchEvent(new Event('afterprint'))")
    return json.loads(browser.evaluate("document.body.dataset.greys"))


def test_a_key_image_has_the_window_of_its_lesion_until_one_is_set_by_hand(
    browser: Browser, results: ScanResult, tmp_path: Path
) -> None:
    page = ReportWriter()(results)["report.html"].decode()
    # The second lesion as one in lung: its window is another one.
    first, second = page.split('"number":2', 1)
    assert '"preset":1' in second
    (tmp_path / "report.html").write_text(first + '"number":2' + second.replace('"preset":1', '"preset":0', 1))
    browser.open(tmp_path / "report.html")
    browser.wait(f"document.body.dataset.decoded === '{DEPTH}'")
    browser.wait("document.body.dataset.window === '40 400'")
    before = key_images(browser)
    browser.key("n")
    browser.wait("document.body.dataset.window === '-600 1500'")
    assert key_images(browser) == before
    browser.wait("document.body.dataset.window === '-600 1500'")
    browser.key("3")
    browser.wait("document.body.dataset.window !== '-600 1500'")
    assert all(one != other for one, other in zip(key_images(browser), before, strict=True))


def test_a_finger_that_the_browser_takes_over_ends_no_measurement(opened: Browser) -> None:
    opened.call("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=False)
    opened.wait("window.innerWidth === 400")
    touched = "getComputedStyle(document.getElementById('image')).touchAction"
    assert opened.evaluate(touched) == "pan-y"
    opened.key("r")
    assert opened.evaluate(touched) == "none"
    start, end = place(opened, "image", 10, 30), place(opened, "image", 30, 20)
    opened.mouse("mousePressed", *place(opened, "image", 40, 5), button="left", buttons=1, clickCount=1)
    opened.evaluate("document.getElementById('image').dispatchEvent(new PointerEvent('pointercancel', {pointerId: 1}))")
    opened.mouse("mouseReleased", *place(opened, "image", 40, 5), button="left", clickCount=1)
    drag(opened, start, end)
    opened.call("Emulation.clearDeviceMetricsOverride")
    (one,) = measured(opened)
    assert one["numbers"]["length_mm"] == pytest.approx(math.hypot(20, 15), abs=0.5)


def test_the_picture_keeps_its_size_however_long_the_status_is(opened: Browser) -> None:
    high = "document.getElementById('image').clientHeight"
    before = opened.evaluate(high)
    # In one go, before the page writes its own again.
    longer = "document.getElementById('status').textContent = 'lesion 1 (0.93), '.repeat(99)"
    assert opened.evaluate(f"(() => {{ {longer}; return {high}; }})()") == before


_RECORD = """(() => {
  window.texts = {};
  const painting = CanvasRenderingContext2D.prototype;
  const [image, text] = [painting.drawImage, painting.fillText];
  painting.drawImage = function (...all) { texts[this.canvas.id] = []; image.apply(this, all); };
  painting.fillText = function (words, x, y) {
    const [room, size] = [this.measureText(words).width, parseInt(this.font.match(/\\d+px/)[0])];
    const left = this.textAlign === "left" ? x : this.textAlign === "right" ? x - room : x - room / 2;
    texts[this.canvas.id].push([words, left, y - size / 2 + 1, left + room, y + size / 2 - 1]);
    text.call(this, words, x, y);
  };
})()"""


@pytest.mark.parametrize("width", [400, 700, 1000, 1300])
def test_texts_of_a_plane_cover_none_of_each_other(opened: Browser, width: int) -> None:
    opened.evaluate(_RECORD)
    opened.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    opened.wait(f"window.innerWidth === {width}")
    opened.evaluate(_PAINTED)
    opened.key("h")
    opened.evaluate(_PAINTED)
    opened.wait("['image', 'coronalplane', 'sagittalplane'].every((name) => texts[name]?.length)")
    for name in ("image", "coronalplane", "sagittalplane"):
        sides = ("Width", "Height")
        wide, high = (opened.evaluate(f"document.getElementById('{name}').client{side}") for side in sides)
        texts = [one for one in opened.evaluate(f"texts.{name}") if ": 0." not in one[0]]
        assert "".join(text for text, *_ in texts).replace(" ", "").count("Researchuseonly.") == 1
        for number, (text, left, top, right, bottom) in enumerate(texts):
            assert left >= 0, text
            assert right <= wide + 1, text
            assert (top >= 0, bottom <= high + 1) == (True, True), text
            for other, left2, top2, right2, bottom2 in texts[:number]:
                assert right < left2 or right2 < left or bottom <= top2 or bottom2 <= top, (text, other)
    opened.call("Emulation.clearDeviceMetricsOverride")
