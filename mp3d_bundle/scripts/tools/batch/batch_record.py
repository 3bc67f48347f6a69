"""Which scans of a batch wait, are being done, or have ended: each ends once, and a table names them all.

Knows nothing of what does the work: `run_batch` gives the scans to processes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ...data.scans.find_scans import ScanSource
from ...data.scans.volume_files.stored_image import shown
from ...storage.atomic_files import write_csv, write_json
from ...workflows.infer_scans import ScanOutcome

TABLE, DOCUMENT = "batch.csv", "batch.json"
# A scan that fails may do so because of the machine at that moment: it is tried again, after all others.
TRIES = 2
# A process can end for reasons that have nothing to do with its scan: more often, but not without end.
LOSSES = 3
WAITING, DONE, SKIPPED, FAILED = "waiting", "done", "skipped", "failed"


@dataclass
class BatchRow:
    """A scan of a batch, a row of the table.

    Attributes:
        path: Of the scan.
        results: Folder of its results, below the output folder.
        series: SeriesInstanceUID of a DICOM scan.
        status: ``waiting``, ``done``, ``skipped`` (its results were there) or ``failed``.
        lesions: Number of lesions if it was done or skipped; None if its results do not hold them.
        seconds: From the start of its last try to the end, without reading.
        machine: Name of the machine that ended it.
        tries: How often it was begun.
        reason: Why it failed, or failed the last time.
    """

    path: str
    results: str
    series: str | None = None
    status: str = WAITING
    lesions: int | None = None
    seconds: float | None = None
    machine: str | None = None
    tries: int = 0
    reason: str | None = None


class BatchRecord:
    """The scans of a batch.

    Args:
        scans: All of them; they are known by their place in this list.

    Attributes:
        rows: A row for each.
    """

    def __init__(self, scans: Sequence[ScanSource]) -> None:
        self.rows = [BatchRow(shown(scan.path), shown(scan.name), scan.series) for scan in scans]
        self._waiting, self._taken = deque(range(len(scans))), set[int]()
        self._counts = Counter({WAITING: len(scans)})
        self._failures: Counter[int] = Counter()
        self._losses: Counter[int] = Counter()

    @property
    def unfinished(self) -> int:
        """Number of scans that have not ended, those that are being done included."""
        return self._counts[WAITING]

    def counts(self) -> dict[str, int]:
        """Number of scans of each status."""
        return {status: self._counts[status] for status in (DONE, SKIPPED, FAILED, WAITING)}

    def take(self) -> int | None:
        """The next scan to begin; None if none waits."""
        if not self._waiting:
            return None
        number = self._waiting.popleft()
        self._taken.add(number)
        self.rows[number].tries += 1
        return number

    def ended(self, number: int, outcome: ScanOutcome, *, seconds: float, machine: str) -> None:
        """Note that a scan is done, or was done before."""
        row = self._given_back(number, SKIPPED if outcome.skipped else DONE)
        row.lesions, row.reason = outcome.lesions, None
        row.seconds, row.machine = round(seconds, 2), machine

    def failed(self, number: int, reason: str, *, machine: str | None = None) -> None:
        """Note that a scan could not be done: it waits again, or has failed."""
        self._failures[number] += 1
        self._again(number, reason, machine, final=self._failures[number] >= TRIES)

    def lost(self, number: int, reason: str) -> None:
        """Note that the process that did a scan ended in the middle: the scan waits again, or has failed."""
        self._losses[number] += 1
        self._again(number, reason, None, final=self._losses[number] >= LOSSES)

    def _again(self, number: int, reason: str, machine: str | None, *, final: bool) -> None:
        row = self._given_back(number, FAILED if final else WAITING)
        row.reason, row.machine = reason, machine
        if not final:
            self._waiting.append(number)

    def _given_back(self, number: int, status: str) -> BatchRow:
        row = self.rows[number]
        if number not in self._taken:
            raise ValueError(f"Expected a scan that is being done, got {row.path}, which is {row.status}.")
        self._taken.remove(number)
        self._counts[row.status] -= 1
        self._counts[status] += 1
        row.status = status
        return row

    def failures(self) -> list[str]:
        """A line for each scan that failed."""
        return [row.reason or "unknown" for row in self.rows if row.status == FAILED]

    def write(self, folder: Path, *, seconds: float) -> None:
        """Write the table of all scans as ``batch.csv`` and ``batch.json``.

        Args:
            folder: The output folder of the batch.
            seconds: How long the batch took.

        Raises:
            OSError: If a file cannot be written.
        """
        names = [column.name for column in fields(BatchRow)]
        table = [[getattr(row, name) for name in names] for row in self.rows]
        write_csv(names, table, folder / TABLE)
        each: list[dict[str, Any]] = [dict(zip(names, values, strict=True)) for values in table]
        head = {"scans": len(self.rows), **self.counts(), "seconds": round(seconds, 1)}
        write_json({**head, "rows": each}, folder / DOCUMENT)
