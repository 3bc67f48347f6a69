"""Two results of a patient: the table of known changes, in every file, and a page that shows both scans."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.data.scans.scan import Scan
from scripts.inference.outputs.html.report_reading import ReportVolume
from scripts.inference.outputs.lesions_document import result_sha256
from scripts.inference.outputs.result_writer import ResultWriter
from scripts.tools.comparing.compare_results import _cautions, _read, compare
from scripts.workflows.comparing.rigid_alignment import Alignment
from support.browser import Browser, chromium
from support.fake_bodies import SHAPE, motion_about, phantom
from support.fake_results import parts, results_of

AFFINE = np.array([[3.5, 0, 0, -100], [0, 3.5, 0, -85], [0, 0, 4, -90], [0, 0, 0, 1]])
MOTION = motion_about(np.array([10.0, 5.0, 0.0]), [4.0, 0.0, 2.0], [9.0, -6.0, 16.0])
# Middles in mm of the scan before, and long axes in mm before and after; None where there is no lesion.
LESIONS = {
    "grown": ((-30.0, -10.0, 20.0), 28.0, 42.0),
    "shrunk": ((30.0, -5.0, 25.0), 35.0, 21.0),
    "unchanged": ((0.0, 20.0, -20.0), 21.0, 21.0),
    "gone": ((-20.0, 10.0, -40.0), 14.0, None),
    "new": ((35.0, 5.0, -40.0), None, 17.5),
}

# Green values of a canvas, without the texts above and below.
_GREYS = (
    "(() => { const c = document.getElementById('%s');"
    " const dots = c.getContext('2d').getImageData(0, 40, c.width, c.height - 80).data;"
    " return [...dots].filter((_, at) => at %% 4 === 1); })()"
)


def write_result(folder: Path, motion: np.ndarray, when: int) -> None:
    """Results of the body after a motion; lesions in a falling order of scores."""
    hu = phantom(AFFINE, motion).round().astype(np.int16)
    folder.mkdir(parents=True)
    (folder / f"{when}.nii").write_bytes(bytes([when]))
    scan = Scan(
        hu, AFFINE, np.eye(4), (SHAPE[2], SHAPE[1], SHAPE[0]), folder / f"{when}.nii", (folder / f"{when}.nii",)
    )
    boxes = []
    for middle, *lengths in LESIONS.values():
        if lengths[when] is not None:
            place = np.linalg.inv(AFFINE) @ motion @ [*middle, 1]
            half = np.array([lengths[when] / 3.5, 4, 4]) / 2
            boxes.append(tuple(np.concatenate([place[:3] + 0.5 - half, place[:3] + 0.5 + half])))
    result = results_of(scan, boxes, np.linspace(0.9, 0.4, len(boxes)).tolist())
    ResultWriter(folder, outputs=("json", "report"))(*parts(result))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("scans")
    write_result(root / "before", np.eye(4), 0)
    write_result(root / "after", MOTION, 1)
    return str(root / "before"), str(root / "after")


@pytest.fixture(scope="module")
def compared(folders: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("changes")
    compare(*folders, str(output))
    return output


def read(output: Path) -> dict[str, Any]:
    return json.loads((output / "changes.json").read_text())


def test_table_is_that_of_the_known_changes(compared: Path) -> None:
    content = read(compared)
    found = {one["state"]: (one["long_axis_before_mm"], one["long_axis_after_mm"]) for one in content["changes"]}
    assert found == {
        name: tuple(None if one is None else pytest.approx(one, abs=0.01) for one in lengths)
        for name, (_, *lengths) in LESIONS.items()
    }
    assert content["sum_of_long_axes_in_both"] == {"before_mm": 84, "after_mm": 84, "change_percent": 0}
    assert content["sum_of_long_axes_of_all"] == {"before_mm": 98, "after_mm": 101.5, "change_percent": 3.6}
    matrix = np.array(content["alignment"]["before_to_after_lps_mm"])
    for middle, *_ in LESIONS.values():
        assert np.linalg.norm((matrix - MOTION) @ [*middle, 1]) < 2
    assert content["cautions"] == []
    assert "Not a medical device" in content["notices"][0]
    assert "estimates" in content["notices"][-1]
    rows = list(csv.DictReader((compared / "changes.csv").open()))
    assert [row["state"] for row in rows] == [one["state"] for one in content["changes"]]
    assert all("estimates" in row["notice"] for row in rows)


def test_summary_is_printed(folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(folders[0], folders[0], str(tmp_path))
    printed = capsys.readouterr().out
    assert printed.startswith(
        "Lesions: 4 unchanged.\nSum of long axes of lesions found in both: about 98 mm before, 98 mm"
    )
    assert "Both results are of the same scan." in printed


def test_scans_that_are_aligned_already_are_not_moved(folders: tuple[str, str], tmp_path: Path) -> None:
    compare(*folders, str(tmp_path), aligned=True)
    alignment = read(tmp_path)["alignment"]
    assert np.array_equal(alignment["before_to_after_lps_mm"], np.eye(4))
    assert alignment["similarity"] is None
    assert "agreement not measured" in (tmp_path / "changes.html").read_text()


def test_a_folder_with_the_results_of_one_scan_is_enough(folders: tuple[str, str], tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        (tmp_path / "both" / name).mkdir(parents=True)
        for file in ("lesions.json", "report.html"):
            (tmp_path / "both" / name / file).write_bytes((Path(folders[number]) / file).read_bytes())
    with pytest.raises(ValueError, match=r"Expected the results of one scan in .*, got those of 2"):
        compare(str(tmp_path / "both"), folders[1], str(tmp_path / "out"))
    shutil.rmtree(tmp_path / "both" / "b")
    compare(str(tmp_path / "both"), folders[0], str(tmp_path / "out"))
    assert read(tmp_path / "out")["cautions"] == ["Both results are of the same scan."]


def test_folders_that_are_no_results_are_named(folders: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Expected results \(lesions\.json\) at"):
        compare(str(tmp_path), folders[1], str(tmp_path / "out"))
    other = tmp_path / "other"
    other.mkdir()
    source = Path(folders[0])
    (other / "lesions.json").write_bytes((source / "lesions.json").read_bytes())
    with pytest.raises(
        FileNotFoundError, match=r"Expected report\.html next to lesions\.json in .*--outputs json,report"
    ):
        compare(str(other), folders[1], str(tmp_path / "out"))
    (other / "report.html").write_bytes((Path(folders[1]) / "report.html").read_bytes())
    with pytest.raises(ValueError, match=r"Expected lesions\.json and report\.html of one result"):
        compare(str(other), folders[1], str(tmp_path / "out"))
    (other / "lesions.json").write_text('{"lesions": [{"lesion": 1}]}')
    with pytest.raises(ValueError, match=r"Expected a lesions\.json of this bundle"):
        compare(str(other), folders[1], str(tmp_path / "out"))
    for distance, change, least in ((0.0, 0.2, 2.0), (np.inf, 0.2, 2.0), (15.0, np.nan, 2.0), (15.0, 0.2, -1.0)):
        with pytest.raises(ValueError, match="Expected max_distance above 0"):
            compare(*folders, str(tmp_path / "out"), max_distance=distance, change=change, least=least)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("lesions", 0, "box_lps_mm"), [0, 0, 0, 1, 1]),
        (("lesions", 0, "center_lps_mm", 1), float("nan")),
        (("lesions", 0, "axes", "long_axis_mm"), -1),
        (("lesions", 0, "center_lps_mm", 1), 1e300),
        (("lesions", 0, "lesion"), 2),
        (("lesions", 0, "lesion"), 0),
        (("lesions", 0, "lesion"), 1.5),
        (("lesions", 0, "size_mm"), [1, 2]),
        (("lesions", 0, "size_mm", 1), -2),
        (("lesions", 0, "key_point_lps_mm"), None),
        (("lesions", 0, "axes", "source"), None),
        (("lesions", 0, "image"), "60"),
        (("lesions", 0, "class"), 2),
        (("lesions", 0), 5),
        (("notices", 0), {}),
        (("model",), None),
        (("model", "sha256"), 1),
        (("input", "name"), None),
        (("input", "dicom"), "CT"),
        (("settings",), []),
    ],
)
def test_results_that_were_damaged_are_rejected(
    folders: tuple[str, str], tmp_path: Path, keys: tuple[Any, ...], value: object
) -> None:
    document = json.loads((Path(folders[0]) / "lesions.json").read_text())
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (tmp_path / "lesions.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"Expected a lesions\.json of this bundle, got another file in .*: \w+Error "):
        compare(str(tmp_path), folders[1], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_dates_in_the_wrong_order_are_named(folders: tuple[str, str]) -> None:
    before, after = (_read(Path(folder)) for folder in folders)
    before.document["input"]["dicom"] = {"study_date": "20260102"}
    after.document["input"]["dicom"] = {"study_date": "20251230"}
    lying = Alignment(np.eye(4), 1.0)
    told = _cautions(before, after, lying, same=False)
    assert told == ["The scan before is the later one by its study date: 20260102 and 20251230."]
    assert _cautions(after, before, lying, same=False) == []
    after.document["input"]["dicom"] = {"study_date": None}
    assert _cautions(before, after, lying, same=False) == []


def test_a_scan_of_which_nothing_was_examined_is_named(folders: tuple[str, str]) -> None:
    before, after = (_read(Path(folder)) for folder in folders)
    lying = Alignment(np.eye(4), 1.0)
    after.document["settings"]["examined_slices"] = 0
    for order, when in (((before, after), "after"), ((after, before), "before")):
        told = _cautions(*order, lying, same=False)
        assert told == [f"No slice of the scan {when} shows a body: nothing was examined there."]


def test_a_mirror_image_is_named(folders: tuple[str, str]) -> None:
    before, after = (_read(Path(folder)) for folder in folders)
    lying = Alignment(np.eye(4), 0.62)

    (told,) = _cautions(before, replace(after, volume=mirrored(after.volume)), lying, same=False)
    assert told.startswith("One of the scans seems to be mirrored: they agree by 0.62, and by 0.79")
    assert _cautions(before, after, Alignment(np.eye(4), 0.9), same=False) == []


def mirrored(volume: ReportVolume) -> ReportVolume:
    """The same scan with left and right exchanged."""
    return replace(volume, affine=np.diag([-1.0, 1.0, 1.0, 1.0]) @ volume.affine)


def test_a_review_of_one_scan_alone_is_named(folders: tuple[str, str]) -> None:
    before, after = (_read(Path(folder)) for folder in folders)
    lying = Alignment(np.eye(4), 1.0)
    after.document["settings"]["review"] = {"accepted": 1}
    (told,) = _cautions(before, after, lying, same=False)
    assert told.startswith("Only the lesions after were reviewed")
    assert told.endswith("did not accept there is gone here.")
    (told,) = _cautions(after, before, lying, same=False)
    assert told.startswith("Only the lesions before were reviewed")
    assert told.endswith("did not accept there is new here.")
    before.document["settings"]["review"] = {"accepted": 2}
    assert _cautions(before, after, lying, same=False) == []


def _rewritten(folder: Path, place: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of results with a changed lesions.json, and a page that knows it."""
    shutil.copytree(folder, place)
    document = json.loads((place / "lesions.json").read_text())
    page, old = (place / "report.html").read_text(), result_sha256(document)
    change(document)
    (place / "lesions.json").write_text(json.dumps(document))
    (place / "report.html").write_text(page.replace(old, result_sha256(document)))
    return place


def test_masks_and_boxes_are_told_apart(
    folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def masked(document: dict[str, Any]) -> None:
        for lesion in document["lesions"]:
            lesion["axes"] = {"source": "mask", "long_axis_mm": 0.72 * lesion["axes"]["long_axis_mm"]}

    masks = _rewritten(Path(folders[0]), tmp_path / "masks", masked)
    compare(folders[0], str(masks), str(tmp_path / "out"))
    told = "The long axes before are from box, those after from mask: all sizes here are the longer sides of the boxes."
    assert told in capsys.readouterr().out
    content = read(tmp_path / "out")
    assert told in content["cautions"]
    assert content["counts"]["unchanged"] == 4
    assert {
        (one["axes_source_before"], one["axes_source_after"], one["compared_by"]) for one in content["changes"]
    } == {("box", "mask", "box")}
    rows = list(csv.DictReader((tmp_path / "out" / "changes.csv").open()))
    assert {row["compared_by"] for row in rows} == {"box"}

    def one_masked(document: dict[str, Any]) -> None:
        document["lesions"][2]["axes"]["source"] = "mask"

    some = _rewritten(Path(folders[0]), tmp_path / "some", one_masked)
    compare(folders[0], str(some), str(tmp_path / "out"))
    assert "those after from box and mask: pairs of different sources (1) are compared by" in capsys.readouterr().out


def test_a_lesion_of_another_class_is_named(
    folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def classed(*names: str) -> Callable[[dict[str, Any]], None]:
        def change(document: dict[str, Any]) -> None:
            document["model"]["classes"] = ["tumour", "node"]
            for lesion, name in zip(document["lesions"], names, strict=True):
                lesion["class"] = name

        return change

    one = _rewritten(Path(folders[0]), tmp_path / "one", classed("tumour", "node", "node", "tumour"))
    other = _rewritten(Path(folders[0]), tmp_path / "other", classed("tumour", "tumour", "node", "tumour"))
    compare(str(one), str(other), str(tmp_path / "out"))
    told = "Lesions of another class after than before, which may be an error of the network: 2 (node) is 2 (tumour)."
    assert told in capsys.readouterr().out
    assert told in read(tmp_path / "out")["cautions"]
    rows = list(csv.DictReader((tmp_path / "out" / "changes.csv").open()))
    assert [(row["class_before"], row["class_after"]) for row in rows][:2] == [("tumour", "tumour"), ("node", "tumour")]
    assert "other classes count as 50 %" in (tmp_path / "out" / "changes.html").read_text()
    compare(folders[0], str(other), str(tmp_path / "out"))
    assert "The classes that the weights know differ: one class before, tumour, node after." in capsys.readouterr().out


def test_numbers_of_a_review_may_have_gaps(folders: tuple[str, str], tmp_path: Path) -> None:
    def without_first(document: dict[str, Any]) -> None:
        del document["lesions"][0]

    rest = _rewritten(Path(folders[0]), tmp_path / "rest", without_first)
    compare(folders[0], str(rest), str(tmp_path / "out"))
    assert {(one["before"], one["after"]) for one in read(tmp_path / "out")["changes"]} == {
        *((1, None), (2, 2), (3, 3), (4, 4))
    }


def test_lesions_of_dicom_are_found_in_the_archive(folders: tuple[str, str], tmp_path: Path) -> None:
    def named(document: dict[str, Any], when: int) -> None:
        document["input"]["dicom"] = {"series_instance_uid": f"1.2.{when}", "study_date": f"2026010{when}"}
        for lesion in document["lesions"]:
            number = 10 * when + lesion["lesion"]
            lesion["image"] = {"instance_number": number, "sop_instance_uid": f"1.2.{when}.{number}"}

    places = [
        _rewritten(Path(folder), tmp_path / str(when), lambda document, when=when: named(document, when))
        for when, folder in enumerate(folders, start=1)
    ]
    compare(str(places[0]), str(places[1]), str(tmp_path / "out"))
    content = read(tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "changes.csv").open()))
    for change, row in zip(content["changes"], rows, strict=True):
        for when, name in enumerate(("before", "after"), start=1):
            number = None if change[name] is None else 10 * when + change[name]
            uid = None if number is None else f"1.2.{when}.{number}"
            known = {
                f"instance_number_{name}": number,
                f"sop_instance_uid_{name}": uid,
                f"series_instance_uid_{name}": f"1.2.{when}",
                f"study_date_{name}": f"2026010{when}",
            }
            assert {key: change[key] for key in known} == known
            assert {key: row[key] for key in known} == {
                key: "" if value is None else str(value) for key, value in known.items()
            }
            assert (row[f"z_{name}_mm"] == "") == (number is None)
    chromium()
    browser = Browser(tmp_path / "profile", (1300, 800))
    try:
        browser.open(tmp_path / "out" / "changes.html")
        browser.wait("document.body.dataset.shown !== undefined")
        cells = "[...document.querySelectorAll('.changes %s')].map((one) => one.textContent)"
        assert browser.evaluate(cells % "th")[-2:] == ["Image", "z, mm"]
        *_, axes, _, image, z = browser.evaluate(cells % "tbody tr:first-child td")
        assert axes.endswith("(box)")
        first = content["changes"][0]
        assert image == f"{first['instance_number_before']} → {first['instance_number_after']}"
        assert z == f"{first['z_before_mm']:.1f} → {first['z_after_mm']:.1f}"
    finally:
        browser.close()


def test_page_shows_both_scans_at_the_same_place(compared: Path, tmp_path: Path) -> None:
    chromium()
    page = (compared / "changes.html").read_text()
    assert "<script" in page
    assert "://" not in page
    browser = Browser(tmp_path, (1300, 800))
    try:
        browser.open(compared / "changes.html")
        browser.wait("document.body.dataset.shown !== undefined")
        assert len(browser.evaluate("[...document.querySelectorAll('#changes tr')].map((one) => one.textContent)")) == 5
        start = int(browser.evaluate("document.body.dataset.shown"))
        x, y = browser.middle("#after")
        browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=120)
        browser.wait(f"document.body.dataset.shown === '{start - 1}'")
        browser.key("Home")
        browser.wait(f"document.body.dataset.shown === '{SHAPE[0] - 1}'")
        browser.click(*browser.middle("#changes tr:nth-child(2) button"))
        browser.wait(f"document.body.dataset.shown === '{round((25 + 90) / 4)}'")
        # The body of the scan after lies where that of the scan before does.
        greys = [np.array(browser.evaluate(_GREYS % name), dtype=float) for name in ("before", "after")]
        assert np.corrcoef(greys)[0, 1] > 0.9
        assert not [event for event in browser.events if event["method"] == "Runtime.exceptionThrown"]
    finally:
        browser.close()
