"""Build `.venv` from the lock files, once; run by `tools/setup.sh` with only the standard library.

The stamp inside `.venv` is written last and removed before anything changes. An environment without it is
unfinished and is built again from the start; earlier downloads are kept in uv's cache.
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
# Unpacked size of the locked packages, rounded up: on Linux they include the CUDA libraries.
SPACE_GIB = {"linux": 8.0, "darwin": 3.0}
# Imported once at the end: each has compiled parts that may lack a system library.
IMPORTED = "torch, torchvision, monai, ignite, itk, cv2, pycocotools.mask, matplotlib"

NO_NETWORK = re.compile(
    r"connection (broken|refused|reset|aborted)|NewConnectionError|failed to establish|name resolution|timed out"
    r"|unreachable|ProxyError|SSLError|dns error|error sending request|failed to connect|max retries|invalid peer cert",
    re.IGNORECASE,
)
NO_SPACE = re.compile(r"no space left|disk quota exceeded|os error (28|122)|errno (28|122)", re.IGNORECASE)
OTHER_FILE = re.compile(r"do not match the hashes|hash mismatch", re.IGNORECASE)


def stop(message: str) -> NoReturn:
    """End the set-up with a message."""
    raise SystemExit(f"Set-up stopped: {message}")


def say(message: str) -> None:
    """Print the current step."""
    print(message, file=sys.stderr, flush=True)


def check_platform(system: str, machine: str, bits: int, release: tuple[str, str]) -> None:
    """Stop on systems without packages.

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
    """Stop if the disk under `folder` (or its nearest parent that exists) has less than `needed_gib` GiB free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / GIB
    if free < needed_gib:
        stop(
            f"{what} needs about {needed_gib:g} GiB of disk, and {folder} has {free:.1f} GiB free. "
            "Free some space, or continue at your own risk with: make <target> SETUP_SPACE_GIB=0"
        )


def needed_space(setting: str, system: str) -> float:
    """GiB that must be free: `setting` if given, otherwise the size of the packages on this system."""
    try:
        return float(setting or SPACE_GIB[system])
    except ValueError:
        stop(f"SETUP_SPACE_GIB must be a number of GiB, not {setting!r}.")


def reason(output: str) -> str:
    """Explain the failure of an installer from its output."""
    if NO_SPACE.search(output):
        return "the disk is full, or your quota is used up. Free some space and start again."
    if OTHER_FILE.search(output):
        return (
            "the package registry sent a file that is not the one locked (its hash differs). "
            "Try again; if this repeats, the registry or a proxy changes files."
        )
    if NO_NETWORK.search(output):
        return (
            "the package registry cannot be reached. Is there a network? Behind a proxy set HTTPS_PROXY, with a "
            "company certificate SSL_CERT_FILE, with a mirror pip's own configuration; then start again."
        )
    return "a package could not be installed; the lines above name it. Start again to continue."


def run(*arguments: str, quiet: bool = False) -> tuple[bool, str]:
    """Run the environment's Python.

    Args:
        *arguments: Arguments of `python`.
        quiet: Capture stderr instead of showing it.

    Returns:
        Whether it succeeded, and its stderr ("" if that went to the terminal).
    """
    # Settings that would install packages outside .venv.
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
    """Show an installer's output and end the set-up with its meaning."""
    say(output.strip())
    stop(reason(output))


def clear() -> None:
    """Empty `.venv`, which may be a link to a folder on a larger disk."""
    if not ENVIRONMENT.is_dir() or not any(ENVIRONMENT.iterdir()):
        return
    say(f"Building {ENVIRONMENT.name} again: it was not finished, or not made by make.")
    for path in ENVIRONMENT.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def create() -> None:
    """Create `.venv` with only pip in it."""
    say(f"Making {ENVIRONMENT.name} with Python {platform.python_version()} ({sys.executable})")
    command = [sys.executable, "-I", "-m", "venv", str(ENVIRONMENT)]
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
        stop(f"this command failed, see the lines above: {' '.join(command)}")


def cache_folder() -> Path | None:
    """Folder of uv's downloads if it is on another disk than `.venv` and needs its own space."""
    command = [str(ENVIRONMENT_PYTHON), "-m", "uv", "cache", "dir"]
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if told.returncode:
        return None
    folder = Path(told.stdout.strip())
    while not folder.exists():
        folder = folder.parent
    return folder if folder.stat().st_dev != ENVIRONMENT.stat().st_dev else None


def install(needed_gib: float) -> None:
    """Install exactly the lock files into `.venv`, with uv if it runs, otherwise with pip.

    Args:
        needed_gib: Required disk space of uv's cache if it is on a separate disk.
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
        # Compiled once here: if Python cannot write bytecode, each command would compile everything again.
        sync = ("-m", "uv", "pip", "sync", "--compile-bytecode", "--require-hashes")
        done, _ = run(*sync, "--python", str(ENVIRONMENT_PYTHON), str(LOCK))
    if not done:
        say("uv failed; trying pip, which is slower.")
        done, output = run(*pip, "-r", str(LOCK), quiet=True)
    if not done:
        fail(output)


def wanted() -> str:
    """Stamp of a finished environment: a hash of the lock files."""
    return hashlib.sha256(LOCK.read_bytes() + UV_LOCK.read_bytes()).hexdigest()


def finished() -> str | None:
    """The stamp of the existing environment, or None if there is no usable one."""
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
    """Bring `.venv` up to date with the lock files; no effect if it already is."""
    if finished() == wanted():
        return
    with LOCK.open("rb") as lock:
        # Of two make commands at once the second waits and then finds everything done.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another set-up is running; waiting for it.")
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
            stop("a package does not load on this system; the last line above names what is missing.")
        STAMP.write_text(wanted() + "\n", encoding="utf-8")
        say("Set-up done.")


if __name__ == "__main__":
    main()
