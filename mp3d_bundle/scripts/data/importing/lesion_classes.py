"""Classes of a set: which names of the truth belong to which, and which are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from .true_lesions import ONE_CLASS, ScanTruth, TrueLesion


@dataclass(frozen=True)
class ClassRule:
    """Which lesions belong to which class.

    Attributes:
        classes: Names in the order of their labels from 1.
        patterns: Of each, what names in the truth are like (``GTV*``), whatever their case.
    """

    classes: tuple[str, ...] = (ONE_CLASS,)
    patterns: tuple[tuple[str, ...], ...] = (("*",),)

    @classmethod
    def read(cls, words: Sequence[str] | None) -> ClassRule:
        """Read ``NAME`` or ``NAME=PATTERN``, possibly several for one name; None: all are one class, lesion.

        Raises:
            ValueError: If a word has no name or no pattern.
        """
        if words is None:
            return cls()
        found: dict[str, list[str]] = {}
        for word in words:
            name, equals, pattern = (part.strip() for part in str(word).partition("="))
            if not name or (equals and not pattern) or not name.isprintable():
                raise ValueError(f"Expected NAME or NAME=PATTERN as classes, got {word!r}.")
            found.setdefault(name, []).append(pattern or name)
        if not found:
            raise ValueError("Expected at least one class, got none.")
        return cls(tuple(found), tuple(tuple(patterns) for patterns in found.values()))

    def of(self, name: str) -> str | None:
        """The class of a name in the truth, None where it belongs to none."""
        for own, patterns in zip(self.classes, self.patterns, strict=True):
            if any(fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns):
                return own
        return None

    def apply(self, truth: ScanTruth) -> ScanTruth:
        """The truth with every lesion called by its class.

        Lesions of no class are left out, with a note; their slices do not count as slices without a lesion.
        """
        kept: list[TrueLesion] = []
        left: Counter[str] = Counter()
        unsure = set(truth.unsure)
        for lesion in truth.lesions:
            own = self.of(lesion.name)
            if own is None:
                left[lesion.name] += 1
                unsure |= set(lesion.slices.tolist())
            else:
                kept.append(lesion.called(own))
        notes = [f"Left out {count} called {name!r}, which belongs to no class." for name, count in left.items()]
        return replace(truth, lesions=tuple(kept), notes=(*truth.notes, *notes), unsure=tuple(sorted(unsure)))
