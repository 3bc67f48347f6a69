"""Scans in object stores, such as ``s3://bucket/key``: found by the names of objects, fetched when they are read."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from ...storage.object_stores import fetched, list_objects
from ...storage.result_files import file_names
from .dicom.dicom_files import DICOM_SUFFIXES
from .dicom.dicom_zip import ZIP_SUFFIX
from .scan import ITK_SUFFIXES, NIFTI_SUFFIXES, Scan

VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
# Headers whose voxels are in another object, of the same name but for its suffix.
_HEADERS = (".mhd", ".nhdr", ".hdr")
_SLICE = re.compile(r"\d+\.png")
Reader = Callable[[Path], AbstractContextManager[Scan]]


@dataclass(frozen=True)
class RemoteScan:
    """A scan that has not been fetched.

    Attributes:
        url: Of the object, or of the prefix of a series.
        place: Its place below the URL that was searched; empty for that URL itself.
        opener: Fetches and reads it; on leaving, what was fetched is removed.
    """

    url: str
    place: str
    opener: Callable[[], AbstractContextManager[Scan]]


def list_scans(url: str, read: Reader) -> list[RemoteScan]:
    """The scans at a URL: a volume file, an archive, or all that are below a prefix.

    Objects of DICOM files and of numbered PNG slices are one scan for each prefix that ends in a slash.

    Args:
        url: Of an object, or a prefix.
        read: Reads the one scan at a path of this machine.

    Returns:
        Sorted by URL. A URL that cannot be listed, or has no scan, is one that reports it when it is opened.
    """
    url = url.rstrip("/")
    try:
        objects = list_objects(url)
    except (OSError, ImportError) as error:
        return [RemoteScan(url, "", partial(_reject, error))]
    found = [] if objects == [url] else _inside(url, objects, read)
    if objects == [url]:
        found = [RemoteScan(url, "", partial(_open, [url], url, read))]
    if not found:
        error = ValueError(f"Expected a CT at {url}, got none among {len(objects)} objects.")
        return [RemoteScan(url, "", partial(_reject, error))]
    return sorted(found, key=lambda scan: scan.url)


def _inside(url: str, objects: list[str], read: Reader) -> list[RemoteScan]:
    results, found = set(file_names()), []
    folders: dict[str, list[str]] = defaultdict(list)
    for one in objects:
        inner = PurePosixPath(one.removeprefix(url).lstrip("/"))
        hidden = any(part.startswith(".") for part in inner.parts)
        if not hidden and inner.name not in results:
            folders[one.rpartition("/")[0]].append(one)
    for folder, inside in folders.items():
        place = folder.removeprefix(url).lstrip("/")
        slices = [one for one in inside if _is_slice(PurePosixPath(one).name)]
        if slices:
            # As in a folder of this machine, other files next to a series are not read.
            found.append(RemoteScan(folder, place, partial(_open, slices, folder, read)))
            continue
        for one in inside:
            if one.lower().endswith((*VOLUME_SUFFIXES, ZIP_SUFFIX)):
                inner = one.removeprefix(url).lstrip("/")
                found.append(RemoteScan(one, inner, partial(_open, [one], one, read)))
    return found


def _is_slice(name: str) -> bool:
    return name.lower().endswith(DICOM_SUFFIXES) or "." not in name or _SLICE.fullmatch(name) is not None


def hidden_name(url: str) -> str:
    """A name for the results of a scan whose key may name the patient: of the hash of its URL."""
    return f"object_{hashlib.sha256(url.encode()).hexdigest()[:16]}"


@contextmanager
def _open(urls: list[str], url: str, read: Reader) -> Iterator[Scan]:
    """Fetch objects and read the scan in them; messages name the URL and not the temporary folder."""
    parent, _, name = url.rpartition("/")
    if url.lower().endswith(_HEADERS):
        stem = url.rpartition(".")[0]
        urls = [one for one in list_objects(parent) if one.removesuffix(".gz").rpartition(".")[0] == stem]
    with fetched(urls, parent) as folder, ExitStack() as stack:
        try:
            scan = stack.enter_context(read(folder / name))
        except (OSError, ValueError) as error:
            kind = OSError if isinstance(error, OSError) else ValueError
            raise kind(str(error).replace(str(folder), parent)) from error
        yield scan


def _reject(error: Exception) -> AbstractContextManager[Scan]:
    raise error
