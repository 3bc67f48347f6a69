"""Scans are opened one ahead, closed in any case, and fail in their turn."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.data.intensity import IntensityWindow
from scripts.data.scans.find_scans import find_scans
from scripts.data.slabs.slab_reader import resample_z
from scripts.inference.outputs.result_writer import ResultWriter
from scripts.inference.volume_detector import SlabCutter, VolumeDetector
from scripts.workflows.infer_scans import ScanRunner
from scripts.workflows.scans_ahead import ScansAhead
from support.fake_scans import BlobDetector, ball_scan
from support.fake_weights import weights_of


class Room:
    """Sources that note what is open."""

    def __init__(self, count: int, broken: int | None = None) -> None:
        self.open_now: set[int] = set()
        self.threads: set[threading.Thread] = set()
        self.opened = [threading.Event() for _ in range(count)]
        self.sources = [Numbered(self, number, broken=number == broken) for number in range(count)]


class Numbered:
    def __init__(self, room: Room, number: int, *, broken: bool) -> None:
        self.room, self.number, self.broken = room, number, broken

    @contextmanager
    def open(self) -> Iterator[str]:
        if self.broken:
            raise ValueError(f"scan {self.number} is damaged")
        self.room.open_now.add(self.number)
        self.room.threads.add(threading.current_thread())
        self.room.opened[self.number].set()
        try:
            yield f"scan {self.number}"
        finally:
            self.room.open_now.remove(self.number)


def test_the_next_one_is_open_while_one_is_used_and_no_more() -> None:
    room = Room(3)
    with ScansAhead(room.sources) as scans:
        with scans.scan(0) as content:
            assert content == "scan 0"
            assert room.opened[1].wait(10)
            assert room.open_now == {0, 1}
        assert room.open_now == {1}
        with scans.scan(1):
            assert room.opened[2].wait(10)
            assert room.open_now == {1, 2}
        with scans.scan(2) as content:
            assert content == "scan 2"
            assert room.open_now == {2}
    assert room.open_now == set()


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_damaged_one_fails_in_its_turn_and_stops_no_other(broken: int) -> None:
    room, found = Room(3, broken), []
    with ScansAhead(room.sources) as scans:
        for number in range(3):
            try:
                with scans.scan(number) as content:
                    found.append(content)
            except ValueError as error:
                found.append(str(error))
    wanted = [f"scan {number}" for number in range(3)]
    assert found == [*wanted[:broken], f"scan {broken} is damaged", *wanted[broken + 1 :]]
    assert room.open_now == set()


def test_what_was_opened_ahead_is_closed_where_the_work_stops() -> None:
    room = Room(3)

    def work() -> None:
        with ScansAhead(room.sources) as scans, scans.scan(0):
            assert room.opened[1].wait(10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert room.open_now == set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("next-scan")]


def test_without_reading_ahead_one_is_open_at_a_time_in_the_same_thread() -> None:
    room = Room(3)
    with ScansAhead(room.sources, ahead=False) as scans:
        for number in range(3):
            with scans.scan(number) as content:
                assert content == f"scan {number}"
                assert room.open_now == {number}
    assert room.threads == {threading.current_thread()}


def test_the_first_one_is_opened_where_a_signal_reaches_it() -> None:
    room = Room(2)
    with ScansAhead(room.sources) as scans, scans.scan(0):
        assert room.opened[1].wait(10)
    assert threading.current_thread() in room.threads
    assert len(room.threads) == 2


def test_a_list_gives_the_same_files_whether_the_next_scan_is_read_ahead_or_not(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for place, name in enumerate("abd"):
        # RAS to LPS turns x and y around.
        hu = np.roll(ball_scan(), place, axis=1).transpose(2, 1, 0)
        image = nibabel.Nifti1Image(hu, np.diag([-1.0, -1.0, 2.5, 1.0]))
        nibabel.save(image, tmp_path / "in" / f"{name}.nii")
    (tmp_path / "in" / "c.nii").write_bytes(b"no scan")
    detector = VolumeDetector(SlabCutter(resample_z), IntensityWindow(), progress=False)
    weights = weights_of(BlobDetector(), {"name": "blob"})
    outcomes = []
    for ahead in (True, False):
        writer = ResultWriter(tmp_path / f"out_{ahead}", outputs=["json"])
        run = ScanRunner(find_scans(tmp_path / "in"), detector, weights, writer, read_ahead=ahead)
        outcomes.append([(path.name, reason) for path, reason in run.run()])
        for name in "abd":
            lesions = json.loads((tmp_path / f"out_{ahead}" / name / "lesions.json").read_text())["lesions"]
            outcomes[-1].append((name, json.dumps(lesions)))
    assert outcomes[0] == outcomes[1]
    assert [name for name, _ in outcomes[0]] == ["c.nii", "a", "b", "d"]
