"""Timing of alternatives against each other, in turns, so that a busy machine slows all of them equally."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

# A file that `benchmarks._compare` names: each set of times becomes a line of JSON there.
TIMES = "BENCHMARK_TIMES"


def record(title: str, seconds: Mapping[str, float]) -> None:
    """Write times by name, in seconds, for `python -m benchmarks --compare`; no effect outside of it."""
    if path := os.environ.get(TIMES):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"title": title, "seconds": dict(seconds)}) + "\n")


def best(cases: Mapping[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """Time the cases in turns, after one untimed call of each.

    Args:
        cases: Functions to call, by name.
        rounds: Timed calls of each case.

    Returns:
        Shortest wall time of each case, in seconds: other work on the machine can only increase times.
    """
    for call in cases.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, call in cases.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in times.items()}


def compare(title: str, cases: Mapping[str, Callable[[], object]], rounds: int = 5) -> None:
    """Print a line per case: its best time, and how many times faster it is than the first case, its peer.

    Args:
        title: Heading of the lines.
        cases: Functions to call, by name; the first is the peer of the others.
        rounds: Timed calls of each case.
    """
    measured = best(cases, rounds)
    record(title, measured)
    peer = next(iter(measured.values()))
    print(f"{title} (best of {rounds})")
    for name, seconds in measured.items():
        print(f"  {name:<44} {1000 * seconds:10.1f} ms   {peer / seconds:7.2f}x", flush=True)
