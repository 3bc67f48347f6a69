"""Files: written whole or not at all, safe against power cuts, identified by their SHA-256."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# ".NAME.MACHINE-PROCESS.part"; older releases wrote ".NAME.PROCESS.part".
_PART = re.compile(r"\..+?\.(?:(?P<machine>[\w-]*)-)?(?P<process>\d+)\.part")
# Another machine or an older release may still be writing this part.
_FORGOTTEN = 24 * 3600
_BLOCK = 1 << 20
# A drive of Windows has one letter. A `Path` has one slash of the two.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/.*", re.DOTALL)
# What a spreadsheet takes for a formula, and what `table_text` made of it.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBERS = re.compile(r"[-+.;0-9e ]+")
_swept: set[Path] = set()


def check_local(path: str | Path) -> None:
    """Reject a URL where this machine is written to: as a path it would make folders such as ``s3:``.

    Raises:
        OSError: If it is one.
    """
    if _URL.fullmatch(str(path)):
        raise OSError(
            f"Expected a path of this machine to write to, got what looks like a URL, {path}: only results of detect "
            "and batch can go to an object store (s3://bucket/key). Give a folder of that name by its absolute path."
        )


def check_file(path: str | Path) -> None:
    """Reject a path where no file can be written; one in place of a device, as /dev/null, would break other programs.

    Raises:
        OSError: If it is a folder, device, pipe or socket, or a link to one, or a URL.
    """
    check_local(path)
    if os.path.exists(path) and not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "a device, pipe or socket"
        raise OSError(f"Expected a path to write a file to, got {path}, which is {kind}.")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path next to ``path`` that takes its place when the block ends without an error.

    The content is on disk before the file is renamed, so that a power cut leaves the old file or the new one. The
    first time a process writes into a folder, it removes temporary files of killed processes there.

    Args:
        path: File to write; its folder is created if needed. An older file stays until then.

    Yields:
        Path to write to.

    Raises:
        OSError: If the file cannot be written (no space, no permission), or `check_file` rejects it; the message
            names it.
    """
    check_file(path)
    path = Path(path)
    part = path.with_name(f".{path.name}.{_machine()}-{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        yield part
        sync(part)
        os.replace(part, path)
        sync_folder(path.parent)
    except OSError as error:
        raise OSError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_json(content: Mapping[str, Any] | Sequence[Any], path: Path) -> None:
    """Write a dictionary or a list as JSON (no NaN); see `replacing` for errors."""
    text = json.dumps(content, indent=2, allow_nan=False)
    with replacing(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def write_csv(header: Sequence[str], rows: Iterable[Sequence[Any]], path: Path) -> None:
    """Write rows as `table_text` does; see `replacing` for errors."""
    text = table_text([header, *rows])
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="")


def table_text(rows: Iterable[Sequence[Any]], dialect: str = "excel") -> str:
    """Rows as CSV, empty fields for None.

    Names of files and texts of headers may begin like a formula, which a spreadsheet would run: these get an
    apostrophe in front, by which a spreadsheet knows a text, and `cell_text` takes it away. Numbers, also several in
    one field, stay as they are.

    Args:
        rows: Values of each row.
        dialect: One of the module ``csv``: ``"excel"`` has commas, ``"excel-tab"`` tabs.
    """
    lines = _Lines()
    # With lines that end in a line feed alone a carriage return within a text would not be quoted.
    csv.writer(lines, dialect=dialect).writerows(map(_plain_cell, row) for row in rows)
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)


class _Lines(list[str]):
    def write(self, line: str) -> None:
        self.append(line)


def _plain_cell(value: Any) -> Any:
    formula = isinstance(value, str) and _FORMULA.match(value) and not _NUMBERS.fullmatch(value)
    return f"'{value}" if formula else value


def cell_text(cell: str) -> str:
    """The text that `table_text` wrote into a cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hash_files([path])


def hash_files(paths: Iterable[str | Path]) -> str:
    """SHA-256 of the files' bytes one after the other (``cat FILES | sha256sum``), in hexadecimal.

    A path that comes again, as that of a file with several slices does, counts once.
    """
    digest = hashlib.sha256()
    for path in dict.fromkeys(paths):
        hash_into(digest, path)
    return digest.hexdigest()


def hash_into(digest: hashlib._Hash, path: str | Path) -> None:
    """Add the bytes of a file to a hash, block by block."""
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)


def sync(path: Path) -> None:
    """Flush a file or folder to disk before anything that relies on it.

    Raises:
        OSError: If the file system cannot do it, or the file does not exist.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk; no effect if the file system does not support it."""
    with contextlib.suppress(OSError):
        sync(folder)


def is_part(name: str) -> bool:
    """Whether a file name is that of a temporary file of `replacing`."""
    return _PART.fullmatch(name) is not None


def remove_stale_parts(folder: Path) -> list[Path]:
    """Remove temporary files that killed processes left in a folder.

    Files of running processes on this machine stay. If that is unknown, files stay for a day.

    Returns:
        What was removed.
    """
    removed = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            named = _PART.fullmatch(entry.name)
            with contextlib.suppress(OSError):
                if named and entry.is_file(follow_symlinks=False) and _stale(named, entry.stat().st_mtime):
                    os.unlink(entry.path)
                    removed.append(Path(entry.path))
    return removed


def _sweep(folder: Path) -> None:
    if folder not in _swept:
        _swept.add(folder)
        remove_stale_parts(folder)


def _stale(named: re.Match[str], modified: float) -> bool:
    if named["machine"] == _machine():
        return not _lives(int(named["process"]))
    return time.time() - modified > _FORGOTTEN


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to another user
        return True
    return True


def _machine() -> str:
    return re.sub(r"[^\w-]", "_", platform.node())
