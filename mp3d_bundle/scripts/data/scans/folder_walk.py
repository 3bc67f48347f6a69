"""Folders below a folder in which scans may be."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ...storage.result_files import file_names
from .volume_files.stored_image import shown

logger = logging.getLogger(__name__)


def walk(folder: Path) -> list[tuple[Path, list[str]]]:
    """Folders from ``folder`` down with the names of their files, sorted; hidden ones and results are left out.

    Links to folders are followed; each folder is visited once. A folder that cannot be listed is logged.
    """

    def log_error(error: OSError) -> None:
        logger.warning("%s: not searched, it cannot be listed (%s).", shown(error.filename), error.strerror or error)

    places, seen = [], set()
    results = set(file_names())
    for place, folders, files in os.walk(folder, onerror=log_error, followlinks=True):
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
        places.append((Path(place), sorted(name for name in set(files) - results if not name.startswith("."))))
    return sorted(places)
