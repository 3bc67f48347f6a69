"""What the stars of a file pattern stand for in a path, by which a truth finds its scan."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_PARTS = re.compile(r"(\*\*/?|\*|\?|\[!?\]?[^\]]*\])")
_MEANINGS = {"**/": "(?:.+/)?", "**": ".*", "*": "([^/]*)", "?": "[^/]"}


@dataclass(frozen=True)
class StarPattern:
    """A pattern of `scripts.data.importing.truth.truth_files.files_like`.

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
        text = PurePosixPath(self.pattern).as_posix()
        regex = "".join(_meaning(part) for part in _PARTS.split(text))
        below = path.relative_to(self.root) if path.is_relative_to(self.root) else Path(path.name)
        for place in (below, *below.parents):
            if match := re.fullmatch(regex, place.as_posix() if "/" in text else place.name):
                return match.groups()
        return None


def _meaning(part: str) -> str:
    """A part of a pattern as a regular expression."""
    if part.startswith("[") and part.endswith("]"):
        return f"[^{part[2:]}" if part.startswith("[!") else part
    return _MEANINGS.get(part) or re.escape(part)
