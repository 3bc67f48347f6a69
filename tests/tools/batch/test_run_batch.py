"""`python -m scripts.batch`: what `run inferring` gives, on a Ray cluster that loses a machine in the middle.

Ray is not among what the bundle needs: `make test-ray` installs it and runs the tests that need it.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import nibabel
import numpy as np
import pytest
from tqdm import tqdm

from scripts.data.scans.find_scans import ScanSource, find_scans
from scripts.tools.batch import batch_record, run_batch
from scripts.tools.batch.batch_record import BatchRecord
from scripts.tools.batch.run_batch import Failure, Pool, Setting
from scripts.workflows.infer_scans import ScanOutcome
from support.fake_dicom import write_ct
from support.fake_ray import FakeRay, RayActorError
from support.fake_scans import ball_scan

BUNDLE = Path(__file__).resolve().parents[3] / "mp3d_bundle"
SMALL = {"checkpoint": "models/demo.pt", "device": "cpu", "outputs": "json,csv"}
needs_ray = pytest.mark.skipif(not run_batch.HAS_RAY, reason="ray is not installed: `make test-ray` installs it")


def write_scan(path: Path, hu: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-1.0, -1.0, 2.5, 1.0])), path)


def make_input(folder: Path, number: int) -> None:
    """Good scans of three kinds, and two that cannot be read."""
    for row in range(number):
        write_scan(folder / f"ct_{row:02d}.nii.gz", ball_scan(shape=(8, 40, 56), centre_mm=(20.0 + row, 16, 10)))
    packed = write_ct(folder / "series", ball_scan(shape=(6, 40, 56)), SeriesInstanceUID="1.2.9")
    with zipfile.ZipFile(folder / "packed.zip", "w") as archive:
        for path in sorted(packed.iterdir()):
            archive.write(path, path.name)
    other = write_ct(folder / "series_2", ball_scan(shape=(6, 40, 56)), SeriesInstanceUID="1.2.10")
    for path in packed.iterdir():
        path.unlink()
    packed.rmdir()
    assert other.is_dir()
    (folder / "cut.nii.gz").write_bytes(b"cut")
    write_scan(folder / "mask.nii", np.zeros((4, 5, 6), dtype=np.uint8))


def command(*words: str) -> list[str]:
    options = [f"--{name}={value}" for name, value in SMALL.items()]
    return [sys.executable, "-m", "scripts.batch", *words, *options]


def results_of(folder: Path) -> dict[str, bytes]:
    """The results by name, without the time that they took and without the tables of the batch."""
    found = {}
    for path in sorted(folder.rglob("*.*")):
        if path.is_file() and path.name not in ("batch.csv", "batch.json", "finished.json"):
            content = re.sub(rb'"timing_s": \{[^}]*\}', b"", path.read_bytes())
            found[path.relative_to(folder).as_posix()] = content
    return found


def run_inferring(inputs: Path, output: Path) -> dict[str, bytes]:
    options = [f"--{name}={value}" for name, value in SMALL.items()]
    words = ["-m", "monai.bundle", "run", "inferring", "--config_file", "configs/inference.json", *options]
    done = subprocess.run(
        [sys.executable, *words, f"--input={inputs}", f"--output_dir={output}", "--progress=False"],
        cwd=BUNDLE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert "2 of 8 scans failed:" in done.stderr
    return results_of(output)


def one_core() -> dict[str, int]:
    """A machine of one core; its ports are given, as Ray waits for those that its parts choose only for seconds."""
    names = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")
    ports = {}
    with contextlib.ExitStack() as stack:
        for name in names:
            one = stack.enter_context(socket.socket())
            one.bind(("127.0.0.1", 0))
            ports[name] = one.getsockname()[1]
    return {"num_cpus": 1, **ports}


class Watch(threading.Thread):
    """Notes every file of results that appears, by its number on the disk: a second one was written again."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.seen, self.ended = folder, defaultdict[str, set[int]](set), threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            self.look()
            time.sleep(0.05)

    def look(self) -> None:
        for path in self.folder.glob("**/finished.json"):
            if path.parent.name != ".part":
                self.seen[path.parent.name].add(path.stat().st_ino)


@needs_ray
@pytest.mark.slow
def test_a_cluster_that_loses_a_machine_loses_no_scan_and_does_none_twice(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    make_input(tmp_path / "in", 4)
    wanted = run_inferring(tmp_path / "in", tmp_path / "alone")
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **one_core()})
    machine = cluster.add_node(**one_core())
    try:
        words = command("--input", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out"))
        watch = Watch(tmp_path / "out")
        watch.start()
        started = subprocess.Popen(
            [*words, "--address", cluster.address, "--workers", "2"],
            cwd=BUNDLE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not watch.seen and started.poll() is None:
            time.sleep(0.02)
        cluster.remove_node(machine, allow_graceful=False)
        out, err = started.communicate(timeout=900)
    finally:
        cluster.shutdown()
    watch.ended.set()
    watch.join()
    watch.look()
    assert started.returncode == 1, err
    assert "2 of 8 scans failed:" in err
    assert results_of(tmp_path / "out") == wanted
    document = json.loads((tmp_path / "out" / "batch.json").read_text())
    assert (document["done"] + document["skipped"], document["failed"], document["waiting"]) == (6, 2, 0)
    assert {name: len(files) for name, files in watch.seen.items()} == dict.fromkeys(watch.seen, 1)
    assert len(watch.seen) == 6
    for row in document["rows"]:
        if row["status"] == "failed":
            assert row["tries"] == 2
            assert row["path"] in row["reason"]
    assert "All of them are listed in" in out


@needs_ray
@pytest.mark.slow
def test_one_machine_resumes_a_stopped_batch(tmp_path: Path) -> None:
    make_input(tmp_path / "in", 4)
    wanted = run_inferring(tmp_path / "in", tmp_path / "alone")
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'in'}\n")
    words = command("--input", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out"), "--workers", "1")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(words, cwd=BUNDLE, env=environment, stdout=subprocess.PIPE, text=True)
    while not list((tmp_path / "out").glob("*/finished.json")) and started.poll() is None:
        time.sleep(0.02)
    started.send_signal(signal.SIGTERM)
    out, _ = started.communicate(timeout=300)
    assert started.returncode == 143
    assert "Run the same command again" in out
    before = json.loads((tmp_path / "out" / "batch.json").read_text())
    assert before["waiting"] > 0
    done = subprocess.run(words, cwd=BUNDLE, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert results_of(tmp_path / "out") == wanted
    rows = list(csv.DictReader((tmp_path / "out" / "batch.csv").open(newline="")))
    statuses = sorted(row["status"] for row in rows)
    assert statuses.count("failed") == 2
    # The signal may come after a scan was written and before the batch heard of it.
    assert statuses.count("skipped") >= max(before["done"], 1)
    assert statuses.count("skipped") + statuses.count("done") == 6


class Disk:
    """Results of a batch: which scans were written, and how often."""

    def __init__(self) -> None:
        self.written: Counter[str] = Counter()


def fake_processes(monkeypatch: pytest.MonkeyPatch, ray: FakeRay, disk: Disk, *, broken: str | None = None) -> None:
    """Workers that write a name, skip what is written, and fail on names with an x."""

    class Worker:
        def start(self, setting: Setting) -> str | None:
            return broken

        def do(self, source: ScanSource, scan: object) -> object:
            if isinstance(scan, Failure):
                return scan
            assert scan == f"read {source.name}"
            if "x" in source.name:
                return Failure(f"{source.path}: cannot be done", "node")
            skipped = source.name in disk.written
            disk.written[source.name] += not skipped
            return ScanOutcome(skipped, None if skipped else 2), 0.1, "node"

    def read(source: ScanSource, setting: Setting) -> object:
        return Failure(f"{source.path}: cut", "node") if "y" in source.name else f"read {source.name}"

    for name, value in (("ray", ray), ("Worker", Worker), ("read", read)):
        monkeypatch.setattr(run_batch, name, value)


def sources(number: int) -> list[ScanSource]:
    kinds = ["", "", "", "x", "", "y"]
    return [ScanSource(Path(f"in/{row}{kinds[row % 6]}.nii"), f"{row}{kinds[row % 6]}") for row in range(number)]


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize(("deaths", "lost"), [(0.0, 0.0), (0.2, 0.1)])
def test_nothing_is_lost_and_nothing_written_twice_whatever_dies(
    monkeypatch: pytest.MonkeyPatch, seed: int, deaths: float, lost: float
) -> None:
    ray, disk, scans = FakeRay(random.Random(seed), deaths, lost), Disk(), sources(20)
    fake_processes(monkeypatch, ray, disk)
    # Under so many deaths every worker can end while it starts, and every scan can lose all its processes.
    monkeypatch.setattr(run_batch, "LOST_STARTS", 1000)
    monkeypatch.setattr(batch_record, "LOSSES", 1000)
    record = BatchRecord(scans)
    bar = tqdm(total=len(scans), disable=True)
    Pool(Setting("", (), 1), 3).run(record, scans, bar)
    good = {scan.name for scan in scans if not {"x", "y"} & set(scan.name)}
    assert disk.written == Counter(good)
    assert record.counts()["failed"] == len(scans) - len(good)
    assert record.counts()["waiting"] == 0
    # Memory is bounded: two scans for each worker.
    assert ray.most <= 6
    for row in record.rows:
        failed = {"x", "y"} & set(row.results)
        assert row.status == ("failed" if failed else "done" if row.tries == 1 else row.status)
        assert row.tries == (2 if failed else 1) or deaths


def test_a_scan_that_ends_every_process_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, disk, scans = FakeRay(random.Random(1)), Disk(), sources(3)
    fake_processes(monkeypatch, ray, disk)
    do = run_batch.Worker.do

    def deadly(self: object, source: ScanSource, scan: object) -> object:
        if source.name == "1":
            raise RayActorError
        return do(self, source, scan)  # type: ignore[arg-type]

    monkeypatch.setattr(run_batch.Worker, "do", deadly)
    record = BatchRecord(scans)
    Pool(Setting("", (), 1), 2).run(record, scans, tqdm(total=3, disable=True))
    assert record.failures() == ["in/1.nii: the process that did this scan ended."]
    assert (record.rows[1].tries, record.counts()["done"]) == (batch_record.LOSSES, 2)


def test_workers_that_cannot_start_end_the_batch_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    scans = sources(3)
    fake_processes(monkeypatch, FakeRay(random.Random(0)), Disk(), broken="Expected trained weights, found no file.")
    with pytest.raises(ValueError, match=r"^Expected trained weights, found no file"):
        Pool(Setting("", (), 1), 2).run(BatchRecord(scans), scans, tqdm(total=3, disable=True))
    fake_processes(monkeypatch, FakeRay(random.Random(0), deaths=1.0), Disk())
    with pytest.raises(OSError, match=r"^Expected workers that start, 3 ended: RayActorError"):
        Pool(Setting("", (), 1), 2).run(BatchRecord(scans), scans, tqdm(total=3, disable=True))


@pytest.mark.parametrize(
    ("resources", "threads", "size", "worker", "task"),
    [
        ({"CPU": 8.0}, 1, 8, {"num_cpus": 1, "num_gpus": 0}, 0),
        ({"CPU": 8.0}, 4, 2, {"num_cpus": 4, "num_gpus": 0}, 0),
        ({"CPU": 1.0}, 4, 1, {"num_cpus": 4, "num_gpus": 0}, 0),
        ({"CPU": 32.0, "GPU": 4.0}, 1, 4, {"num_cpus": 1, "num_gpus": 1}, 1),
    ],
)
def test_one_worker_for_each_gpu_or_for_the_cores(
    monkeypatch: pytest.MonkeyPatch,
    resources: dict[str, float],
    threads: int,
    size: int,
    worker: dict[str, int],
    task: int,
) -> None:
    ray = FakeRay(random.Random(0), resources=resources)
    monkeypatch.setattr(run_batch, "ray", ray)
    assert Pool(Setting("", (), threads), None).size == size
    assert ray.options[0].items() >= worker.items()
    assert ray.options[1]["num_cpus"] == task


def test_without_ray_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_batch, "HAS_RAY", False)
    with pytest.raises(ImportError, match=r"^Expected the package ray.*make ray.*detect --shard i/n"):
        run_batch.batch(str(tmp_path), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray as if it were installed, and not to be started."""
    monkeypatch.setattr(run_batch, "HAS_RAY", True)

    def start(address: str | None) -> None:
        raise AssertionError("started a cluster")

    monkeypatch.setattr(run_batch, "connect", start)
    monkeypatch.setattr(sys, "argv", ["batch"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "at least one worker and one thread, got 0 and 1"),
        ({"threads": 0}, "at least one worker and one thread, got None and 0"),
        ({"score_threshold": 3}, "score_threshold"),
        ({"score_treshold": 0.5}, r"Unknown option --score_treshold \(did you mean --score_threshold\?\)"),
        ({"max_epochs": 3}, "belongs to"),
        ({"checkpoint": "absent.pt"}, "exists for --checkpoint, found nothing at absent.pt"),
    ],
)
def test_wrong_options_end_before_anything_starts(
    tmp_path: Path, no_cluster: None, options: dict[str, Any], message: str
) -> None:
    write_scan(tmp_path / "a.nii", ball_scan())
    with pytest.raises(ValueError, match=message):
        run_batch.batch(str(tmp_path), str(tmp_path / "out"), **options)
    assert not (tmp_path / "out").exists()


def test_an_input_that_is_not_there_ends_before_anything_starts(tmp_path: Path, no_cluster: None) -> None:
    with pytest.raises(ValueError, match=r"exists for --input, found nothing at .*absent"):
        run_batch.batch(str(tmp_path / "absent"), str(tmp_path / "out"))


def test_scans_can_be_given_to_another_process(tmp_path: Path) -> None:
    """Ray sends them as cloudpickle writes them; headers of DICOM that were kept hold open files and stay."""
    cloudpickle = pytest.importorskip("cloudpickle", reason="cloudpickle, which comes with Ray, is not installed")
    make_input(tmp_path, 1)
    place = tmp_path / "000001_01_01"
    place.mkdir()
    cv2.imwrite(str(place / "001.png"), np.full((40, 56), 32768 + 40, np.uint16))
    scans = find_scans(tmp_path, spacing=(1, 1, 2))
    assert len(scans) == 6
    for scan in scans:
        there: ScanSource = cloudpickle.loads(cloudpickle.dumps(scan))
        assert (there.path, there.name, there.series) == (scan.path, scan.name, scan.series)
        if scan.path.name in ("cut.nii.gz", "mask.nii"):
            with pytest.raises((ValueError, OSError), match=re.escape(str(scan.path))), there.open():
                pass
            continue
        with scan.open() as here, there.open() as read:
            np.testing.assert_array_equal(read.hu, here.hu)
            np.testing.assert_array_equal(read.affine, here.affine)
            assert (read.notes, read.sha256) == (here.notes, here.sha256)


def test_a_folder_that_is_gone_or_not_shared_is_not_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_batch, "make_runner", lambda _: mock.Mock(writer=mock.Mock(output_dir=tmp_path)))
    monkeypatch.setattr(run_batch.torch, "set_num_threads", mock.Mock())
    worker, here = run_batch.Worker(), Setting(str(Path.cwd()), (), 1)
    (tmp_path / run_batch.LOCK).touch()
    assert worker.start(here) is None
    (tmp_path / run_batch.LOCK).unlink()
    ends = worker.do(sources(1)[0], None), run_batch.Worker().start(here)
    assert all("found none: every machine must see it" in str(end) for end in ends)


def test_a_process_reads_all_but_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_input(Path("in"), 1)
    scans = {scan.path.name: scan for scan in find_scans("in")}
    os.chdir("/")
    read = {name: run_batch.read(scan, Setting(str(tmp_path), (), 1)) for name, scan in scans.items()}
    assert read["packed.zip"] is None
    assert isinstance(read["ct_00.nii.gz"], run_batch.Scan)
    assert all(file.exists() for file in read["series_2"].files)
    for name in ("cut.nii.gz", "mask.nii"):
        assert isinstance(read[name], run_batch.Failure)
        assert f"in/{name}" in read[name].reason
