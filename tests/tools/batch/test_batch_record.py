"""The record of a batch: each scan ends once, whatever happens to those who do it; the table names all."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.data.scans.find_scans import ScanSource
from scripts.tools.batch.batch_record import DOCUMENT, LOSSES, TABLE, TRIES, BatchRecord
from scripts.workflows.infer_scans import ScanOutcome


def record_of(number: int) -> BatchRecord:
    return BatchRecord([ScanSource(Path(f"in/{row}.nii"), str(row)) for row in range(number)])


@settings(deadline=None)
@given(st.integers(0, 12), st.integers(1, 5), st.randoms(use_true_random=False))
def test_every_scan_ends_once_in_whatever_order_things_happen(number: int, workers: int, drawn: random.Random) -> None:
    record, busy, ended, begun = record_of(number), [], Counter(), Counter()
    failed, lost = Counter(), Counter()
    while record.unfinished:
        while len(busy) < workers and (scan := record.take()) is not None:
            busy.append(scan)
            begun[scan] += 1
        assert busy, "scans are left, but none is handed out"
        assert len(set(busy)) == len(busy)
        scan = busy.pop(drawn.randrange(len(busy)))
        what = drawn.choice(["done", "skipped", "failed", "lost"])
        if what == "failed":
            failed[scan] += 1
            record.failed(scan, f"in/{scan}.nii: no CT", machine="m")
        elif what == "lost":
            lost[scan] += 1
            record.lost(scan, f"in/{scan}.nii: ended")
        else:
            record.ended(scan, ScanOutcome(what == "skipped", 2), seconds=1.0, machine="m")
        if what in ("done", "skipped") or failed[scan] == TRIES or lost[scan] == LOSSES:
            ended[scan] += 1
    assert ended == Counter(range(number))
    assert record.take() is None
    assert sum(record.counts().values()) == number
    assert [row.tries for row in record.rows] == [begun[scan] for scan in range(number)]
    assert len(record.failures()) == record.counts()["failed"]


def test_failed_ones_are_tried_again_after_all_others() -> None:
    record = record_of(3)
    assert record.take() == 0
    record.failed(0, "in/0.nii: disk full", machine="m")
    assert [record.take(), record.take(), record.take()] == [1, 2, 0]
    record.failed(0, "in/0.nii: no CT", machine="m")
    assert record.take() is None
    # The last reason counts.
    assert record.failures() == ["in/0.nii: no CT"]


def test_a_scan_that_ends_twice_is_a_mistake() -> None:
    record = record_of(2)
    with pytest.raises(ValueError, match=r"being done, got in/0\.nii, which is waiting"):
        record.failed(0, "x")
    record.take()
    record.ended(0, ScanOutcome(False, 1), seconds=1, machine="m")
    with pytest.raises(ValueError, match=r"being done, got in/0\.nii, which is done"):
        record.lost(0, "x")


def test_the_table_names_every_scan_and_why_it_failed(tmp_path: Path) -> None:
    odd = ScanSource(Path('in/a "b",\nc.nii'), "x/y", series="1.2.3")
    record = BatchRecord([odd, ScanSource(Path("in/b.nii"), "b"), ScanSource(Path("in/c.nii"), "c")])
    record.ended(record.take() or 0, ScanOutcome(False, 7), seconds=1.256, machine="node")
    assert record.take() == 1
    record.failed(1, "in/b.nii: Expected another disk.", machine="node")
    assert (record.take(), record.take()) == (2, 1)
    record.failed(1, "in/b.nii: Expected a CT, got an MR.", machine="node")
    record.write(tmp_path, seconds=12.34)
    document = json.loads((tmp_path / DOCUMENT).read_text())
    rows = list(csv.DictReader((tmp_path / TABLE).open(newline="")))
    assert (document["scans"], document["done"], document["failed"], document["waiting"]) == (3, 1, 1, 1)
    assert document["seconds"] == 12.3
    assert (
        [row["status"] for row in rows] == [row["status"] for row in document["rows"]] == ["done", "failed", "waiting"]
    )
    assert document["rows"][0] | {"path": ""} == {
        **{"path": "", "results": "x/y", "series": "1.2.3", "status": "done", "lesions": 7, "seconds": 1.26},
        **{"machine": "node", "tries": 1, "reason": None},
    }
    assert rows[0]["path"] == 'in/a "b",\\nc.nii', "on one line"
    assert rows[1]["reason"] == "in/b.nii: Expected a CT, got an MR."
    assert (rows[1]["tries"], rows[2]["lesions"]) == ("2", "")
