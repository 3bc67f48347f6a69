"""A benchmark against another commit, in interleaved rounds, so that a busy machine slows both equally.

The benchmark of this checkout runs with the bundle of both. Its times are those that `benchmarks._timing.record` gets;
of each the shortest of all rounds counts.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks._timing import TIMES

Times = dict[tuple[str, str], float]
BUNDLE = "mp3d_bundle"


def compare_revisions(root: Path, revision: str, name: str, *, rounds: int = 3) -> int:
    """Run a benchmark with the bundle of this checkout and of another commit, and print both times as table and JSON.

    Args:
        root: The repository.
        revision: What git knows the other commit by.
        name: The benchmark.
        rounds: Runs of each; the order changes from round to round.

    Returns:
        Exit status: 0, or 1 if a run failed or nothing could be compared.
    """
    best: dict[str, Times] = {revision: {}, "here": {}}
    try:
        with other_tree(root, revision) as tree:
            places = {revision: tree, "here": root}
            for turn in range(rounds):
                for label in sorted(places, reverse=bool(turn % 2)):
                    print(f"== round {turn + 1} of {rounds}: {name}, {label}", flush=True)
                    for figure, seconds in run_once(root, places[label], name).items():
                        best[label][figure] = min(seconds, best[label].get(figure, seconds))
    except (OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    figures = [figure for figure in best["here"] if figure in best[revision]]
    if not figures:
        print(f"Expected times of {name} that both have, got none: it compares no times.", file=sys.stderr)
        return 1
    print_table(name, revision, {figure: (best[revision][figure], best["here"][figure]) for figure in figures})
    return 0


def print_table(name: str, revision: str, figures: dict[tuple[str, str], tuple[float, float]]) -> None:
    """Print the shortest times of the other commit and of this checkout, in seconds, and their ratio."""
    print(f"\n{name}: shortest times of {revision} and of this checkout, and how many times faster it is")
    title = ""
    for (heading, case), (before, now) in figures.items():
        if heading != title:
            print(f"{heading}")
            title = heading
        print(f"  {case:<44} {1000 * before:10.1f} ms {1000 * now:10.1f} ms   {before / now:7.2f}x")
    rows = [
        {"title": heading, "case": case, "before_s": before, "here_s": now, "faster": before / now}
        for (heading, case), (before, now) in figures.items()
    ]
    print(json.dumps({"benchmark": name, "revision": revision, "figures": rows}))


def run_once(root: Path, tree: Path, name: str) -> Times:
    """Times of one run of a benchmark of ``root`` with the bundle of ``tree``, in seconds.

    Raises:
        RuntimeError: If it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder) / "times.jsonl"
        paths = os.pathsep.join([str(tree / BUNDLE), str(root)])
        environment = {**os.environ, "PYTHONPATH": paths, TIMES: str(times)}
        # The working folder comes first in the path of modules: it must not have other benchmarks.
        code = f"from benchmarks.{name} import main; main()"
        status = subprocess.run([sys.executable, "-c", code], cwd=tree / BUNDLE, env=environment).returncode
        if status:
            raise RuntimeError(f"Expected {name} to run with the bundle in {tree}, it ended with exit status {status}.")
        lines = times.read_text(encoding="utf-8").splitlines() if times.is_file() else []
    read = [json.loads(line) for line in lines]
    return {(one["title"], case): seconds for one in read for case, seconds in one["seconds"].items()}


@contextlib.contextmanager
def other_tree(root: Path, revision: str) -> Iterator[Path]:
    """The files of another commit in a temporary folder, removed afterwards.

    Raises:
        RuntimeError: If git does not know the commit.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        command = [
            "git",
            "-C",
            str(root),
            "worktree",
            "add",
            "--detach",
            "--force",
            str(tree),
            f"{revision}^{{commit}}",
        ]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            reason = " ".join(made.stderr.split()) or f"exit status {made.returncode}"
            raise RuntimeError(f"Expected a commit {revision} of {root}, git says: {reason}")
        try:
            yield tree
        finally:
            subprocess.run(["git", "-C", str(root), "worktree", "remove", "--force", str(tree)], capture_output=True)
