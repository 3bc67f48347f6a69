"""Converted networks on the disk: kept whole or not at all, and believed only if every byte is as it was written."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path

from ..storage.atomic_files import replacing

logger = logging.getLogger(__name__)

# Hidden: a search for scans leaves it out.
FOLDER = ".engines"
_HASHES = "sha256.json"
# The first moment that a zip can name; equal networks give equal files.
_DATE = (1980, 1, 1, 0, 0, 0)


class KeptNetwork:
    """The file of one converted network, in a folder next to its weights.

    Args:
        weights: The weights file.
        engine: Name of the engine.
        key: What the conversion depends on, in hexadecimal.
    """

    def __init__(self, weights: str | Path, engine: str, key: str) -> None:
        weights = Path(weights)
        self.folder = weights.parent / FOLDER
        self.start = f"{weights.stem}.{engine}."
        self.path = self.folder / f"{self.start}{key[:16]}.zip"

    def read(self) -> dict[str, bytes] | None:
        """The members by name; None if there is no such file, or, with a log line, if it is damaged."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                held = {name: archive.read(name) for name in archive.namelist()}
            wanted = json.loads(held.pop(_HASHES))
            if wanted != _hashes(held):
                raise ValueError("its content is not what was written")
        except FileNotFoundError:
            return None
        # A damaged zip can make the reader fail in many ways.
        except Exception as error:
            logger.warning("%s is damaged and is made anew: %s", self.path, error)
            return None
        return held

    def write(self, members: Mapping[str, bytes]) -> None:
        """Keep a network, and remove those of other weights or versions that had this name.

        A place that cannot be written gives a log line: the network is then converted again next time.
        """
        try:
            with replacing(self.path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
                for name, content in {**members, _HASHES: json.dumps(_hashes(members)).encode()}.items():
                    archive.writestr(zipfile.ZipInfo(name, _DATE), content)
            for other in self.folder.iterdir():
                if other.name.startswith(self.start) and other.suffix == ".zip" and other != self.path:
                    other.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("The converted network is not kept and has to be made again next time: %s", error)


def _hashes(members: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
