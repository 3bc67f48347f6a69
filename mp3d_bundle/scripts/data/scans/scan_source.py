"""Where a scan is, and what its results are called."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from .dicom.dicom_files import uid_name
from .dicom.dicom_zip import ZIP_SUFFIX
from .reading_rules import DEFAULT_RULES, ReadingRules
from .scan import ITK_SUFFIXES, NIFTI_SUFFIXES, Scan, read_scan

VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
_ODD = re.compile(r"[^A-Za-z0-9.-]+")


@dataclass(frozen=True)
class ScanSource:
    """Where one scan lies and what its results are called.

    Attributes:
        path: A file, an archive, or the folder of a series; it need not exist (reading it then says so).
        name: Relative folder for the results, of its own for each source of one call of `find_scans`; ``""`` where the
            input was a single scan.
        series: SeriesInstanceUID, where the scan is one of DICOM.
        opener: Reads the scan, which lasts as long as the context; by default `read_scan` of the path.
        left_out: A sentence on each file of a folder that holds DICOM but no CT slice.
        rules: How strictly the scan is read, without an opener.
    """

    path: Path
    name: str = ""
    series: str | None = None
    opener: Callable[[], AbstractContextManager[Scan]] | None = None
    left_out: tuple[str, ...] = ()
    rules: ReadingRules = DEFAULT_RULES

    def open(self) -> AbstractContextManager[Scan]:
        """Read the scan; its files are there as long as the context lasts.

        Raises:
            ValueError: If it is not a CT that can be used.
            OSError: If it is not there, damaged or cut short.
        """
        return self.opener() if self.opener else nullcontext(read_scan(self.path, self.rules))


def entry_names(paths: Sequence[Path]) -> list[str]:
    """A name for each entry of a list: its own, or its place below the folder of them all where a name comes twice."""
    # ``..`` and ``.`` have names as well, once they are spelt out.
    paths = [Path(os.path.abspath(path)) for path in paths]
    names = [without_suffix(Path(path.name)) for path in paths]
    if len(set(names)) == len(names):
        return names
    # patient_1/ct.nii and patient_2/ct.nii: the folders tell them apart.
    parents = os.path.commonpath([path.parent for path in paths])
    return [without_suffix(path.relative_to(parents)) for path in paths]


def label_of(text: str) -> str:
    """A header's words as the name of a folder: no path, and neither hidden nor the folder above."""
    return _ODD.sub("_", text).strip("_.")


def without_suffix(path: Path) -> str:
    """A relative path without the suffix of a volume file or archive."""
    text = path.as_posix()
    for suffix in sorted((*VOLUME_SUFFIXES, ZIP_SUFFIX), key=len, reverse=True):
        if text.lower().endswith(suffix):
            return text[: -len(suffix)]
    return text


def case_name(source: ScanSource) -> str:
    """The name of a source's results: its UID, which does not reveal the patient, or else its own name."""
    uid = source.series
    if uid is None or uid == "none":
        return source.name
    return uid_name(uid)


def with_extensions(sources: Sequence[ScanSource]) -> list[ScanSource]:
    """The same sources; files that would be named alike (``x.nrrd`` and ``x.mha``) keep their extensions."""
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
    """The same sources with ``_2``, ``_3``, ... after a name that was given already."""
    taken: set[str] = set()
    result = []
    for source in sources:
        name, number = source.name, 1
        while name in taken:
            number += 1
            name = f"{source.name}_{number}"
        taken.add(name)
        result.append(replace(source, name=name))
    return result
