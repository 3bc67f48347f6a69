"""Photographs with boxes: drawn where they are, on any size; sheets hold them all."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from scripts.inference.outputs.pictures.box_drawing import DETECTION, TRUTH
from scripts.inference.outputs.pictures.photograph_pictures import contact_sheet, draw_photograph


def test_boxes_stand_where_they_are_and_the_rest_is_left_alone() -> None:
    pixels = np.full((50, 100, 3), 90, dtype=np.uint8)
    drawn = np.asarray(draw_photograph(pixels, [([10, 10, 40, 40], "")], [([60, 10, 90, 40], "")], longer_side=200))
    assert drawn.shape == (100, 200, 3)
    assert drawn[20, 40].tolist() == list(DETECTION)
    assert drawn[20, 150].tolist() == list(TRUTH)
    assert drawn[50, 50].tolist() == [90, 90, 90]
    assert (drawn[:, 100:116] == 90).all()


def test_boxes_beyond_the_image_and_flat_ones_can_be_drawn() -> None:
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    picture = draw_photograph(pixels, [([-5, -5, 40, 30], "car 0.9"), ([5, 5, 5, 5], "flat")])
    assert picture.size == (320, 213)


def test_a_sheet_holds_every_picture() -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (9, 9, 9)]
    sheet = np.asarray(contact_sheet([Image.new("RGB", (20, 10), colour) for colour in colours], columns=3))
    assert sheet.shape == (20, 60, 3)
    assert [sheet[5, 10 + 20 * place].tolist() for place in range(3)] == [list(colour) for colour in colours[:3]]
    assert sheet[15, 10].tolist() == [9, 9, 9]
    assert sheet[15, 40].tolist() == [255, 255, 255]
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([])
