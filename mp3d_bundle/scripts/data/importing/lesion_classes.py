"""Classes of a set: which names of the truth belong to which, which are regions to ignore, and which are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from .true_lesions import ONE_CLASS, ScanTruth, TrueLesion

# What regions are called in which nothing is known, whatever the case.
IGNORE = ("ignore", "ignored")


@dataclass(frozen=True)
class ClassRule:
    """Which lesions belong to which class.

    Attributes:
        classes: Names in the order of their labels from 1.
        patterns: Of each, what names in the truth are like (``GTV*``), whatever their case.
        ignore: What names of regions to ignore are like; they come before the classes.
    """

    classes: tuple[str, ...] = (ONE_CLASS,)
    patterns: tuple[tuple[str, ...], ...] = (("*",),)
    ignore: tuple[str, ...] = IGNORE

    @classmethod
    def read(cls, words: Sequence[str] | None, ignore: Sequence[str] = IGNORE) -> ClassRule:
        """Read ``NAME`` or ``NAME=PATTERN``, possibly several for one name; None: all are one class, lesion.

        ``ignore`` are patterns of regions to ignore.

        Raises:
            ValueError: If a word has no name or no pattern.
        """
        regions = tuple(str(word).strip() for word in ignore)
        if not all(regions):
            raise ValueError(f"Expected names or patterns as ignore, got {list(ignore)!r}.")
        if words is None:
            return cls(ignore=regions)
        found: dict[str, list[str]] = {}
        for word in words:
            name, equals, pattern = (part.strip() for part in str(word).partition("="))
            if not name or (equals and not pattern) or not name.isprintable():
                raise ValueError(f"Expected NAME or NAME=PATTERN as classes, got {word!r}.")
            found.setdefault(name, []).append(pattern or name)
        if not found:
            raise ValueError("Expected at least one class, got none.")
        return cls(tuple(found), tuple(tuple(patterns) for patterns in found.values()), regions)

    def of(self, *names: str) -> str | None:
        """The class of what the truth calls by one name or several, None where it belongs to none."""
        for own, patterns in zip(self.classes, self.patterns, strict=True):
            if _like(names, patterns):
                return own
        return None

    def taken(self, truth: ScanTruth) -> dict[str, int]:
        """How many lesions of each name in the truth belong to a class."""
        found = (lesion for lesion in truth.lesions if not _like(_names(lesion), self.ignore))
        return dict(sorted(Counter(lesion.name for lesion in found if self.of(*_names(lesion)) is not None).items()))

    def apply(self, truth: ScanTruth) -> ScanTruth:
        """The truth with every lesion called by its class.

        What is called like a region to ignore becomes one. Lesions of no class are left out, with a note; their
        slices do not count as slices without a lesion.
        """
        kept: list[TrueLesion] = []
        regions = list(truth.regions)
        left: Counter[str] = Counter()
        unsure = set(truth.unsure)
        for lesion in truth.lesions:
            if _like(_names(lesion), self.ignore):
                regions.append(lesion)
                continue
            own = self.of(*_names(lesion))
            if own is None:
                left[lesion.name] += 1
                unsure |= set(lesion.slices.tolist())
            else:
                kept.append(lesion.called(own))
        notes = [f"Left out {count} called {name!r}, which belongs to no class." for name, count in left.items()]
        # A slice of which the truth says nothing more than where nothing is known shows no lesion elsewhere.
        labelled = {int(number) for lesion in kept for number in lesion.slices} | unsure
        alone = {int(region.slices[0]) for region in regions if region.form == "slices"} - labelled
        return replace(
            truth,
            lesions=tuple(kept),
            notes=(*truth.notes, *notes),
            unsure=tuple(sorted(unsure)),
            empty=tuple(sorted(set(truth.empty) | alone)),
            regions=tuple(regions),
        )


def _names(lesion: TrueLesion) -> tuple[str, ...]:
    return lesion.name, *lesion.other_names


def _like(names: Sequence[str], patterns: Sequence[str]) -> bool:
    # A blank at the end of a name is not to be seen.
    return any(fnmatchcase(name.strip().lower(), pattern.lower()) for name in names for pattern in patterns)
