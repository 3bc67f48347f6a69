"""Thousands of scans on all cores of a machine, or on all machines of a Ray cluster.

    python -m scripts.batch --input scans.txt --output_dir ../runs/archive
    python -m scripts.batch --input scans.txt --output_dir /shared/archive --address auto

Tasks read scans and hand them to workers, processes with a network each. A worker does one scan at a time and writes
its results as ``run inferring`` does, so that a scan is either finished or not begun, whatever happens to the worker.
See docs/cluster.md.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fire.parser import DefaultParseValue
from monai.bundle.scripts import create_workflow
from monai.utils import optional_import
from tqdm import tqdm

from ...command_words import typed_options, use_words
from ...configuration.quick_checks import complaints
from ...data.scans.dicom.dicom_zip import ZIP_SUFFIX
from ...data.scans.find_scans import ScanSource
from ...data.scans.scan import Scan
from ...data.scans.volume_files.stored_image import shown
from ...error_lines import root_error
from ...interrupts import Stopped, stopped_by_signals
from ...storage.object_stores import url_of
from ...storage.output_folder import FolderLock
from ...storage.printable import one_line
from ...workflows.delivery.remote_results import table_folder
from ...workflows.infer_scans import ScanOutcome, ScanRunner, reason_of
from .batch_record import DOCUMENT, TABLE, BatchRecord

# Needed by this command only, so not among what the bundle needs.
ray, HAS_RAY = optional_import("ray")

BUNDLE = Path(__file__).resolve().parents[3]
CONFIG = BUNDLE / "configs" / "inference.json"
LOCK = ".batch.lock"
# Workers that end while they start, one after the other, mean that none ever will.
LOST_STARTS = 3
_WAIT_S = 1.0

logger = logging.getLogger(__name__)


class Failure(NamedTuple):
    """Why a scan could not be read or done, in one line."""

    reason: str
    machine: str


class Setting(NamedTuple):
    """What every process of a batch works with.

    Attributes:
        folder: The working folder of the command, where relative paths start.
        words: The options of ``run inferring``, as they would be typed.
        threads: Threads of a worker.
    """

    folder: str
    words: tuple[str, ...]
    threads: int


def read(source: ScanSource, setting: Setting) -> Scan | Failure | None:
    """Read a scan, in a process that has no network.

    Returns:
        The scan. None for one in an archive or a store: it is put into a temporary folder, which has to stay until
        the results are written.
    """
    if source.path.suffix.lower() == ZIP_SUFFIX or url_of(source.path) is not None:
        return None
    os.chdir(setting.folder)
    try:
        with source.open() as scan:
            return scan
    except Exception as error:  # see `ScanRunner.run`
        return Failure(reason_of(error, source), socket.gethostname())


class Worker:
    """A process with a network, which does one scan after the other."""

    def __init__(self) -> None:
        self.runner: ScanRunner | None = None

    def start(self, setting: Setting) -> str | None:
        """Build what ``run inferring`` builds, from the same options.

        Returns:
            Why that is not possible, in one line; None if it was.
        """
        try:
            os.chdir(setting.folder)
            torch.set_num_threads(setting.threads)
            # Its scans come one by one.
            self.runner = make_runner([*setting.words, "--input="])
            check_shared(self.runner.writer.output_dir)
            self.runner.start()
        except SystemExit as error:
            return str(error.code)
        except Exception as error:
            return one_line(error)
        return None

    def do(self, source: ScanSource, scan: Scan | Failure | None) -> tuple[ScanOutcome, float, str] | Failure:
        """Do a scan that was read, or that this process has to read."""
        if isinstance(scan, Failure):
            return scan
        if self.runner is None:
            raise RuntimeError("Expected a worker that was started.")
        start = time.perf_counter()
        try:
            check_shared(self.runner.writer.output_dir)
            outcome = self.runner.one(source, scan)
        except Exception as error:  # see `ScanRunner.run`
            return Failure(reason_of(error, source), socket.gethostname())
        return outcome, time.perf_counter() - start, socket.gethostname()


def check_shared(output_dir: str | Path) -> None:
    """Check that this process sees the output folder which the batch holds the lock of; a store has none.

    A new folder would hide that earlier results are lost, or keep results on a machine that does not share it.

    Raises:
        FileNotFoundError: If not.
    """
    if url_of(output_dir) is None and not (Path(output_dir) / LOCK).is_file():
        raise FileNotFoundError(
            f"Expected the output folder of this batch with its {LOCK} at {output_dir} on {socket.gethostname()}, "
            "found none: every machine must see it, and it must stay until the batch has ended."
        )


def make_runner(words: Sequence[str]) -> ScanRunner:
    """The runner that ``run inferring`` would build from some options.

    Args:
        words: The options as they would be typed.

    Raises:
        ValueError: If an option is wrong.
        OSError: If a file is not there.
    """
    use_words(words)
    options = {name: DefaultParseValue(text) for name, text in typed_options(words).items()}
    try:
        workflow = create_workflow(run_id="inferring", workflow_type="infer", **options)
        return workflow.parser.get_parsed_content("evaluator")
    except RuntimeError as error:
        raise root_error(error) from None


def batch(
    input: str | Sequence[str],
    output_dir: str,
    *,
    address: str | None = None,
    workers: int | None = None,
    threads: int = 1,
    **options: Any,
) -> None:
    """Find lesions in many CTs, on all cores of a machine or on a Ray cluster.

    Args:
        input: A folder of scans, a list of paths, or a .txt file with a path in each line.
        output_dir: Folder for the results, a folder for each scan, and for the table batch.csv and batch.json.
        address: Of a Ray cluster; auto is the one that this machine belongs to. None uses this machine alone.
        workers: Number of processes with a network; by default one for each GPU, or else one for the cores in threads.
        threads: Threads of each worker.
        options: Any other option of `run inferring`, see docs/configuration.md.

    Raises:
        ImportError: If Ray is not installed.
        OSError: If the results cannot be written or the weights are not there.
        ValueError: If an option is invalid or no scan is found.
    """
    if not HAS_RAY:
        raise ImportError(
            "Expected the package ray, which is not installed: `make ray`, or pip install 'ray>=2.40'. Without it, "
            "`python -m scripts detect --shard i/n` does a share of the scans (docs/cluster.md)."
        )
    setting = Setting(os.getcwd(), _words(output_dir, options), threads)
    inputs = f"--input={input if isinstance(input, str) else list(input)}"
    own = [] if "config_file" in options else [f"--config_file={CONFIG}"]
    for complaint in complaints([word for word in (*setting.words, inputs) if word not in own], "inference.json"):
        raise ValueError(f"{complaint}.")
    if threads < 1 or (workers is not None and workers < 1):
        raise ValueError(f"Expected at least one worker and one thread, got {workers} and {threads}.")
    with table_folder(output_dir, FolderLock(output_dir, "a batch", name=LOCK)) as folder:
        runner = make_runner([*setting.words, inputs])
        if len(runner.dataset) == 0:
            raise ValueError("Expected a scan, got none: give --input PATH (a folder of scans or a list of them).")
        scans = runner.scans()
        # No worker can start where this fails, and here the message is the same as that of `run inferring`.
        runner.start()
        connect(address)
        try:
            _do_all(scans, folder, Pool(setting, workers), shown(Path(output_dir)))
        finally:
            ray.shutdown()


def connect(address: str | None) -> None:
    """Join a Ray cluster, or start one on this machine that no other machine can reach.

    Args:
        address: Of the cluster, see `batch`.

    Raises:
        ConnectionError: If no cluster answers at the address.
    """
    # Ray reports use to its makers unless it is told not to.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    passed = {name: value for name, value in os.environ.items() if name.startswith("MP3D_")}
    paths = [str(BUNDLE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"env_vars": {**passed, "PYTHONPATH": os.pathsep.join(paths)}}
    settings: dict[str, Any] = {"runtime_env": environment, "log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        settings |= {"_node_ip_address": "127.0.0.1", "include_dashboard": False}
    try:
        ray.init(address=address or "local", **settings)
    except Exception as error:  # Ray raises errors of all kinds, and plain ones
        raise ConnectionError(f"Expected Ray at {address or 'this machine'}, got: {_first_line(error)}") from error


def _words(output_dir: str, options: dict[str, Any]) -> tuple[str, ...]:
    """The options of ``run inferring`` behind those of a batch."""
    typed = typed_options()
    texts = {name: typed.get(name, str(value)) for name, value in options.items()}
    if "config_file" not in texts:
        texts = {"config_file": str(CONFIG), **texts}
    if "bundle_root" not in texts and Path.cwd() != BUNDLE:
        texts["bundle_root"] = str(BUNDLE)
    texts |= {"progress": "False", "output_dir": output_dir}
    return tuple(f"--{name}={text}" for name, text in texts.items())


def _do_all(scans: Sequence[ScanSource], folder: Path, pool: Pool, place: str) -> None:
    """Do the scans, write the table, and end the process with status 1 and a line per failure, if any."""
    record, start = BatchRecord(scans), time.perf_counter()
    try:
        with stopped_by_signals(), tqdm(total=len(scans), unit="scan") as bar:
            pool.run(record, scans, bar)
    except Stopped as stop:
        print(f"Stopped by {stop}. Run the same command again to do the others; finished ones are skipped.")
        raise SystemExit(128 + stop.number) from None
    finally:
        record.write(folder, seconds=time.perf_counter() - start)
        counts = ", ".join(f"{number} {status}" for status, number in record.counts().items() if number)
        print(f"{len(scans)} scans: {counts}. All of them are listed in {place}/{TABLE} and {DOCUMENT}.", flush=True)
    if failures := record.failures():
        sys.exit("\n".join([f"{len(failures)} of {len(scans)} scans failed:", *failures]))


class Pool:
    """Workers of a Ray cluster, and the tasks that read for them.

    As many scans are read ahead as there are workers: with those that are being done, two for each worker are in
    memory. A worker that ends is replaced, by one on another machine if its own is gone.

    Args:
        setting: What they work with.
        size: Number of workers; None for one for each GPU, or else for the cores in threads.
    """

    def __init__(self, setting: Setting, size: int | None) -> None:
        resources = ray.cluster_resources()
        gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        self.setting = setting
        self.size = size or gpus or max(1, cores // setting.threads)
        # A worker is replaced, and a scan is read again, by this class: it counts how often.
        self._worker = ray.remote(num_cpus=setting.threads, num_gpus=1 if gpus else 0, max_restarts=0)(Worker)
        # Where all cores have workers, tasks share them.
        self._read = ray.remote(num_cpus=1 if gpus else 0, max_retries=1)(read)
        self._starting: dict[Any, Any] = {}
        self._working: dict[Any, tuple[Any, int]] = {}
        self._idle: list[Any] = []
        self._ahead: deque[tuple[int, Any]] = deque()
        self._lost_starts = 0

    def run(self, record: BatchRecord, scans: Sequence[ScanSource], bar: tqdm[Any]) -> None:
        """Do all scans of a record.

        Raises:
            OSError: If no worker stays alive.
            ValueError: If a worker cannot do what the options say.
        """
        for _ in range(min(self.size, len(scans))):
            self._hire()
        while record.unfinished:
            while len(self._ahead) < self.size and (number := record.take()) is not None:
                self._ahead.append((number, self._read.remote(scans[number], self.setting)))
            while self._idle and self._ahead:
                worker, (number, scan) = self._idle.pop(), self._ahead.popleft()
                self._working[worker.do.remote(scans[number], scan)] = (worker, number)
            ready, _ = ray.wait([*self._starting, *self._working], num_returns=1, timeout=_WAIT_S)
            for result in ready:
                self._started(result) if result in self._starting else self._ended(result, record)
            bar.set_postfix(record.counts(), refresh=False)
            bar.update(bar.total - record.unfinished - bar.n)

    def _hire(self) -> None:
        worker = self._worker.remote()
        self._starting[worker.start.remote(self.setting)] = worker

    def _started(self, result: Any) -> None:
        worker = self._starting.pop(result)
        try:
            complaint = ray.get(result)
        except ray.exceptions.RayError as error:
            self._lost_starts += 1
            if self._lost_starts >= LOST_STARTS:
                raise OSError(f"Expected workers that start, {LOST_STARTS} ended: {_first_line(error)}") from error
            self._hire()
            return
        if complaint is not None:
            raise ValueError(complaint)
        self._lost_starts = 0
        self._idle.append(worker)

    def _ended(self, result: Any, record: BatchRecord) -> None:
        worker, number = self._working.pop(result)
        try:
            value = ray.get(result)
        except ray.exceptions.RayActorError:
            # It may only be out of reach.
            ray.kill(worker)
            record.lost(number, f"{record.rows[number].path}: the process that did this scan ended.")
            self._hire()
            return
        except ray.exceptions.RayError as error:
            # The process that read it ended, or the machine that held what was read.
            record.lost(number, f"{record.rows[number].path}: could not be read ({_first_line(error)})")
        else:
            if isinstance(value, Failure):
                record.failed(number, value.reason, machine=value.machine)
            else:
                outcome, seconds, machine = value
                record.ended(number, outcome, seconds=seconds, machine=machine)
        self._idle.append(worker)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
