"""Pictures of lesions: the right slice, the right window."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scripts.inference.detections import SliceBoxes, link_boxes
from scripts.inference.lesion_outlines import outline_of
from scripts.inference.outputs.pictures import finding_pictures
from scripts.inference.outputs.pictures.box_drawing import DETECTION
from scripts.inference.outputs.pictures.finding_pictures import (
    LUNG,
    SOFT_TISSUE,
    OverlayWriter,
    display_window,
    lesion_picture,
    slice_picture,
)
from support.fake_results import elliptic, results_of
from support.fake_scans import ball_scan, scan_of

BOX = np.array([20.0, 10.0, 30.0, 18.0])


def found(position: float) -> SliceBoxes:
    return SliceBoxes(
        BOX[None], np.array([0.8]), np.array([0]), np.array([position]), 0.5, np.array([True]), (4, 40, 60), (1.0, 1.0)
    )


@pytest.mark.parametrize(
    ("around", "window"), [(-850, LUNG), (40, SOFT_TISSUE), (-100, SOFT_TISSUE), (-3024, SOFT_TISSUE)]
)
def test_window_follows_what_is_around_the_box(around: int, window: tuple[float, float]) -> None:
    plane = np.full((40, 60), around, dtype=np.int16)
    # Pixels inside the box, or far from it, have no influence.
    plane[10:18, 20:30] = 30 if around < -400 else -900
    plane[30:] = 40 if around < -400 else -900
    assert display_window(plane, BOX) == window


@pytest.mark.parametrize("box", [(0, 0, 60, 40), (-5, -5, 3, 3), (55.5, 35.5, 60, 40)])
def test_window_of_boxes_at_the_border(box: tuple[float, ...]) -> None:
    assert display_window(np.full((40, 60), 40, dtype=np.int16), np.array(box, dtype=float)) == SOFT_TISSUE


@pytest.mark.parametrize(("position", "shown"), [(0.0, 0), (0.5, 1), (1.4, 1), (1.6, 2), (2.5, 3), (3.4, 3), (3.5, 3)])
def test_nearest_slice_is_shown(position: float, shown: int) -> None:
    hu = np.full((4, 40, 60), -160, dtype=np.int16)
    hu[shown] = 240
    boxes = found(position)
    assert boxes.nearest_slice(0) == shown
    for picture in (
        lesion_picture(hu, boxes, link_boxes(boxes)[0], title="title", notices=["notice"]),
        slice_picture(hu, boxes, 0, title="title", notices=["notice"]),
    ):
        assert picture.dtype == np.uint8
        # White but for the box and its score; the strip below is dark.
        assert (picture[:300].min(axis=2) == 255).mean() > 0.9
        assert picture[350:].mean() < 60


def test_the_sides_of_the_patient_are_named() -> None:
    drawn = lesion_picture(
        np.full((4, 40, 60), -1000, dtype=np.int16), found(0.0), link_boxes(found(0.0))[0], title="t", notices=["n"]
    )
    height = 341
    left, right = drawn[:height, :40], drawn[:height, -40:]
    top, bottom = drawn[:24, 200:312], drawn[height - 24 : height, 200:312]
    assert left.max() > 200
    assert right.max() < 100
    assert top.max() > 200
    assert bottom.max() < 100


def test_captions_of_dicom_scans_name_the_series_as_the_page_does(monkeypatch: pytest.MonkeyPatch) -> None:
    captions: list[str] = []

    def caption(image: np.ndarray, text: str, **_: object) -> np.ndarray:
        captions.append(text)
        return image

    monkeypatch.setattr(finding_pictures, "add_caption", caption)
    result = results_of(scan_of(ball_scan()), [(24, 10, 4, 37, 23, 9)], (0.9,))
    write = OverlayWriter(slices=True)
    write(result)
    assert {text.split(":")[0] for text in captions} == {"scan.nii"}
    captions.clear()
    series = {"series_number": "3", "series_description": "THORAX", "study_date": "20260102", "accession_number": "A7"}
    about = {**result.document["input"], "dicom": series}
    write(replace(result, document={**result.document, "input": about}))
    assert len(captions) > 1
    for text in captions:
        first, second, *_ = text.split("\n")
        assert first == "series 3, THORAX, study of 20260102, accession number A7"
        assert second.startswith("scan.nii: ")


def test_outline_and_axes_are_drawn_in_place_of_the_box() -> None:
    hu = np.full((4, 40, 60), -160, dtype=np.int16)
    boxes = replace(found(0.0), fields={name: values[:, ...] for name, values in elliptic(BOX[None]).items()})
    (lesion,) = link_boxes(boxes)
    outline = outline_of(boxes, 0, (1.0, 1.0))
    texts = {"title": "title", "notices": ["notice"]}
    drawn = lesion_picture(hu, boxes, lesion, outline=outline, **texts)
    np.testing.assert_array_equal(slice_picture(hu, boxes, 0, **texts), drawn)
    yellow = np.argwhere((drawn[:300] == DETECTION).all(axis=2))
    factor = 512 / 60
    # Where the axes cross and where the outline is, but not along the lower edge of the box.
    assert np.abs(yellow - np.array([14.0, 25.0]) * factor).sum(axis=1).min() < 3
    assert not (np.abs(yellow[:, 0] - 18 * factor) < 4).any()
    assert (np.abs(yellow[:, 1] - (25 + 5 * 0.72) * factor) < 4).any()
