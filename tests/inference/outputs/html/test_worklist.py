"""The worklist of the report page in a real browser: decisions are kept, sorted, saved, and read back as they are."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts.data.importing.truth.reviews import read_review
from scripts.inference.detections import ScanResult
from scripts.inference.outputs.html.report_page import ReportWriter
from scripts.inference.outputs.lesions_document import result_sha256
from scripts.storage.atomic_files import cell_text
from support.browser import Browser
from support.fake_results import CLASSES, classed, results_of
from support.fake_scans import ball_scan, scan_of

# Long axes of 13, 8 and 10 mm, in slices 3..8, 8..9 and 1.
BOXES = [(24.0, 10.0, 4.0, 37.0, 23.0, 9.0), (5.0, 6.0, 8.0, 12.0, 14.0, 10.0), (40.0, 30.0, 1.0, 50.0, 36.0, 2.0)]
SCORES = (0.93, 0.6, 0.35)


@pytest.fixture(scope="module")
def results() -> ScanResult:
    return results_of(scan_of(ball_scan(), (1.0, 1.0, 2.5)), BOXES, SCORES)


@pytest.fixture
def opened(browser: Browser, results: ScanResult, tmp_path: Path) -> Browser:
    (tmp_path / "report.html").write_bytes(ReportWriter()(results)["report.html"])
    load(browser, tmp_path)
    browser.evaluate("localStorage.clear()")
    load(browser, tmp_path)
    return browser


def load(browser: Browser, folder: Path) -> None:
    browser.open(folder / "report.html")
    browser.wait("document.body.dataset.shown !== undefined")


def chosen(browser: Browser) -> int:
    return int(browser.evaluate("document.getElementById('reviewed').textContent"))


def order(browser: Browser) -> list[int]:
    """Numbers of the lesions in the list, as shown."""
    return browser.evaluate("[...document.querySelectorAll('#lesions li')].filter((one) => !one.hidden)"
                            ".map((one) => Number(one.querySelector('span').textContent.slice(1)))")  # fmt: skip


def states(browser: Browser) -> list[str]:
    """Decisions by the number of the lesion."""
    buttons = "[...document.querySelectorAll('#lesions button')]"
    sorting = "sort((one, other) => one.textContent.localeCompare(other.textContent))"
    return browser.evaluate(f"{buttons}.{sorting}.map((one) => one.dataset.state)")


def put(browser: Browser, name: str, value: str) -> None:
    browser.evaluate(f"(() => {{ const e = document.getElementById({json.dumps(name)}); e.value = {json.dumps(value)};"
                     " e.dispatchEvent(new Event('input', { bubbles: true })); })()")  # fmt: skip


def shift(browser: Browser, letter: str) -> None:
    browser.call("Input.dispatchKeyEvent", type="keyDown", key=letter, text=letter, modifiers=8)
    browser.call("Input.dispatchKeyEvent", type="keyUp", key=letter, modifiers=8)


def saved(browser: Browser, folder: Path, button: str, name: str) -> Path:
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    browser.click(*browser.middle(f"#{button}"))
    browser.wait(f"document.getElementById('saved').textContent === 'Saved as {name}.'")
    for _ in range(500):
        if (folder / name).exists():
            return folder / name
        browser.evaluate("new Promise((done) => setTimeout(done, 20))")
    raise AssertionError(f"{name} was not saved")


def give(browser: Browser, path: Path) -> None:
    """Open a review with the page."""
    document = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=document, selector="#reviewfile")["nodeId"]
    browser.evaluate("document.getElementById('saved').textContent = ''")
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])
    browser.wait("document.getElementById('saved').textContent !== ''")


def test_decisions_by_key_and_button_are_there_after_a_reload(opened: Browser, tmp_path: Path) -> None:
    opened.key("a")
    opened.key("n")
    opened.key("x")
    opened.key("n")
    opened.click(*opened.middle("[data-decision=uncertain]"))
    assert states(opened) == ["accepted", "rejected", "uncertain"]
    told = opened.evaluate("document.getElementById('saved').textContent")
    assert told == "Kept in this browser: lesion 3 uncertain, 0 of 3 undecided."
    opened.evaluate("document.activeElement.blur()")
    opened.key("c")
    for letter in "nax":
        opened.key(letter)
    # Keys of the page are text in the comment.
    assert (chosen(opened), states(opened)[2]) == (3, "uncertain")
    load(opened, tmp_path)
    assert states(opened) == ["accepted", "rejected", "uncertain"]
    opened.key("p")
    assert opened.evaluate("document.getElementById('comment').value") == "nax"
    opened.key("u")
    assert states(opened) == ["accepted", "rejected", "undecided"]
    said = opened.evaluate("document.querySelector('#lesions li:nth-child(2) button').getAttribute('aria-description')")
    assert said == "score 0.60, rejected"


def test_another_result_has_a_review_of_its_own(opened: Browser, results: ScanResult, tmp_path: Path) -> None:
    opened.key("a")
    other = results_of(scan_of(ball_scan(), (1.0, 1.0, 2.5)), BOXES[:2], SCORES[:2])
    assert result_sha256(other.document) != result_sha256(results.document)
    (tmp_path / "report.html").write_bytes(ReportWriter()(other)["report.html"])
    load(opened, tmp_path)
    assert states(opened) == ["undecided", "undecided"]


def test_list_is_sorted_and_filtered(opened: Browser) -> None:
    put(opened, "sort", "size")
    assert order(opened) == [1, 3, 2]
    put(opened, "sort", "position")
    assert order(opened) == [2, 1, 3]
    opened.key("n")
    assert chosen(opened) == 3
    put(opened, "least", "9")
    assert order(opened) == [1, 3]
    assert opened.evaluate("document.getElementById('count').textContent") == "2 of 3"
    opened.key("n")
    assert chosen(opened) == 1
    put(opened, "state", "accepted")
    assert order(opened) == []
    assert opened.evaluate("document.getElementById('none').textContent") == "No lesion is like this."


def test_list_is_filtered_by_region(browser: Browser, results: ScanResult, tmp_path: Path) -> None:
    names = ("chest", "unknown", "abdomen")
    regions = [{"name": name, "source": "scan", "basis": f"why {name}"} for name in names]
    entries = [{**entry, "region": region} for entry, region in zip(results.entries, regions, strict=True)]
    told = replace(results, document={**results.document, "lesions": entries})
    (tmp_path / "report.html").write_bytes(ReportWriter()(told)["report.html"])
    load(browser, tmp_path)
    assert browser.evaluate("[...document.getElementById('region').options].map((one) => one.textContent)") == [
        "all",
        *names,
    ]
    put(browser, "region", "abdomen")
    assert order(browser) == [3]
    put(browser, "region", "unknown")
    assert order(browser) == [2]
    put(browser, "region", "")
    assert order(browser) == [1, 2, 3]
    facts = browser.evaluate("[...document.querySelectorAll('.facts')].map((one) => one.textContent.split(';')[0])")
    assert facts[0] == "chest"
    assert facts[1].startswith("axes ")
    browser.key("n")
    assert browser.evaluate("document.getElementById('where').textContent") == "Region: unknown (why unknown)"
    rows = saved(browser, tmp_path, "savecsv", "lesions_reviewed.csv").read_text("utf-8-sig")
    assert [row["region"] for row in csv.DictReader(io.StringIO(rows))] == list(names)


def test_list_is_filtered_by_class_of_a_network_that_knows_several(
    browser: Browser, results: ScanResult, tmp_path: Path
) -> None:
    several = results_of(results.scan, BOXES, SCORES, model=CLASSES, fields=classed)
    (tmp_path / "report.html").write_bytes(ReportWriter()(several)["report.html"])
    load(browser, tmp_path)
    names = ["tumour", "lymph node", "tumour"]
    assert not browser.evaluate("document.getElementById('classes').hidden")
    facts = browser.evaluate("[...document.querySelectorAll('.facts')].map((one) => one.textContent.split(';')[0])")
    assert facts == names
    browser.key("n")
    assert browser.evaluate("document.getElementById('where').textContent").startswith("Class: lymph node. Region: ")
    put(browser, "class", "lymph node")
    assert order(browser) == [2]
    put(browser, "class", "tumour")
    assert order(browser) == [1, 3]
    rows = saved(browser, tmp_path, "savecsv", "lesions_reviewed.csv").read_text("utf-8-sig")
    assert [row["class"] for row in csv.DictReader(io.StringIO(rows))] == names
    review = read_review(saved(browser, tmp_path, "savejson", "lesions_reviewed.json"))
    assert review.labels == (1, 2, 1)


def test_one_class_has_no_filter(opened: Browser, tmp_path: Path) -> None:
    assert opened.evaluate("document.getElementById('classes').hidden")
    rows = saved(opened, tmp_path, "savecsv", "lesions_reviewed.csv").read_text("utf-8-sig")
    assert "class" not in next(csv.reader(io.StringIO(rows)))


def test_next_undecided_goes_on_from_a_lesion_that_a_filter_has_hidden(opened: Browser) -> None:
    put(opened, "state", "undecided")
    opened.key("a")
    assert order(opened) == [2, 3]
    shift(opened, "N")
    assert chosen(opened) == 2
    opened.key("x")
    shift(opened, "N")
    assert chosen(opened) == 3
    opened.key("a")
    shift(opened, "N")
    assert opened.evaluate("document.getElementById('saved').textContent") == "No lesion in the list is undecided."
    opened.key("u")
    put(opened, "state", "")
    opened.key("n")
    opened.key("u")
    opened.key("u")
    opened.key("n")
    shift(opened, "P")
    assert chosen(opened) == 1


def test_saved_review_is_read_by_the_importer_and_back_by_the_page(
    opened: Browser, results: ScanResult, tmp_path: Path
) -> None:
    opened.key("x")
    opened.key("n")
    opened.key("a")
    put(opened, "comment", 'liver, "old" <b>\ncyst?')
    path = saved(opened, tmp_path, "savejson", "lesions_reviewed.json")
    review = read_review(path)
    assert review.decisions == ("rejected", "accepted", "undecided")
    assert review.sha256 == results.document["input"]["sha256"]
    assert review.boxes.tolist() == [entry["box_voxel"] for entry in results.entries]
    content: dict[str, Any] = json.loads(path.read_text())
    assert content["result_sha256"] == result_sha256(results.document)
    assert content["notices"] == results.notices
    assert content["lesions"][1]["review"]["comment"] == 'liver, "old" <b>\ncyst?'
    rows = list(
        csv.DictReader(io.StringIO(saved(opened, tmp_path, "savecsv", "lesions_reviewed.csv").read_text("utf-8-sig")))
    )
    assert [(row["lesion"], row["decision"]) for row in rows] == [
        ("1", "rejected"),
        ("2", "accepted"),
        ("3", "undecided"),
    ]
    assert rows[1]["comment"] == 'liver, "old" <b>\ncyst?'
    assert [float(row["long_axis_mm"]) for row in rows] == [13, 8, 10]
    assert all("Not a medical device" in row["notice"] for row in rows)
    opened.evaluate("localStorage.clear()")
    load(opened, tmp_path)
    assert states(opened) == ["undecided"] * 3
    give(opened, path)
    assert states(opened) == ["rejected", "accepted", "undecided"]
    opened.key("n")
    assert opened.evaluate("document.getElementById('comment').value") == 'liver, "old" <b>\ncyst?'


def test_a_comment_that_begins_like_a_formula_is_a_text_to_a_spreadsheet(opened: Browser, tmp_path: Path) -> None:
    opened.key("n")
    comments = ["=1+1", "'=1", "\t@a", "-2.5", "a=b", "'x"]
    for comment, written in zip(comments, ["'=1+1", "''=1", "'\t@a", "-2.5", "a=b", "'x"], strict=True):
        put(opened, "comment", comment)
        text = saved(opened, tmp_path, "savecsv", "lesions_reviewed.csv").read_text("utf-8-sig")
        row = next(csv.DictReader(io.StringIO(text)))
        assert row["comment"] == written
        assert cell_text(row["comment"]) == comment


def test_review_of_another_result_is_rejected(opened: Browser, tmp_path: Path) -> None:
    opened.key("a")
    for name, text in (("other.json", '{"result_sha256": "0"}'), ("text.json", "no JSON")):
        (tmp_path / name).write_text(text)
        give(opened, tmp_path / name)
        assert opened.evaluate("document.getElementById('saved').textContent").startswith(f"{name} cannot be used: ")
    assert states(opened) == ["accepted", "undecided", "undecided"]
