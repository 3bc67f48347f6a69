"""The make targets and the CI script: what they run, in which order, and what stops them.

They run in a copy whose set-up, Python and make only write down what they were asked for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
# Writes its name and words to a file; ends with a failure where one of the words is FAIL's.
RECORDER = """#!/bin/sh
echo "{name} $*" >> "$RECORD"
for word in "$@"; do [ "$word" = "$FAIL" ] && exit 3; done
exit 0
"""
S3_TESTS = (
    "tests/storage/test_object_stores.py tests/data/scans/test_remote_scans.py "
    "tests/workflows/delivery/test_remote_results.py tests/test_object_store_commands.py"
)
RAY = "python -m uv pip install --require-hashes --quiet --python .venv/bin/python -r requirements-ray.lock"
AUDITOR = (
    "python -m uv venv --quiet --clear .venv-audit",
    "python -m uv pip sync --require-hashes --quiet --python .venv-audit/bin/python requirements-audit.lock",
)
LOCKS = tuple(f"requirements{kind}.lock" for kind in ("", "-audit", "-bootstrap", "-ray", "-s3"))
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def recorder(path: Path, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(RECORDER.replace("{name}", name))
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with recorders in the place of the set-up scripts and of both Pythons."""
    folder = tmp_path / "checkout"
    for name, path in {
        "setup": "tools/setup.sh",
        "label-setup": "tools/label_setup.sh",
        "python": ".venv/bin/python",
        "label-python": ".venv-label/bin/python",
        "audit": ".venv-audit/bin/python",
        "cyclonedx": ".venv-audit/bin/cyclonedx-py",
    }.items():
        recorder(folder / path, name)
    for name in ("mp3d_bundle", "integrations/monai_label"):
        (folder / name).mkdir(parents=True)
    shutil.copy(REPOSITORY / "Makefile", folder)
    for name in ("requirements.lock", "requirements-audit.lock"):
        (folder / name).write_text("")
    return folder


def make(checkout: Path, *words: str, fail: str = "") -> tuple[int, list[str]]:
    """Exit status of make, and what was run."""
    record = checkout.parent / "record"
    record.write_text("")
    # A make that runs this test hands its own settings on.
    own = set(re.findall(r"(?m)^(\w+) \?=", (checkout / "Makefile").read_text()))
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", *own))}
    variables |= {"RECORD": str(record), "FAIL": fail}
    done = subprocess.run(["make", *words], cwd=checkout, env=variables, capture_output=True, text=True)
    return done.returncode, record.read_text().splitlines()


def test_make_alone_lists_every_rule_and_runs_nothing(checkout: Path) -> None:
    variables = {"PATH": os.environ["PATH"], "RECORD": os.devnull}
    done = subprocess.run(["make"], cwd=checkout, env=variables, capture_output=True, text=True)
    listed = set(re.findall(r"^  ([a-z-]+) ", done.stdout, re.MULTILINE))
    database = subprocess.run(["make", "-pq"], cwd=checkout, env=variables, capture_output=True, text=True).stdout
    (phony,) = re.findall(r"^\.PHONY: (.*)$", database, re.MULTILINE)
    assert listed == set(phony.split())
    assert {"test", "demo"} <= listed
    assert make(checkout) == (0, [])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["demo"], ["python -m scripts.demo --output ../runs/demo"]),
        (["bundle", "BUNDLE_ARGS=--weights a.pt"], ["python tools/make_bundle.py --weights a.pt"]),
        (["test-slow", "PYTEST_ARGS=-x"], ["python -m pytest -q -m slow -x"]),
        (["bench"], ["python -m benchmarks"]),
        (["matrix", "CELLS=3.11-lowest"], ["python tools/run_matrix.py 3.11-lowest"]),
        (["ray"], [RAY]),
        (["audit", "AUDIT_ARGS=--advisories a.zip"], [*AUDITOR, "audit tools/audit_locks.py --advisories a.zip"]),
        (["test-ray", "PYTEST_ARGS=-x"], [RAY, "python -m pytest -q tests/tools/batch/test_run_batch.py -x"]),
        (["stores"], [RAY.replace("-ray.", "-s3.")]),
        (["test-stores", "PYTEST_ARGS=-x"], [RAY.replace("-ray.", "-s3."), f"python -m pytest -q {S3_TESTS} -x"]),
        (
            ["soak"],
            [
                "python -m pytest -q tests/test_fuzzed_readers.py tests/test_hostile_labels.py",
                "python -m pytest -q -s -m slow tests/test_long_runs.py",
            ],
        ),
        (["format"], ["python -m ruff check --fix .", "python -m ruff format ."]),
        (["lint"], ["python -m ruff check .", "python -m ruff format --check .", "python -m pyright"]),
    ],
)
def test_targets_set_up_first_and_hand_their_options_on(checkout: Path, words: list[str], expected: list[str]) -> None:
    # The demo is run from the bundle's folder.
    (checkout / "mp3d_bundle" / ".venv").symlink_to(checkout / ".venv")
    status, run = make(checkout, *words)
    assert status == 0
    assert run[0].startswith("setup")
    assert run[1:] == expected


def test_sbom_writes_both_lists_and_the_auditor_is_built_once(checkout: Path) -> None:
    first, second = (make(checkout, "sbom")[1] for _ in range(2))
    assert first[1:3] == list(AUDITOR)
    assert [words for words in second if not words.startswith("setup")] == first[3:]
    assert [line.split()[1] for line in first[3:]] == ["environment", "requirements"]
    assert ["dist/installed.cdx.json" in first[3], "dist/locked.cdx.json" in first[4]] == [True, True]


@pytest.mark.parametrize(
    ("fail", "last"), [("check", "ruff check ."), ("pyright", "pyright"), ("--check", "--check .")]
)
def test_tests_run_only_after_a_clean_lint(checkout: Path, fail: str, last: str) -> None:
    status, run = make(checkout, "test")
    assert status == 0
    tests = "python -m pytest -q -m not slow -n 2 --dist loadfile"
    assert run[-2:] == [f"{tests} --ignore tests/engines", f"{tests} tests/engines"]
    assert make(checkout, "test", "WORKERS=8")[1][-1] == f"{tests.replace('-n 2', '-n 8')} tests/engines"
    assert make(checkout, "test", "PYTEST_ARGS=-x a.py")[1][-1] == "python -m pytest -q -m not slow -x a.py"
    status, run = make(checkout, "test", fail=fail)
    assert status != 0
    assert run[-1].endswith(last)


def test_a_failed_set_up_stops_every_target_that_needs_it(checkout: Path) -> None:
    (checkout / "tools" / "setup.sh").write_text("#!/bin/sh\nexit 1\n")
    for target in ("demo", "bundle", "test", "test-slow", "lint", "format", "bench", "lock", "setup"):
        status, run = make(checkout, target)
        assert (status != 0, run) == (True, []), target


def test_locks_hold_hashes_and_no_addresses(checkout: Path) -> None:
    (checkout / "integrations" / ".venv").symlink_to(checkout / ".venv")
    shutil.copytree(checkout / ".venv", checkout / "integrations" / "monai_label" / ".venv")
    own = ["requirements.lock"]
    more = ["requirements-ray.lock", "requirements-s3.lock", "requirements-audit.lock"]
    for target, written in (("lock", [*own, *more]), ("label-lock", own)):
        status, run = make(checkout, target, "LOCK_ARGS=--upgrade")
        assert status == 0
        compiled = [line.split() for line in run if "compile" in line]
        for words in compiled:
            assert {"--generate-hashes", "--no-emit-index-url", "--universal", "--upgrade"} <= set(words)
        assert [words[words.index("-o") + 1] for words in compiled] == written


def test_clean_removes_caches_and_keeps_everything_else(checkout: Path) -> None:
    gone = ["runs/demo/a", ".pytest_cache/a", ".ruff_cache/a", ".hypothesis/a", "mp3d_bundle/__pycache__/a.pyc"]
    kept = ["runs/mine/a", "mp3d_bundle/a.py", ".venv/lib/__pycache__/a.pyc"]
    for name in (*gone, *kept):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("")
    assert make(checkout, "clean") == (0, [])
    assert [name for name in (*gone, *kept) if (checkout / name).exists()] == kept
    assert make(checkout, "distclean") == (0, [])
    assert not (checkout / ".venv").exists()
    assert not (checkout / ".venv-label").exists()
    assert not (checkout / ".venv-audit").exists()


@pytest.fixture
def ci(tmp_path: Path) -> Path:
    """A checkout with the CI script and the lock files, and a make that records its arguments."""
    folder = tmp_path / "checkout"
    for name in (".ci/run", *LOCKS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    (folder / "integrations" / "monai_label").mkdir(parents=True)
    shutil.copy(REPOSITORY / "integrations/monai_label/requirements.lock", folder / "integrations/monai_label")
    recorder(tmp_path / "bin" / "make", "make")
    return folder


def run_ci(checkout: Path, **variables: str) -> tuple[int, str, list[str]]:
    """Exit status of the CI script started elsewhere, its error output, and the recorded targets."""
    record = checkout.parent / "record"
    record.write_text("")
    path = f"{checkout.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    settings = {"PATH": path, "RECORD": str(record), "FAIL": "", **variables}
    command = [str(checkout / ".ci" / "run")]
    done = subprocess.run(command, cwd=checkout.parent, env=settings, capture_output=True, text=True)
    return done.returncode, done.stderr, record.read_text().splitlines()


def test_ci_lints_and_tests_and_runs_the_demo_when_asked(ci: Path) -> None:
    assert run_ci(ci) == (0, "", ["make lint test"])
    assert run_ci(ci, CI_DEMO="1") == (0, "", ["make demo", "make lint test"])


def test_ci_stops_at_the_first_failure(ci: Path) -> None:
    status, _, run = run_ci(ci, CI_DEMO="1", FAIL="demo")
    assert (status, run) == (3, ["make demo"])
    assert run_ci(ci, FAIL="test")[0] == 3


@pytest.mark.parametrize(
    "name",
    [
        *LOCKS,
        "integrations/monai_label/requirements.lock",
    ],
)
def test_ci_rejects_a_lock_file_with_an_address(ci: Path, name: str) -> None:
    with (ci / name).open("a") as lock:
        lock.write("--index-url https://example.org/simple\n")
    status, said, run = run_ci(ci)
    assert (status, run) == (1, [])
    assert name in said
