"""What a run was: its merged config, seed, versions and commit, next to its weights."""

from __future__ import annotations

import copy
import json
import logging
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from ...command_words import command_text
from ...configuration.typed_options import current_parser
from ...storage.atomic_files import replacing

logger = logging.getLogger(__name__)

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
        self._starts: list[dict[str, Any]] = []
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
        self.directory.mkdir(parents=True, exist_ok=True)
        for name in ("run.part", "config.part"):  # as releases up to 0.1.0 left them when they were killed
            (self.directory / name).unlink(missing_ok=True)
        starts = read_starts(path)
        if starts is None:
            logger.warning("The record %s is damaged; kept it as %s and began a new one.", path, set_aside(path).name)
        start = {
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": command_text(),
            "epochs_done": engine.state.epoch,
            "iterations_done": engine.state.iteration,
            "seed": self.seed,
            **self.facts,
            "bundle": self.bundle_version,
            "commit": commit(),
            "versions": versions(),
            "device": str(getattr(engine.state, "device", None)),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "processes": idist.get_world_size(),
        }
        self._starts = [*(starts or []), start]
        _write({"starts": self._starts}, path)
        # It describes the weights next to it, which a run with nothing left to do did not make.
        if engine.state.epoch < (engine.state.max_epochs or 0):
            config = self.directory / "config.json"
            if config.is_dir():
                logger.warning("Found a folder at %s; kept it as %s.", config, set_aside(config).name)
            _write(self.config, config)

    def finish(self, engine: Engine) -> None:
        """Add to the last start when it ended, and the most memory (bytes) that this process held on a GPU."""
        if idist.get_rank() != 0:
            return
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        ended = {"ended": datetime.now(timezone.utc).isoformat(timespec="seconds"), "gpu_peak_bytes": peak}
        self._starts[-1] = {**self._starts[-1], "epochs_ended": engine.state.epoch, **ended}
        _write({"starts": self._starts}, self.directory / "run.json")


def read_starts(path: Path) -> list[dict[str, Any]] | None:
    """The starts that a ``run.json`` lists, oldest first.

    Args:
        path: The file.

    Returns:
        An empty list where there is no file, and None where it holds anything but such a record, as after a crash of
        the machine or with a full disk.
    """
    if not path.exists():
        return []
    try:
        starts = json.loads(path.read_text(encoding="utf-8"))["starts"]
    except (ValueError, TypeError, KeyError, RecursionError, IsADirectoryError):
        return None
    return starts if isinstance(starts, list) and all(isinstance(start, dict) for start in starts) else None


def set_aside(path: Path) -> Path:
    """Give a damaged file another name in its folder, one that is free.

    Returns:
        The new name: ``run.json.damaged``, or with a number.
    """
    number = 1
    while (kept := path.with_name(f"{path.name}.damaged{number if number > 1 else ''}")).exists():
        number += 1
    os.replace(path, kept)
    return kept


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
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
