"""Results in an object store: made in a temporary folder, by the code that makes them on a disk, and sent when done."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ...inference.outputs.result_folder import MAIN, RECORD, read_record
from ...inference.outputs.result_writer import ResultWriter
from ...storage.object_stores import check_store, fetch_if_there, send, url_of
from ...storage.output_folder import FolderLock, check_output_folder
from ...storage.result_files import file_names

logger = logging.getLogger(__name__)


def check_place(output_dir: str | Path) -> None:
    """Check before the work starts that results can be written to a folder or below a URL.

    Raises:
        OSError: If not; the message says why.
        ImportError: If the package for this kind of store is not installed.
    """
    url = url_of(output_dir)
    check_output_folder(output_dir) if url is None else check_store(url)


def is_gone(output_dir: str | Path) -> bool:
    """Whether a folder has been removed; a store has no folders."""
    return url_of(output_dir) is None and not Path(output_dir).is_dir()


@contextmanager
def local_results(writer: ResultWriter, name: str) -> Iterator[ResultWriter]:
    """A writer of the results of one scan on this machine.

    For results in a store it begins with those that are there, so that finished ones are known and other ones are kept
    as on a disk. On leaving, what it wrote is sent, the record last: without a record a scan is not finished. After
    an error nothing is sent.

    Args:
        writer: Its ``output_dir`` is a folder or a URL.
        name: Of the folder of the scan below it.

    Raises:
        OSError: If the results cannot be fetched or sent.
        ValueError: If ``name``, or a name in the record that is there, leads out of its folder.
    """
    url = url_of(writer.output_dir)
    if url is None:
        yield writer
        return
    place = f"{url.rstrip('/')}/{name}".rstrip("/")
    with tempfile.TemporaryDirectory(prefix="mp3d_results_") as folder:
        own = replace(writer, output_dir=folder)
        target = own.folder(name)
        target.mkdir(parents=True, exist_ok=True)
        before, fetched = _fetch(place, target)
        yield own
        record = read_record(target)
        if record is None or ((target / RECORD).read_bytes() == before and set(record["files"]) <= fetched):
            return
        gone = {old: None for old in [RECORD, *sorted(fetched - set(record["files"]))]}
        order = [*sorted(record["files"], key=lambda one: one == MAIN), RECORD]
        send(gone, place)
        send({one: target / one for one in order}, place)


def _fetch(place: str, target: Path) -> tuple[bytes, set[str]]:
    """Fetch the results that are there: their record, empty without one, and the names of the other files."""
    known = fetch_if_there(f"{place}/{RECORD}", target / RECORD)
    record = read_record(target) if known else None
    names = set(file_names()) | set(record["files"] if record is not None else ())
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"Expected names of results in {place}/{RECORD}, got {name!r}.")
    fetched = {name for name in sorted(names) if fetch_if_there(f"{place}/{name}", target / name)}
    return (target / RECORD).read_bytes() if known else b"", fetched


@contextmanager
def table_folder(output_dir: str | Path, lock: FolderLock) -> Iterator[Path]:
    """The folder for the tables of a batch, which no second batch uses; those for a store are sent on leaving.

    Args:
        output_dir: A folder or a URL.
        lock: Of the folder; a store has none, which is logged.

    Raises:
        OSError: If they cannot be written there.
        BlockingIOError: If another batch runs there.
    """
    check_place(output_dir)
    url = url_of(output_dir)
    if url is None:
        with lock:
            yield Path(output_dir)
        return
    logger.warning("%s has no locks: make sure that only one batch writes there.", url)
    with tempfile.TemporaryDirectory(prefix="mp3d_tables_") as folder:
        try:
            yield Path(folder)
        finally:
            send({path.name: path for path in sorted(Path(folder).iterdir())}, url)
