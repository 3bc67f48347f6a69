"""Measurements of DeepLesion: ends and lengths in the slab frame, and the masks that MULAN makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scripts.data.deeplesion.recist import GRID, Measurements, polygon_mask, quarter_ellipses
from scripts.instances import Affine, move

SHARED = Path(__file__).resolve().parents[4] / "shared" / "reference" / "golden_field" / "mulan_extra.json"
ENDS = np.array([[30.0, 40.0], [70.0, 44.0], [48.0, 30.0], [52.0, 58.0]])
BOX = np.array([25.0, 25.0, 75.0, 63.0])
CELLS = {"Measurement_coordinates": "31, 41, 71, 45, 49, 31, 53, 59", "Lesion_diameters_Pixel_": "40.2, 28.3"}


def test_outline_is_that_of_mulan() -> None:
    if not SHARED.is_file():
        pytest.skip("the values of MULAN's own modules are not next to this checkout")
    golden = json.loads(SHARED.read_text())["recist_polygon"]
    for recist, polygon in zip(golden["recist"], golden["polygon"], strict=True):
        np.testing.assert_allclose(
            quarter_ellipses(np.reshape(recist, (4, 2))), np.reshape(polygon, (-1, 2)), atol=1e-9
        )


def test_outline_goes_through_all_ends() -> None:
    polygon = quarter_ellipses(ENDS)
    assert polygon.shape == (64, 2)
    for end in ENDS:
        assert np.linalg.norm(polygon - end, axis=1).min() < 1e-9


def test_outline_of_diameters_at_right_angles_is_an_ellipse() -> None:
    polygon = quarter_ellipses(np.array([[0.0, 5.0], [20.0, 5.0], [10.0, 0.0], [10.0, 10.0]]))
    np.testing.assert_allclose(np.hypot((polygon[:, 0] - 10) / 10, (polygon[:, 1] - 5) / 5), 1.0)


@pytest.mark.parametrize("ends", [ENDS[[0, 1, 0, 1]], np.zeros((4, 2)), ENDS[[0, 0, 2, 3]]])
def test_diameters_that_do_not_cross_give_a_finite_outline(ends: np.ndarray) -> None:
    assert np.isfinite(quarter_ellipses(ends)).all()


def test_mask_lies_over_the_box() -> None:
    mask = polygon_mask(np.array([[25.0, 25.0], [50.0, 25.0], [50.0, 63.0], [25.0, 63.0]]), BOX)
    assert mask.shape == (GRID, GRID)
    assert mask[:, : GRID // 2 - 1].all()
    assert not mask[:, GRID // 2 + 1 :].any()


def test_row_becomes_fields_in_the_slab_frame() -> None:
    found = Measurements(masks=True)(CELLS, 0, BOX, "row 2")
    np.testing.assert_allclose(found["recist"], ENDS)
    np.testing.assert_allclose(found["diameters"], (40.2, 28.3))
    np.testing.assert_array_equal(found["masks"], polygon_mask(quarter_ellipses(ENDS), BOX))
    assert {name: (value.shape, value.dtype) for name, value in found.items()} == {
        name: (none.shape[1:], none.dtype) for name, none in Measurements(masks=True).empty.items()
    }


@pytest.mark.parametrize(
    ("name", "cell", "count"),
    [
        ("Measurement_coordinates", "1, 2, 3", 8),
        ("Measurement_coordinates", "1, 2, 3, 4, 5, 6, 7, inf", 8),
        ("Lesion_diameters_Pixel_", "wide", 2),
    ],
)
def test_damaged_measurement_is_named(name: str, cell: str, count: int) -> None:
    with pytest.raises(ValueError, match=rf"^Expected {count} numbers as {name}, got '?{cell}'? in row 2\.$"):
        Measurements()({**CELLS, name: cell}, 0, BOX, "row 2")


def test_lesion_without_measurement_is_unknown_and_makes_no_mask() -> None:
    empty = dict.fromkeys(CELLS, "")
    assert np.isnan(Measurements()(empty, 0, BOX, "row 2")["recist"]).all()
    with pytest.raises(ValueError, match=r"to make a mask of, got none in row 2\.$"):
        Measurements(masks=True)(empty, 0, BOX, "row 2")


@pytest.mark.parametrize("by", [Affine(-1, 1, 200, 0), Affine(1, -1, 0, 150), Affine(-0.5, -0.5, 90, 80), Affine(2, 2)])
def test_mask_of_a_moved_measurement_is_the_moved_mask(by: Affine) -> None:
    lesion = {"boxes": BOX[None], "recist": ENDS[None], "masks": polygon_mask(quarter_ellipses(ENDS), BOX)[None]}
    moved = move(lesion, by)
    again = polygon_mask(quarter_ellipses(moved["recist"][0]), moved["boxes"][0])
    # COCO's raster is not the same from both sides: cells at the edge may differ.
    both, either = (moved["masks"][0] * again).sum(), np.maximum(moved["masks"][0], again).sum()
    assert both / either > 0.93
