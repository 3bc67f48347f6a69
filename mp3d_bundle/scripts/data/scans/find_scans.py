"""Find the scans in a path, a folder or a list of both."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from ...storage.object_stores import url_of
from ..deeplesion.subvolumes import checked_spacing
from .dicom.dicom_files import DICOM_SUFFIXES, label_of
from .dicom.dicom_headers import (
    Contents,
    ImageKey,
    Look,
    Series,
    file_contents,
    folder_files,
    holds_dicom,
    read_contents,
)
from .dicom.dicom_series import read_found, read_slices
from .dicom.dicom_zip import ZIP_SUFFIX, archive_contents, open_zipped_series
from .png_folders import find_runs, need_labels, read_run
from .remote_scans import VOLUME_SUFFIXES, list_scans
from .scan import Scan, canonical
from .scan_lists import each_once, is_closed, is_list, log_unread, once, read_list, walk
from .scan_source import ScanSource, case_name, entry_names, with_extensions, with_unique_names, without_suffix
from .volume_files.stored_image import DEFAULT_RULES, Note, ReadingRules, log_text, shown

logger = logging.getLogger(__name__)

# Headers take about 23 KB each in memory: of a larger collection those of later series are read again.
MAX_KEPT_HEADERS = 10_000
# Names of DICOM results: the SeriesInstanceUID, or the place, where folder names often contain the patient's name.
RESULT_NAMES = ("series", "place")


def find_scans(
    inputs: str | Path | int | Sequence[str | Path | int],
    *,
    series: str | None = None,
    annotations: str | Path | None = None,
    spacing: Sequence[float] | None = None,
    result_names: str = "series",
    rules: ReadingRules = DEFAULT_RULES,
) -> list[ScanSource]:
    """List the scans of an input; only the headers of DICOM files are read.

    A file is one scan; a zip archive is one for each CT series in it. A folder is searched with its sub-folders,
    except hidden folders and results of this bundle, for CT series (one scan each), for runs of PNG slices
    (likewise), for NIfTI, NRRD and MetaImage files and zip archives; other files next to a CT series are not
    read. Each result is named by its place below the folder, without the extension unless another file there has the
    same name; PNG runs of one place are named by their slice numbers. Entries of a list are treated the same way and
    named by their own name, or by their place below the common folder if a name occurs twice. Results of a DICOM series
    are named by its UID alone. ``_2``, ``_3``, ... are added if names still collide.

    Args:
        inputs: A path or URL, or a list of them; a number is the path of these digits. An empty string or list means
            no scans, and a ``.txt`` file the list of the paths in it.
        series: Only the DICOM series with this SeriesInstanceUID.
        annotations: DeepLesion's labels, for PNG slices; see `scripts.data.scans.png_folders`.
        spacing: ``(x, y, z)`` mm of PNG slices without labels. A warning is logged where neither has an effect.
        result_names: ``"series"``; or ``"place"`` to name results of DICOM like all others (several series in one place
            by number and description); this may reveal the patient's name.
        rules: How strictly scans are read.

    Returns:
        The sources, a folder's in sorted order. Unreadable files, folders without a scan and a missing series
        are returned too; reading them reports the problem.

    Raises:
        ValueError: If an input is not a path, a list in a file is not one, ``spacing`` is not three lengths, or
            ``result_names`` is another word.
        OSError: If a list in a file cannot be read, or the labels are missing.
    """
    if result_names not in RESULT_NAMES:
        raise ValueError(f"Expected result_names {' or '.join(RESULT_NAMES)}, got {result_names!r}.")
    entries = inputs if isinstance(inputs, (list, tuple)) else [inputs]
    single = entries is not inputs
    paths = [_path(entry) for entry in entries]
    if not paths or not str(inputs):
        return []
    if single and is_list(paths[0]):
        single, paths = False, read_list(paths[0])
    if annotations is not None:
        need_labels(annotations)
    finder = _Finder(annotations, checked_spacing(spacing), rules, MAX_KEPT_HEADERS, series)
    if single:
        found = finder.find(paths[0])
    else:
        paths = once(paths)
        found = each_once(
            [replace(source, name=os.path.join(name, source.name).rstrip(os.sep)) for source in finder.find(path)]
            for path, name in zip(paths, entry_names(paths), strict=True)
        )
    if not finder.runs and not any(url_of(path) for path in paths):
        for name, value in (("annotations", annotations), ("spacing", spacing)):
            if value is not None:
                logger.warning(
                    "--%s %s has no effect: only PNG slices are read with it, and none were found.", name, value
                )
    if series is not None:
        found = [source for source in found if source.series == series] or [_absent(series, paths, found)]
        if len(found) == 1 and single:
            found = [replace(found[0], name="")]
    _tell_scattered((source.series, shown(source.path)) for source in found if source.series is not None)
    if result_names == "series":
        found = [replace(source, name=source.name and case_name(source)) for source in found]
    return with_unique_names(with_extensions(found))


def _path(entry: object) -> Path:
    """A path from the command line, where a folder named by a date arrives as a number."""
    if isinstance(entry, int) and not isinstance(entry, bool):
        entry = str(entry)
    if not isinstance(entry, (str, Path)):
        raise ValueError(f"Expected a path or a list of paths as input, got {entry!r}.")
    return Path(entry)


def _tell_scattered(found: Iterable[tuple[str, str]]) -> None:
    """Warn about a series whose parts or copies are in several places, given as pairs of UID and place."""
    places: dict[str, list[str]] = defaultdict(list)
    for series, place in found:
        places[series].append(place)
    for series, paths in places.items():
        # Several stacks of one series in one place have their own notes.
        if len(set(paths)) > 1:
            logger.warning(
                "Series %s is in several places, each read as a separate scan: %s.", series, ", ".join(paths)
            )


def _absent(series: str, paths: Sequence[Path], found: Sequence[ScanSource]) -> ScanSource:
    """A source that reports the available series when it is read."""
    known = ", ".join(source.series for source in found if source.series) or "no DICOM series"

    def reject() -> NoReturn:
        raise ValueError(f"Expected the series {series}, got {known} in {', '.join(map(str, paths))}.")

    return ScanSource(paths[0], opener=reject)


def _refuse_folder(path: Path) -> NoReturn:
    files = sum(1 for _, names in walk(path) for _ in names)
    raise ValueError(
        f"Expected a CT in the folder {path} (a DICOM series, NIfTI, NRRD or MetaImage files, a zip of DICOM, 16-bit "
        f"PNG slices 001.png, 002.png, ...), got none among {files} files."
    )


@dataclass
class _Finder:
    """Searches for scans and names each by its place below the searched folder."""

    annotations: str | Path | None
    spacing: Sequence[float] | None
    rules: ReadingRules
    room: int
    """Number of headers that may still be kept for reading."""
    wanted: str | None = None
    """The series to take of a scan that is found before it is fetched."""
    runs: int = 0
    """Number of runs of PNG slices that were found."""

    def find(self, path: Path) -> list[ScanSource]:
        """The scans at a path; a path that is itself a scan gets no name."""
        if (url := url_of(path)) is not None:
            remote = list_scans(url, self._only)
            return [ScanSource(Path(one.url), _place_name(one.place), self.wanted, one.opener) for one in remote]
        if is_closed(path):
            closed = OSError(f"Expected a scan that may be read, got no permission for {path}.")
            return [ScanSource(path, "", opener=partial(_refuse, closed, path))]
        if not path.is_dir():
            return self._file(path, "")
        found = [source for place, files in walk(path) for source in self._place(path, place, files)]
        if any(not source.left_out for source in found):
            # Folders of localizers and other modalities next to the CT of a study are not failures.
            for source in found:
                for note in source.left_out:
                    logger.warning("%s: %s", shown(source.path), log_text(note))
            found = [source for source in found if not source.left_out]
        if not found:
            return [ScanSource(path, ".", opener=partial(_refuse_folder, path))]
        if len(found) == 1 and found[0].path == path:
            return [replace(found[0], name="")]
        return found

    @contextmanager
    def _only(self, path: Path) -> Iterator[Scan]:
        """Open the one scan at a path, or that of the series that was asked for."""
        found = self.find(path)
        chosen = [source for source in found if self.wanted in (None, source.series)]
        if len(chosen) != 1:
            there = ", ".join(source.series for source in found if source.series) or f"{len(found)} scans"
            raise ValueError(f"Expected one series in {path}, got {there}: --series UID chooses one.")
        with chosen[0].open() as scan:
            yield scan

    def _place(self, root: Path, folder: Path, names: Sequence[str]) -> list[ScanSource]:
        """The scans directly in one folder."""
        place = folder.relative_to(root).as_posix()
        known: dict[Path, Look] = {}
        series = self._series(folder, place, known) if holds_dicom(folder, names, known) else []
        if any(not source.left_out for source in series):
            return series
        left = log_unread(folder, names)
        sources = self._runs(folder, place if place != "." else folder.name)
        for name in names:
            path = folder / name
            if name.lower().endswith((*VOLUME_SUFFIXES, ZIP_SUFFIX)) and name not in left:
                sources.extend(self._file(path, without_suffix(path.relative_to(root))))
        if sources:
            told = [_without(source, names) for source in series]
            series = [source for source in told if source.left_out]
        return sorted([*series, *sources], key=lambda source: source.path)

    def _file(self, path: Path, name: str) -> list[ScanSource]:
        if path.name.lower().endswith(ZIP_SUFFIX) and path.is_file():
            return self._zipped(path, name)
        if path.is_file() and not path.name.lower().endswith(VOLUME_SUFFIXES):
            return self._frames(path, name)
        return [ScanSource(path, name, rules=self.rules)]

    def _frames(self, path: Path, name: str) -> list[ScanSource]:
        """The scans in a file that is an Enhanced CT; any other file as it is."""
        try:
            contents = file_contents(path)
        except Exception as error:
            return [ScanSource(path, name, opener=partial(_refuse, error, path))]
        if contents is None:
            return [ScanSource(path, name, rules=self.rules)]
        found = self._sources(path, name, contents, partial(self._open, path))
        return found or [ScanSource(path, name, opener=partial(_refuse_empty, [contents], path))]

    def _series(self, folder: Path, place: str, known: Mapping[Path, Look]) -> list[ScanSource]:
        try:
            contents = read_contents(folder_files(folder), known)
        except Exception:
            # Reading reports a bad header; it must not cost any other scan.
            return [ScanSource(folder, place, rules=self.rules)]

        found = self._sources(folder, place, contents, partial(self._open, folder))
        if found or contents.others or not any(name.name.lower().endswith(DICOM_SUFFIXES) for name in folder.iterdir()):
            return found or [ScanSource(folder, place, left_out=contents.notes)]
        # Named like slices, but none is DICOM: the user expects a scan here.
        return [ScanSource(folder, place)]

    def _sources(self, path: Path, place: str, contents: Contents, opener: Callable[..., Any]) -> list[ScanSource]:
        """A source for each series of some files.

        ``opener(images, notes, found, uid=uid)`` reads one, with the headers that were ``found`` if they were kept.
        """
        several = len(contents.series) > 1
        sources = []
        for one in contents.series:
            label = label_of(f"{one.number}_{one.description}") or label_of(one.uid) or "series"
            notes = [*contents.notes, *one.notes]
            if several:
                of = f"one of {len(contents.series)}."
                notes.append(Note(f"Series {one.uid}, {of}", f"Series {one}, {of}"))
            name = os.path.join(place, label) if several else place
            kept = None
            if len(one.headers) <= self.room:
                self.room -= len(one.headers)
                kept = replace(one, notes=())
            read = partial(opener, one.images, notes, kept, uid=one.uid)
            if one.problem is not None:
                read = partial(_refuse, one.problem, path)
            sources.append(ScanSource(path, os.path.normpath(name) if name else "", one.uid, read))
        return sources

    def _open(
        self, where: Path, images: Sequence[ImageKey], notes: Sequence[str], found: Series | None, *, uid: str
    ) -> AbstractContextManager[Scan]:
        stored = read_slices(images, where, notes, uid) if found is None else read_found(found, notes)
        return nullcontext(canonical(stored, where, self.rules))

    def _zipped(self, path: Path, name: str) -> list[ScanSource]:
        """The series in an archive, folder by folder; what cannot be read becomes a source that reports it."""
        opener = partial(open_zipped_series, path, rules=self.rules)
        try:
            contents = archive_contents(path)
        except Exception as error:
            return [ScanSource(path, name, opener=partial(_refuse, error, path))]
        empty = [inside for inside in contents.values() if isinstance(inside, Contents) and not inside.series]
        if len(empty) == len(contents):
            return [ScanSource(path, name, opener=partial(_refuse_empty, empty, path))]
        several = len(contents) - len(empty) > 1
        sources, scattered = [], []
        for place, inside in contents.items():
            own_name = os.path.join(name, place) if several else name
            if isinstance(inside, Exception):
                sources.append(ScanSource(path, own_name, opener=partial(_refuse, inside, path)))
            elif inside.series:
                sources += self._sources(path, own_name, inside, opener)
                scattered += [(one.uid, shown(path / place)) for one in inside.series]
        _tell_scattered(scattered)
        return sources

    def _runs(self, folder: Path, place: str) -> list[ScanSource]:
        runs = find_runs(folder)
        self.runs += len(runs)
        read = partial(read_run, folder, annotations=self.annotations, spacing=self.spacing)

        def opener(run: tuple[int, int]) -> AbstractContextManager[Scan]:
            return nullcontext(read(run))

        if len(runs) == 1:
            return [ScanSource(folder, place, opener=partial(opener, runs[0]))]
        # The form of DeepLesion's own sub-volumes.
        return [ScanSource(folder, f"{place}_{run[0]:03d}-{run[1]:03d}", opener=partial(opener, run)) for run in runs]


def _without(source: ScanSource, names: Sequence[str]) -> ScanSource:
    """What was left out of a DICOM folder without CT series, except for files that count as scans."""
    scans = (*VOLUME_SUFFIXES, ZIP_SUFFIX, ".png")
    taken = tuple(f"Left out {name}:" for name in names if name.lower().endswith(scans))
    return replace(source, left_out=tuple(note for note in source.left_out if not log_text(note).startswith(taken)))


def _refuse(error: Exception, path: Path) -> NoReturn:
    if not isinstance(error, (OSError, ValueError)):
        raise error
    kind = OSError if isinstance(error, OSError) else ValueError
    raise kind(str(error) if str(path) in str(error) else f"{error} (in {path})") from error


def _refuse_empty(contents: Iterable[Contents], path: Path) -> NoReturn:
    others = sum((Counter(inside.others) for inside in contents), Counter[str]())
    Contents((), (), others).choose(None, path)
    raise ValueError(f"Expected a DICOM series in {path}.")


def _place_name(place: str) -> str:
    return place and without_suffix(Path(place))
