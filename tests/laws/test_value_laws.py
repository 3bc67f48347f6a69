"""Laws of values: calibration, the intensity window, the learning rate and unevenly spaced slices."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from scripts.data.intensity import IntensityWindow
from scripts.data.scans.uneven_spacing import even_places, spread, to_places, to_slices
from scripts.metrics.calibration import fit_isotonic, reliability
from scripts.training.learning_rate import scale_learning_rate, warmup_step_factor
from support.drawn_values import SEEDS

WINDOWS = st.builds(IntensityWindow, st.floats(-2000, 0), st.floats(10, 3000), st.floats(-100, 200), st.floats(0.5, 90))
GAPS = st.lists(st.integers(1, 7), min_size=1, max_size=9)


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=2, max_size=60))
def test_calibration_rises_and_keeps_the_share_of_hits(rows: list[tuple[int, bool]]) -> None:
    scores, hits = np.array([score / 20 for score, _ in rows]), np.array([hit for _, hit in rows])
    assume(hits.any() and not hits.all())
    knots = fit_isotonic(scores, hits)
    found = np.interp(np.linspace(-0.5, 1.5, 101), knots["scores"], knots["probabilities"])
    assert (np.diff(found) >= 0).all()
    assert ((found >= 0) & (found <= 1)).all()
    calibrated = np.interp(scores, knots["scores"], knots["probabilities"])
    np.testing.assert_allclose(calibrated.mean(), hits.mean(), atol=1e-6)
    # No other rising function is nearer to the outcomes; the scores themselves are one.
    assert reliability(calibrated, hits)["brier"] <= reliability(scores, hits)["brier"] + 1e-9


@given(WINDOWS, st.lists(st.integers(-3024, 4000), min_size=1, max_size=30))
def test_a_window_leads_back_to_clipped_hounsfield_units(window: IntensityWindow, units: list[int]) -> None:
    hu = np.array(units, dtype=np.float64)
    seen = window(hu)
    np.testing.assert_allclose(window.inverse(seen), np.clip(hu, window.low, window.high), atol=1e-6)
    order = np.argsort(hu)
    assert (np.diff(seen[order]) >= 0).all()
    np.testing.assert_allclose(window(torch.from_numpy(hu)).numpy(), seen, atol=1e-9)
    assert seen.min() >= window(np.array([window.low]))[0]
    assert seen.max() <= window(np.array([window.high]))[0]
    kept = hu.copy()
    np.testing.assert_array_equal(window(kept, inplace=True), seen)
    np.testing.assert_array_equal(kept, seen)


@given(
    st.integers(1, 50),
    st.lists(st.integers(0, 30), max_size=3),
    st.sampled_from([0.1, 0.5]),
    st.integers(0, 600),
    st.floats(0, 1),
)
def test_the_learning_rate_warms_up_evenly_and_then_only_falls(
    epoch_length: int, milestones: list[int], gamma: float, warmup: int, start: float
) -> None:
    factor = warmup_step_factor(
        epoch_length=epoch_length, milestones=milestones, gamma=gamma, warmup_iterations=warmup, warmup_start=start
    )
    steps = np.array([gamma ** sum(i // epoch_length >= m for m in milestones) for i in range(warmup + 200)])
    warm = np.array([factor(iteration) for iteration in range(warmup + 200)]) / steps
    # Without the milestones: a straight line that meets the full rate, then the full rate.
    expected = np.interp(np.arange(warmup + 200), [0, warmup], [start, 1]) if warmup else np.ones(200)
    np.testing.assert_allclose(warm, expected, atol=1e-12)
    after = [factor(iteration) for iteration in range(warmup, warmup + 40 * epoch_length, epoch_length)]
    assert (np.diff(after) <= 0).all()


@given(st.floats(1e-5, 1), st.integers(1, 64), st.integers(1, 16), st.integers(1, 8), st.integers(1, 8))
def test_the_learning_rate_is_proportional_to_the_images_of_a_step(
    rate: float, reference: int, batch: int, accumulated: int, processes: int
) -> None:
    found = scale_learning_rate(rate, reference, batch_size=batch, accumulation_steps=accumulated, world_size=processes)
    np.testing.assert_allclose(found / rate, batch * accumulated * processes / reference)


@given(GAPS, st.integers(-50, 50), st.integers(-300, 300), st.sampled_from([0.5, 1.0, 1.25, 2.5]))
def test_spread_slices_reproduce_what_is_linear_along_them(
    gaps: list[int], slope: int, offset: int, unit: float
) -> None:
    steps = np.concatenate([[0], np.cumsum(gaps)])
    places, step = even_places(100 + unit * steps)
    assert (np.diff(places) > 0).all()
    np.testing.assert_allclose(places * step, unit * steps, atol=0.02)
    planes = np.broadcast_to(slope * steps + offset, (2, 3, len(steps))).astype(np.int16)
    found = spread(planes, places)
    at = np.arange(found.shape[2]) * step / unit
    # Whole HU.
    assert np.abs(found - (slope * at + offset)).max() <= 0.5 + 0.02 / unit * abs(slope) + 1e-3
    np.testing.assert_array_equal(found[..., np.rint(places).astype(int)][..., [0, -1]], planes[..., [0, -1]])


@given(st.lists(st.floats(0.6, 9), min_size=1, max_size=9), SEEDS)
def test_places_and_slices_lead_to_each_other(gaps: list[float], seed: int) -> None:
    heights = np.concatenate([[0.0], np.cumsum(gaps)])
    places, _ = even_places(heights)
    at = np.sort(np.random.default_rng(seed).uniform(-3, len(heights) + 2, 20))
    np.testing.assert_allclose(to_slices(to_places(at, places), places), at, atol=1e-9)
    assert (np.diff(to_places(at, places)) >= 0).all()
    np.testing.assert_allclose(to_places(np.arange(len(heights)), places), places)
