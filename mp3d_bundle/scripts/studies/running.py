"""Running what a study needs: once, resumable, each run by one study at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ..data.deeplesion import dataset_notice
from ..engines.record import commit, versions
from ..files import write_json
from ..weights import read_tensors
from .commands import Places, Run, text_of

logger = logging.getLogger(__name__)

STATE, RESULT = "state.json", "result.json"
# Of metrics.json, what the page needs.
_METRICS = (
    "sensitivity", "sensitivity_interval", "mean_sensitivity", "mean_sensitivity_interval", "ap50", "ap50_interval",
    "counts", "dataset", "notice",
)  # fmt: skip
# ru_maxrss is in KiB on Linux and in bytes on macOS.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class RunFailed(RuntimeError):
    """A run could not be done; the message names it and says why."""


@contextlib.contextmanager
def alone_in(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep other studies out of a folder.

    Args:
        folder: The folder; it is made if need be.
        wait: Wait for another study to leave it.

    Raises:
        BlockingIOError: If another study is at work there, and not to be waited for.
        OSError: If the folder cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"Expected a folder to itself, another study is at work in {folder}.") from error
        yield


def read_result(run: Run, places: Places) -> dict[str, Any] | None:
    """What a run left; None if it has not finished.

    Raises:
        RunFailed: If the folder belongs to a run of other commands or other data.
    """
    for name in (RESULT, STATE):
        path = run.folder / name
        if not path.is_file():
            continue
        content = json.loads(path.read_text())
        if content["fingerprint"] != run.fingerprint(places):
            raise RunFailed(
                f"{run.folder} holds a run of other commands or another data set; choose another --output, or remove "
                "that folder."
            )
        return content if name == RESULT else None
    return None


def execute(run: Run, places: Places) -> dict[str, Any]:
    """Do what is left of a run.

    Args:
        run: The run.
        places: Where it reads and writes.

    Returns:
        Its result, new or from before.

    Raises:
        RunFailed: If a command fails, or the folder belongs to another run.
        BlockingIOError: If another study is at this run.
    """
    if (done := read_result(run, places)) is not None:
        return done
    if run.needs is not None and not run.needs.is_file():
        how = "its own pre-training did not finish" if run.made_here else "see models/README.md for how to get them"
        raise RunFailed(f"{run.key} starts from the weights {run.needs}, which are not there: {how}.")
    with alone_in(run.folder):
        # Another study may have finished it since.
        return read_result(run, places) or _carry_out(run, places)


def _carry_out(run: Run, places: Places) -> dict[str, Any]:
    path = run.folder / STATE
    state = json.loads(path.read_text()) if path.is_file() else {"fingerprint": run.fingerprint(places), "steps": {}}
    for name, words in run.steps.items():
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
    result = {**state, **_facts(run, places)}
    write_json(result, run.folder / RESULT)
    return result


def _call(words: tuple[str, ...], log: Path) -> tuple[int, int]:
    """Exit status and greatest resident memory in bytes of a command, its output appended to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(f"$ {text_of(words)}\n")
        file.flush()
        child = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.terminate()
            child.wait()
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode, usage.ru_maxrss * _RSS_UNIT


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
        record = run.folder / "training" / "run.json"
        starts = json.loads(record.read_text())["starts"] if record.is_file() else []
        facts["gpu_peak_bytes"] = max((start.get("gpu_peak_bytes") or 0 for start in starts), default=0) or None
        facts["validation"] = read_tensors(run.folder / "training" / "model.pt")["info"].get("mean_sensitivity")
    return facts


def machine() -> str:
    """The machine in words: processor, cores, accelerator."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{platform.machine()}, {os.cpu_count()} cores, {gpu}"
