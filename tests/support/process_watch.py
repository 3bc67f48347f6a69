"""Memory, open files and threads of this process over time."""

from __future__ import annotations

import gc
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

STATUS = Path("/proc/self/status")
_MIB = 1 << 20
# Below what 300 small volumes would hold, above what an allocator keeps.
SPREAD_MIB = 12.0


@dataclass(frozen=True)
class Sample:
    """One look.

    Attributes:
        done: Pieces of work that are done.
        mebibytes: Resident memory.
        files: Open files.
        threads: Threads of the process, those of libraries included.
    """

    done: int
    mebibytes: float
    files: int
    threads: int


@dataclass
class Watch:
    """Looks at this process every ``every`` pieces of work, and prints a line.

    Attributes:
        every: Pieces of work between two looks.
        samples: What was seen.
        done: Pieces of work that are done.
    """

    every: int
    samples: list[Sample] = field(default_factory=list)
    done: int = 0
    _start: float = field(default_factory=time.monotonic)

    def step(self) -> None:
        """Count one piece of work."""
        self.done += 1
        if self.done % self.every == 0:
            self.look()

    def look(self) -> None:
        """Take a sample."""
        # What waits for the collector alone is no leak.
        gc.collect()
        words = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        memory = int(words["VmRSS"].split()[0]) / 1024
        # The listing has a handle of its own.
        files = len(os.listdir("/proc/self/fd")) - 1
        self.samples.append(Sample(self.done, memory, files, int(words["Threads"])))
        seconds = time.monotonic() - self._start
        print(f"{self.done:6d} done {seconds:7.0f} s {memory:8.1f} MiB {files:4d} files {words['Threads'].strip():>4} "
              f"threads ({threading.active_count()} of Python)", flush=True)  # fmt: skip


def growth(samples: list[Sample]) -> list[str]:
    """What grew from the second to the last quarter of the samples; the first is the start.

    Minima are compared: memory goes up and down with the work, and a leak lifts the lowest point as well.
    """
    quarter = len(samples) // 4
    if quarter < 2:
        raise ValueError(f"Expected at least 8 samples, got {len(samples)}.")
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    grown = []
    for name, spread in (("mebibytes", SPREAD_MIB), ("files", 0), ("threads", 0)):
        before, after = (min(getattr(one, name) for one in some) for some in (early, late))
        if after > before + spread:
            grown.append(f"{name} from {before:g} to {after:g}")
    return grown
