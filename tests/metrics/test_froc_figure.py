"""Curves, points and bars of a FROC figure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from scripts.metrics.froc import froc_curve, sensitivity_at
from scripts.metrics.froc_figure import ShownCurve, bar, draw_froc, draw_line, write_froc_figure
from scripts.metrics.froc_numbers import PER_IMAGE
from support.fake_evaluations import image_cases


def drawn_points(figure: Figure) -> list[np.ndarray]:
    (axes,) = figure.axes
    lines = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()) > 1]
    return [np.column_stack([line.get_xdata(), line.get_ydata()]) for line in lines]


def test_points_are_the_sensitivities_in_percent() -> None:
    curve = froc_curve(image_cases())
    figure = draw_froc([ShownCurve("a", curve)], PER_IMAGE, title="A title")
    (points,) = drawn_points(figure)
    np.testing.assert_array_equal(points[:, 0], PER_IMAGE.targets)
    np.testing.assert_array_equal(points[:, 1], 100 * sensitivity_at(curve))
    (axes,) = figure.axes
    assert axes.get_xlim() == (PER_IMAGE.targets[0], PER_IMAGE.targets[-1])
    assert axes.get_xlabel() == "false positives per image"
    assert figure.get_suptitle() == "A title"


def test_bars_reach_from_the_low_to_the_high_end() -> None:
    (below,), (above,) = bar(50.0, [0.4, 0.7])
    assert (50.0 - below, 50.0 + above) == pytest.approx((40.0, 70.0))
    # An interval that does not hold the estimate.
    assert bar(50.0, [0.6, 0.7])[0] == [0.0]


def test_the_legend_says_which_curves_have_bars_and_which_end_early() -> None:
    curve = froc_curve(image_cases())
    spans = {name: [0.1, 0.9] for name in PER_IMAGE.names}
    figure = draw_froc([ShownCurve("with", curve, spans), ShownCurve("without", curve)], PER_IMAGE, title="t")
    first, second = (text.get_text() for text in figure.legends[0].get_texts())
    assert first.startswith("with (bars: 95 %)")
    assert second.startswith("without (dotted")
    assert curve.fps_per_image[-1] < 16


def test_nothing_is_dotted_where_the_curve_reaches_the_end_of_the_axis() -> None:
    curve = froc_curve(image_cases())
    assert draw_line(Figure().subplots(), curve, 0.25, float(curve.fps_per_image[-1]), {}) == ""
    assert "dotted" in draw_line(Figure().subplots(), curve, 0.25, 16.0, {})


def test_curves_without_a_lesion_are_left_out() -> None:
    curve = froc_curve(image_cases())
    empty = replace(curve, num_lesions=0)
    figure = draw_froc([ShownCurve("a", empty), ShownCurve("b", curve)], PER_IMAGE, title="t")
    assert len(drawn_points(figure)) == 1
    assert not draw_froc([ShownCurve("a", empty)], PER_IMAGE, title="t").legends
    with pytest.raises(ValueError, match="at least one FROC curve"):
        draw_froc([], PER_IMAGE, title="t")


def test_the_picture_has_the_size_of_the_figure(tmp_path: Path) -> None:
    write_froc_figure(draw_froc([ShownCurve("a", froc_curve(image_cases()))], PER_IMAGE, title="t"), tmp_path / "a.png")
    picture = cv2.imread(str(tmp_path / "a.png"))
    assert picture is not None
    assert picture.shape[:2] == (810, 1080)
