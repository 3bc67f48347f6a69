"""What DICOM files there are: the CT series among them, and why every other file is left out.

Only headers are read, from a folder or out of an archive. Nothing is left out silently: each file that is no CT
slice, or each group of them in one series, has a line.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
)

# Opens a file of its own to read its header.
Open = Callable[[], IO[bytes]]

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
# The table of contents of a medium, which is marked as DICOM and holds no image.
_DIRECTORY = "dicomdir"
# Not worth opening: a folder may hold very many of them.
_OTHER_SUFFIXES = (".png", ".jpg", ".nii", ".nii.gz", ".nrrd", ".mha", ".csv", ".json", ".txt", ".xml", ".zip", ".pdf")
_CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
_TAGS = [
    "BitsAllocated",
    "Columns",
    "GantryDetectorTilt",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "ImageType",
    "InstanceNumber",
    "Modality",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelSpacing",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "Rows",
    "SOPClassUID",
    "SOPInstanceUID",
    "SamplesPerPixel",
    "SeriesDescription",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SliceThickness",
    "SpacingBetweenSlices",
]


@dataclass(frozen=True)
class Series:
    """The CT slices of one series.

    Attributes:
        uid: SeriesInstanceUID, ``"none"`` where the files have none.
        headers: Path and header of each file, in the order in which they were found.
    """

    uid: str
    headers: tuple[tuple[Path, pydicom.Dataset], ...]

    @property
    def description(self) -> str:
        """SeriesDescription."""
        return str(self.headers[0][1].get("SeriesDescription") or "no description")

    @property
    def number(self) -> str:
        """SeriesNumber as text, empty where there is none."""
        number = self.headers[0][1].get("SeriesNumber")
        return "" if number is None else str(number)

    def __str__(self) -> str:
        return f"{self.uid} ({self.description}, {len(self.headers)} slices)"


@dataclass(frozen=True)
class Contents:
    """What some DICOM files are.

    Attributes:
        series: The CT series, by UID.
        notes: A sentence on everything that was left out.
        others: How many files of which other kind there were.
    """

    series: tuple[Series, ...]
    notes: tuple[str, ...]
    others: Mapping[str, int]

    def choose(self, uid: str | None, where: Path) -> Series:
        """The series called ``uid``, or the only one.

        Raises:
            ValueError: If there is no CT series, not this one, or several and none is named.
        """
        if not self.series:
            counts = (f"{number} {name}" for name, number in sorted(self.others.items()))
            found = ", ".join(counts) or "no DICOM file at all"
            raise ValueError(f"Expected a DICOM series of modality CT, got {found} in {where}.")
        known = "; ".join(str(one) for one in self.series)
        if uid is None and len(self.series) > 1:
            raise ValueError(f"Expected one CT series, got {len(self.series)} in {where}: {known}.")
        for one in self.series:
            if uid in (None, one.uid):
                return one
        raise ValueError(f"Expected the series {uid} in {where}, got {known}.")


def is_dicom(path: Path, open_file: Open | None = None) -> bool:
    """Whether a file is named or marked (``DICM`` after 128 bytes) as DICOM; a ``DICOMDIR`` counts as none.

    Args:
        path: Its name.
        open_file: How to open it, by default from disk, where a pipe or a link to nothing is none.

    Raises:
        OSError: If it cannot be read.
    """
    name = path.name.lower()
    if name.endswith(DICOM_SUFFIXES):
        return True
    if name == _DIRECTORY or name.endswith(_OTHER_SUFFIXES):
        return False
    # A pipe would keep the reader waiting for a writer.
    if open_file is None and not path.is_file():
        return False
    with open_file() if open_file else path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def files_on_disk(paths: Iterable[Path]) -> dict[Path, Open]:
    """Files on disk, each with a way to open it."""
    return {path: functools.partial(path.open, "rb") for path in paths}


def folder_files(folder: Path) -> dict[Path, Open]:
    """The files of a folder (not of its sub-folders), in the order of their names; hidden ones are passed over.

    Raises:
        OSError: If one is a link to nothing: a slice that was not fetched.
    """
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in paths:
        if not path.exists() and not path.name.lower().endswith(_OTHER_SUFFIXES):
            raise OSError(f"Expected a file, got a link to nothing at {path}: fetch what it stands for, or remove it.")
    return files_on_disk(path for path in paths if path.is_file())


def read_contents(files: Mapping[Path, Open]) -> Contents:
    """Read the headers of files and sort them into series.

    Raises:
        OSError: If the header of a DICOM file cannot be read.
    """
    kept: dict[str, list[tuple[Path, pydicom.Dataset]]] = defaultdict(list)
    left: dict[tuple[str, str, str], list[Path]] = defaultdict(list)
    others: Counter[str] = Counter()
    for path, open_file in files.items():
        reason = _not_dicom(path, open_file)
        if reason is not None:
            left["", path.name, reason].append(path)
            continue
        header = _read_header(path, open_file)
        uid = str(header.get("SeriesInstanceUID", "none"))
        other = _not_a_slice(header)
        if other is None:
            kept[uid].append((path, header))
            continue
        kind, text = other
        others[kind] += 1
        left[uid, str(header.get("SeriesDescription") or "no description"), text].append(path)
    return Contents(
        series=tuple(Series(uid, tuple(headers)) for uid, headers in kept.items()),
        notes=tuple(_notes(left)),
        others=others,
    )


def _not_dicom(path: Path, open_file: Open) -> str | None:
    """Why a file is left out unread, None for a DICOM file."""
    try:
        return None if is_dicom(path, open_file) else "no DICOM image"
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"


def _notes(left: Mapping[tuple[str, str, str], list[Path]]) -> Iterator[str]:
    """A sentence on each file that was left out, or on all those of a series that were left out alike."""
    for (uid, description, reason), paths in left.items():
        if len(paths) == 1:
            yield f"Left out {paths[0].name}: {reason}."
        else:
            yield f"Left out {len(paths)} files of series {uid} ({description}), {paths[0].name} the first: {reason}."


def _read_header(path: Path, open_file: Open) -> pydicom.Dataset:
    try:
        with open_file() as file:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
    # pydicom's errors for what it does not expect; those of a damaged archive are told where it is opened.
    except (InvalidDicomError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise OSError(f"Expected a complete DICOM file, could not read the header of {path}.") from error
    storage = header.file_meta.get("MediaStorageSOPClassUID")
    nothing = "Modality" not in header and "SOPClassUID" not in header and storage != MediaStorageDirectoryStorage
    if nothing or (storage == CTImageStorage and "Rows" not in header):
        raise OSError(f"Expected a complete DICOM file, the header of {path} is cut short.")
    return header


def _not_a_slice(header: pydicom.Dataset) -> tuple[str, str] | None:
    """Kind and reason of a file that is not part of a CT, None for a CT slice."""
    modality = str(header.get("Modality", "none"))
    words = [str(word).upper() for word in header.get("ImageType", None) or []]
    if modality != "CT" or "Rows" not in header:
        return modality, f"modality {modality}, not a CT slice"
    if "LOCALIZER" in words:
        return "CT localizer", "a localizer"
    storage = header.get("SOPClassUID")
    if storage is not None and storage not in _CT_CLASSES:
        name = getattr(storage, "name", storage)
        return str(name), f"{name}, not a CT slice"
    return None


def drop_doubles(headers: Iterable[tuple[Path, pydicom.Dataset]]) -> tuple[list[tuple[Path, pydicom.Dataset]], list]:
    """Leave out copies of a file: the same SOPInstanceUID again, at the same place.

    Returns:
        The files without copies, and a note on each copy.

    Raises:
        ValueError: If images at different places have one SOPInstanceUID.
    """
    first: dict[str, tuple[Path, pydicom.Dataset]] = {}
    kept, notes = [], []
    for path, header in headers:
        # Absent or blank where an anonymiser removed it, which makes no two files the same.
        uid = str(header.get("SOPInstanceUID") or "").strip()
        if uid not in first:
            if uid:
                first[uid] = (path, header)
            kept.append((path, header))
            continue
        other, same = first[uid]
        if header.get("ImagePositionPatient") != same.get("ImagePositionPatient"):
            raise ValueError(
                f"Expected a UID of its own for each image, got one SOPInstanceUID for different images: {other} and "
                f"{path} ({uid})."
            )
        notes.append(f"Left out {path.name}: the same image as {other.name} (SOP instance UID {uid}).")
    return kept, notes
