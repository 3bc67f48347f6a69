"""Import and store of a set, killed at any step, on a full disk, on one that is read-only, and with the clock set back.

Whatever happened, what is there is no data set before it is complete, and the same command makes of it what an
undisturbed one does.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from scripts.data.deeplesion.splits import load_records
from scripts.data.importing.patient_splits import SplitRule
from scripts.data.synthetic import generate
from scripts.storage.output_folder import FolderLock
from scripts.tools import prepare_store
from scripts.workflows.importing import import_scans as import_module
from scripts.workflows.importing.import_scans import ImportRules, Sources, import_scans
from scripts.workflows.importing.set_report import write_set_report
from support.fake_truth import Ball, write_nifti_case
from support.killed_copies import status_of_a_copy
from support.small_disks import Disk, assert_on_a_small_disk

# Audit events of Python that change files.
_CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.truncate"}


@dataclass(frozen=True)
class Command:
    """A command that makes a set.

    Attributes:
        run: Makes it in a folder.
        module: Its module, which checks the disk before the work.
    """

    run: Callable[[Path], object]
    module: ModuleType


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans with masks, and a set of PNGs."""
    folder = tmp_path_factory.mktemp("sources")
    for number in range(4):
        write_nifti_case(folder, f"case_{number}", ball=Ball((-8.2, 40.3, -122.0 + number)))
    sizes = {"num_train": 4, "num_validation": 1, "num_test": 2, "image_size": 48}
    generate(folder / "pngs", workers=1, **sizes)
    return folder


@pytest.fixture(params=["import", "prepare"])
def command(request: pytest.FixtureRequest, sources: Path) -> Command:
    def import_set(output: Path) -> None:
        rules = ImportRules(splits=SplitRule((0.5, 0.25, 0.25)))
        import_scans(Sources(sources / "images", sources / "masks"), rules, output, progress=False)
        write_set_report(output)

    if request.param == "import":
        return Command(import_set, import_module)
    return Command(lambda output: prepare_store.main(str(sources / "pngs"), str(output), workers=1), prepare_store)


def content(folder: Path) -> dict[str, bytes]:
    """Every file; without the folder's own path and name, which the report has."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if "report.html" in found:
        for own in (str(folder), folder.name):
            found["report.html"] = found["report.html"].replace(own.encode(), b"")
    return found


def assert_no_set(folder: Path, whole: dict[str, bytes]) -> None:
    """A part of a set is not taken for one; if the labels are there, so is everything that they name."""
    if not (folder / "DL_info.csv").exists():
        return
    for split in ("train", "validation", "test"):
        load_records(folder, split)
    found = content(folder)
    for name, expected in whole.items():
        if name.startswith("Images_"):
            assert found[name] == expected, name


def killed_at(work: Callable[[], object], step: int, folder: Path) -> bool:
    """Run something in a copy of this process, which is killed just before the n-th change of files in a folder.

    Returns:
        Whether it was; False if it ended before.
    """
    steps = itertools.count(1)

    def kill(event: str, arguments: tuple[object, ...]) -> None:
        if event not in _CHANGES or not any(str(argument).startswith(str(folder)) for argument in arguments):
            return
        if event == "open" and str(arguments[1]).startswith("r"):
            return
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched() -> None:
        sys.addaudithook(kill)
        work()

    status = status_of_a_copy(watched)
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.parametrize("stride", [25, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_a_change_of_a_file_it_ends_as_if_it_never_was(
    command: Command, tmp_path: Path, stride: int
) -> None:
    command.run(tmp_path / "set_1")
    whole, kills = content(tmp_path / "set_1"), 0
    # The first changes one by one: what they leave says least of whose it is.
    for step in itertools.chain(range(1, 8), itertools.count(8, stride)):
        output = tmp_path / f"set_{1000 + step}"
        killed = killed_at(lambda output=output: command.run(output), step, output)
        assert_no_set(output, whole)
        command.run(output)
        assert content(output) == whole, step
        shutil.rmtree(output)
        if not killed:
            break
        kills += 1
    print(f"{kills} kills")
    assert kills > 100 // stride


@pytest.mark.slow
def test_killed_at_random_it_ends_as_if_it_never_was(command: Command, tmp_path: Path) -> None:
    start = time.perf_counter()
    command.run(tmp_path / "set_1")
    seconds = time.perf_counter() - start
    whole, draw, killed, kills = content(tmp_path / "set_1"), random.Random(10), 0, 10
    for number in range(kills):
        output = tmp_path / f"set_{4 + number // 3}"
        kill_after = draw.uniform(0, 0.9 * seconds)
        killed += status_of_a_copy(lambda output=output: command.run(output), kill_after=kill_after) != 0
        assert_no_set(output, whole)
    print(f"{killed} kills of {kills} before the end")
    assert killed >= kills // 3
    for output in tmp_path.glob("set_[4-9]"):
        command.run(output)
        assert content(output) == whole


def test_a_store_that_another_process_fills_is_left_alone(sources: Path, tmp_path: Path) -> None:
    with FolderLock(tmp_path / "store", "a preparation of a store"):
        with pytest.raises(BlockingIOError, match="a preparation of a store, process"):
            prepare_store.main(str(sources / "pngs"), str(tmp_path / "store"), workers=1)
        assert not (tmp_path / "store" / "store.json").exists()


def test_a_full_disk_is_a_line_and_the_command_resumes(command: Command, tmp_path: Path) -> None:
    command.run(tmp_path / "set_1")
    whole = content(tmp_path / "set_1")

    def fill(disk: Disk) -> None:
        with pytest.raises(OSError, match="MiB of free space for the results"):
            command.run(disk.folder / "set_3")
        # The check before the work would keep it from ever filling the disk.
        vars(command.module)["check_output_folder"] = lambda path, **_: path
        size = sum(map(len, whole.values())) // 1024
        for share in (0.02, 0.2, 0.5, 0.8, 0.95):
            disk.resize(max(4, int(share * size)))
            with pytest.raises((OSError, ValueError)) as error:
                command.run(disk.folder / "set_3")
            assert "\n" not in str(error.value)
            assert "space" in str(error.value).lower(), str(error.value)
            assert_no_set(disk.folder / "set_3", whole)
        disk.resize(1 << 16)
        command.run(disk.folder / "set_3")
        assert content(disk.folder / "set_3") == whole

    (tmp_path / "disk").mkdir()
    assert_on_a_small_disk(tmp_path / "disk", fill)


def test_a_disk_that_is_read_only_is_a_line_at_once(command: Command, tmp_path: Path) -> None:
    def write(disk: Disk) -> None:
        disk.protect()
        with pytest.raises(OSError, match=r"[Rr]ead-only|not writable|cannot be written|Could not|Cannot") as error:
            command.run(disk.folder / "set_3")
        assert "\n" not in str(error.value)
        assert str(disk.folder) in str(error.value)
        assert not list(disk.folder.iterdir())

    (tmp_path / "disk").mkdir()
    assert_on_a_small_disk(tmp_path / "disk", write)


def test_files_of_the_future_are_as_good_as_others(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.run(tmp_path / "set_1")
    whole = content(tmp_path / "set_1")
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() - 10 * 365 * 86400)
    command.run(tmp_path / "set_1")
    assert content(tmp_path / "set_1") == whole
    status_of_a_copy(lambda: command.run(tmp_path / "set_2"), kill_after=0.02)
    monkeypatch.setattr(time, "time", lambda: clock() - 20 * 365 * 86400)
    command.run(tmp_path / "set_2")
    assert content(tmp_path / "set_2") == whole
