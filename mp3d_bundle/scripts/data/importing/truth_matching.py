"""Match truths and scans by a given rule, and name everything that is left over on either side."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..scans.dicom.dicom_files import uid_name
from ..scans.find_scans import ScanSource, without_suffix
from .pattern_stars import StarPattern
from .truth.truth_files import SLICE_KINDS, Truth

RULES = ("stem", "place", "uid", "pattern")
WITHOUT_TRUTH = ("reject", "negative", "leave_out")
_UID = re.compile(r"[0-9]+(\.[0-9]+){4,}")
# How many names a message lists.
_SHOWN = 10


@dataclass(frozen=True)
class ImportScan:
    """A scan that is imported.

    Attributes:
        source: Where it is.
        name: What the set calls it: the UID of a DICOM series, the path below the folder of the images otherwise.
        place: Its folder below that of the images, ``""`` there.
        stem: Name of its file or folder, without ending.
    """

    source: ScanSource
    name: str
    place: str
    stem: str

    @classmethod
    def of(cls, source: ScanSource, root: Path, ending: str = "") -> ImportScan:
        """Describe a source below ``root``, whose stems end in ``ending``, which is not part of their names."""
        below = source.path.relative_to(root) if source.path.is_relative_to(root) else Path(source.path.name)
        folder = source.path.is_dir()
        place = below if folder else below.parent
        stem = source.path.name if folder else without_suffix(Path(source.path.name))
        name = uid_name(source.series) if source.series not in (None, "none") else without_suffix(below)
        # Several runs of slices in one folder, several series without a UID.
        if source.series in (None, "none") and folder and source.name not in ("", "."):
            name = source.name
        text = place.as_posix()
        return cls(source, name, "" if text == "." else text, stem.removesuffix(ending) if ending else stem)


@dataclass
class Matched:
    """Scans with their truth.

    Attributes:
        of_scan: For each scan, in their order, the truth that belongs to it and the name of the slice it is of.
        by_slice: Truth that names slices by UID: the scan shows when it is opened.
        lost: Truth that belongs to no scan.
    """

    of_scan: list[list[tuple[Truth, str]]]
    by_slice: list[Truth] = field(default_factory=list)
    lost: list[Truth] = field(default_factory=list)

    def on_slices(self, uids: Container[str], others: Sequence[Truth]) -> list[tuple[int, Truth]]:
        """The truth that names slices of a scan, with its index in `by_slice`.

        Args:
            uids: SOPInstanceUIDs of the scan.
            others: Its other truth.

        Raises:
            ValueError: If there are several of a whole scan.
        """
        own = [(at, truth) for at, truth in enumerate(self.by_slice) if any(one in uids for one in _slices_of(truth))]
        whole = [truth for _, truth in own if truth.kind not in SLICE_KINDS]
        whole += [truth for truth in others if whole]
        if len(whole) > 1:
            raise ValueError(f"Expected one truth for a scan, got {whole[0].shown} and {whole[1].shown}.")
        return own


def match_truth(
    scans: Sequence[ImportScan],
    truths: Sequence[Truth],
    rule: str | None,
    ending: str = "",
    patterns: tuple[StarPattern, StarPattern] | None = None,
) -> Matched:
    """Find the scan of every truth.

    Args:
        scans: All scans.
        truths: All truth.
        rule: ``"stem"``: the same name without ending; labels of slices are called by that and the slice, as in
            ``case_1_023``, or lie in a folder of that name. ``"place"``: the same folder, or the nearest above that
            holds one scan. ``"uid"``: the SeriesInstanceUID, or for labels of slices the SOPInstanceUID, that the
            truth itself names. ``"pattern"``: each ``*`` of both patterns stands for the same. By default ``"uid"``
            for truth that names one, else ``"stem"``.
        ending: What truth's names have after that of their scan.
        patterns: Those of the scans and of the truth, where the rule is ``"pattern"``.

    Raises:
        ValueError: If two scans answer to one truth, a scan has two truths under a rule by which it has one, or the
            patterns do not fit.
    """
    if rule is not None and rule not in RULES:
        raise ValueError(f"Expected one of {', '.join(RULES)} as match, got {rule!r}.")
    found = Matched([[] for _ in scans])
    # Slices of other files have no UIDs.
    dicom = any(scan.source.series is not None for scan in scans)
    finder = _Finder(scans, ending, _checked(patterns, truths) if rule == "pattern" else None)
    for truth in truths:
        by = rule or ("uid" if _names_uid(truth) or (truth.slices and dicom) else "stem")
        if by == "uid" and (truth.kind in SLICE_KINDS or truth.slices):
            found.by_slice.append(truth)
            continue
        at, slice_name = finder.find(truth, by)
        if at is None:
            found.lost.append(truth)
            continue
        several = truth.kind in SLICE_KINDS or by == "place"
        others = [other for other, _ in found.of_scan[at] if other.path != truth.path or other.place is None]
        if others and not several:
            raise ValueError(
                f"Expected one truth for the scan {scans[at].name}, got {others[0].shown} and {truth.shown} (--match "
                "place takes all in its folder)."
            )
        found.of_scan[at].append((truth, slice_name))
    # Masks with a file for each structure are told apart by their files alone.
    if any(sum(truth.kind == "mask" for truth, _ in own) > 1 for own in found.of_scan):
        found.of_scan = [
            [(truth.by_file() if truth.kind == "mask" else truth, name) for truth, name in own] for own in found.of_scan
        ]
    return found


def _checked(
    patterns: tuple[StarPattern, StarPattern] | None, truths: Sequence[Truth]
) -> tuple[StarPattern, StarPattern]:
    """Both patterns, if they can say which truth belongs to which scan."""
    if patterns is None:
        raise ValueError("Expected an --image_pattern and a --truth_pattern with --match pattern, got one or none.")
    images, labels = patterns
    if not images.stars or images.stars != labels.stars:
        raise ValueError(
            f"Expected as many * in the pattern of the images as in that of the truth, at least one (** does not "
            f"count), got {images.pattern!r} and {labels.pattern!r}."
        )
    for truth in truths:
        if truth.place is None or truth.kind in SLICE_KINDS:
            raise ValueError(f"Expected a file for each scan to match by pattern, got {truth.shown} ({truth.kind}).")
    return patterns


def _slices_of(truth: Truth) -> Collection[str]:
    """SOPInstanceUIDs that a truth names."""
    return truth.slices or (truth.slice_name,)


def _names_uid(truth: Truth) -> bool:
    if truth.kind in SLICE_KINDS:
        return _UID.fullmatch(truth.slice_name) is not None
    names = truth.kind in ("seg", "rtstruct", "lidc") and truth.series != ""
    return names or _UID.fullmatch(truth.image) is not None


class _Finder:
    """Scans by what a truth may call them."""

    def __init__(
        self, scans: Sequence[ImportScan], ending: str, patterns: tuple[StarPattern, StarPattern] | None
    ) -> None:
        self.scans = scans
        self.ending = ending
        self.patterns = patterns
        self.by_stars: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self.by_stem: dict[str, list[int]] = defaultdict(list)
        self.by_path: dict[str, list[int]] = defaultdict(list)
        self.by_series: dict[str, list[int]] = defaultdict(list)
        self.by_place: dict[str, list[int]] = defaultdict(list)
        for at, scan in enumerate(scans):
            # A folder of slices is called by its own name or by its path.
            for name in {scan.stem, scan.name, scan.source.name} - {""}:
                self.by_stem[name].append(at)
            for path in {_joined(scan.place, scan.stem), scan.name, scan.source.name} - {""}:
                self.by_path[path].append(at)
            stars = patterns and patterns[0].stands_for(scan.source.path)
            if stars:
                self.by_stars[stars].append(at)
            if scan.source.series not in (None, "none"):
                self.by_series[uid_name(str(scan.source.series))].append(at)
            place = scan.place
            while True:
                self.by_place[place].append(at)
                if not place:
                    break
                place = place.rpartition("/")[0]

    def find(self, truth: Truth, rule: str) -> tuple[int | None, str]:
        """Index of the scan, or None, and the name of the slice where it is the truth of one."""
        path, _, name = truth.image.rpartition("/")
        if rule == "uid":
            return self._one(self.by_series.get(truth.series, []), truth), ""
        if rule == "pattern" and self.patterns:
            return self._one(self.by_stars.get(self.patterns[1].stands_for(truth.path) or (), []), truth), ""
        if rule == "place":
            if truth.place is None:
                raise ValueError(f"Expected a truth with a folder of its own to match by place, got {truth.shown}.")
            return self._one(self._near(truth.place), truth), name
        if truth.kind not in SLICE_KINDS:
            if truth.kind == "lesions":
                return self._one(self._of_result(truth.place or "", name), truth), ""
            stem = self._without_ending(name)
            return self._one([] if stem is None else self._named(_joined(truth.place or path, stem), stem), truth), ""
        if path and (found := self._named(path, path.rpartition("/")[2])):
            return self._one(found, truth), name
        stem, _, number = name.rpartition("_")
        return self._one(self._named(_joined(path, stem), stem), truth), number

    def _of_result(self, place: str, name: str) -> list[int]:
        """Scans of a result: it is in a folder with their name, which tells files of one name apart."""
        found = self.by_stem.get(name, [])
        if len(set(found)) == 1 or not place:
            return found
        return self.by_path.get(place, []) or found or self.by_stem.get(place.rpartition("/")[2], [])

    def _near(self, place: str) -> list[int]:
        """Scans in a folder, or else below it, or else in the nearest folder above that has some."""
        found = self._directly_in(place) or self.by_place.get(place, [])
        while place and not found:
            place = place.rpartition("/")[0]
            found = self._directly_in(place)
        return found

    def _directly_in(self, place: str) -> list[int]:
        return [at for at in self.by_place.get(place, []) if self.scans[at].place == place]

    def _named(self, path: str, stem: str) -> list[int]:
        """Scans of a path, or otherwise of a name, in whatever folder."""
        return self.by_path.get(path, []) or self.by_stem.get(stem, [])

    def _without_ending(self, stem: str) -> str | None:
        if not self.ending:
            return stem
        return stem[: -len(self.ending)] if stem.endswith(self.ending) else None

    def _one(self, found: Sequence[int], truth: Truth) -> int | None:
        if len(set(found)) > 1:
            names = ", ".join(self.scans[at].name for at in sorted(set(found))[:_SHOWN])
            raise ValueError(f"Expected one scan for the truth {truth.shown}, got {len(set(found))}: {names}.")
        return found[0] if found else None


def _joined(place: str, name: str) -> str:
    return f"{place}/{name}" if place else name


def listed(names: Sequence[str]) -> str:
    """Names for a message, the first ten of many."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
