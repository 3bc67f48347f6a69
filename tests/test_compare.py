"""`python -m benchmarks --compare`: the same benchmark with the bundles of two commits, in turns."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import _compare
from benchmarks.__main__ import main
from benchmarks._timing import TIMES, compare, record

GIT = ["git", "-c", "user.name=A", "-c", "user.email=a@b", "-C"]
FIGURE = """
from benchmarks._timing import record
from scripts.speed import SECONDS
def main():
    record("reading", {"ours": SECONDS.pop(0), "only": 1.0} if SECONDS[0] > 1 else {"ours": SECONDS.pop(0)})
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits whose bundles differ in speed, with a benchmark that only the checkout has."""
    root = tmp_path / "root"
    scripts = root / "mp3d_bundle" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "__init__.py").write_text("")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    for seconds in ("[4.0]", "[0.5]"):
        (scripts / "speed.py").write_text(f"SECONDS = {seconds}\n")
        subprocess.run([*GIT, str(root), "add", "."], check=True)
        subprocess.run([*GIT, str(root), "commit", "-q", "-m", "x"], check=True)
    benchmarks = root / "benchmarks"
    benchmarks.mkdir()
    (benchmarks / "__init__.py").write_text("")
    (benchmarks / "_timing.py").write_bytes(Path(_compare.__file__).with_name("_timing.py").read_bytes())
    (benchmarks / "figure.py").write_text(FIGURE)
    (benchmarks / "failing.py").write_text("def main():\n    raise SystemExit(3)\n")
    (benchmarks / "silent.py").write_text("def main():\n    pass\n")
    return root


def trees(root: Path) -> list[str]:
    listed = subprocess.run([*GIT, str(root), "worktree", "list"], capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def test_each_bundle_is_timed_and_the_other_tree_is_removed(repository: Path, capfd: pytest.CaptureFixture) -> None:
    assert _compare.compare_revisions(repository, "HEAD~1", "figure", rounds=2) == 0
    lines = capfd.readouterr().out.splitlines()
    rounds = [line.rsplit(" ", 1)[1] for line in lines if line.startswith("== ")]
    assert rounds == ["HEAD~1", "here", "here", "HEAD~1"]
    (row,) = json.loads(lines[-1])["figures"]
    assert row == {"title": "reading", "case": "ours", "before_s": 4.0, "here_s": 0.5, "faster": 8.0}
    assert any("4000.0 ms" in line and "500.0 ms" in line and "8.00x" in line for line in lines)
    assert len(trees(repository)) == 1


@pytest.mark.parametrize(
    ("revision", "name", "message"),
    [
        ("nonsense", "figure", "Expected a commit nonsense"),
        ("HEAD~1", "failing", "exit status 3"),
        ("HEAD~1", "silent", "compares no times"),
    ],
)
def test_what_cannot_be_compared_is_said_and_leaves_no_tree(
    repository: Path, capfd: pytest.CaptureFixture, revision: str, name: str, message: str
) -> None:
    assert _compare.compare_revisions(repository, revision, name, rounds=1) == 1
    assert message in capfd.readouterr().err
    assert len(trees(repository)) == 1


@pytest.mark.parametrize("words", [[], ["HEAD"], ["HEAD", "nothing"], ["HEAD", "network", "many"]])
def test_wrong_words_are_answered_with_the_names(words: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(["--compare", *words]) == 2
    assert "slab_reading" in capsys.readouterr().err


def test_times_are_written_only_where_they_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TIMES, raising=False)
    record("nowhere", {"a": 1.0})
    monkeypatch.setenv(TIMES, str(tmp_path / "times.jsonl"))
    compare("calls", {"peer": lambda: None, "ours": lambda: None}, rounds=1)
    (line,) = (tmp_path / "times.jsonl").read_text().splitlines()
    assert set(json.loads(line)["seconds"]) == {"peer", "ours"}


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_the_help_names_the_benchmarks(word: str, capsys: pytest.CaptureFixture) -> None:
    assert main([word]) == 0
    told = capsys.readouterr()
    assert "python -m benchmarks [NAME ...]" in told.out
    assert "whole_ct" in told.out
    assert not told.err
