"""Files like a pattern, and what its stars stand for in a path, by which a truth finds its scan."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from ..scans.scan_lists import walk

logger = logging.getLogger(__name__)

_PARTS = re.compile(r"(\*\*/?|\*|\?|\[!?\]?[^\]]*\])")
_MEANINGS = {"**/": "(?:.+/)?", "**": ".*", "*": "([^/]*)", "?": "[^/]"}


@dataclass(frozen=True)
class StarPattern:
    """A pattern of `files_like`.

    Attributes:
        root: Folder below which it was searched.
        pattern: Such as ``*/ct.nii.gz``; one without a ``/`` is of names alone.
    """

    root: Path
    pattern: str

    @classmethod
    def pair(
        cls, images: Path, image_pattern: str | None, truth: Path, truth_pattern: str | None
    ) -> tuple[StarPattern, StarPattern] | None:
        """The patterns of the images and of the truth, None unless both are given."""
        if not image_pattern or not truth_pattern:
            return None
        return cls(images, image_pattern), cls(truth, truth_pattern)

    @property
    def stars(self) -> int:
        """How many ``*`` it has; ``**`` stands for folders of any depth and does not count."""
        return _PARTS.findall(self.pattern).count("*")

    def stands_for(self, path: Path) -> tuple[str, ...] | None:
        """What each ``*`` stands for in a path, or in the nearest folder above it that is like the pattern, else None.

        Args:
            path: File or folder below `root`.
        """
        below = path.relative_to(self.root) if path.is_relative_to(self.root) else Path(path.name)
        for place in (below, *below.parents):
            if match := self._match(place):
                return match.groups()
        return None

    def fits(self, path: Path) -> bool:
        """Whether a path below `root` is like the pattern."""
        return self._match(path.relative_to(self.root)) is not None

    @cached_property
    def _text(self) -> str:
        return PurePosixPath(self.pattern).as_posix()

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        return re.compile("".join(_meaning(part) for part in _PARTS.split(self._text)))

    def _match(self, below: Path) -> re.Match[str] | None:
        return self._regex.fullmatch(below.as_posix() if "/" in self._text else below.name)


def _meaning(part: str) -> str:
    """A part of a pattern as a regular expression."""
    if part.startswith("[") and part.endswith("]"):
        return f"[^{part[2:]}" if part.startswith("[!") else part
    return _MEANINGS.get(part) or re.escape(part)


def files_like(root: Path, pattern: str) -> list[Path]:
    """Paths below a folder that are like a pattern, sorted; links to folders are followed.

    One without a ``/``, such as ``*.xml``, is meant for the folder itself; where nothing there is like it, sub-folders
    are searched. What is like it in sub-folders of a folder that has some itself is left out, with a line in the log.
    """
    if "**/" in pattern:
        return _deep(root, pattern)
    found = sorted(root.glob(pattern))
    if "/" in pattern or any(path.is_dir() for path in found):
        return found
    deep = _deep(root, pattern)
    if found and len(deep) > len(found):
        logger.warning(
            '%s: %d of its files are like %s. %d more in its sub-folders are left out; "**/%s" takes them too.',
            *(root, len(found), pattern, len(deep) - len(found), pattern),
        )
    return found or deep


def _deep(root: Path, pattern: str) -> list[Path]:
    """Files and folders at any depth, as `Path.rglob` before Python 3.13 does not follow links."""
    stars = StarPattern(root, pattern)
    there = [path for place, names in walk(root, results=True) for path in (place, *(place / name for name in names))]
    return sorted(path for path in there if path != root and stars.fits(path))
