"""What the runs of a setting gave: by seed, as mean, spread and interval, and as differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import stats

from research.run_order import chosen_rate
from research.study_commands import Planner
from research.study_plan import COLUMNS, Setting
from research.study_runs import RunFailed, RunResult, read_result

MEAN, MAP = "mean sensitivity", "MAP@0.5"


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, in points.

    Attributes:
        mean: The mean.
        spread: Standard deviation over seeds; None for one seed.
        interval: 95 % interval of the mean by Student's t over seeds; None for one seed.
        seeds: Number of seeds.
    """

    mean: float
    spread: float | None
    interval: tuple[float, float] | None
    seeds: int


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, spread and 95 % interval of values of different seeds.

    Raises:
        ValueError: If there are no values.
    """
    if not values:
        raise ValueError("Expected values of at least one seed, got none.")
    count, mean = len(values), float(np.mean(values))
    if count == 1:
        return Estimate(mean, None, None, 1)
    spread = float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.975, count - 1)) * spread / math.sqrt(count)
    return Estimate(mean, spread, (mean - half, mean + half), count)


@dataclass(frozen=True)
class Outcome:
    """The finished runs of a setting.

    Attributes:
        setting: The setting.
        results: Result of each finished seed.
        folders: Folder of each finished seed's evaluation.
        rate: Learning rate chosen on the validation split; None for the overlays' own.
        tried: Validation score of each rate that was tried.
    """

    setting: Setting
    results: Mapping[int, RunResult] = field(default_factory=dict)
    folders: Mapping[int, Path] = field(default_factory=dict)
    rate: float | None = None
    tried: Mapping[float, float] = field(default_factory=dict)

    def values(self, column: str) -> dict[int, float]:
        """A figure in per cent by seed; ``column`` is one of ``COLUMNS`` or ``MEAN``."""
        return {seed: 100 * value for seed, one in self.results.items() if (value := _figure(one, column)) is not None}

    def patient_intervals(self, column: str) -> list[tuple[float, float]]:
        """95 % intervals in per cent by bootstrap over test patients, one for each seed that has one."""
        found = []
        for result in self.results.values():
            metrics = result["metrics"]
            spans = {MAP: metrics["ap50_interval"], MEAN: metrics["mean_sensitivity_interval"]}
            span = spans[column] if column in spans else metrics["sensitivity_interval"].get(column)
            if span is not None:
                found.append((100 * span[0], 100 * span[1]))
        return found

    def seconds(self) -> float:
        """Mean seconds of training and evaluation."""
        return float(np.mean([sum(step["seconds"] for step in one["steps"].values()) for one in self.results.values()]))

    def peak_bytes(self) -> int:
        """Most memory of a training over seeds, bytes: on the GPU where it ran on one, else resident."""
        return max(one.get("gpu_peak_bytes") or one["steps"]["training"]["peak_bytes"] for one in self.results.values())


def _figure(result: RunResult, column: str) -> float | None:
    metrics = result["metrics"]
    if column == MAP:
        return metrics["ap50"]
    return metrics["mean_sensitivity"] if column == MEAN else metrics["sensitivity"].get(column)


def outcome(planner: Planner, setting: Setting, seeds: Sequence[int], rates: Sequence[float] = ()) -> Outcome:
    """Collect what the runs of a setting have left; runs that are missing, unfinished or of other commands are not in.

    Args:
        planner: Makes the runs.
        setting: The setting.
        seeds: Seeds to look for; with learning rates the first is the one with which they were tried.
        rates: Learning rates that were tried.
    """
    rate, tried = chosen_rate(planner, setting, rates, seeds[0])
    if rates and rate is None:
        return Outcome(setting)
    results, folders = {}, {}
    for seed in seeds:
        run = planner.run(setting, seed, rate)
        try:
            result = read_result(run, planner.places)
        except RunFailed:
            continue
        if result is not None:
            results[seed], folders[seed] = result, run.folder / "evaluation"
    return Outcome(setting, results, folders, rate, tried)


def difference(terms: Sequence[tuple[float, Outcome]], column: str) -> Estimate | None:
    """Weighted sum of outcomes, paired by seed.

    Args:
        terms: Weight and outcome: ``[(1, a), (-1, b)]`` for a - b.
        column: One of ``COLUMNS`` or ``MEAN``.

    Returns:
        The estimate in points; None if no seed has finished in all of them.
    """
    if column not in (*COLUMNS, MEAN):
        raise ValueError(f"Expected a column out of {(*COLUMNS, MEAN)}, got {column!r}.")
    by_seed = [(weight, one.values(column)) for weight, one in terms]
    common = set.intersection(*(set(values) for _, values in by_seed))
    sums = [sum(weight * values[seed] for weight, values in by_seed) for seed in sorted(common)]
    return estimate(sums) if sums else None
