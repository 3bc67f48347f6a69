"""Builds `.venv` from the lock files, once; run by `tools/setup.sh`, with nothing but the standard library.

The stamp inside `.venv` is written last and taken away before anything changes, so an environment without it is an
unfinished one and is built again from the start: what was downloaded before is kept in uv's cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv"
ENVIRONMENT_PYTHON = ENVIRONMENT / "bin" / "python"
STAMP = ENVIRONMENT / ".setup-complete"
LOCK = ROOT / "requirements.lock"
UV_LOCK = ROOT / "requirements-bootstrap.lock"
GIB = 1024**3
# What the locked packages take unpacked, rounded up: on Linux they bring the CUDA libraries along.
SPACE_GIB = {"linux": 8.0, "darwin": 3.0}
# Imported once at the end: each is a library with compiled parts that may miss something of the system's.
IMPORTED = "torch, torchvision, monai, ignite, itk, cv2, pycocotools.mask, matplotlib"

NO_NETWORK = re.compile(
    r"connection (broken|refused|reset|aborted)|NewConnectionError|failed to establish|name resolution|timed out"
    r"|unreachable|ProxyError|SSLError|dns error|error sending request|failed to connect|max retries|invalid peer cert",
    re.IGNORECASE,
)
NO_SPACE = re.compile(r"no space left|disk quota exceeded|os error (28|122)|errno (28|122)", re.IGNORECASE)
OTHER_FILE = re.compile(r"do not match the hashes|hash mismatch", re.IGNORECASE)


def stop(message: str) -> NoReturn:
    """Ends the set-up with a message in plain words."""
    raise SystemExit(f"Set-up stopped: {message}")


def say(message: str) -> None:
    """Writes a line about what happens now."""
    print(message, file=sys.stderr, flush=True)


def check_platform(system: str, machine: str, bits: int, release: tuple[str, str]) -> None:
    """Stops where no packages exist.

    Args:
        system: `sys.platform`.
        machine: `platform.machine()`.
        bits: Width of a pointer of this Python.
        release: On Linux the C library's name and version, on macOS ("macos", version).
    """
    name, version = release
    number = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if system not in SPACE_GIB:
        stop(f"this is {system}; the packages are locked for Linux and macOS (on Windows, use WSL).")
    if bits != 64:
        stop(f"this Python is a {bits}-bit one; PyTorch exists for 64-bit Pythons only.")
    if system == "darwin":
        if machine != "arm64":
            stop(f"this Python is built for {machine}; on macOS PyTorch exists for Apple silicon (arm64) only.")
        if number < (14,):
            stop(f"this is macOS {version}; PyTorch needs macOS 14 or newer.")
        return
    if machine not in ("x86_64", "aarch64", "arm64"):
        stop(f"this machine is a {machine}; PyTorch exists for x86_64 and aarch64 on Linux.")
    if name != "glibc":
        stop("this Linux has no glibc (Alpine, for one, has musl); PyTorch needs glibc 2.28 or newer.")
    if number < (2, 28):
        stop(f"this Linux has glibc {version}; PyTorch needs glibc 2.28 or newer (Debian 10, Ubuntu 20.04, RHEL 8).")


def check_space(folder: Path, needed_gib: float, what: str) -> None:
    """Stops when the disk under `folder` (or its nearest parent that exists) has less than `needed_gib` GiB free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / GIB
    if free < needed_gib:
        stop(
            f"{what} needs about {needed_gib:g} GiB of disk, and {folder} has {free:.1f} GiB free. "
            "Make room, or go on at your own risk with: make <target> SETUP_SPACE_GIB=0"
        )


def needed_space(setting: str, system: str) -> float:
    """GiB that must be free: `setting` where the caller gave one, else what the packages take on this system."""
    try:
        return float(setting or SPACE_GIB[system])
    except ValueError:
        stop(f"SETUP_SPACE_GIB is to be a number of GiB, not {setting!r}.")


def reason(output: str) -> str:
    """Says in plain words why an installer failed, from what it wrote."""
    if NO_SPACE.search(output):
        return "the disk is full, or your quota of it is used up. Make room and start again."
    if OTHER_FILE.search(output):
        return (
            "the package registry sent a file that is not the one locked (its hash differs). "
            "Try again; if it stays so, the registry or a proxy on the way changes files."
        )
    if NO_NETWORK.search(output):
        return (
            "the package registry cannot be reached. Is there a network? Behind a proxy set HTTPS_PROXY, with a "
            "company certificate SSL_CERT_FILE, with a mirror pip's own configuration; then start again."
        )
    return "a package could not be installed; the lines above say which. Start again to go on."


def run(*arguments: str, quiet: bool = False) -> tuple[bool, str]:
    """Runs the environment's Python.

    Args:
        *arguments: What follows `python`.
        quiet: Capture stderr instead of showing it.

    Returns:
        Whether it succeeded, and what it wrote to stderr ("" when that went to the terminal).
    """
    # Settings that would send packages elsewhere than into .venv.
    elsewhere = ("PYTHONHOME", "PYTHONPATH", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "VIRTUAL_ENV")
    settings = {key: value for key, value in os.environ.items() if key not in elsewhere}
    settings.setdefault("UV_HTTP_TIMEOUT", "300")
    stderr = subprocess.PIPE if quiet else None
    try:
        done = subprocess.run(
            [str(ENVIRONMENT_PYTHON), *arguments],
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            env=settings,
            cwd=ROOT,
            text=True,
        )
    except OSError as error:
        return False, str(error)
    return done.returncode == 0, done.stderr or ""


def fail(output: str) -> NoReturn:
    """Shows an installer's output and ends the set-up with what it means."""
    say(output.strip())
    stop(reason(output))


def clear() -> None:
    """Empties `.venv`, which may be a link to a folder on a larger disk."""
    if not ENVIRONMENT.is_dir() or not any(ENVIRONMENT.iterdir()):
        return
    say(f"Building {ENVIRONMENT.name} again: it was not finished, or was not made by make.")
    for path in ENVIRONMENT.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def create() -> None:
    """Makes `.venv` with nothing but pip in it."""
    say(f"Making {ENVIRONMENT.name} with Python {platform.python_version()} ({sys.executable})")
    command = [sys.executable, "-I", "-m", "venv", str(ENVIRONMENT)]
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
        stop(f"this command failed, the lines above say why: {' '.join(command)}")


def cache_folder() -> Path | None:
    """Where uv keeps what it downloaded, when that is on another disk than `.venv` and needs room of its own."""
    command = [str(ENVIRONMENT_PYTHON), "-m", "uv", "cache", "dir"]
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if told.returncode:
        return None
    folder = Path(told.stdout.strip())
    while not folder.exists():
        folder = folder.parent
    return folder if folder.stat().st_dev != ENVIRONMENT.stat().st_dev else None


def install(needed_gib: float) -> None:
    """Brings `.venv` to exactly what the lock files say: by uv where it runs, else by pip.

    Args:
        needed_gib: Disk space that uv's cache must have, where it is on a disk of its own.
    """
    pip = ("-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--require-hashes")
    if not run("-m", "pip", "--version", quiet=True)[0]:
        run("-m", "ensurepip", quiet=True)
    done, output = run(*pip, "-q", "--retries", "2", "-r", str(UV_LOCK), quiet=True)
    if not done and (NO_NETWORK.search(output) or NO_SPACE.search(output)):
        fail(output)
    if done:
        cache = cache_folder()
        if cache is not None:
            check_space(cache, needed_gib, "uv's cache of downloads")
        say("Installing the locked packages (the first time about 3.5 GB to download, later from a cache)")
        # Compiled once here: where Python may write no bytecode, each command would compile all of it again.
        sync = ("-m", "uv", "pip", "sync", "--compile-bytecode", "--require-hashes")
        done, _ = run(*sync, "--python", str(ENVIRONMENT_PYTHON), str(LOCK))
    if not done:
        say("uv did not manage; trying pip, which is slower.")
        done, output = run(*pip, "-r", str(LOCK), quiet=True)
    if not done:
        fail(output)


def wanted() -> str:
    """What the stamp of a finished environment says: a hash of the lock files."""
    return hashlib.sha256(LOCK.read_bytes() + UV_LOCK.read_bytes()).hexdigest()


def finished() -> str | None:
    """The stamp of the environment that is there, or None when there is none that can be used."""
    if not STAMP.is_file() or not os.access(ENVIRONMENT_PYTHON, os.X_OK):
        return None
    if os.environ.get("MP3D_PYTHON_NAMED"):
        configuration = (ENVIRONMENT / "pyvenv.cfg").read_text(encoding="utf-8")
        version = re.search(r"^version(?:_info)? *= *(\d+)\.(\d+)", configuration, re.MULTILINE)
        if version is None or (int(version[1]), int(version[2])) != sys.version_info[:2]:
            say(f"Changing {ENVIRONMENT.name} to Python {platform.python_version()}, as named.")
            return None
    return STAMP.read_text(encoding="utf-8").strip()


def main() -> None:
    """Makes `.venv` what the lock files say; does nothing when it is already."""
    if finished() == wanted():
        return
    with LOCK.open("rb") as lock:
        # Two make commands at once: the second waits, then finds everything done.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another set-up is at work; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = finished()
        if stamp == wanted():
            return
        release = ("macos", platform.mac_ver()[0]) if sys.platform == "darwin" else platform.libc_ver()
        check_platform(sys.platform, platform.machine(), 8 * struct.calcsize("P"), release)
        needed = needed_space(os.environ.get("SETUP_SPACE_GIB", ""), sys.platform)
        if stamp is None:
            clear()
            check_space(ENVIRONMENT, needed, "the set-up")
            create()
        STAMP.unlink(missing_ok=True)
        install(needed)
        done, output = run("-c", f"import {IMPORTED}", quiet=True)
        if not done:
            say(output.strip())
            stop("a package does not load on this system; the last line above says what it misses.")
        STAMP.write_text(wanted() + "\n", encoding="utf-8")
        say("Set-up done.")


if __name__ == "__main__":
    main()
