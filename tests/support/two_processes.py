"""Two processes of one run on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ignite.distributed as idist


def in_two_processes(function: Callable[..., None], *arguments: Any) -> None:
    """Run ``function(rank, *arguments)`` as ranks 0 and 1.

    They meet through a file: the port that Ignite takes by default may be in use, for example by another test run.
    They are forked, so that they share the caller's module, which pytest imports under a name of its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        idist.spawn("gloo", function, args=arguments, nproc_per_node=2, start_method="fork", init_method=meeting)
