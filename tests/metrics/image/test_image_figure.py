"""The FROC figure of images and the paper's points in it."""

from __future__ import annotations

import pytest

from scripts.metrics.froc import froc_curve
from scripts.metrics.image.image_figure import PAPER_POINTS, froc_figure
from support.fake_evaluations import image_cases

NOTICE = "Synthetic data, not comparable with DeepLesion."


def test_the_paper_is_quoted_right() -> None:
    assert PAPER_POINTS["MP3D FPN, 9 slices"] == (79.60, 85.29, 89.61, 92.45)
    assert PAPER_POINTS["FPN+3DCE, 9 slices"] == (74.06, 82.00, 87.58, 91.56)


def test_figure_says_what_is_from_where() -> None:
    curves = {"9 slices": froc_curve(image_cases()), "1 slice": froc_curve(image_cases(3))}
    for notice, quoted in ((None, len(PAPER_POINTS)), (NOTICE, 0)):
        figure = froc_figure(curves, dataset_name="invented boxes", notice=notice)
        (legend,) = figure.legends
        labels = [text.get_text() for text in legend.get_texts()]
        assert labels[:quoted] == [f"paper, on DeepLesion: {name}" for name in PAPER_POINTS][:quoted]
        assert labels[quoted].startswith("ours, on invented boxes: 9 slices")
        assert labels[quoted + 1].startswith("ours, on invented boxes: 1 slice")
        assert figure.axes[0].get_title() == (notice or "")
    assert figure.get_suptitle() == "FROC on invented boxes"


def test_a_figure_without_curves_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least one FROC curve"):
        froc_figure({}, dataset_name="nothing")
