"""Which file names the classes of YOLO labels, and what it calls them."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from ....storage.printable import shown_name
from .slice_labels import text_lines

logger = logging.getLogger(__name__)

_NAMES = ("classes.txt", "obj.names", "data.yaml", "data.yml")
# Ultralytics finds labels by putting this folder in the place of `images`; its data.yaml is one or two folders above.
_LABELS = "labels"


def is_yolo_names(path: Path) -> bool:
    """Whether a file has the name of those with the names of classes."""
    return path.name in _NAMES


class ClassNames:
    """Names of the classes of the labels below a folder, each file read once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[Path, tuple[dict[int, str], Path | None]] = {}
        self._used: Counter[Path] = Counter()

    def of(self, folder: Path) -> tuple[dict[int, str], Path | None]:
        """Names for the labels in a folder, and the file that has them: the nearest in the folder or above it.

        Above the root, one folder is searched, and a second where a folder called ``labels`` is below it.

        Raises:
            ValueError: If that file is not as expected, or two in one folder differ.
        """
        if folder not in self._known:
            self._known[folder] = next(self._search(folder), ({}, None))
        self._used[self._known[folder][1] or Path()] += 1
        return self._known[folder]

    def _search(self, folder: Path) -> Iterator[tuple[dict[int, str], Path]]:
        inside = [place for place in (folder, *folder.parents) if place.is_relative_to(self._root)]
        top, parent, grandparent = (Path(os.path.abspath(self._root / up)) for up in (".", "..", "../.."))
        deep = _LABELS in (top.relative_to(grandparent) / folder.relative_to(self._root)).parts
        for place in (*inside, parent, *([grandparent] if deep else [])):
            paths = [place / name for name in _NAMES if (place / name).is_file()]
            found = [(_read(path, optional=place not in inside), path) for path in paths]
            found = [(names, path) for names, path in found if names is not None]
            if others := [path for names, path in found if names != found[0][0]]:
                raise ValueError(
                    f"Expected one list of names of the classes in {place}, got different ones in {found[0][1].name} "
                    f"and {others[0].name}: remove one of them."
                )
            yield from ((names, path) for names, path in found[:1] if names is not None)

    def log(self) -> None:
        """Log which file named the classes of how many label files."""
        for path, count in self._used.items():
            if path == Path():
                logger.warning(
                    "%d YOLO file(s) below %s have no names of classes (no %s): classes are called by their numbers.",
                    *(count, shown_name(str(self._root)), ", ".join(_NAMES)),
                )
                continue
            names = next(names for names, file in self._known.values() if file == path)
            listed = ", ".join(f"{number} is {shown_name(name)}" for number, name in sorted(names.items())[:10])
            logger.info("%s names the classes of %d YOLO file(s): %s.", shown_name(str(path)), count, listed or "none")


def _read(path: Path, *, optional: bool) -> dict[int, str] | None:
    """The names in a file by number, without those of blank lines; None if it has none and is ``optional``."""
    if path.suffix in (".txt", ".names"):
        return {number: line.strip() for number, line in enumerate(text_lines(path)) if line.strip()}
    try:
        content = yaml.safe_load("\n".join(text_lines(path)))
        # Above the labels, a file of this name may be of another program.
        if optional and not (isinstance(content, Mapping) and "names" in content):
            return None
        names = content["names"]
        pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
        return {int(number): str(name) for number, name in pairs}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"Expected 'names' of the classes in {path}: {type(error).__name__}.") from error
