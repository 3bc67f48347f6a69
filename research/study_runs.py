"""Run what a study needs: once, resumable, each run by one study at a time."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypedDict, cast

import torch

from research.study_commands import BUNDLE, Places, Run, folder_of, text_of
from scripts.data.deeplesion.splits import dataset_notice
from scripts.storage.atomic_files import write_json
from scripts.storage.output_folder import FolderLock
from scripts.training.resuming.run_record import commit, read_starts, set_aside, versions
from scripts.weights import read_tensors

logger = logging.getLogger(__name__)

STATE, RESULT = "state.json", "result.json"
STUDY = "a study"
# Of metrics.json, what the page needs.
_METRICS = (
    "sensitivity", "sensitivity_interval", "mean_sensitivity", "mean_sensitivity_interval", "ap50", "ap50_interval",
    "counts", "dataset", "notice",
)  # fmt: skip
# ru_maxrss is in KiB on Linux and in bytes on macOS.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Step(TypedDict):
    """One command of a run: seconds over all its starts, most resident memory in bytes, and whether it has ended."""

    seconds: float
    peak_bytes: int
    done: bool


class RunState(TypedDict):
    """How far a run is: what identifies its commands and data, the files that they read, and its commands by name."""

    fingerprint: str
    files: dict[str, str]
    steps: dict[str, Step]


class RunResult(RunState):
    """What a finished run left.

    Attributes:
        key: Of its setting.
        seed: Its seed.
        rate: Learning rate; None for that of the overlays.
        commands: As typed, by name.
        date: When it ended.
        machine: See `machine`.
        commit: Of the code.
        versions: Of Python and the libraries.
        notice: What every result on the data must say.
        metrics: Of its evaluation; not there for a pre-training, nor are the following.
        gpu_peak_bytes: Most memory on a GPU; None on a CPU.
        validation: Score of the weights on the validation split.
    """

    key: str
    seed: int
    rate: float | None
    commands: dict[str, str]
    date: str
    machine: str
    commit: str | None
    versions: dict[str, str | None]
    notice: str | None
    metrics: dict[str, Any]
    gpu_peak_bytes: int | None
    validation: float | None


class RunFailed(RuntimeError):
    """A run failed; the message names it and says why."""


def read_result(run: Run, places: Places) -> RunResult | None:
    """What a run left; None if it has not finished.

    Raises:
        RunFailed: If the folder belongs to a run of other commands or other data, or of files that have changed since.
    """
    for name in (RESULT, STATE):
        content = _read_record(run.folder / name)
        if content is None:
            continue
        if content["fingerprint"] != run.fingerprint(places):
            raise RunFailed(
                f"{run.folder} holds a run of other commands or another data set; choose another --output, or remove "
                "that folder."
            )
        # Records of earlier versions do not name the files.
        then, now = content.get("files", {}), run.files(places)
        changed = [file for file in now if then.get(file, now[file]) != now[file]]
        if changed:
            raise RunFailed(
                f"{run.folder} holds a run that began with another content of {', '.join(changed)}; choose another "
                "--output, or remove that folder."
            )
        return content if name == RESULT else None
    return None


def _read_record(path: Path) -> RunResult | None:
    """The record of a run, finished or not; None if it is missing or damaged."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (
            isinstance(content["fingerprint"], str)
            and isinstance(content.get("files", {}), dict)
            and all(isinstance(one["done"], bool) for one in content["steps"].values())
        ):
            return content
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, IsADirectoryError):
        pass
    logger.warning("The record %s is damaged; kept it as %s, and the run resumes.", path, set_aside(path).name)
    return None


def execute(run: Run, places: Places) -> RunResult:
    """Do what is left of a run.

    Args:
        run: The run.
        places: Where it reads and writes.

    Returns:
        Its result, new or from before.

    Raises:
        RunFailed: If a command fails, or the folder belongs to another run.
        BlockingIOError: If another study is doing this run.
    """
    if (done := read_result(run, places)) is not None:
        return done
    if run.needs is not None and not (BUNDLE / run.needs).is_file():
        how = "its own pre-training did not finish" if run.made_here else "see models/README.md for how to get them"
        raise RunFailed(f"{run.key} starts from the weights {run.needs}, which are not there: {how}.")
    with FolderLock(run.folder, STUDY):
        # Another study may have finished it since.
        return read_result(run, places) or _carry_out(run, places)


def _carry_out(run: Run, places: Places) -> RunResult:
    path = run.folder / STATE
    state: RunState = _read_record(path) or {
        "fingerprint": run.fingerprint(places),
        "files": run.files(places),
        "steps": {},
    }
    for name, words in run.steps.items():
        if (run.folder / name).is_dir():
            # The command of a study that was killed may still be running: it finishes what this study waits for.
            FolderLock(run.folder / name, STUDY).acquire().release()
        step = state["steps"].setdefault(name, {"seconds": 0.0, "peak_bytes": 0, "done": False})
        if step["done"]:
            continue
        write_json(state, path)
        start = time.monotonic()
        try:
            status, peak = _call(words, run.folder / f"{name}.log")
        finally:
            step["seconds"] += time.monotonic() - start
            write_json(state, path)
        step["peak_bytes"] = max(step["peak_bytes"], peak)
        if status:
            raise RunFailed(_why(run, name, status))
        step["done"] = True
        write_json(state, path)
    result = cast(RunResult, {**state, **_facts(run, places)})
    write_json(result, run.folder / RESULT)
    return result


def _call(words: tuple[str, ...], log: Path) -> tuple[int, int]:
    """Exit status and greatest resident memory in bytes of a command, its output appended to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(f"$ {text_of(words)}\n")
        file.flush()
        child = subprocess.Popen(words, cwd=folder_of(words), stdout=file, stderr=subprocess.STDOUT)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            _end(child)
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode, usage.ru_maxrss * _RSS_UNIT


def _end(child: subprocess.Popen) -> None:
    """Stop a command and wait until it has: a training writes its checkpoint first, whatever comes meanwhile."""
    child.terminate()
    while True:
        try:
            child.wait()
        except (KeyboardInterrupt, SystemExit):
            continue
        return


def _why(run: Run, step: str, status: int) -> str:
    log = run.folder / f"{step}.log"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{run.key}, seed {run.seed}: {step} ended with exit status {status} ({lines[-1][:300]}); see {log}."


def _facts(run: Run, places: Places) -> dict[str, Any]:
    """What is known after the last step."""
    facts: dict[str, Any] = {
        "key": run.key,
        "seed": run.seed,
        "rate": run.rate,
        "commands": {name: text_of(words) for name, words in run.steps.items()},
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": machine(),
        "commit": commit(),
        "versions": versions(),
        "notice": dataset_notice(places.dataset_dir),
    }
    metrics = run.folder / "evaluation" / "metrics.json"
    if "evaluating" in run.steps:
        content = json.loads(metrics.read_text())
        facts["metrics"] = {name: content[name] for name in _METRICS}
        starts = read_starts(run.folder / "training" / "run.json") or []
        facts["gpu_peak_bytes"] = max((start.get("gpu_peak_bytes") or 0 for start in starts), default=0) or None
        facts["validation"] = read_tensors(run.folder / "training" / "model.pt")["info"].get("mean_sensitivity")
    return facts


def machine() -> str:
    """The machine in words: processor, cores, accelerator."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{platform.machine()}, {os.cpu_count()} cores, {gpu}"
