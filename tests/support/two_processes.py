"""Two processes of one run on this machine."""

from __future__ import annotations

import importlib.util
import inspect
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ignite.distributed as idist


def in_two_processes(function: Callable[..., None], *arguments: Any) -> None:
    """Run ``function(rank, *arguments)`` of a module as ranks 0 and 1.

    They meet through a file: the port that Ignite takes by default may be in use, for example by another test run.
    They are forked off a server, and not off this process: whatever ran in it may have started threads of PyTorch,
    which a fork does not survive. So they read the caller's module again, which pytest imports under a name of its own.
    """
    multiprocessing.set_forkserver_preload(["monai", "torch", "torchvision"])
    call = (inspect.getfile(function), function.__name__, arguments)
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        idist.spawn("gloo", _call, args=call, nproc_per_node=2, start_method="forkserver", init_method=meeting)


def _call(rank: int, path: str, name: str, arguments: tuple[Any, ...]) -> None:
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    getattr(module, name)(rank, *arguments)
