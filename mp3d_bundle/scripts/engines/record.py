"""What a run was: its merged config, seed, versions and commit, beside its weights."""

from __future__ import annotations

import copy
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from .config import current_parser

_PACKAGES = ("torch", "torchvision", "monai", "pytorch-ignite", "numpy", "opencv-python-headless", "pycocotools")


class RunRecord:
    """Writes ``config.json``, the merged config, and ``run.json``, one entry for each start of the run.

    Args:
        directory: Folder for both files.
        seed: Seed of the run.
        facts: Further plain facts of the run, such as the number of training images.

    Raises:
        ValueError: If this is not built from a config.
    """

    def __init__(self, directory: str | Path, *, seed: int, facts: Mapping[str, Any] | None = None) -> None:
        parser = current_parser()
        if parser is None:
            raise ValueError("Expected to be built from a config.")
        self.directory = Path(directory)
        self.seed = seed
        self.facts = dict(facts or {})
        config: dict[str, Any] = copy.deepcopy(parser.get())
        self.bundle_version = config.pop(parser.meta_key, {}).get("version")
        self.config = config

    def attach(self, engine: Engine) -> None:
        """Write when ``engine`` starts and when it is done; attach after the handler that resumes it."""
        engine.add_event_handler(Events.STARTED, self.write)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def write(self, engine: Engine) -> None:
        """Write both files, ``config.json`` only if there is something left to train."""
        if idist.get_rank() != 0:
            return
        path = self.directory / "run.json"
        starts = json.loads(path.read_text())["starts"] if path.is_file() else []
        start = {
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "epochs_done": engine.state.epoch,
            "seed": self.seed,
            **self.facts,
            "bundle": self.bundle_version,
            "commit": commit(),
            "versions": versions(),
            "device": str(getattr(engine.state, "device", None)),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "processes": idist.get_world_size(),
        }
        self.directory.mkdir(parents=True, exist_ok=True)
        _write({"starts": [*starts, start]}, path)
        # It describes the weights beside it, which a run without anything left to do did not make.
        if engine.state.epoch < (engine.state.max_epochs or 0):
            _write(self.config, self.directory / "config.json")

    def finish(self, engine: Engine) -> None:
        """Add to the last start when it ended, and the most memory (bytes) that this process held on a GPU."""
        if idist.get_rank() != 0:
            return
        path = self.directory / "run.json"
        starts = json.loads(path.read_text())["starts"]
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        ended = {"ended": datetime.now(timezone.utc).isoformat(timespec="seconds"), "gpu_peak_bytes": peak}
        _write({"starts": [*starts[:-1], {**starts[-1], "epochs_ended": engine.state.epoch, **ended}]}, path)


def versions() -> dict[str, str | None]:
    """Versions of Python and of the libraries that results depend on; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def commit() -> str | None:
    """Commit of the code, with "-dirty" if files differ from it; None outside of a git checkout."""
    arguments = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _write(content: Any, path: Path) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2, default=str) + "\n")
    os.replace(part, path)
