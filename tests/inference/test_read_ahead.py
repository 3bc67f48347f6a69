"""One step ahead, never two; errors come where the result would have come; no thread is left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial

import pytest

from scripts.inference.read_ahead import read_ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_all_results_come_in_order(count: int) -> None:
    assert list(read_ahead(partial(pow, number, 2) for number in range(count))) == [n * n for n in range(count)]
    assert threads() == []


def test_the_next_is_made_while_one_is_used_and_not_more() -> None:
    made: list[int] = []
    done = [threading.Event() for _ in range(4)]

    def make(number: int) -> int:
        made.append(number)
        done[number].set()
        return number

    results = read_ahead(partial(make, number) for number in range(4))
    assert next(results) == 0
    # In use: 0. Made in the background meanwhile: 1, and not 2.
    assert done[1].wait(10)
    assert made == [0, 1]
    assert next(results) == 1
    assert done[2].wait(10)
    assert made == [0, 1, 2]
    results.close()
    assert threads() == []
    assert made == [0, 1, 2]


def test_it_runs_in_another_thread() -> None:
    names = list(read_ahead([lambda: threading.current_thread().name]))
    assert names[0] != threading.current_thread().name


def test_an_error_comes_in_its_turn() -> None:
    def fail() -> int:
        raise ValueError("slice 2 is damaged")

    calls: list[Callable[[], int]] = [lambda: 1, lambda: 2, fail, lambda: 4]
    results, found = read_ahead(calls), list[int]()
    with pytest.raises(ValueError, match="slice 2 is damaged"):
        found.extend(results)
    assert found == [1, 2]
    assert threads() == []


def test_who_stops_early_leaves_no_thread() -> None:
    def use() -> None:
        with closing(read_ahead(partial(pow, number, 2) for number in range(9))) as results:
            next(results)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert threads() == []
