"""Files of MONAI Label's datastore, written next to their place and then moved there.

MONAI Label writes labels, scans and its list of them in place: a full disk or a killed server would leave part of a
file, and cost the label or the list that was there before.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from filelock import FileLock


def write_whole(local: ModuleType) -> None:
    """Let MONAI Label's datastore of a folder write its files whole.

    Args:
        local: The module ``monailabel.datastore.local``.
    """
    local.shutil = SimpleNamespace(copy=copy_whole)  # type: ignore[attr-defined]
    local.LocalDatastore._update_datastore_file = write_list


def copy_whole(source: str, target: str) -> None:
    """Copy a file; an error leaves what was at the target."""
    with _part_of(target) as part:
        shutil.copy(source, part)


def write_list(store: Any, lock: bool = True) -> None:
    """Write the list of a ``LocalDatastore``; an error leaves the one before.

    Args:
        store: The datastore.
        lock: Whether to wait for its lock; otherwise it is held already.
    """
    text = json.dumps(store._datastore.model_dump(exclude={"base_path"}), indent=2, default=str)
    with FileLock(store._lock_file) if lock else nullcontext():
        with _part_of(store._datastore_config_path) as part:
            part.write_text(text)
        # Other processes watch for changes in a file, not for a file that takes its place.
        with open(store._datastore_config_path, "r+") as file:
            file.write(text[0])
        store._config_ts = os.stat(store._datastore_config_path).st_mtime


@contextmanager
def _part_of(target: str) -> Iterator[Path]:
    """A file that takes the place of the target at the end; the datastore's lock keeps others from it."""
    whole = Path(target).resolve()
    part = whole.with_name(".mp3d_label.part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, whole)
    finally:
        part.unlink(missing_ok=True)
