"""Sort DICOM files: the CT stacks among them, and the reason why every other file is left out.

Only headers are read, from a folder or an archive. Nothing is left out silently: there is a line for each file that is
not a CT slice, or for each group of them in one series.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pydicom
from pydicom.uid import (
    UID,
    CTImageStorage,
    MediaStorageDirectoryStorage,
)

from ..volume_files.stored_image import Note, shown
from .dicom_files import (
    DICOM_SUFFIXES,
    OTHER_SUFFIXES,
    ForeignFileError,
    Open,
    may_be_dicom,
    read_dataset,
    read_text,
    starts_as_dicom,
)
from .dicom_stacks import TAGS as STACK_TAGS
from .dicom_stacks import split_series
from .enhanced_ct import ENHANCED, frame_of, is_enhanced, missing_part, not_a_plane, split_frames
from .enhanced_ct import TAGS as FRAME_TAGS

logger = logging.getLogger(__name__)

_CT_CLASSES = (CTImageStorage, *ENHANCED)
_TAGS = sorted(
    {
        *FRAME_TAGS,
        *STACK_TAGS,
        "BitsAllocated",
        "BitsStored",
        "GantryDetectorTilt",
        "HighBit",
        "InstanceNumber",
        "Modality",
        "PhotometricInterpretation",
        "PixelPaddingRangeLimit",
        "PixelPaddingValue",
        "PixelRepresentation",
        "RescaleIntercept",
        "RescaleSlope",
        "RescaleType",
        "SOPClassUID",
        "SOPInstanceUID",
        "SamplesPerPixel",
        "SeriesDescription",
        "SeriesInstanceUID",
        "SliceThickness",
        "SpacingBetweenSlices",
    }
)


class DamagedHeaderError(OSError):
    """A DICOM file with a damaged header; ``uid`` is its series if known."""

    uid: str | None = None


# Result of looking at a file: its header, the reason why it is left out, or the damage of its header.
Look = pydicom.Dataset | str | DamagedHeaderError
NO_DICOM = "no DICOM image"
# File of a slice, and the number of its frame in a file of several.
ImageKey = tuple[Path, int | None]


@dataclass(frozen=True)
class Series:
    """The CT slices of one series, or of one of several stacks that share its UID.

    Attributes:
        uid: SeriesInstanceUID, ``"none"`` if the files have none.
        headers: Path and header of each slice, in the order in which they were found.
        notes: Notes for the user about how they were found.
        problem: Why they cannot be read as one scan, or None.
    """

    uid: str
    headers: tuple[tuple[Path, pydicom.Dataset], ...]
    notes: tuple[str, ...] = ()
    problem: Exception | None = None

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Headers hold open files: another process gets None in the place of a series, and reads it again."""
        return type(None), ()

    @property
    def images(self) -> tuple[ImageKey, ...]:
        """Where each slice is."""
        return tuple((path, frame_of(header)) for path, header in self.headers)

    @property
    def description(self) -> str:
        """SeriesDescription."""
        return self._text("SeriesDescription") or "no description"

    @property
    def number(self) -> str:
        """SeriesNumber as text, empty if it is missing."""
        return self._text("SeriesNumber")

    def _text(self, tag: str) -> str:
        return read_text(self.headers[0][1], tag) if self.headers else ""

    def __str__(self) -> str:
        return f"{self.uid} ({self.description}, {len(self.headers)} slices)"


@dataclass(frozen=True)
class Contents:
    """Contents of a set of DICOM files.

    Attributes:
        series: The CT series, by UID.
        notes: A sentence about each thing that was left out.
        others: Number of other files by kind.
    """

    series: tuple[Series, ...]
    notes: tuple[str, ...]
    others: Mapping[str, int]

    def choose(self, uid: str | None, where: Path) -> Series:
        """The series called ``uid``, or the only one.

        Raises:
            ValueError: If the CT series is missing, or several were found and none was named.
        """
        if not self.series:
            counts = (f"{number} {name}" for name, number in sorted(self.others.items()))
            found = ", ".join(counts) or "no DICOM file"
            raise ValueError(f"Expected a DICOM series of modality CT, got {found} in {where}.")
        known = "; ".join(str(one) for one in self.series)
        if uid is None and len(self.series) > 1:
            raise ValueError(f"Expected one CT series, got {len(self.series)} in {where}: {known}.")
        named = [one for one in self.series if uid in (None, one.uid)]
        if len(named) == 1:
            return named[0]
        if named:
            raise ValueError(f"Expected one stack of slices in series {uid}, got {len(named)} in {where}: {known}.")
        raise ValueError(f"Expected the series {uid} in {where}, got {known}.")


def files_on_disk(paths: Iterable[Path]) -> dict[Path, Open]:
    """Files on disk, each with a way to open it."""
    return {path: functools.partial(path.open, "rb") for path in paths}


def folder_files(folder: Path) -> dict[Path, Open]:
    """The files of a folder (not of its sub-folders), in the order of their names; hidden ones are skipped.

    Raises:
        OSError: If one is a broken symbolic link: the slice was not fetched.
    """
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in paths:
        if not path.exists() and not path.name.lower().endswith(OTHER_SUFFIXES):
            raise OSError(f"Expected a file, got a broken symbolic link at {path}: fetch its target, or remove it.")
    return files_on_disk(path for path in paths if path.is_file())


def read_contents(files: Mapping[Path, Open], known: Mapping[Path, Look] | None = None) -> Contents:
    """Read the headers of files and sort them into series and stacks. Each file is opened once.

    Args:
        files: The files.
        known: Results of `look_at` for some of them, which are not opened again.

    Raises:
        OSError: If the header of a DICOM file cannot be read, and there is no other CT file.
    """
    kept: dict[str, list[tuple[Path, pydicom.Dataset]]] = defaultdict(list)
    left: dict[tuple[str, str, str], list[ImageKey]] = defaultdict(list)
    others: Counter[str] = Counter()
    damaged: list[DamagedHeaderError] = []
    for path, open_file in files.items():
        look = known[path] if known and path in known else look_at(path, open_file)
        if isinstance(look, str):
            left["", path.name, look].append((path, None))
            continue
        for header in _images(path, look):
            if isinstance(header, DamagedHeaderError):
                damaged.append(header)
                continue
            uid = read_text(header, "SeriesInstanceUID") or "none"
            other = _not_a_slice(header)
            if other is None:
                kept[uid].append((path, header))
                continue
            kind, text = other
            others[kind] += 1
            description = read_text(header, "SeriesDescription") or "no description"
            left[uid, description, text].append((path, frame_of(header)))
    series = []
    for uid, headers in kept.items():
        missing = missing_part(headers)
        for stack in split_series(uid, headers, files):
            found = Series(stack.uid, stack.headers, stack.notes, stack.problem)
            if stack.other is None:
                series.append(replace(found, problem=missing or found.problem))
            else:
                kind, text = stack.other
                others[kind] += len(stack.headers)
                left[stack.uid, found.description, text].extend(found.images)
    complete, told = _with_damaged(series, damaged)
    return Contents(series=complete, notes=(*_notes(left), *told), others=others)


def _images(path: Path, look: pydicom.Dataset | DamagedHeaderError) -> Sequence[pydicom.Dataset | DamagedHeaderError]:
    """The header of a file, of an Enhanced CT those of its frames."""
    # The kind of image of a file is that of most of its frames, or of the most important.
    if isinstance(look, DamagedHeaderError) or not is_enhanced(look) or _not_a_ct(look) is not None:
        return [look]
    try:
        return split_frames(path, look)
    except OSError as error:
        if _not_a_slice(look) is not None:
            return [look]
        damaged = DamagedHeaderError(str(error))
        damaged.uid = read_text(look, "SeriesInstanceUID") or None
        return [damaged]


def _with_damaged(
    series: list[Series], damaged: list[DamagedHeaderError]
) -> tuple[tuple[Series, ...], tuple[str, ...]]:
    """Add a damaged header as the problem of its series, or of the only series; otherwise as a note.

    Raises:
        OSError: If no series was found.
    """
    if damaged and not series:
        raise damaged[0]
    by_uid: dict[str, DamagedHeaderError] = {}
    notes = []
    uids = {one.uid for one in series}
    for error in damaged:
        if error.uid is None and len(uids) > 1:
            # A series may lack a slice, but it is unknown which one.
            notes.append(Note("Left out a file: its header is damaged, it may be a slice of this series.", str(error)))
        else:
            by_uid.setdefault(error.uid if error.uid is not None else min(uids), error)
    known = [Series(one.uid, one.headers, one.notes, one.problem or by_uid.get(one.uid)) for one in series]
    lost = [Series(uid, (), problem=error) for uid, error in by_uid.items() if uid not in uids]
    return (*known, *lost), tuple(notes)


def file_contents(path: Path) -> Contents | None:
    """The contents of a single file that is an Enhanced CT and all of its series; None for any other file.

    Raises:
        ValueError: If other files of its folder belong to its series.
        OSError: If its header cannot be read, or the folder has a broken link.
    """
    look = look_at(path, functools.partial(path.open, "rb"))
    if not isinstance(look, pydicom.Dataset) or not is_enhanced(look):
        return None
    uid = read_text(look, "SeriesInstanceUID") or "none"
    around = read_contents(folder_files(path.parent), {path: look}).series
    files = {file for series in around if series.uid == uid for file, _ in series.headers}
    if len(files) > 1:
        raise ValueError(
            f"Expected the folder of a DICOM series of {len(files)} files, got one of them, {path}: give its folder."
        )
    return read_contents(files_on_disk([path]), {path: look})


def look_at(path: Path, open_file: Open) -> Look:
    """Classify a file by its name and content; it is opened at most once.

    A file is DICOM if its name, its mark or the start of its data set says so. Files of other kinds are known by name
    and not opened.
    """
    try:
        if path.name.lower().endswith(DICOM_SUFFIXES):
            return _read_header(path, open_file)
        if not may_be_dicom(path):
            return NO_DICOM
        with open_file() as file:
            if not starts_as_dicom(file):
                return NO_DICOM
            file.seek(0)
            return _read_header(path, lambda: file)
    except ForeignFileError:
        return NO_DICOM
    except DamagedHeaderError as error:
        return error
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"


def holds_dicom(folder: Path, names: Sequence[str], known: dict[Path, Look]) -> bool:
    """Whether a folder holds a file that is DICOM by name or content; results on the way go into ``known``."""
    for name in names:
        path = folder / name
        if name.lower().endswith(DICOM_SUFFIXES):
            return True
        # Reading a pipe would wait for a writer.
        if not path.is_file():
            continue
        try:
            look = known[path] = look_at(path, functools.partial(path.open, "rb"))
        except Exception:
            # It is DICOM even with a bad header, which reading reports.
            return True
        if not isinstance(look, str):
            return True
        if look != NO_DICOM:
            logger.warning("%s: left out, %s.", shown(path), look)
    return False


def _notes(left: Mapping[tuple[str, str, str], list[ImageKey]]) -> Iterator[str]:
    """A sentence about each image that was left out; those of a series with the same reason share one."""
    unnamed: Counter[str] = Counter()
    for (uid, description, reason), images in left.items():
        path, frame = images[0]
        first = path.name if frame is None else f"frame {frame} of {path.name}"
        count = f"{len(images)} {'file' if frame is None else 'frame'}{'' if len(images) == 1 else 's'}"
        if not uid or len(images) == 1:
            log = f"Left out {first}: {reason}."
        else:
            log = f"Left out {count} of series {uid} ({description}), {first} the first: {reason}."
        if uid:
            yield Note(f"Left out {count} of series {uid}: {reason}.", log)
            continue
        unnamed[reason] += 1
        yield Note(f"Left out file {unnamed[reason]} that is not part of a CT: {reason}.", log)


def _read_header(path: Path, open_file: Open) -> pydicom.Dataset:
    try:
        header = read_dataset(path, open_file, tags=_TAGS)
    except OSError as error:
        raise DamagedHeaderError(str(error)) from error
    uid = read_text(header, "SeriesInstanceUID") or None
    storage = read_text(header.file_meta, "MediaStorageSOPClassUID")
    nothing = "Modality" not in header and "SOPClassUID" not in header and storage != MediaStorageDirectoryStorage
    if nothing and "SOPInstanceUID" not in header and header.preamble is None:
        raise ForeignFileError(f"Expected a DICOM file, got something else in {path}.")
    if nothing or (storage == CTImageStorage and "Rows" not in header):
        damaged = DamagedHeaderError(f"Expected a complete DICOM file, the header of {path} is cut short.")
        damaged.uid = uid
        raise damaged
    return header


def _not_a_ct(header: pydicom.Dataset) -> tuple[str, str] | None:
    """Kind and reason of a file without CT images, None if it has some."""
    modality = read_text(header, "Modality") or "none"
    if modality != "CT" or "Rows" not in header:
        return modality, f"modality {modality}, not a CT slice"
    return None


def _not_a_slice(header: pydicom.Dataset) -> tuple[str, str] | None:
    """Kind and reason of an image that is not part of a CT, None for a CT slice."""
    if other := _not_a_ct(header):
        return other
    words = read_text(header, "ImageType").upper().split("\\")
    if "LOCALIZER" in words:
        return "CT localizer", "a localizer"
    storage = read_text(header, "SOPClassUID")
    if storage and storage not in _CT_CLASSES:
        name = UID(storage).name
        return name, f"{name}, not a CT slice"
    if reason := not_a_plane(header):
        return "CT projection", f"{reason}, not a CT slice"
    return None
