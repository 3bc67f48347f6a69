"""The order of a study's runs: each once, the first seed of every row first, learning rates chosen on validation."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from research.study_commands import Planner, Run
from research.study_plan import Row, Setting, Table
from research.study_pretraining import pretraining_run
from research.study_runs import STUDY, RunFailed, execute, read_result
from scripts.storage.output_folder import FolderLock

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 5.0


def chosen_rate(planner: Planner, setting: Setting, rates: Sequence[float], seed: int) -> tuple[float | None, dict]:
    """The learning rate of a setting.

    Args:
        planner: Makes the runs.
        setting: The setting.
        rates: Rates that were tried; none for the overlays' own.
        seed: Seed with which they were tried.

    Returns:
        The rate with the best mean sensitivity on the validation split (the first of equals; None if none has
        finished or none was to be tried), and that score by rate.
    """
    scores: dict[float, float] = {}
    for rate in rates:
        try:
            result = read_result(planner.run(setting, seed, rate), planner.places)
        except RunFailed:
            continue
        score = None if result is None else result.get("validation")
        if score is not None:
            scores[rate] = score
    return (max(scores, key=lambda rate: scores[rate]) if scores else None), scores


@dataclass
class Campaign:
    """All runs of some rows.

    Attributes:
        planner: Makes the runs.
        rows: Rows with their tables.
        seeds: Seeds of every row.
        rates: Learning rates to try with the first seed; none for the overlays' own.
    """

    planner: Planner
    rows: Sequence[tuple[Table, Row]]
    seeds: tuple[int, ...]
    rates: tuple[float, ...] = ()
    _failures: dict[str, str] = field(default_factory=dict)
    _left: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if not self.rows or not self.seeds:
            raise ValueError("Expected at least one row to run and one seed, got none.")
        fingerprints: dict[Any, str] = {}
        for run in self.all_runs():
            mark = run.fingerprint(self.planner.places)
            if fingerprints.setdefault(run.folder, mark) != mark:
                raise ValueError(f"Expected one run for each folder, two different ones would write {run.folder}.")

    def settings(self) -> list[Setting]:
        """Different trainings behind the rows, in their order."""
        found: dict[str, Setting] = {}
        for table, row in self.rows:
            setting = self.planner.study.resolve(table.name, row.id, self.planner.profile)
            found.setdefault(setting.key, setting)
        return list(found.values())

    def all_runs(self) -> Iterator[Run]:
        """Every run, the tried learning rates included; of later seeds one for each rate that may be chosen."""
        if any(self.planner.run(setting, 0).made_here for setting in self.settings()):
            yield pretraining_run(self.planner)
        for seed in self.seeds:
            for setting in self.settings():
                for rate in self.rates or (None,):
                    yield self.planner.run(setting, seed, rate)

    def carry_out(self, report: Callable[[Mapping[str, str]], None]) -> dict[str, str]:
        """Do all runs; a failing one does not keep the others from running.

        Several studies may run in one folder, say one for each GPU: each leaves alone what another is running.

        Args:
            report: Called with the failures after every run that was not there before, and at the end.

        Returns:
            What failed: key and seed, and why.
        """
        settings, (first, *later) = self.settings(), self.seeds
        if any(self.planner.run(setting, 0).made_here for setting in settings):
            self._share([pretraining_run(self.planner)], report)
        self._share(self._runs(settings, first), report)
        for seed in later:
            # Here and not before: the rates are chosen by the runs of the first seed.
            self._share(self._runs(settings, seed), report)
        self._report(report)
        return self._failures

    def _runs(self, settings: Sequence[Setting], seed: int) -> list[Run]:
        return [self.planner.run(setting, seed, rate) for setting in settings for rate in self._rates(setting, seed)]

    def _share(self, runs: Sequence[Run], report: Callable[[Mapping[str, str]], None]) -> None:
        """Do runs; those of another study come last, as it may end without finishing them."""
        waiting = list(runs)
        while waiting:
            busy = [run for run in waiting if not self._try(run, report)]
            if len(busy) == len(waiting):
                time.sleep(_PAUSE_SECONDS)
            waiting = busy

    def _report(self, report: Callable[[Mapping[str, str]], None]) -> None:
        with FolderLock(self.planner.places.output, STUDY).acquire(wait=True):
            report(self._failures)

    def _rates(self, setting: Setting, seed: int) -> Sequence[float | None]:
        if not self.rates or (seed == self.seeds[0]):
            return self.rates or (None,)
        best, _ = chosen_rate(self.planner, setting, self.rates, self.seeds[0])
        return () if best is None else (best,)

    def _try(self, run: Run, report: Callable[[Mapping[str, str]], None]) -> bool:
        """Do a run; False if another study is doing it."""
        name = f"{run.key}, seed {run.seed}" + ("" if run.rate is None else f", rate {run.rate:g}")
        try:
            if read_result(run, self.planner.places) is not None:
                logger.info("%s: done before.", name)
                return True
            start = time.monotonic()
            result = execute(run, self.planner.places)
        except BlockingIOError:
            if name not in self._left:
                logger.info("%s: another study is at it.", name)
            self._left.add(name)
            return False
        except (RunFailed, OSError, ValueError, KeyError) as error:
            logger.error("%s: failed. %s", name, error)
            self._failures[name] = str(error)
            return True
        figures = result.get("metrics")
        found = "" if figures is None else f", MAP@0.5 {100 * figures['ap50']:.1f}"
        logger.info("%s: %.0f s%s.", name, time.monotonic() - start, found)
        self._report(report)
        return True
