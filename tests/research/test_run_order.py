"""The order of runs: shared rows once, first seeds first, rates by validation, failures do not stop the rest."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from research import run_order
from research.run_order import Campaign, chosen_rate
from research.study_commands import Places, Planner, Run
from research.study_runs import RunFailed, read_result
from support.fake_runs import finish, planner_in


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    return planner_in(tmp_path)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch, planner: Planner) -> list[Run]:
    """Runs in the order in which they are executed; one with CTM fails, a rate of 0.006 scores best."""
    done: list[Run] = []

    def fake(run: Run, places: Places) -> Mapping[str, Any] | None:
        if "ctm" in run.key:
            raise RunFailed("the centre does not hold")
        done.append(run)
        finish(planner, run, ap50=0.5, validation=0.6 if run.rate == 0.006 else 0.5)
        return read_result(run, places)

    monkeypatch.setattr(run_order, "execute", fake)
    return done


def campaign(planner: Planner, tables: str, rows: list[str], seeds: tuple[int, ...] = (0,), **more: Any) -> Campaign:
    return Campaign(planner, planner.study.select(tables, rows), seeds, **more)


def test_rows_of_several_tables_run_once(planner: Planner, executed: list[Run]) -> None:
    reports: list[Mapping[str, str]] = []
    one = campaign(planner, "1234", ["mp3d_9", "scratch_2x", "mp3d_1"], (0, 1))
    assert one.carry_out(reports.append) == {}
    assert [(run.key, run.seed) for run in executed] == [
        ("mp3d_9_scratch_2x", 0), ("slices_1_scratch_2x", 0), ("mp3d_9_scratch_2x", 1), ("slices_1_scratch_2x", 1),
    ]  # fmt: skip
    assert len(reports) == 5
    campaign(planner, "1234", ["mp3d_9", "scratch_2x", "mp3d_1"], (0, 1)).carry_out(reports.append)
    assert len(executed) == 4


def test_a_failing_row_does_not_stop_the_rest(planner: Planner, executed: list[Run]) -> None:
    failures = campaign(planner, "3", []).carry_out(lambda failed: None)
    assert failures == {"conversion_ctm_scratch_2x, seed 0": "the centre does not hold"}
    assert len(executed) == 2


def test_later_seeds_run_at_the_rate_that_validation_chose(planner: Planner, executed: list[Run]) -> None:
    campaign(planner, "1", ["mp3d_9"], (0, 1), rates=(0.003, 0.006)).carry_out(lambda failed: None)
    assert [(run.seed, run.rate) for run in executed] == [(0, 0.003), (0, 0.006), (1, 0.006)]
    setting = planner.study.resolve("1", "mp3d_9", planner.profile)
    assert chosen_rate(planner, setting, (0.003, 0.006), 0) == (0.006, {0.003: 0.5, 0.006: 0.6})
    assert chosen_rate(planner, setting, (), 0) == (None, {})


def test_what_another_study_is_at_is_left_to_it_and_looked_at_again(
    planner: Planner, executed: list[Run], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake, refusals = run_order.execute, iter([True, True])

    def busy(run: Run, places: Places) -> Mapping[str, Any] | None:
        if run.key.startswith("mp3d_9") and next(refusals, False):
            raise BlockingIOError("at work")
        return fake(run, places)

    monkeypatch.setattr(run_order, "execute", busy)
    monkeypatch.setattr(run_order, "_PAUSE_SECONDS", 0.0)
    caplog.set_level("INFO")
    assert campaign(planner, "1", ["mp3d_9", "mp3d_1"], (0, 1)).carry_out(lambda failed: None) == {}
    assert [(run.key[:6], run.seed) for run in executed] == [
        ("slices", 0), ("mp3d_9", 0), ("mp3d_9", 1), ("slices", 1),
    ]  # fmt: skip
    assert caplog.text.count("mp3d_9_scratch_2x, seed 0: another study is at it.") == 1


def test_a_run_that_another_study_has_finished_is_taken_from_it(
    planner: Planner, executed: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(run: Run, places: Places) -> Mapping[str, Any] | None:
        finish(planner, run, ap50=0.5)
        raise BlockingIOError("at work")

    monkeypatch.setattr(run_order, "execute", other)
    monkeypatch.setattr(run_order, "_PAUSE_SECONDS", 0.0)
    assert campaign(planner, "1", ["mp3d_9"]).carry_out(lambda failed: None) == {}
    assert executed == []


def test_the_pre_training_comes_first_where_rows_need_it(planner: Planner) -> None:
    runs = list(campaign(planner, "4", ["pretrained_1x"]).all_runs())
    assert [run.key for run in runs] == ["pretraining", "mp3d_9_pretrained_1x"]
    assert [run.key for run in campaign(planner, "4", ["scratch_1x"]).all_runs()] == ["mp3d_9_scratch_1x"]


def test_two_runs_of_one_folder_are_rejected(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Planner.run

    def colliding(self: Planner, *arguments: Any) -> Run:
        return replace(original(self, *arguments), folder=self.places.output / "same")

    monkeypatch.setattr(Planner, "run", colliding)
    with pytest.raises(ValueError, match=r"two different ones would write .*same"):
        campaign(planner, "1", ["mp3d_9", "mp3d_1"])


def test_nothing_to_run_is_rejected(planner: Planner) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        Campaign(planner, [], (0,))
    with pytest.raises(ValueError, match="one seed"):
        campaign(planner, "1", ["mp3d_9"], ())


# What a run does here: it says when it begins and when it ends.
STEP = """
import os, time
def say(word):
    with open({log!r}, "a") as file:
        file.write(f"{{word}} {{os.environ['HOST']}} {key}\\n")
say("begin")
time.sleep(0.2)
say("end")
"""


class ScriptedPlanner(Planner):
    """A planner whose runs are scripts; those of every host are the same ones."""

    def run(self, *arguments: Any) -> Run:
        made = super().run(*arguments)
        code = STEP.format(log=str(self.places.output / "log.txt"), key=made.key)
        words = (sys.executable, "-c", code)
        return replace(made, steps={"images": words})


def study_on_host(planner: Planner, name: str) -> None:
    """Two studies of one machine, in a process group of their own."""
    os.setpgrp()
    os.environ["HOST"] = name
    run_order._PAUSE_SECONDS = 0.05
    other = multiprocessing.get_context("fork").Process(target=_study, args=(planner,))
    other.start()
    _study(planner)
    other.join()
    os._exit(other.exitcode or 0)


def _study(planner: Planner) -> None:
    assert campaign(planner, "1", []).carry_out(lambda failed: None) == {}


def test_a_host_that_shares_the_folder_takes_over_from_one_that_was_killed(tmp_path: Path) -> None:
    made = planner_in(tmp_path)
    planner = ScriptedPlanner(made.study, made.profile, made.places, made.options)
    log = planner.places.output / "log.txt"
    planner.places.output.mkdir(parents=True)
    log.touch()

    def lines(*words: str) -> list[list[str]]:
        said = [line.split() for line in log.read_text().splitlines()]
        return [line for line in said if line[: len(words)] == [*words]]

    context = multiprocessing.get_context("fork")
    killed, left = (context.Process(target=study_on_host, args=(planner, name)) for name in ("one", "two"))
    killed.start()
    left.start()
    while len(lines("begin", "one")) == len(lines("end", "one")) or not lines("begin", "two"):
        assert killed.is_alive()
        time.sleep(0.01)
    os.killpg(killed.pid or 0, signal.SIGKILL)
    killed.join()
    lost = Counter(key for _, _, key in lines("begin", "one")) - Counter(key for _, _, key in lines("end", "one"))
    left.join()
    assert (killed.exitcode, left.exitcode) == (-signal.SIGKILL, 0)
    keys = {run.key for run in campaign(planner, "1", []).all_runs()}
    assert lost
    assert len(keys) > 3
    # Every run was done to its end once; only those that the kill cut short were begun again.
    assert Counter(key for _, _, key in lines("end")) == Counter(keys)
    assert Counter(key for _, _, key in lines("begin")) == Counter(keys) + lost
    assert {key for _, _, key in lines("end", "two")} >= set(lost)
    assert all(read_result(run, planner.places) is not None for run in campaign(planner, "1", []).all_runs())
    assert not list(planner.places.output.rglob(".lock"))
