"""Where scans are looked for: lists of paths in a text file, and the folders below a folder with their files."""

from __future__ import annotations

import codecs
import errno
import logging
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from ...storage.object_stores import read_object, url_of
from ...storage.result_files import file_names
from .scan_shards import Named
from .volume_files.nifti import PAIR_SUFFIX, pair_voxels
from .volume_files.stored_image import shown

logger = logging.getLogger(__name__)

LIST_SUFFIX = ".txt"
# Formats of volumes and archives that are not read: a user may expect a scan there.
_UNREAD = (
    *(".hdr", ".img", ".hdr.gz", ".img.gz", ".mgh", ".mgz", ".mnc", ".gipl", ".gipl.gz", ".vtk", ".vti", ".par"),
    *(".rec", ".nii.bz2", ".nii.xz", ".nii.zst", ".nrrd.gz", ".mha.gz", ".tif", ".tiff", ".npy", ".npz", ".h5"),
    *(".hdf5", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".rar", ".7z"),
)
_SHOWN = 10

Found = TypeVar("Found", bound=Named)


def is_list(path: Path) -> bool:
    """Whether a path is a file, or an object in a store, with a list of paths."""
    return path.suffix.lower() == LIST_SUFFIX and (path.is_file() or url_of(path) is not None)


def read_list(path: Path) -> list[Path]:
    """Read the paths in a text file, one a line, as ``find`` prints them.

    Args:
        path: The file. Its lines may end as on Unix or as on Windows, and the last one need not end.

    Returns:
        The paths, in order, relative ones to the working folder. Empty lines and comments (lines that begin with ``#``;
        ``./#name`` is a path) are left out, and spaces at the ends of a line belong to its path.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not a text, has no path, or a line that is too long for one.
    """
    url = url_of(path)
    content = path.read_bytes() if url is None else read_object(url)
    if b"\0" in content:
        raise ValueError(f"Expected a text with a path in each line, got a binary file {path}.")
    lines = [line.removesuffix(b"\r") for line in content.removeprefix(codecs.BOM_UTF8).split(b"\n")]
    paths = [Path(os.fsdecode(line)) for line in lines if line.strip() and not line.startswith(b"#")]
    if not paths:
        got = "only comments in" if any(line.strip() for line in lines) else "an empty file"
        raise ValueError(f"Expected a text with a path in each line, got {got} {path}.")
    for entry in paths:
        if _is_too_long(entry):
            raise ValueError(f"Expected a text with a path in each line, got {str(entry)[:60]!r}... in {path}.")
    return paths


def _is_too_long(path: Path) -> bool:
    """Whether the system has no file of so long a name: it is a line of some other text."""
    try:
        path.lstat()
    except (OSError, ValueError) as error:
        return isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
    return False


def once(paths: Sequence[Path]) -> list[Path]:
    """The paths without those that come again, relative or absolute; a line in the log counts these."""
    first: dict[Path, Path] = {}
    for path in paths:
        first.setdefault(path.absolute(), path)
    again = [path for path in paths if first[path.absolute()] is not path]
    if again:
        logger.warning(
            "Paths are listed more than once (%d too many, %s the first): each is taken once.",
            *(len(again), shown(again[0])),
        )
    return list(first.values())


def each_once(entries: Iterable[Sequence[Found]]) -> list[Found]:
    """The scans of the entries of a list, without those that an earlier entry holds.

    A folder and a folder below it may both be listed. What one entry holds is never compared with itself: several
    scans of one series may lie in one place.

    Args:
        entries: The scans of each entry.

    Returns:
        The scans, in order; a line in the log counts those that are left out.
    """
    owners: dict[tuple[Path, str | None], int] = {}
    kept: list[Found] = []
    again: list[Found] = []
    for number, scans in enumerate(entries):
        for scan in scans:
            owner = owners.setdefault((scan.path.absolute(), scan.series), number)
            (kept if owner == number else again).append(scan)
    if again:
        logger.warning(
            "Entries of the list overlap (%d scans come again, %s the first): each is taken once.",
            *(len(again), shown(again[0].path)),
        )
    return kept


def is_closed(path: Path) -> bool:
    """Whether a folder, or a folder on the way to a path, may not be looked into."""
    try:
        return stat.S_ISDIR(path.stat().st_mode) and not os.access(path, os.R_OK | os.X_OK)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False


def walk(folder: Path, *, results: bool = False) -> list[tuple[Path, list[str]]]:
    """Folders from ``folder`` down with the names of their files, sorted; hidden ones are left out.

    Links to folders are followed; each folder is visited once. A folder that may not be searched is logged. Files that
    are called like results of this bundle are left out too, unless ``results``.
    """

    def log_error(error: OSError) -> None:
        logger.warning("%s: not searched, it cannot be read (%s).", shown(error.filename), error.strerror or error)

    places, seen = [], set()
    left_out = set() if results else set(file_names())
    for place, folders, files in os.walk(folder, onerror=log_error, followlinks=True):
        if not os.access(place, os.X_OK):
            # Its files can be listed, but not opened.
            log_error(PermissionError(errno.EACCES, os.strerror(errno.EACCES), place))
            folders.clear()
            continue
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        # A folder comes before a link to it, so that its own name is used.
        folders[:] = sorted(
            (name for name in folders if not name.startswith(".")),
            key=lambda name, place=place: (os.path.islink(os.path.join(place, name)), name),
        )
        places.append((Path(place), sorted(name for name in set(files) - left_out if not name.startswith("."))))
    return sorted(places)


def files_below(folder: Path) -> list[Path]:
    """Files of a folder and its sub-folders, sorted, results of this bundle included; see `walk`."""
    return sorted(place / name for place, names in walk(folder, results=True) for name in names)


def log_unread(folder: Path, names: Sequence[str]) -> list[str]:
    """Log and return which files of a searched folder are volumes, or archives, in a format that is not read."""
    pairs = {name: pair_voxels(folder / name, names) for name in names if name.lower().endswith(PAIR_SUFFIX)}
    read = {one for name, voxels in pairs.items() if voxels for one in (name, *voxels)}
    unread = [name for name in names if name.lower().endswith(_UNREAD) and name not in read]
    if unread:
        more = f" and {len(unread) - _SHOWN} more" if len(unread) > _SHOWN else ""
        logger.warning(
            "%s: left out %d file(s) in formats that are not read (convert them to NIfTI, unpack archives): %s%s.",
            *(shown(folder), len(unread), ", ".join(shown(name) for name in unread[:_SHOWN]), more),
        )
    return unread
