"""The audit of the lock files: OSV's rule, the server that answers pip-audit, and what must not pass silently."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support.module_files import load_module

REPOSITORY = Path(__file__).resolve().parents[1]
HASH = "sha256:" + "a" * 64
AUDITOR = REPOSITORY / ".venv-audit" / "bin" / "python"


@pytest.fixture
def tool() -> ModuleType:
    return load_module(REPOSITORY / "tools" / "audit_locks.py")


def record(name: str = "left-pad", **affected: Any) -> dict[str, Any]:
    package = {"ecosystem": "PyPI", "name": name}
    return {"id": "X-1", "modified": "2026-11-01T10:00:00Z", "affected": [{"package": package, **affected}]}


def within(*events: dict[str, str]) -> dict[str, Any]:
    return record(ranges=[{"type": "ECOSYSTEM", "events": list(events)}])


@pytest.mark.parametrize(
    ("known", "inside", "outside"),
    [
        (within({"introduced": "0"}), ["0.1", "99"], []),
        (within({"introduced": "1.2"}, {"fixed": "1.10"}), ["1.2", "1.9"], ["1.1", "1.10", "1.10.post1"]),
        (within({"introduced": "1"}, {"last_affected": "2"}), ["1", "2", "2.0"], ["0.9", "2.0.1"]),
        # Events in any order, two intervals; a candidate is older than its release.
        (
            within({"fixed": "3.1"}, {"introduced": "3"}, {"fixed": "2"}, {"introduced": "1"}),
            ["1", "2rc1", "3.0.5"],
            ["2", "2.9", "3rc1", "3.1"],
        ),
        (record(versions=["1.0", "1.1"]), ["1.0", "1.1"], ["1.2"]),
        (within({"introduced": "0"}, {"fixed": "2004d"}), ["1"], []),
        (record(ranges=[{"type": "GIT", "events": [{"introduced": "0"}]}]), [], ["1"]),
        (record("other", versions=["1.0"]), [], ["1.0"]),
    ],
)
def test_which_versions_a_record_is_about(
    tool: ModuleType, known: dict[str, Any], inside: list[str], outside: list[str]
) -> None:
    assert [version for version in [*inside, *outside] if tool.affects(known, "left-pad", version)] == inside


def test_records_are_read_from_a_zip_a_folder_and_a_file(tool: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "folder" / "deep"
    folder.mkdir(parents=True)
    other = {"id": "GO-1", "affected": [{"package": {"ecosystem": "Go", "name": "left-pad"}}]}
    (folder / "a.json").write_text(json.dumps(record("Left_Pad", versions=["1"])))
    (folder / "b.json").write_text(json.dumps(other))
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps([record("Left.Pad", versions=["1"]), other]))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(folder / "a.json", "a.json")
    for place in (tmp_path / "folder", listed, tmp_path / "all.zip"):
        (one,) = tool.read_records(place)["left-pad"]
        assert tool.affects(one, "left-pad", "1")


@pytest.mark.parametrize(
    "content", ["[", "1", '[{"affected": 1}]', '{"affected": [{}]}', '[{"affected": [{"package": {}}]}]', "[]"]
)
def test_files_without_records_are_rejected(tool: ModuleType, tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"^Expected OSV records .*a\.json|found none"):
        tool.read_records(tmp_path / "a.json")


def test_the_server_answers_for_the_version_that_is_asked(tool: ModuleType) -> None:
    def ask(name: str, version: str) -> dict[str, Any]:
        query = json.dumps({"package": {"name": name, "ecosystem": "PyPI"}, "version": version}).encode()
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, query, timeout=30) as answer:
            return json.load(answer)

    known = record(versions=["1.0"])
    with tool.answering({"left-pad": [known]}) as address:
        assert address.startswith("http://127.0.0.1:")
        assert ask("Left_Pad", "1.0") == {"vulns": [known]}
        assert ask("left-pad", "1.1") == ask("right-pad", "1.0") == {}


def write_lock(folder: Path, *entries: str) -> Path:
    path = folder / "some.lock"
    path.write_text("".join(f"{entry} \\\n    --hash={HASH}\n" for entry in entries))
    return path


def stand_in(tool: ModuleType, folder: Path, code: str) -> None:
    """A script in the place of pip-audit and of uv."""
    (folder / "said.py").write_text(f"import json, sys\n{code}\n")
    tool.AUDIT = tool.UV = [sys.executable, str(folder / "said.py")]


ALL_GOOD = """
if "-r" in sys.argv:
    lines = open(sys.argv[sys.argv.index("-r") + 1]).read().splitlines()
    pairs = [line.split()[0].split("==") for line in lines]
    known = [{"id": "X-1", "fix_versions": ["2"], "description": "bad\\nthing"}]
    print(json.dumps({"dependencies": [{"name": name.upper(), "version": version, "vulns": known * (version == "1.0")}
                                       for name, version in pairs]}))
else:
    made = open(sys.argv[3]).read().splitlines()
    with open(sys.argv[5], "w") as fresh:
        for line in made:
            fresh.write(line + " --hash=sha256:" + "a" * 64 + "\\n")
"""


def test_every_version_of_every_lock_is_asked_for(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(tool, tmp_path, ALL_GOOD)
    marked = ("pad==1.0 ; python_version < '3.11'", "pad==1.5 ; python_version >= '3.11'", "pen==3")
    lock = write_lock(tmp_path, *marked)
    assert list(tool.audit([lock], None, [])) == ["pad==1.0 (some.lock): X-1, fixed in 2: bad thing"]
    said = capsys.readouterr().out
    assert said == "3 versions of packages, each with hashes, in 1 lock files\nThe registry knows all hashes.\n"


def test_foreign_hashes_are_named_where_advisories_cannot_be_asked_for(tool: ModuleType, tmp_path: Path) -> None:
    stand_in(tool, tmp_path, "sys.exit('no route')")
    lines = tool.audit([write_lock(tmp_path, "pad==1.0")], None, [])
    tool.unknown_hashes = lambda lock: [f"{lock.name} is odd"]
    assert next(lines) == "some.lock is odd"
    with pytest.raises(RuntimeError, match="no route"):
        next(lines)


def test_a_hash_that_the_registry_does_not_know_is_named(tool: ModuleType, tmp_path: Path) -> None:
    stand_in(tool, tmp_path, ALL_GOOD)
    lock = write_lock(tmp_path, "pen==3")
    lock.write_text(lock.read_text() + f"pin==4 \\\n    --hash={HASH} \\\n    --hash=sha256:{'b' * 64}\n")
    assert tool.unknown_hashes(lock) == ["pin==4: the registry does not know 1 of its 2 hashes (some.lock)"]


@pytest.mark.parametrize("entry", ["pad>=1", "pad", "-r other.lock", "pad @ file:///x"])
def test_entries_that_are_not_pinned_with_hashes_are_rejected(tool: ModuleType, tmp_path: Path, entry: str) -> None:
    with pytest.raises(ValueError, match=r"Expected name==version with hashes in some\.lock"):
        tool.pins_of(write_lock(tmp_path, entry))
    (tmp_path / "bare.lock").write_text("pad==1\n")
    with pytest.raises(ValueError, match=r"with hashes in bare\.lock, got 'pad==1'"):
        tool.pins_of(tmp_path / "bare.lock")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('a\\nConnectionError: no route\\nz', file=sys.stderr); sys.exit(1)", "ConnectionError: no route"),
        ("print('{}')", "no output"),
        (
            "print(json.dumps({'dependencies': [{'name': 'pen', 'skip_reason': 'not found'}]}))",
            r"1 of 1 packages could not be looked up \(not found\)",
        ),
        ("print(json.dumps({'dependencies': []}))", r"1 of 1 packages .*left it out"),
    ],
)
def test_what_could_not_be_asked_does_not_pass(tool: ModuleType, tmp_path: Path, code: str, said: str) -> None:
    stand_in(tool, tmp_path, code)
    with pytest.raises(RuntimeError, match=rf"{said}.*needs a network, or --advisories FILE"):
        tool.vulnerabilities({"pen==3": {HASH}}, [])


def test_the_locks_of_this_repository_are_all_audited(tool: ModuleType) -> None:
    command = ["git", "ls-files", "*.lock"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split()
    assert sorted(str(path.relative_to(REPOSITORY)) for path in tool.LOCKS) == sorted(listed)
    for lock in tool.LOCKS:
        assert tool.pins_of(lock)


@pytest.mark.slow
@pytest.mark.skipif(not AUDITOR.is_file(), reason="there is no .venv-audit: `make audit` makes it")
def test_pip_audit_itself_finds_a_vulnerability_offline(tmp_path: Path) -> None:
    known = record("Pillow", ranges=[{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99"}]}])
    (tmp_path / "a.json").write_text(json.dumps(known))
    command = [str(AUDITOR), str(REPOSITORY / "tools" / "audit_locks.py"), "--advisories", str(tmp_path / "a.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    found = [line for line in done.stdout.splitlines() if ": X-1, fixed in 99" in line]
    assert found
    assert all(line.startswith("pillow==") for line in found)
    (tmp_path / "a.json").write_text(json.dumps(record("left-pad", versions=["1"])))
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "Nothing known is wrong with them.")
