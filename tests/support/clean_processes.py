"""Processes of a server that has imported PyTorch, MONAI and the fakes of `fake_engines`.

These imports take 8 CPU seconds, more than most commands under test. The server has trained nothing: autograd's threads
do not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# Modules of this project, which a program imports anew: it may have a copy of its own.
_OWN = ("scripts", "support")
_CLEAN = multiprocessing.get_context("forkserver")
_CLEAN.set_forkserver_preload(["torchvision", "monai.bundle", "support.fake_engines"])


def clean_process(target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """A process of the server, not started yet, to call ``target(*arguments)``."""
    with pytest.MonkeyPatch.context() as patch:
        # The server does not take the path of this process over.
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        forkserver.ensure_running()
    return _CLEAN.Process(target=_call, args=(target, *arguments))


def _call(target: Callable[..., None], *arguments: Any) -> None:
    # Processes of its own, such as data loaders, start as they do elsewhere on this system.
    multiprocessing.set_start_method(None, force=True)
    target(*arguments)


def python(
    *words: str | Path, cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What ``python WORDS`` does, without the start of an interpreter: as `subprocess.run` with its output captured.

    Args:
        words: ``-m MODULE``, ``-c CODE`` or a file, and the program's own words.
        cwd: Working folder.
        environment: Variables; those of this process by default.

    Returns:
        Exit status and both outputs.
    """
    settings = {"OMP_NUM_THREADS": "1", **(os.environ if environment is None else environment)}
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder, "stdout"), Path(folder, "stderr")
        texts = [str(word) for word in words]
        child = clean_process(_interpret, texts, str(cwd), settings, outputs)
        child.start()
        child.join()
        told = [path.read_text(encoding="utf-8") for path in outputs]
    return subprocess.CompletedProcess(texts, child.exitcode or 0, *told)


def _interpret(words: list[str], cwd: str, settings: dict[str, str], outputs: tuple[Path, Path]) -> None:
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(settings)
    for name in [name for name in sys.modules if name.split(".")[0] in _OWN]:
        del sys.modules[name]
    others = [path for path in sys.path if path and (REPOSITORY not in Path(path).parents or "site-packages" in path)]
    paths = [path for path in settings.get("PYTHONPATH", "").split(os.pathsep) if path]
    try:
        _program(words, [*paths, *(path for path in others if path != str(REPOSITORY))])()
    except Exception:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        sys.exit(1)


def _program(words: list[str], paths: list[str]) -> Callable[[], object]:
    """The program that the words name; `sys.path` and `sys.argv` are as it finds them."""
    first, *rest = words
    if first not in ("-m", "-c"):
        sys.path[:], sys.argv[:] = [os.path.dirname(os.path.abspath(first)), *paths], words
        return lambda: runpy.run_path(first, run_name="__main__")
    name, *rest = rest
    sys.path[:], sys.argv[:] = [os.getcwd() if first == "-m" else "", *paths], [first, *rest]
    if first == "-m":
        return lambda: runpy.run_module(name, run_name="__main__", alter_sys=True)
    return lambda: exec(compile(name, "<string>", "exec"), {"__name__": "__main__"})
