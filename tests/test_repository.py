"""The repository's outside: the set-up and its messages if something is missing, documents, licence."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from support.module_files import load_module

REPOSITORY = Path(__file__).resolve().parents[1]
TOOLS = REPOSITORY / "tools"


@pytest.fixture(scope="module")
def environment() -> ModuleType:
    """``tools/environment.py`` as a module."""
    return load_module(TOOLS / "environment.py")


def fake_python(folder: Path, name: str, prelude: str) -> None:
    """A Python for ``setup.sh`` to find: this one, with ``prelude`` run before what it is asked to run by ``-c``."""
    script = folder / name
    script.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] || {{ echo "chose {name}"; exit 0; }}\nexec "{sys.executable}" -c "{prelude}\n$2"\n'
    )
    script.chmod(0o755)


def version(*numbers: int) -> str:
    """Code that makes a Python report another version."""
    return f"import sys; sys.version_info = ({', '.join(map(str, numbers))}, 'final', 0)"


def choose(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``setup.sh`` where the only commands are those in ``folder``."""
    os.symlink(shutil.which("dirname") or "", folder / "dirname")
    command = ["/bin/sh", str(TOOLS / "setup.sh")]
    return subprocess.run(command, env={"PATH": str(folder), **variables}, capture_output=True, text=True)


def test_setup_without_python(tmp_path: Path) -> None:
    done = choose(tmp_path)
    assert done.returncode == 1
    assert "no suitable Python. It needs Python 3.10 to 3.14" in done.stderr
    assert "Found: none" in done.stderr


def test_setup_says_why_each_python_is_unsuitable(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3", version(3, 9, 2))
    fake_python(tmp_path, "python3.14", version(3, 15, 0))
    fake_python(tmp_path, "python3.12", version(3, 12, 1) + "; sys.modules['ensurepip'] = None")
    (tmp_path / "python3.11").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / "python3.11").chmod(0o755)
    done = choose(tmp_path)
    assert done.returncode == 1
    assert "python3 is Python 3.9.2, older than 3.10" in done.stderr
    assert "python3.14 is Python 3.15.0, newer than 3.14" in done.stderr
    assert "python3.12 is Python 3.12.1 without its venv module" in done.stderr
    assert "apt install python3.12-venv" in done.stderr
    assert "python3.11 does not run" in done.stderr


def test_setup_takes_the_newest_python_when_python3_is_too_old(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3", version(3, 8, 0))
    fake_python(tmp_path, "python3.10", version(3, 10, 0))
    fake_python(tmp_path, "python3.12", version(3, 12, 0))
    done = choose(tmp_path)
    assert (done.returncode, done.stdout) == (0, "chose python3.12\n")


def test_setup_takes_python3_when_it_suits_and_a_named_one_always(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3", version(3, 10, 0))
    fake_python(tmp_path, "python3.13", version(3, 13, 0))
    fake_python(tmp_path, "mine", version(3, 12, 0))
    assert choose(tmp_path).stdout == "chose python3\n"
    (tmp_path / "dirname").unlink()
    assert choose(tmp_path, PYTHON="mine").stdout == "chose mine\n"
    (tmp_path / "dirname").unlink()
    done = choose(tmp_path, PYTHON="absent")
    assert done.returncode == 1
    assert "looked for absent" in done.stderr


@pytest.mark.parametrize(
    ("system", "machine", "bits", "release", "message"),
    [
        ("win32", "AMD64", 64, ("", ""), "use WSL"),
        ("linux", "i686", 32, ("glibc", "2.36"), "32-bit"),
        ("linux", "riscv64", 64, ("glibc", "2.36"), "x86_64 and aarch64"),
        ("linux", "x86_64", 64, ("", ""), "no glibc"),
        ("linux", "x86_64", 64, ("glibc", "2.17"), "glibc 2.17"),
        ("darwin", "x86_64", 64, ("macos", "14.1"), "Apple silicon"),
        ("darwin", "arm64", 64, ("macos", "13.6"), "macOS 13.6"),
    ],
)
def test_unsupported_platforms(
    environment: ModuleType, system: str, machine: str, bits: int, release: tuple[str, str], message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        environment.check_platform(system, machine, bits, release)


@pytest.mark.parametrize(
    ("system", "machine", "release"),
    [
        ("linux", "x86_64", ("glibc", "2.28")),
        ("linux", "aarch64", ("glibc", "2.39")),
        ("darwin", "arm64", ("macos", "26.0")),
    ],
)
def test_supported_platforms(environment: ModuleType, system: str, machine: str, release: tuple[str, str]) -> None:
    environment.check_platform(system, machine, 64, release)


def test_too_little_disk_space(environment: ModuleType, tmp_path: Path) -> None:
    environment.check_space(tmp_path / "not" / "there", 0.0, "the set-up")
    with pytest.raises(SystemExit, match=r"the set-up needs about 1e\+09 GiB of disk, and .* GiB free"):
        environment.check_space(tmp_path / "not" / "there", 1e9, "the set-up")
    assert environment.needed_space("", "linux") > environment.needed_space("0", "linux") == 0
    with pytest.raises(SystemExit, match="number of GiB, not 'much'"):
        environment.needed_space("much", "linux")


@pytest.mark.parametrize(
    ("output", "meaning"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("error: failed to write: Disk quota exceeded (os error 122)", "disk is full"),
        ("WARNING: Retrying after connection broken by 'NewConnectionError(...)'", "cannot be reached"),
        ("error: Failed to fetch: dns error: failed to lookup address information", "cannot be reached"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "not the one locked"),
        ("error: Hash mismatch for `torch==2.15.0`", "not the one locked"),
        ("error: something else", "could not be installed"),
    ],
)
def test_failed_installs_are_explained(environment: ModuleType, output: str, meaning: str) -> None:
    assert meaning in environment.reason(output)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with nothing but what the set-up reads."""
    (tmp_path / "tools").mkdir()
    shutil.copy(TOOLS / "environment.py", tmp_path / "tools")
    for name in ("requirements.lock", "requirements-bootstrap.lock"):
        shutil.copy(REPOSITORY / name, tmp_path)
    return tmp_path


def set_up(checkout: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``environment.py`` of a checkout, cut off from any package registry."""
    settings = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_"))}
    # Nothing listens on port 9 of this machine: the connection fails at once, with or without a network.
    settings |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-I", str(checkout / "tools" / "environment.py")]
    return subprocess.run(command, env=settings | variables, capture_output=True, text=True, timeout=120)


def test_setup_without_network_recovers_from_an_interrupted_one(checkout: Path) -> None:
    leftover = checkout / ".venv" / "lib" / "half-installed"
    leftover.mkdir(parents=True)
    done = set_up(checkout, SETUP_SPACE_GIB="0")
    assert done.returncode == 1
    assert "Building .venv again: it was not finished" in done.stderr
    assert "the package registry cannot be reached" in done.stderr.splitlines()[-1]
    assert not leftover.exists()
    assert not (checkout / ".venv" / ".setup-complete").exists()


def test_finished_setup_is_left_alone_until_the_lock_changes(checkout: Path) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 'connection refused' >&2\nexit 1\n")
    python.chmod(0o755)
    locks = [checkout / "requirements.lock", checkout / "requirements-bootstrap.lock"]
    stamp = checkout / ".venv" / ".setup-complete"
    stamp.write_text(hashlib.sha256(b"".join(path.read_bytes() for path in locks)).hexdigest())
    done = set_up(checkout)
    assert (done.returncode, done.stderr) == (0, "")
    locks[1].write_text(locks[1].read_text().replace("uv==", "uv==9"))
    done = set_up(checkout)
    assert done.returncode == 1
    assert done.stderr.startswith("connection refused\nSet-up stopped: the package registry cannot be reached")
    assert python.exists()
    assert not stamp.exists()


def test_setup_rejects_when_the_disk_is_short(checkout: Path) -> None:
    done = set_up(checkout, SETUP_SPACE_GIB="1000000000")
    assert done.returncode == 1
    assert "GiB free" in done.stderr
    assert not (checkout / ".venv").exists()


def documents() -> list[Path]:
    """Markdown files of the repository."""
    return sorted(path for path in REPOSITORY.rglob("*.md") if not {".venv", ".venv-label", "runs"} & {*path.parts})


def test_documents_name_make_targets_that_exist() -> None:
    rules = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        target
        for path in documents()
        for target in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert {"demo", "test"} <= named <= rules


def test_licence_is_apache_in_both_places() -> None:
    text = (REPOSITORY / "LICENSE").read_bytes()
    assert b"Apache License" in text
    assert b"Version 2.0, January 2004" in text
    assert (REPOSITORY / "mp3d_bundle" / "LICENSE").read_bytes() == text
