"""Slices of a series, and the laws of the official preset against DeepLesion's percentiles."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.data.synthetic import resolve
from scripts.data.synthetic.annotations import recist
from scripts.data.synthetic.foci import close, draw_profile
from scripts.data.synthetic.series import draw_interval, draw_series, draw_slices, draw_spacing, merge_blocks

OFFICIAL = resolve("deeplesion")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(8)


def near(values: list[float] | np.ndarray, points: dict[float, float], relative: float) -> None:
    for percent, expected in points.items():
        assert np.percentile(values, percent) == pytest.approx(expected, rel=relative), f"at {percent} %"


def test_box_sizes_and_ratios_follow_the_official_percentiles(rng: np.random.Generator) -> None:
    sides = []
    for _ in range(2500):
        spacing = draw_spacing(rng, OFFICIAL)
        sides.append(np.ptp(recist(draw_profile(rng, OFFICIAL, height=0.0, spacing=spacing).contour(36)), axis=0) + 10)
    width, height = np.array(sides).T
    near(np.sqrt(width * height), {5: 15.5, 25: 22.0, 50: 28.5, 75: 40.5, 95: 74.9}, 0.08)
    near(np.maximum(width / height, height / width), {25: 1.07, 50: 1.15, 75: 1.29, 95: 1.66}, 0.05)


def test_extents_along_z_follow_the_hand_labelled_boxes(rng: np.random.Generator) -> None:
    ratios = []
    for _ in range(2000):
        shape = close(rng, OFFICIAL, shape=draw_profile(rng, OFFICIAL, height=0.0, spacing=0.8), spacing=0.8)
        ratios.append(2 * shape.half_height / (2 * np.sqrt(np.prod(shape.axes)) * 0.8))
    near(ratios, {5: 0.38, 50: 0.78, 95: 1.33}, 0.15)


def test_spacings_and_intervals_follow_the_official_percentiles(rng: np.random.Generator) -> None:
    near(
        [draw_spacing(rng, OFFICIAL) for _ in range(3000)], {5: 0.631, 25: 0.742, 50: 0.816, 75: 0.895, 95: 0.977}, 0.02
    )
    intervals = np.array([draw_interval(rng, OFFICIAL) for _ in range(4000)])
    assert (intervals == 5).mean() == pytest.approx(0.50, abs=0.03)
    assert (intervals == 1).mean() == pytest.approx(0.47, abs=0.03)
    assert 0.005 < (~np.isin(intervals, (5, 1, 2))).mean() < 0.02


def test_sub_volumes_reach_as_far_as_in_deeplesion(rng: np.random.Generator) -> None:
    millimetres, blocks = [], []
    for _ in range(2000):
        keys = int(rng.geometric(1 / OFFICIAL.keys_per_series))
        interval = draw_interval(rng, OFFICIAL)
        numbers, stored, _ = draw_slices(rng, OFFICIAL, keys=keys, interval=interval)
        blocks.append(len(stored))
        for number in numbers:
            first = max(block[0] for block in stored if block[0] <= number)
            millimetres.append((number - first) * interval)
    near(millimetres, {5: 30, 25: 30, 50: 30, 75: 55, 90: 85}, 0.15)
    assert np.mean(np.array(millimetres) < 29) == pytest.approx(0.013, abs=0.012)
    assert 0.2 < np.mean(np.array(blocks) > 1) < 0.35


@pytest.mark.parametrize("interval", [0.25, 0.6, 1.0, 5.0])
def test_keys_are_distinct_stored_and_named_with_three_digits(rng: np.random.Generator, interval: float) -> None:
    for keys in (1, 2, 7):
        numbers, blocks, first_height = draw_slices(rng, OFFICIAL, keys=keys, interval=interval)
        assert len(set(numbers)) == keys == len(numbers)
        assert numbers == sorted(numbers)
        assert all(any(first <= number <= last for first, last in blocks) for number in numbers)
        assert blocks[0][0] >= 1
        assert blocks[-1][1] <= 999
        assert -250 < first_height + (numbers[0] - 1) * interval < 350


def test_blocks_that_overlap_or_touch_are_joined() -> None:
    assert merge_blocks([(10, 14), (1, 5), (6, 8), (12, 20)]) == ((1, 8), (10, 20))


def test_unlabelled_lesions_are_as_many_as_asked_for(rng: np.random.Generator) -> None:
    settings = resolve("small", {"unlabelled_per_lesion": 3.0, "tubes": (1, 1), "margin_mm": 30.0})
    series = [draw_series(rng, settings, keys=1, body_seed=seed) for seed in range(25)]
    labelled = sum(focus.labelled for one in series for focus in one.foci)
    lesions = sum(focus.lesion for one in series for focus in one.foci)
    assert 2.0 < (lesions - labelled) / labelled < 4.0


def test_series_of_one_patient_share_the_torso(rng: np.random.Generator) -> None:
    settings = resolve("small")
    first, second = (draw_series(rng, settings, keys=1, body_seed=5) for _ in range(2))
    other = draw_series(rng, settings, keys=1, body_seed=6)
    assert (first.body.half_width, first.body.rim) == (second.body.half_width, second.body.rim)
    assert first.body.half_width != other.body.half_width
