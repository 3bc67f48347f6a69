"""Objects in stores, such as ``s3://bucket/key``, by fsspec: fetched into temporary folders, and results sent back.

An object is written whole or not at all, by the store itself. Stores have no locks.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from .printable import one_line

# Protocols of fsspec that are stores of objects; a path may begin with any other word and a colon.
SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "memory")
_URL = re.compile(rf"({'|'.join(SCHEMES)}):/+([^/].*)", re.DOTALL)
_PROBE = ".writable"


def url_of(path: str | Path) -> str | None:
    """The URL that a text or a path stands for; None if it is a path of this machine.

    A `Path` of ``s3://bucket/key`` is ``s3:/bucket/key``, which stands for it too.
    """
    match = _URL.fullmatch(str(path))
    return f"{match[1]}://{match[2]}" if match else None


def list_objects(url: str) -> list[str]:
    """The URLs of an object, or of all objects below a prefix, sorted.

    Raises:
        FileNotFoundError: If there is neither.
        OSError: If the store cannot be reached, or does not allow it.
        ImportError: If the package for this kind of store is not installed.
    """
    with _asked(url) as (store, key):
        if store.isfile(key):
            return [url]
        found = sorted(_url_like(url, name) for name, one in store.find(key, detail=True).items() if _is_object(one))
        if not found:
            raise FileNotFoundError
        return found


def read_object(url: str) -> bytes:
    """The content of an object; errors as `list_objects`."""
    with _asked(url) as (store, key):
        return store.cat_file(key)


@contextmanager
def fetched(urls: Sequence[str], below: str) -> Iterator[Path]:
    """Objects in a temporary folder, which is removed on leaving.

    Args:
        urls: The objects.
        below: Prefix of all of them; the rest of a key is the path in the folder.

    Raises:
        ValueError: If a key leads out of the folder.
        OSError: As `list_objects`; or an object did not arrive whole, or this machine has no space for it.
        ImportError: As `list_objects`.
    """
    with tempfile.TemporaryDirectory(prefix="mp3d_objects_") as folder:
        for url in urls:
            _fetch(url, Path(folder) / _inner(url, below))
        yield Path(folder)


def fetch_if_there(url: str, path: Path) -> bool:
    """Fetch an object to a path; False if it does not exist. Errors as `list_objects`."""
    try:
        _fetch(url, path)
    except FileNotFoundError:
        path.unlink() if path.is_file() else None
        return False
    return True


def send(files: Mapping[str, Path | None], url: str) -> None:
    """Put files below a prefix, one after the other; a name without a file is removed there.

    Raises:
        OSError: As `list_objects`; what follows in the order is then not done.
        ImportError: As `list_objects`.
    """
    for name, path in files.items():
        with _asked(f"{url.rstrip('/')}/{name}") as (store, key):
            if path is not None:
                store.put_file(str(path), key)
            elif store.exists(key):
                store.rm_file(key)


def check_store(url: str) -> None:
    """Check before the work starts that objects can be written below a prefix. Leaves nothing behind.

    Raises:
        OSError: If not; the message says why.
        ImportError: As `list_objects`.
    """
    with _asked(f"{url.rstrip('/')}/{_PROBE}") as (store, key):
        store.pipe_file(key, b"")
        store.rm_file(key)


def _fetch(url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _asked(url) as (store, key):
        store.get_file(key, str(path))
        if not path.is_file():  # a prefix
            raise FileNotFoundError
        size, there = store.info(key)["size"], path.stat().st_size
        if size != there:
            raise OSError(f"{there} of {size} bytes arrived")


def _inner(url: str, below: str) -> PurePosixPath:
    """The path of an object below a prefix."""
    inner = PurePosixPath(url.removeprefix(below).lstrip("/"))
    if not url.startswith(below) or ".." in inner.parts or not inner.name:
        raise ValueError(f"Expected the key of an object below {below} without a step upwards, got {url}.")
    return inner


def _url_like(url: str, name: str) -> str:
    """The URL of a name that the store of another URL lists."""
    return f"{url.partition('://')[0]}://{name.lstrip('/')}"


def _is_object(entry: Mapping[str, Any]) -> bool:
    # Consoles make an empty object for a folder.
    return entry.get("type") == "file" and not str(entry.get("name", "")).endswith("/")


@contextmanager
def _asked(url: str) -> Iterator[tuple[Any, str]]:
    """The store of a URL and the key in it; errors of any kind name the URL."""
    try:
        store, key = fsspec.core.url_to_fs(url)
    except ImportError as error:
        kind = "s3fs" if url.startswith(("s3:", "s3a:")) else "a package"
        how = "`make stores`, or pip install 's3fs>=2024.6'" if kind == "s3fs" else str(error)
        raise ImportError(f"Expected {kind} for {url}, which is not installed: {how}.") from None
    try:
        store.invalidate_cache()
        yield store, key
    except FileNotFoundError:
        raise FileNotFoundError(f"Expected an object at {url}, found none.") from None
    # Each store has errors of its own, many of which are plain exceptions.
    except Exception as error:
        raise OSError(f"Could not use {url}: {one_line(error)}.") from error
