"""Results of one scan appear together or not at all, at any step at which the process is killed.

Finished scans are skipped, results of another scan or of other settings are never replaced silently.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from scripts.data.intensity import IntensityWindow
from scripts.data.scans.find_scans import find_scans
from scripts.data.slabs.slab_reader import resample_z
from scripts.inference.detections import link_boxes
from scripts.inference.outputs.result_folder import (
    RECORD,
    are_finished,
    describe_part,
    describe_source,
    read_record,
    settle,
    store,
)
from scripts.inference.outputs.result_writer import ResultWriter
from scripts.inference.volume_detector import PlaneScale, SlabCutter, VolumeDetector
from scripts.storage.result_files import file_names
from scripts.workflows.infer_scans import ScanRunner
from support.fake_scans import BlobDetector, Seen, ball_scan, scan_of
from support.fake_weights import weights_of

OLD = {
    "lesions.json": b"old",
    "lesions.csv": b"old",
    "overlays/lesion_001.png": b"old",
    "overlays/lesion_002.png": b"old",
}
NEW: dict[str, bytes] = dict.fromkeys(
    ("lesions.json", "detections.json", "overlays/lesion_001.png", "report.html"), b"new"
)


class Killed(BaseException):
    """Stands for the end of the process: nothing that comes after it is done."""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that can be seen, but for the record."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".part" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.name != RECORD}


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> bool:
    """Do some work up to its step-th change of the disk; whether it came that far."""
    count = 0

    def counted(change: Any) -> Any:
        def changed(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count >= step:
                raise Killed
            return change(*arguments, **options)

        return changed

    with monkeypatch.context() as patch:
        for owner, name in ((os, "replace"), (Path, "write_bytes"), (Path, "unlink"), (shutil, "rmtree")):
            patch.setattr(owner, name, counted(getattr(owner, name)))
        try:
            work()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("before", [{}, OLD], ids=["nothing", "other results"])
def test_killed_at_any_step_the_folder_holds_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, bytes]
) -> None:
    ends = []
    for step in range(1, 40):
        folder = tmp_path / str(step)
        folder.mkdir()
        (folder / "mine.png").write_bytes(b"not ours")
        if before:
            store(folder, before, {"made": {"by": "old"}})
        whole = killed_at(step, monkeypatch, lambda folder=folder: store(folder, NEW, {"made": {"by": "new"}}))
        seen = contents(folder)
        # A folder with lesions.json holds all of its scan's files, before anybody puts it in order.
        if "lesions.json" in seen:
            assert (before if seen["lesions.json"] == b"old" else NEW).items() <= seen.items()
        if step % 2 and killed_at(step // 2, monkeypatch, lambda folder=folder: settle(folder)):
            assert "lesions.json" not in contents(folder) or contents(folder)["lesions.json"] in (b"old", b"new")
        settle(folder)
        seen = contents(folder)
        assert seen.pop("mine.png") == b"not ours"
        assert seen in (before, NEW)
        record = read_record(folder)
        assert (record["made"]["by"] if record else None) == ("new" if seen == NEW else "old" if before else None)
        assert not (folder / ".part").exists()
        ends.append(seen == NEW)
        if not whole:
            break
    assert ends == sorted(ends)
    assert ends[-1]
    assert not ends[0]


def test_record_names_every_file_with_its_hash(tmp_path: Path) -> None:
    store(tmp_path / "a" / "b", {"lesions.csv": b"one"}, {"notices": ["n"], "made": {"x": 1}})
    record = json.loads((tmp_path / "a" / "b" / RECORD).read_text())
    assert record["notices"] == ["n"]
    # printf one | sha256sum
    assert record["files"] == {"lesions.csv": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"}
    assert RECORD not in file_names()


def test_a_folder_in_the_way_of_a_file_changes_nothing(tmp_path: Path) -> None:
    store(tmp_path, OLD, {"made": {}})
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OSError, match=r"Could not write the results to .*: report\.html is a folder\."):
        store(tmp_path, NEW, {"made": {}})
    assert contents(tmp_path) == OLD


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"files": 1, "made": {}}', b"[" * 100_000])
def test_what_is_no_record_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RECORD).write_bytes(content)
    assert read_record(tmp_path) is None


def write_scan(path: Path, hu: np.ndarray | None = None) -> Path:
    hu = ball_scan() if hu is None else hu
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-1.0, -1.0, 2.5, 1.0])), path)
    return path


def runner(source: Path, output: Path, model: dict[str, Any] | None = None, **changes: Any) -> ScanRunner:
    detector = VolumeDetector(SlabCutter(resample_z), IntensityWindow(), progress=False)
    weights = weights_of(BlobDetector())
    return ScanRunner(find_scans(source), detector, weights, ResultWriter(output, model or {}), **changes)


@pytest.fixture
def done(tmp_path: Path) -> tuple[Path, Path]:
    """A scan and its results."""
    scan = write_scan(tmp_path / "scan.nii")
    runner(scan, tmp_path / "out").main()
    return scan, tmp_path / "out"


def state(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Content and time of every file."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_a_finished_scan_is_skipped_with_a_line(done: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    scan, out = done
    before = state(out)
    again = runner(scan, out)
    # Neither pace nor words make other results.
    again.inferer = replace(again.inferer, batch_size=7, progress=True)
    with caplog.at_level(logging.INFO):
        again.main()
    assert f"{scan}: skipped, its results are in {out}." in caplog.text
    assert again.weights.load().seen == Seen()
    assert state(out) == before
    with caplog.at_level(logging.INFO):
        runner(scan, out, overwrite=True).main()
    assert caplog.text.count("skipped") == 1
    after = state(out)
    assert after.keys() == before.keys()
    assert all(after[path][1] != before[path][1] for path in before)


def test_the_lesions_of_a_finished_scan_are_counted(done: tuple[Path, Path], tmp_path: Path) -> None:
    scan, out = done
    run = runner(scan, out)
    outcome = run.one(run.dataset[0])
    assert (outcome.skipped, outcome.lesions) == (True, 1)
    table = runner(scan, tmp_path / "table")
    table.writer = replace(table.writer, outputs=("csv",))
    assert [table.one(table.dataset[0]).lesions for _ in range(2)] == [1, None]


def test_a_file_that_was_removed_is_made_again(done: tuple[Path, Path]) -> None:
    scan, out = done
    before = (out / "lesions.csv").read_bytes()
    (out / "lesions.csv").unlink()
    runner(scan, out).main()
    assert (out / "lesions.csv").read_bytes() == before


def other_scan(run: ScanRunner) -> None:
    write_scan(Path(run.dataset[0].path), np.roll(ball_scan(), 3, axis=2))


def other_threshold(run: ScanRunner) -> None:
    run.inferer = replace(run.inferer, score_threshold=0.25)


def other_scale(run: ScanRunner) -> None:
    run.inferer = replace(run.inferer, cutter=replace(run.inferer.cutter, scale=PlaneScale(0.8)))


def other_window(run: ScanRunner) -> None:
    run.inferer = replace(run.inferer, intensity=IntensityWindow(high=900.0))


def other_link(run: ScanRunner) -> None:
    run.link = functools.partial(link_boxes, max_gap=1)


def other_outputs(run: ScanRunner) -> None:
    run.writer = replace(run.writer, outputs=("json",))


def other_weights(run: ScanRunner) -> None:
    run.writer = replace(run.writer, model={"sha256": "ab" * 32})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_scan, r"results of another scan \(\w{12} there, \w{12} here\)"),
        (other_threshold, r"with other settings \(score_threshold 0\.0 there, 0\.25 here\)"),
        (other_scale, r"with other settings \(pixel_spacing null there, 0\.8 here\)"),
        (other_window, r"with other settings \(high 1050\.0 there, 900\.0 here\)"),
        (other_link, r"with other settings \(linking"),
        (other_outputs, r"with other settings \(outputs"),
        (other_weights, r"of other weights"),
    ],
)
def test_other_results_are_rejected_or_replaced_if_asked(
    done: tuple[Path, Path], change: Callable[[ScanRunner], None], said: str
) -> None:
    scan, out = done
    before = state(out)
    for overwrite in (False, True):
        run = runner(scan, out, overwrite=overwrite)
        change(run)
        if overwrite:
            run.main()
            assert json.loads((out / RECORD).read_text()) != json.loads(before[out / RECORD][0])
        else:
            with pytest.raises(SystemExit, match=rf"^(?s:.)*scan\.nii: Expected .*{said}.*--overwrite") as ended:
                run.main()
            assert "\n" not in str(ended.value.code)
            assert state(out) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_results_that_another_process_wrote_in_the_meantime_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    scan, out = write_scan(tmp_path / "scan.nii"), tmp_path / "out"
    first, second = (runner(scan, out, overwrite=overwrite) for _ in range(2))
    other_threshold(second)
    detect, before = VolumeDetector.__call__, {}

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(VolumeDetector, "__call__", detect)
        second.main()
        before.update(state(out))
        return detect(*arguments)

    monkeypatch.setattr(VolumeDetector, "__call__", meanwhile)
    if overwrite:
        first.main()
        assert state(out) != before
    else:
        with pytest.raises(SystemExit, match=r"with other settings \(score_threshold 0\.25 there, 0\.0 here\)"):
            first.main()
        assert state(out) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [(other_threshold, r"with other settings \(score_threshold"), (other_weights, "of other weights"), (None, "")],
)
def test_other_settings_in_one_folder_are_told_with_the_first_scan(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[ScanRunner], None] | None, said: str
) -> None:
    (tmp_path / "in").mkdir()
    for name in "abcd":
        write_scan(tmp_path / "in" / f"{name}.nii", np.roll(ball_scan(), ord(name) % 3, axis=2))
    runner(tmp_path / "in", tmp_path / "out", shard="0/2").main()
    (tmp_path / "out" / "odd").mkdir()
    (tmp_path / "out" / "odd" / RECORD).write_text("{}")
    other = runner(tmp_path / "in", tmp_path / "out", shard="1/2")
    if change is not None:
        change(other)
    other.main()
    told = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert len(told) == (change is not None)
    assert all(re.search(rf"out.b: the results in .*out.[ac] are {said}.*Are they meant", line) for line in told)
    runner(tmp_path / "in", tmp_path / "out", overwrite=True).main()
    assert [entry.levelname for entry in caplog.records].count("WARNING") == len(told)


def test_results_that_were_changed_or_have_no_record_are_rejected(done: tuple[Path, Path]) -> None:
    scan, out = done
    csv = out / "lesions.csv"
    content = csv.read_bytes()
    csv.write_bytes(content + b"corrected by hand\n")
    with pytest.raises(SystemExit, match=r"lesions\.csv was changed after it was written"):
        runner(scan, out).main()
    csv.write_bytes(content)
    runner(scan, out).main()
    for damaged in (b"", None):
        (out / RECORD).write_bytes(damaged) if damaged is not None else (out / RECORD).unlink()
        with pytest.raises(SystemExit, match=r"without a readable finished\.json"):
            runner(scan, out).main()
    assert csv.read_bytes() == content


def test_what_is_read_otherwise_is_another_source(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "scan.nii")
    scan = scan_of(ball_scan(), path=path)
    first = describe_source(scan)
    assert describe_source(scan_of(ball_scan(), path=path)) == first
    for other in (scan_of(ball_scan() + np.int16(1), path=path), scan_of(ball_scan(), (1.0, 1.0, 2.0), path=path)):
        assert describe_source(other)["sha256"] == first["sha256"]
        assert describe_source(other) != first
    assert not are_finished(tmp_path / "nowhere", {"source": first})


def test_parts_are_described_by_what_results_depend_on() -> None:
    detector = VolumeDetector(SlabCutter(resample_z), IntensityWindow(), amp_dtype=torch.bfloat16)
    told = describe_part({"detector": detector, "link": functools.partial(link_boxes, min_iou=0.3), "device": object()})
    assert told["detector"]["amp_dtype"] == "torch.bfloat16"
    assert told["detector"]["cutter"]["resample"] == "resample_z"
    assert told["detector"]["intensity"] == {
        "kind": "IntensityWindow",
        **{"low": -1024.0, "high": 1050.0, "mean": 123.675, "std": 58.395},
    }
    assert not {"batch_size", "progress"} & set(told["detector"])
    assert told["link"] == {"kind": "link_boxes", "min_iou": 0.3}
    # No address, which no two processes share.
    assert told["device"] == {"kind": "object"}
    endless: list[Any] = []
    endless.append(endless)
    assert "list" in json.dumps(describe_part(endless))


def test_the_pictures_of_a_scan_that_is_called_like_a_folder_of_results_stay(tmp_path: Path) -> None:
    picture = {"overlays/lesion_001.png": b"1", "overlays/slices/slice_001.png": b"2"}
    store(tmp_path / "a" / "overlays", picture, {"made": {"scan": 2}})
    store(tmp_path / "a", picture, {"made": {"scan": 1}})
    store(tmp_path / "a", {}, {"made": {"scan": 1}})
    kept = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert kept == [f"a/overlays/{name}" for name in picture]
