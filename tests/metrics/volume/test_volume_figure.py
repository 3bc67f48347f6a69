"""The FROC figure of volumes."""

from __future__ import annotations

import pytest

from scripts.metrics.bootstrap import Bootstrap
from scripts.metrics.froc import curve_from_matches
from scripts.metrics.volume.volume_evaluation import evaluate_volumes
from scripts.metrics.volume.volume_figure import volume_froc_figure
from support.fake_evaluations import volume_cases


def test_the_figure_names_what_it_shows() -> None:
    metrics, matches = evaluate_volumes(volume_cases(), bootstrap=Bootstrap(resamples=5))
    curves = {name: curve_from_matches(one) for name, one in matches.items()}
    figure = volume_froc_figure(curves, metrics, dataset_name="two volumes", notice="Nothing real.")
    (axes,) = figure.axes
    assert axes.get_title() == "Nothing real."
    assert axes.get_xlabel() == "false positives per volume"
    assert axes.get_xlim() == (0.125, 16.0)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(labels) == len(metrics["protocols"]) == 5
    assert labels[0].startswith("3D IoBB 0.3, 1 lesions (3D boxes)")
    assert labels[3].startswith("P3D IoU 0.5, 2 lesions (boxes on key slices)")


def test_protocols_without_a_lesion_are_left_out() -> None:
    cases = [{**case, "true_boxes": []} for case in volume_cases()]
    metrics, matches = evaluate_volumes(cases, bootstrap=Bootstrap(resamples=0))
    curves = {name: curve_from_matches(one) for name, one in matches.items()}
    figure = volume_froc_figure(curves, metrics, dataset_name="two volumes")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [label.split(",")[0] for label in labels] == ["P3D IoU 0.5", "P3D IoU 0.5 by slice"]


def test_a_figure_without_curves_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least one FROC curve"):
        volume_froc_figure({}, {}, dataset_name="none")
