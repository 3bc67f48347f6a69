"""Probabilities from scores: rising, honest on patients held out, measured as defined."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from scripts.metrics.calibration import fit_isotonic, held_out_probabilities, reliability, write_reliability_figure


def drawn(count: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, hits with the probability score squared, and patients."""
    generator = np.random.default_rng(0)
    scores = generator.uniform(size=count)
    return scores, generator.uniform(size=count) < scores**2, np.arange(count) // 10


def test_calibration_finds_the_law() -> None:
    scores, hits, _ = drawn()
    knots = fit_isotonic(scores, hits)
    assert (np.diff(knots["scores"]) > 0).all()
    assert (np.diff(knots["probabilities"]) >= 0).all()
    assert all(type(value) is float for values in knots.values() for value in values)
    at = np.array([0.2, 0.5, 0.8])
    np.testing.assert_allclose(np.interp(at, knots["scores"], knots["probabilities"]), at**2, atol=0.08)


def test_calibration_helps_patients_that_it_never_saw() -> None:
    scores, hits, patients = drawn()
    held_out = held_out_probabilities(scores, hits, [str(patient) for patient in patients])
    assert reliability(held_out, hits)["ece"] < 0.04 < reliability(scores, hits)["ece"]
    assert reliability(held_out, hits)["brier"] < reliability(scores, hits)["brier"]


def test_measures_are_those_of_their_definition() -> None:
    result = reliability(np.array([0.05, 0.05, 1.0, 1.0]), np.array([False, True, True, True]))
    assert result["ece"] == pytest.approx(0.5 * 0.45)
    assert result["brier"] == pytest.approx((0.05**2 + 0.95**2) / 4)
    assert [row["boxes"] for row in result["bins"]] == [2, 2]


@pytest.mark.parametrize("hits", [np.zeros(3, dtype=bool), np.ones(3, dtype=bool), np.zeros(0, dtype=bool)])
def test_one_kind_of_box_alone_calibrates_nothing(hits: np.ndarray) -> None:
    with pytest.raises(ValueError, match="boxes that hit and boxes that do not"):
        fit_isotonic(np.linspace(0, 1, len(hits)), hits)


def test_one_patient_alone_judges_nothing() -> None:
    with pytest.raises(ValueError, match="at least two patients"):
        held_out_probabilities(np.array([0.1, 0.9]), np.array([False, True]), ["a", "a"])


def test_figure_is_a_picture(tmp_path: Path) -> None:
    scores, hits, _ = drawn(100)
    path = tmp_path / "reliability.png"
    write_reliability_figure({"score": reliability(scores, hits)}, path, title="fakes", notice="Made up.")
    picture = cv2.imread(str(path))
    assert picture is not None
    assert picture.std() > 10
