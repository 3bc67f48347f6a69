"""Estimates over seeds: Student's interval, pairing by seed, rates chosen on validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from research.study_commands import Planner
from research.study_results import MAP, MEAN, difference, estimate, outcome
from support.fake_runs import finish, planner_in


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    return planner_in(tmp_path)


def finished(planner: Planner, name: str, values: dict[int, float], rate: float | None = None, score: float = 0.5):
    setting = planner.study.resolve("1", name, planner.profile)
    for seed, value in values.items():
        finish(planner, planner.run(setting, seed, rate), ap50=value, validation=score)
    return setting


def test_an_interval_is_students() -> None:
    found = estimate([60.0, 62.0, 67.0])
    assert found.mean == pytest.approx(63)
    assert found.spread == pytest.approx(np.std([60, 62, 67], ddof=1))
    assert found.interval is not None
    assert found.spread is not None
    assert found.interval[1] - found.mean == pytest.approx(4.303 * found.spread / np.sqrt(3), rel=3e-4)
    # Twelve and more seeds: 2.201 for 11 degrees of freedom, 2.045 for 29.
    for count, point in ((12, 2.201), (30, 2.045)):
        found = estimate([float(value) for value in range(count)])
        assert found.interval is not None
        assert found.spread is not None
        assert found.interval[1] - found.mean == pytest.approx(point * found.spread / np.sqrt(count), rel=3e-4)
    assert estimate([5.0]).interval is None
    assert estimate([4.0] * 30).interval == (4.0, 4.0)
    with pytest.raises(ValueError, match="at least one seed"):
        estimate([])


def test_coverage_of_the_interval() -> None:
    draws = np.random.default_rng(0).normal(50, 3, (2000, 3))
    inside = [span[0] <= 50 <= span[1] for row in draws if (span := estimate(row.tolist()).interval)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


def test_finished_seeds_are_collected_and_missing_ones_are_not(planner: Planner) -> None:
    setting = finished(planner, "mp3d_9", {0: 0.6, 2: 0.7})
    found = outcome(planner, setting, (0, 1, 2))
    assert found.values(MAP) == {0: 60.0, 2: 70.0}
    assert found.values("0.5")[0] == pytest.approx(50)
    assert found.patient_intervals(MAP)[0] == (pytest.approx(57), pytest.approx(63))
    assert found.seconds() == 180
    assert found.peak_bytes() == 2**30
    assert outcome(planner, planner.study.resolve("1", "mp3d_1", planner.profile), (0,)).results == {}


def test_results_of_other_commands_are_not_shown(planner: Planner) -> None:
    setting = finished(planner, "mp3d_9", {0: 0.6})
    (planner.places.dataset_dir / "synthetic.json").write_text('{"about": "other"}')
    assert outcome(planner, setting, (0,)).results == {}


def test_the_chosen_rate_decides_which_runs_count(planner: Planner) -> None:
    finished(planner, "mp3d_9", {0: 0.9}, 0.003, score=0.4)
    setting = finished(planner, "mp3d_9", {0: 0.6, 1: 0.62}, 0.006, score=0.5)
    found = outcome(planner, setting, (0, 1), (0.003, 0.006))
    assert found.rate == 0.006
    assert found.tried == {0.003: 0.4, 0.006: 0.5}
    assert found.values(MAP) == {0: 60.0, 1: 62.0}


def test_differences_are_paired_by_seed(planner: Planner) -> None:
    one = outcome(planner, finished(planner, "mp3d_9", {0: 0.60, 1: 0.70, 2: 0.80}), (0, 1, 2))
    other = outcome(planner, finished(planner, "mp3d_1", {0: 0.50, 1: 0.60}), (0, 1, 2))
    found = difference([(1, one), (-1, other)], MEAN)
    assert found is not None
    assert (found.mean, found.spread, found.seeds) == (pytest.approx(10), pytest.approx(0, abs=1e-9), 2)
    nothing = outcome(planner, planner.study.resolve("1", "mr3d_9", planner.profile), (0,))
    assert difference([(1, one), (-1, nothing)], MAP) is None
    with pytest.raises(ValueError, match="column out of"):
        difference([(1, one)], "3")
