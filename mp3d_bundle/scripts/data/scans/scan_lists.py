"""Lists of scans in a text file, for more of them than a command line holds."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from ...storage.object_stores import read_object, url_of

LIST_SUFFIX = ".txt"


def is_list(path: Path) -> bool:
    """Whether a path is a file, or an object in a store, with a list of paths."""
    return path.suffix.lower() == LIST_SUFFIX and (path.is_file() or url_of(path) is not None)


def read_list(path: Path) -> list[Path]:
    """Read the paths in a text file, one a line, as ``find`` prints them.

    Args:
        path: The file. Its lines may end as on Unix or as on Windows, and the last one need not end.

    Returns:
        The paths, in order, relative ones to the working folder; empty lines are left out, and spaces at the ends of a
        line belong to its path.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not a text, or has no path.
    """
    url = url_of(path)
    content = path.read_bytes() if url is None else read_object(url)
    if b"\0" in content:
        raise ValueError(f"Expected a text with a path in each line, got a binary file {path}.")
    lines = [line.removesuffix(b"\r") for line in content.removeprefix(codecs.BOM_UTF8).split(b"\n")]
    paths = [Path(os.fsdecode(line)) for line in lines if line.strip()]
    if not paths:
        raise ValueError(f"Expected a text with a path in each line, got an empty file {path}.")
    return paths
