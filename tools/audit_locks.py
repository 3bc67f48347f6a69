"""Audit the lock files: `make audit` runs it in `.venv-audit`.

Every entry must have hashes that the registry knows, and no known vulnerability. pip-audit reads the locks and asks
for vulnerabilities; it takes a package that it could not ask for as harmless, which is an error here. With
``--advisories`` nothing leaves the machine: pip-audit asks a server of this file, on this machine, which answers from
records in the Open Source Vulnerability format. Other arguments are passed to pip-audit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parents[1]
LOCKS = [*sorted(ROOT.glob("*.lock")), ROOT / "integrations" / "monai_label" / "requirements.lock"]
AUDIT = [sys.executable, "-m", "pip_audit"]
NEEDED = "the audit needs a network, or --advisories FILE with OSV records (the export of all of PyPI, or a folder)"
UV = [str(ROOT / ".venv" / "bin" / "python"), "-m", "uv"]
Records = dict[str, list[dict[str, Any]]]
Pins = dict[str, set[str]]


def read_records(place: Path) -> Records:
    """OSV records for PyPI by package, from a zip archive, a folder, or a JSON file of one record or a list.

    Raises:
        ValueError: If a file is not a record, or there is none for PyPI.
    """
    found: Records = {}
    for name, content in _contents(place):
        try:
            value = json.loads(content)
            records = value if isinstance(value, list) else [value]
            named = [(record, affected["package"]) for record in records for affected in record.get("affected", [])]
            for record, package in named:
                if package["ecosystem"] == "PyPI" and str(record["id"]):
                    # pip-audit finds the versions that mend it by this spelling of the name.
                    package["name"] = canonicalize_name(package["name"])
                    same = found.setdefault(package["name"], [])
                    if record not in same:
                        same.append(record)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"Expected OSV records in {place}, got something else in {name}: {error!r}") from error
    if not found:
        raise ValueError(f"Expected OSV records for PyPI in {place}, found none")
    return found


def _contents(place: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every JSON file at a place."""
    if place.is_dir():
        yield from ((str(path), path.read_bytes()) for path in sorted(place.rglob("*.json")))
    elif zipfile.is_zipfile(place):
        with zipfile.ZipFile(place) as archive:
            yield from ((name, archive.read(name)) for name in archive.namelist() if name.endswith(".json"))
    else:
        yield place.name, place.read_bytes()


def affects(record: dict[str, Any], name: str, version: str) -> bool:
    """Whether a record is about this version of a package, by its list of versions or its ranges (OSV's rule)."""
    for affected in record["affected"]:
        package = affected["package"]
        if package["ecosystem"] == "PyPI" and package["name"] == name:
            ranges = [one["events"] for one in affected.get("ranges", []) if one["type"] == "ECOSYSTEM"]
            if version in affected.get("versions", []) or any(_within(events, version) for events in ranges):
                return True
    return False


def _within(events: list[dict[str, str]], version: str) -> bool:
    try:
        named = sorted((Version(value), kind) for event in events for kind, value in event.items() if kind != "limit")
    except InvalidVersion:
        # Versions from before PEP 440 cannot be ordered: better one report too many.
        return True
    inside, asked = False, Version(version)
    for at, kind in named:
        if kind == "introduced" and asked >= at:
            inside = True
        elif (kind == "fixed" and asked >= at) or (kind == "last_affected" and asked > at):
            inside = False
    return inside


@contextlib.contextmanager
def answering(records: Records) -> Iterator[str]:
    """Address of a server on this machine that answers OSV's queries for a version of a package."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = canonicalize_name(query["package"]["name"])
            known = [one for one in records.get(name, []) if affects(one, name, query["version"])]
            body = json.dumps({"vulns": known} if known else {}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of single requests."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def pins_of(lock: Path) -> dict[str, set[str]]:
    """Hashes of each ``name==version`` of a lock file, for any Python and platform.

    Raises:
        ValueError: If an entry is not pinned or has no hash.
    """
    pins: dict[str, set[str]] = {}
    for entry in re.split(r"(?m)^(?=[^\s#])", lock.read_text(encoding="utf-8"))[1:]:
        pin = re.match(r"[\w.-]+==[\w.!+-]+", entry)
        hashes = re.findall(r"--hash=(sha256:[0-9a-f]{64})\b", entry)
        if pin is None or not hashes:
            raise ValueError(f"Expected name==version with hashes in {lock.name}, got {entry.splitlines()[0]!r}")
        pins.setdefault(pin[0], set()).update(hashes)
    return pins


def write_pins(path: Path, pins: Pins) -> None:
    """Write entries of a lock file without markers."""
    path.write_text(
        "".join(f"{pin} {' '.join(f'--hash={one}' for one in sorted(pins[pin]))}\n" for pin in sorted(pins))
    )


def rounds(pins: Pins) -> list[Pins]:
    """The entries in groups, of which none has two versions of a package: pip-audit takes no more at once."""
    groups: list[Pins] = []
    for pin in sorted(pins):
        name = pin.split("==")[0]
        free = next((group for group in groups if all(one.split("==")[0] != name for one in group)), None)
        if free is None:
            groups.append(free := {})
        free[pin] = pins[pin]
    return groups


def reason(text: str) -> str:
    """The line of what a command said that names an error, or its last one."""
    lines = text.strip().splitlines() or ["no output"]
    return next((line for line in lines if re.search("error|fail", line, re.IGNORECASE)), lines[-1]).strip()


def vulnerabilities(pins: Pins, words: list[str]) -> dict[str, list[str]]:
    """Ask pip-audit.

    Args:
        pins: Entries, each package once.
        words: Further arguments of pip-audit.

    Returns:
        For an entry what is known of it.

    Raises:
        RuntimeError: If pip-audit does not run to its end, or could not look up a package.
    """
    fixed = ["--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json", "--desc", "on"]
    settings = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requirements.txt"
        write_pins(path, pins)
        command = [*AUDIT, "-r", str(path), *fixed, *words]
        done = subprocess.run(command, capture_output=True, text=True, env=settings)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError) as error:
        raise RuntimeError(f"pip-audit stopped: {reason(done.stderr)}; {NEEDED}") from error
    answers = {canonicalize_name(one["name"]): one for one in packages}
    absent = {"skip_reason": "pip-audit left it out"}
    each = {pin: answers.get(canonicalize_name(pin.split("==")[0]), absent) for pin in pins}
    left = [(pin, answer["skip_reason"]) for pin, answer in each.items() if "skip_reason" in answer]
    if left:
        raise RuntimeError(f"{len(left)} of {len(pins)} packages could not be looked up ({left[0][1]}); {NEEDED}")
    found: dict[str, list[str]] = {}
    for pin, answer in each.items():
        for one in answer["vulns"]:
            fixes = ", ".join(one["fix_versions"]) or "no version yet"
            text = " ".join(one["description"].split())[:100]
            found.setdefault(pin, []).append(f"{one['id']}, fixed in {fixes}: {text}")
    return found


def unknown_hashes(lock: Path) -> list[str]:
    """Compare the hashes of a lock file with those of the files that the registry offers today.

    Returns:
        A line for each entry with hashes that no file of that version has.

    Raises:
        RuntimeError: If the registry cannot be asked.
    """
    locked = pins_of(lock)
    with tempfile.TemporaryDirectory() as folder:
        bare, fresh = Path(folder) / "bare.in", Path(folder) / "fresh.lock"
        # Names, versions and markers alone.
        bare.write_text(re.sub(r" *\\\n +--hash=\S+", "", lock.read_text(encoding="utf-8")), encoding="utf-8")
        command = [*UV, "pip", "compile", str(bare), "-o", str(fresh), "--no-deps", "--universal", "--quiet"]
        command += ["--python-version", "3.10", "--generate-hashes", "--no-annotate", "--no-header"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        if done.returncode:
            raise RuntimeError(f"The registry could not be asked for hashes: {reason(done.stderr)}; {NEEDED}")
        offered = pins_of(fresh)
    unknown = {pin: hashes - offered.get(pin, set()) for pin, hashes in locked.items()}
    return [f"{pin}: the registry does not know {len(left)} of its {len(locked[pin])} hashes ({lock.name})"
            for pin, left in unknown.items() if left]  # fmt: skip


def audit(locks: list[Path], advisories: Path | None, words: list[str]) -> Iterator[str]:
    """Audit lock files. What is wrong comes as soon as it is known: what follows may end in an error.

    Args:
        locks: Files.
        advisories: OSV records, in the place of the network.
        words: Further arguments of pip-audit.

    Yields:
        A line for each thing that is wrong.

    Raises:
        RuntimeError, ValueError: See the other functions.
    """
    pins: Pins = {}
    places: dict[str, list[str]] = {}
    for lock in locks:
        for pin, hashes in pins_of(lock).items():
            pins.setdefault(pin, set()).update(hashes)
            places.setdefault(pin, []).append(str(lock.relative_to(ROOT) if ROOT in lock.parents else lock.name))
    print(f"{len(pins)} versions of packages, each with hashes, in {len(locks)} lock files", flush=True)
    with contextlib.ExitStack() as stack:
        if advisories is not None:
            records = read_records(advisories)
            every = {record["id"]: record for same in records.values() for record in same}
            newest = max(str(record.get("modified", "")) for record in every.values())[:10] or "an unknown day"
            print(f"{len(every)} advisories for {len(records)} packages, the newest of {newest}; no network is used")
            words = ["-s", "osv", "--osv-url", stack.enter_context(answering(records)), *words]
        else:
            foreign = [line for lock in locks for line in unknown_hashes(lock)]
            yield from foreign
            if not foreign:
                print("The registry knows all hashes.", flush=True)
        for group in rounds(pins):
            found = vulnerabilities(group, words)
            yield from (f"{pin} ({', '.join(places[pin])}): {line}" for pin, lines in found.items() for line in lines)


def main() -> int:
    """Print what is wrong; 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--advisories", type=Path, help="zip archive, folder or file of OSV records; no network")
    options, words = parser.parse_known_args()
    wrong = 0
    try:
        for line in audit(LOCKS, options.advisories, words):
            print(line, flush=True)
            wrong += 1
    except (RuntimeError, ValueError, OSError) as error:
        raise SystemExit(str(error)) from error
    if not wrong:
        print("Nothing known is wrong with them.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
