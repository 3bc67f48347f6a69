"""Try the versions of `tools/version_matrix.yaml`: ``make matrix``, ``make matrix CELLS='3.11-lowest 3.11-highest'``.

Each cell is an environment in ``runs/matrix`` (several GB, removed when its tests are done without ``--keep``) in which
uv installs what `pyproject.toml` names, and the listed tests run. A cell whose Python is not on this machine, or
whose packages cannot be installed, is listed with the reason; it does not count as a failure of the software.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
MATRIX = ROOT / "tools" / "version_matrix.yaml"
UV = [sys.executable, "-m", "uv"]
VERSIONS = """
import json, platform
from importlib.metadata import version
print(json.dumps({"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy")}}))
"""


def told(command: list[str]) -> tuple[int, str, str]:
    """Run a command in the repository: status, output, error output. The caller's Python settings are left out."""
    settings = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    # pyenv's own entries of the path are scripts that do not run without a chosen version: uv takes the Pythons behind.
    pyenv = Path(settings.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    settings["PATH"] = os.pathsep.join([*map(str, sorted(pyenv.glob("*/bin"))), settings.get("PATH", "")])
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout, done.stderr


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")


def prepare(cell: dict[str, Any], folder: Path) -> str:
    """Build the environment of a cell.

    Returns:
        Why it cannot be built, or nothing.
    """
    status, found, _ = told([*UV, "python", "find", "--no-python-downloads", cell["python"]])
    if status:
        return f"no Python {cell['python']} on this machine"
    told([*UV, "venv", "--quiet", "--clear", "--python", found.strip(), str(folder)])
    words = ["--resolution", cell["resolution"], "-r", "pyproject.toml", "--group", "dev", *cell.get("pins", [])]
    status, _, said = told([*UV, "pip", "install", "--python", str(folder / "bin" / "python"), *words])
    # uv gives the reason first, and hints at the end.
    reasons = [line for line in said.splitlines() if line.startswith("error")]
    return f"packages: {reasons[0] if reasons else last_line(said)}" if status else ""


def run_cell(cell: dict[str, Any], tests: list[str], folder: Path) -> dict[str, Any]:
    """Build a cell's environment and run the tests in it.

    Returns:
        ``state`` (``passed``, ``failed`` or ``not run``) and ``text``; versions and ``seconds`` of what ran.
    """
    start = time.monotonic()
    if reason := prepare(cell, folder):
        return {"state": "not run", "text": reason}
    python = str(folder / "bin" / "python")
    status, versions, said = told([python, "-c", VERSIONS])
    if status:
        return {"state": "failed", "text": last_line(said)}
    status, output, said = told([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests])
    summary = re.sub(r" in [\d.]+s.*$", "", last_line(output or said))
    failed = "".join(f"\n{line}" for line in output.splitlines() if re.match("FAILED|ERROR", line))
    state = "failed" if status else "passed"
    seconds = round(time.monotonic() - start)
    return {"state": state, "text": summary + failed, **json.loads(versions), "seconds": seconds}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row for each cell."""
    lines = ["| cell | Python | torch | numpy | result |", "| --- | --- | --- | --- | --- |"]
    for name, one in results.items():
        versions = " | ".join(str(one.get(key, "")) for key in ("python", "torch", "numpy"))
        lines.append(f"| {name} | {versions} | {one['state']}: {one['text'].splitlines()[0]} |")
    return "\n".join(lines)


def main() -> int:
    """Run the cells; 1 if a test failed in one of them, or none could run."""
    matrix = yaml.safe_load(MATRIX.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", help=f"of {', '.join(matrix['cells'])}; all by default")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "matrix")
    parser.add_argument("--keep", action="store_true", help="keep the environments")
    options = parser.parse_args()
    if unknown := [name for name in options.cells if name not in matrix["cells"]]:
        parser.error(f"no cell {', '.join(unknown)}; there are: {', '.join(matrix['cells'])}")
    options.output.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    for name in options.cells or matrix["cells"]:
        folder = options.output.resolve() / name
        results[name] = run_cell(matrix["cells"][name], matrix["tests"], folder)
        print(f"{name}: {results[name]['state']}: {results[name]['text']}", flush=True)
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
        day = datetime.date.today().isoformat()
        (options.output / "results.json").write_text(json.dumps({"date": day, "cells": results}, indent=1) + "\n")
    print(f"\n{table(results)}")
    states = [one["state"] for one in results.values()]
    return 1 if "failed" in states or "passed" not in states else 0


if __name__ == "__main__":
    sys.exit(main())
