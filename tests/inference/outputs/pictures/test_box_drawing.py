"""Boxes drawn on slices."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from scripts.inference.outputs.pictures.box_drawing import (
    DETECTION,
    TRUTH,
    WRONG,
    Colour,
    add_caption,
    display_window,
    draw_boxes,
    window_slice,
    write_png,
)

WINDOW = (-175.0, 275.0)
SLICE = np.full((512, 640), 50, dtype=np.int16)  # mid-grey, wider than high


def where(picture: np.ndarray, colour: Colour) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels of exactly this colour."""
    rows, columns = np.nonzero((picture == colour).all(axis=2))
    return rows, columns


def extent(picture: np.ndarray, colour: Colour) -> tuple[int, int, int, int]:
    """First and last column and row of a colour, as half-open x1, y1, x2, y2."""
    rows, columns = where(picture, colour)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_window_maps_its_ends_to_black_and_white() -> None:
    values = np.array([[-3024, -175, 50, 275, 3071]], dtype=np.int16)
    assert window_slice(values, WINDOW).tolist() == [[0, 0, 128, 255, 255]]


def test_an_image_is_shown_in_its_own_window_or_as_soft_tissue() -> None:
    assert display_window({"window": [-1500, 500]}) == (-1500.0, 500.0)
    assert display_window({"window": None}) == display_window({}) == WINDOW


def test_nothing_to_draw_leaves_the_slice() -> None:
    picture = draw_boxes(SLICE, None, window=WINDOW)
    assert picture.shape == (512, 640, 3)
    assert picture.dtype == np.uint8
    assert (picture == 128).all()
    empty = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0)}
    np.testing.assert_array_equal(draw_boxes(SLICE, empty, np.zeros((0, 4)), window=WINDOW), picture)


def test_lines_run_just_outside_the_box_and_leave_it_free() -> None:
    picture = draw_boxes(SLICE, None, [[100, 200, 180, 240]], window=WINDOW)
    assert extent(picture, TRUTH) == (99, 199, 181, 241)
    assert (picture[200:240, 100:180] == 128).all()


def test_x_is_the_column() -> None:
    picture = draw_boxes(SLICE, None, [[600, 20, 630, 60]], window=WINDOW)
    x1, y1, _, _ = extent(picture, TRUTH)
    assert (x1, y1) == (599, 19)


@pytest.mark.parametrize(("hit", "colour"), [(None, DETECTION), ([True], DETECTION), ([False], WRONG)])
def test_colours_tell_right_from_wrong(hit: list[bool] | None, colour: Colour) -> None:
    predicted = {"boxes": [[100, 200, 180, 240]], "scores": [0.5], "hit": hit}
    picture = draw_boxes(SLICE, predicted, window=WINDOW)
    drawn = [one for one in (TRUTH, DETECTION, WRONG) if len(where(picture, one)[0])]
    assert drawn == [colour]


def test_truth_shows_through_a_detection_at_the_same_place() -> None:
    box = [[100, 200, 180, 240]]
    picture = draw_boxes(SLICE, {"boxes": box, "scores": [0.5]}, box, window=WINDOW)
    top = picture[199, 99:181]
    assert (top == TRUTH).all(axis=1).sum() > 20
    assert (top == DETECTION).all(axis=1).sum() > 20


@pytest.mark.parametrize(
    "box",
    [
        [100, 200, 180, 240],
        [0, 0, 60, 50],  # corners of the image
        [580, 0, 640, 50],
        [0, 460, 60, 512],
        [580, 460, 640, 512],
        [0, 200, 640, 240],
    ],
)
def test_the_score_never_covers_the_lesion(box: list[float]) -> None:
    picture = draw_boxes(SLICE, {"boxes": [box], "scores": [0.87]}, window=WINDOW)
    x1, y1, x2, y2 = (int(edge) for edge in box)
    assert (picture[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1] == 128).all()
    outside = picture.copy()
    outside[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = 128
    assert len(where(outside, DETECTION)[0]) > 8  # the cores of the digits


def test_scores_of_neighbours_do_not_cover_each_other() -> None:
    boxes = [[100, 200, 160, 240], [103, 203, 163, 243], [106, 206, 166, 246]]
    apart = sum(
        len(where(draw_boxes(SLICE, {"boxes": [box], "scores": [0.5]}, window=WINDOW)[:198], DETECTION)[0])
        for box in boxes[:1]
    )
    together = draw_boxes(SLICE, {"boxes": boxes, "scores": [0.5] * 3}, window=WINDOW)
    frames = np.zeros(SLICE.shape, dtype=bool)
    for x1, y1, x2, y2 in boxes:
        frames[y1 - 1 : y2 + 1, x1 - 1 : x2 + 1] = True
    digits = (together == DETECTION).all(axis=2) & ~frames
    assert digits.sum() >= 2.5 * apart


def test_small_slices_are_enlarged_and_boxes_with_them() -> None:
    small = np.full((96, 128), 50, dtype=np.int16)
    picture = draw_boxes(small, None, [[10, 20, 40, 60]], window=WINDOW)
    assert picture.shape == (384, 512, 3)
    assert extent(picture, TRUTH) == (39, 79, 161, 241)


def test_large_slices_shrink_on_request_only() -> None:
    large = np.full((1024, 768), 50, dtype=np.int16)
    assert draw_boxes(large, None, window=WINDOW).shape == (1024, 768, 3)
    picture = draw_boxes(large, None, [[100, 200, 300, 400]], window=WINDOW, longer_side=512)
    assert picture.shape == (512, 384, 3)
    assert extent(picture, TRUTH) == (49, 99, 151, 201)


def test_a_box_over_the_border_is_drawn_as_far_as_it_goes() -> None:
    picture = draw_boxes(SLICE, {"boxes": [[600, 480, 680, 560]], "scores": [0.5]}, window=WINDOW)
    assert extent(picture, DETECTION)[2:] == (640, 512)


def test_the_callers_arrays_are_left_alone() -> None:
    boxes, hu_slice = np.array([[10.0, 20.0, 40.0, 60.0]]), SLICE.copy()
    draw_boxes(hu_slice, {"boxes": boxes, "scores": [0.5]}, boxes, window=WINDOW, caption="a")
    assert boxes.tolist() == [[10.0, 20.0, 40.0, 60.0]]
    np.testing.assert_array_equal(hu_slice, SLICE)


def test_a_caption_goes_below_and_explains_the_colours_in_use() -> None:
    predicted = {"boxes": [[10, 20, 40, 60]], "scores": [0.5]}
    plain = draw_boxes(SLICE, predicted, [[10, 20, 40, 60]], window=WINDOW)
    picture = draw_boxes(SLICE, predicted, [[10, 20, 40, 60]], window=WINDOW, caption="a caption")
    np.testing.assert_array_equal(picture[:512], plain)
    strip = picture[512:]
    assert len(where(strip, TRUTH)[0]) > 0
    assert len(where(strip, DETECTION)[0]) > 0
    assert len(where(strip, WRONG)[0]) == 0


def test_long_captions_wrap_and_a_notice_adds_to_every_picture() -> None:
    image = np.zeros((40, 300, 3), dtype=np.uint8)
    one = add_caption(image, "short")
    two = add_caption(image, "a caption that is much longer than the picture is wide, so that it must wrap")
    three = add_caption(image, "short", notice="not for use")
    assert one.shape[1] == two.shape[1] == 300
    assert len(two) > len(one)
    assert len(three) > len(one)
    uid = add_caption(image, "series 1.2.840.113619.2.55.3.604688119.969.1268071029.320.1148564131")
    # Nothing is cut off on the right: the last columns are free of text.
    for picture in (two, uid):
        assert len(np.unique(picture[40:, -6:].reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("shape", [(512,), (2, 512, 512), (0, 512)])
def test_a_slice_of_another_shape_is_rejected(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(H, W\), got"):
        draw_boxes(np.zeros(shape), None, window=WINDOW)


def test_an_empty_window_is_rejected() -> None:
    with pytest.raises(ValueError, match="low < high"):
        draw_boxes(SLICE, None, window=(40.0, 40.0))


def test_scores_must_match_boxes() -> None:
    with pytest.raises(ValueError, match="2 scores and 1 boxes"):
        draw_boxes(SLICE, {"boxes": [[1, 2, 30, 40]], "scores": [0.5, 0.4]}, window=WINDOW)


def test_png_keeps_the_colours(tmp_path: Path) -> None:
    picture = draw_boxes(SLICE, None, [[100, 200, 180, 240]], window=WINDOW)
    path = tmp_path / "new" / "a.png"
    write_png(picture, path)
    stored = cv2.imread(str(path))
    assert stored is not None
    np.testing.assert_array_equal(stored[..., ::-1], picture)
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_a_png_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match=r"Cannot write .*a\.png"):
        write_png(np.zeros((4, 4, 3), dtype=np.uint8), tmp_path / "taken" / "a.png")


def test_a_real_lesion_is_not_covered(shared: Path) -> None:
    path = shared / "data/deeplesion/Images_png/000001_01_01/109.png"
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert stored is not None
    hu_slice = stored.astype(np.int32) - 32768
    box = np.array([[225.169, 89.0204, 240.252, 110.977]])
    plain = draw_boxes(hu_slice, None, window=WINDOW)
    drawn = draw_boxes(hu_slice, {"boxes": box + 0.2, "scores": [0.9]}, box, window=WINDOW)
    np.testing.assert_array_equal(drawn[90:110, 226:240], plain[90:110, 226:240])
    assert (drawn != plain).any()
