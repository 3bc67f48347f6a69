"""A scan that was found, before it is read, and the names of the results of several."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from ...storage.atomic_files import hash_files
from ...storage.object_stores import url_of
from .dicom.dicom_files import uid_name
from .dicom.dicom_zip import ZIP_SUFFIX
from .remote_scans import VOLUME_SUFFIXES, hidden_name
from .scan import Scan, read_scan
from .volume_files.stored_image import DEFAULT_RULES, ReadingRules


@dataclass(frozen=True)
class ScanSource:
    """The place of one scan and the name of its results.

    Attributes:
        path: A file, an archive, or the folder of a series; it may be missing (reading reports that).
        name: Relative folder for the results, unique within one call of `find_scans`; ``""`` if the
            input was a single scan.
        series: SeriesInstanceUID of a DICOM scan.
        opener: Reads the scan, which is valid within the context; by default `read_scan` of the path.
        left_out: A sentence about each file of a folder with DICOM files but without CT slices.
        rules: How strictly the scan is read without an opener.
    """

    path: Path
    name: str = ""
    series: str | None = None
    opener: Callable[[], AbstractContextManager[Scan]] | None = None
    left_out: tuple[str, ...] = ()
    rules: ReadingRules = DEFAULT_RULES

    def open(self) -> AbstractContextManager[Scan]:
        """Read the scan; its files exist within the context.

        Raises:
            ValueError: If it is not a CT that can be used.
            OSError: If it is missing, damaged or truncated.
        """
        return self.opener() if self.opener else nullcontext(self._read())

    def _read(self) -> Scan:
        """Read the file and its hash at once: by the time the results are made another one may be in its place."""
        scan = read_scan(self.path, self.rules)
        return replace(scan, sha256=scan.sha256 or hash_files(scan.files))


def entry_names(paths: Sequence[Path]) -> list[str]:
    """A name for each entry of a list: its own, or its place below the common folder if a name occurs twice."""
    # ``..`` and ``.`` have names too once they are resolved.
    paths = [Path(os.path.abspath(path)) for path in paths]
    names = [without_suffix(Path(path.name)) for path in paths]
    if len(set(names)) == len(names):
        return names
    # patient_1/ct.nii and patient_2/ct.nii: the folders distinguish them.
    parents = os.path.commonpath([path.parent for path in paths])
    return [without_suffix(path.relative_to(parents)) for path in paths]


def without_suffix(path: Path) -> str:
    """A relative path without the suffix of a volume file or archive."""
    text = path.as_posix()
    for suffix in sorted((*VOLUME_SUFFIXES, ZIP_SUFFIX), key=len, reverse=True):
        if text.lower().endswith(suffix):
            return text[: -len(suffix)]
    return text


def case_name(source: ScanSource) -> str:
    """The name of a source's results: its UID, which does not reveal the patient, or its own name.

    Of a series that has not been fetched the UID is not known.
    """
    url = url_of(source.path)
    if url is not None and source.series is None and not url.lower().endswith(VOLUME_SUFFIXES):
        return hidden_name(url)
    return source.name if source.series is None or source.series == "none" else uid_name(source.series)


def with_extensions(sources: Sequence[ScanSource]) -> list[ScanSource]:
    """The same sources; files with the same name (``x.nrrd`` and ``x.mha``) keep their extensions."""
    paths: dict[str, set[Path]] = defaultdict(set)
    for source in sources:
        paths[source.name].add(source.path)
    extensions = [source.path.name[len(without_suffix(Path(source.path.name))) :] for source in sources]
    return [
        replace(source, name=source.name + extension)
        if source.series is None and source.name and len(paths[source.name]) > 1
        else source
        for source, extension in zip(sources, extensions, strict=True)
    ]


def with_unique_names(sources: Sequence[ScanSource]) -> list[ScanSource]:
    """The same sources with ``_2``, ``_3``, ... after a name that is already taken.

    By path, so that machines whose lists are in another order give a scan the same name.
    """
    taken: set[str] = set()
    names: dict[int, str] = {}
    for place, source in sorted(enumerate(sources), key=lambda entry: entry[1].path):
        name, number = source.name, 1
        while name in taken:
            number += 1
            name = f"{source.name}_{number}"
        taken.add(name)
        names[place] = name
    return [replace(source, name=names[place]) for place, source in enumerate(sources)]
