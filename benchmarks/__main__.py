"""Run the benchmarks: ``python -m benchmarks [NAME ...]`` from the repository's root, all of them by default.

``python -m benchmarks --compare REVISION NAME [ROUNDS]`` runs one against another commit, see `benchmarks._compare`.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks._compare import compare_revisions

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent


def names() -> list[str]:
    """Names of the benchmarks, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def machine() -> str:
    """Description of the machine of the figures."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    load = f"{os.getloadavg()[0]:.1f}"
    return (
        f"{cores} cores {platform.machine()} ({torch.backends.cpu.get_cpu_capability()}), {gpu}, load {load}; "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def main(wanted: list[str]) -> int:
    """Run each benchmark in a separate process, so that none inherits another's threads or memory.

    Args:
        wanted: Names; all if empty.

    Returns:
        Exit status: 0 if all ran, 1 if one failed, 2 if a name is unknown.
    """
    known = names()
    if {"-h", "--help"} & set(wanted):
        print(f"{__doc__}\nThe names are: {', '.join(known)}.")
        return 0
    if wanted[:1] == ["--compare"]:
        if len(wanted) not in (3, 4) or wanted[2] not in known or not (wanted[3:] or ["1"])[0].isdecimal():
            print("Expected --compare REVISION NAME [ROUNDS]; the names are: " + ", ".join(known), file=sys.stderr)
            return 2
        print(machine(), flush=True)
        return compare_revisions(ROOT, wanted[1], wanted[2], rounds=max(int((wanted[3:] or ["3"])[0]), 1))
    unknown = [name for name in wanted if name not in known]
    if unknown:
        print(f"No benchmark called {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    print(machine(), flush=True)
    paths = [str(ROOT / "mp3d_bundle"), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    failed = []
    for name in wanted or known:
        print(f"\n== {name}", flush=True)
        code = f"from benchmarks.{name} import main; main()"
        if subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment).returncode:
            failed.append(name)
    if failed:
        print(f"\nFailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
