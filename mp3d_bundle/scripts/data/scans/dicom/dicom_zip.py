"""DICOM series in zip archives: searched without unpacking, unpacked one series at a time, removed again."""

from __future__ import annotations

import functools
import logging
import os
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ....storage.printable import one_line
from ..scan import ITK_SUFFIXES, NIFTI_SUFFIXES, Scan, canonical
from ..volume_files.stored_image import DEFAULT_RULES, ReadingRules, log_text, shown
from .dicom_files import Open
from .dicom_headers import NO_DICOM, Contents, ImageKey, Series, read_contents
from .dicom_series import read_found, read_slices

logger = logging.getLogger(__name__)

ZIP_SUFFIX = ".zip"
# What may be a scan in a folder, but is not read from an archive.
_SCANS = (*NIFTI_SUFFIXES, *ITK_SUFFIXES, ZIP_SUFFIX)
# Larger archives are rejected. A scan seldom compresses better than this ratio, but a small archive may, such as
# an empty scan of a phantom.
MAX_FILES = 100_000
MAX_BYTES = 16 << 30
MAX_RATIO = 200
RATIO_FROM_BYTES = 1 << 30
_BLOCK = 1 << 20
# C:/x leads out of the archive, as does C:x on systems with drive letters; any other colon is part of a name.
_DRIVE = re.compile(r"[A-Za-z]:" if os.name == "nt" else r"[A-Za-z]:[/\\]")
_ENCRYPTED = 0x1
# zlib and struct have their own errors for damaged content; zipfile raises RuntimeError for unknown features.
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, EOFError)


@contextmanager
def archive_files(path: Path) -> Iterator[dict[Path, Open]]:
    """The files in an archive, each with a way to open it while the context lasts.

    Raises:
        ValueError: If a name leads out of the archive or comes twice, it is encrypted, or it would unpack to more
            than a scan can have.
        OSError: If it is not a zip archive, or damaged.
    """
    with _opened(path) as archive:
        members = _checked(archive, path)
        yield {Path(name): functools.partial(archive.open, members[name]) for name in sorted(members)}


def archive_contents(path: Path) -> dict[Path, Contents | Exception]:
    """The contents of each folder of an archive; what is left out of folders without a CT series is logged.

    Args:
        path: The archive.

    Returns:
        By folder the contents, or why they cannot be read: a damaged folder does not cost the others.

    Raises:
        ValueError: As `archive_files` does, and if volumes or archives are in it but no CT series.
        OSError: As `archive_files` does.
    """
    folders: dict[Path, dict[Path, Open]] = defaultdict(dict)
    contents: dict[Path, Contents | Exception] = {}
    with archive_files(path) as files:
        for member, open_file in files.items():
            folders[member.parent][member] = open_file
        for place, inside in folders.items():
            try:
                contents[place] = read_contents(inside)
            except (OSError, ValueError) as error:
                contents[place] = error
        others = [member for member in files if member.name.lower().endswith(_SCANS)]
    held = any(isinstance(inside, Exception) or inside.series for inside in contents.values())
    if held or others:
        _tell_left_out(path, contents, folders)
    if others and not held:
        raise ValueError(
            f"Expected a DICOM series in an archive, where nothing else is read, got {others[0]} in {path}: unpack it "
            "and give the folder instead."
        )
    return contents


def _tell_left_out(
    path: Path, contents: Mapping[Path, Contents | Exception], folders: Mapping[Path, Mapping[Path, Open]]
) -> None:
    strange: list[Path] = []
    for place, inside in contents.items():
        if isinstance(inside, Exception) or inside.series:
            continue
        for note in inside.notes:
            if not note.endswith(f"{NO_DICOM}."):
                logger.warning("%s: %s", shown(path / place), log_text(note))
        strange += [] if inside.others else folders[place]
    # A volume or another archive first: it may be a scan.
    strange.sort(key=lambda member: not member.name.lower().endswith(_SCANS))
    if strange:
        logger.warning(
            "%s: left out %d file(s) in folders without a CT series, %s the first: in an archive only DICOM is read.",
            shown(path),
            len(strange),
            shown(strange[0]),
        )


@contextmanager
def open_zipped_series(
    path: Path,
    images: Sequence[ImageKey],
    notes: Sequence[str] = (),
    found: Series | None = None,
    *,
    uid: str | None = None,
    rules: ReadingRules = DEFAULT_RULES,
) -> Iterator[Scan]:
    """Unpack a series into a temporary folder, which is removed when the context ends, and read it.

    Args:
        path: The archive.
        images: The slices of the series in the files that `archive_files` names.
        notes: Earlier notes about the archive.
        found: The series with its headers, if they were kept.
        uid: SeriesInstanceUID that was found, see `scripts.data.scans.dicom.dicom_series.read_slices`.
        rules: How strictly the series is read.

    Raises:
        ValueError: As `scripts.data.scans.dicom.dicom_series.read_slices` and `archive_files` do.
        OSError: As above, and if the disk is too full to unpack it.
    """
    with tempfile.TemporaryDirectory(prefix="mp3d-") as temporary:
        folder = Path(temporary)
        try:
            _unpack(path, list(dict.fromkeys(member for member, _ in images)), folder)
            if found is None:
                stored = read_slices([(folder / member, frame) for member, frame in images], path, notes, uid)
            else:
                unpacked = tuple((folder / member, header) for member, header in found.headers)
                stored = read_found(replace(found, headers=unpacked), notes)
            scan = canonical(stored, path, rules)
        except (OSError, ValueError) as error:
            # The reader of the message knows the archive, not the temporary folder.
            kind = OSError if isinstance(error, OSError) else ValueError
            raise kind(str(error).replace(str(folder), str(path))) from error
        yield scan


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _DAMAGED as error:
        raise OSError(f"Expected a complete zip archive, could not read {path} ({one_line(error)}).") from error


def _checked(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The regular files of an archive by name; hidden ones are skipped."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = PurePosixPath(info.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or _DRIVE.match(info.filename):
            raise ValueError(f"Expected names inside the archive, got {info.filename!r} in {path}.")
        hidden = any(part.startswith((".", "__MACOSX")) for part in name.parts)
        if info.is_dir() or hidden or stat.S_ISLNK(info.external_attr >> 16):
            continue
        if info.flag_bits & _ENCRYPTED:
            raise ValueError(f"Expected an archive without a password, {info.filename!r} is encrypted in {path}.")
        if str(name) in members:
            raise ValueError(f"Expected each name once, got {info.filename!r} twice in {path}.")
        members[str(name)] = info
    size = sum(info.file_size for info in members.values())
    packed = max(1, path.stat().st_size)
    if len(members) > MAX_FILES or size > MAX_BYTES:
        raise ValueError(
            f"Expected at most {MAX_FILES} files and {MAX_BYTES >> 30} GiB in an archive, got {len(members)} files of "
            f"{size / (1 << 30):.1f} GiB in {path}."
        )
    if size > RATIO_FROM_BYTES and size > MAX_RATIO * packed:
        raise ValueError(
            f"Expected an archive of scans, got {size / (1 << 30):.1f} GiB packed into {packed / (1 << 20):.1f} MiB in "
            f"{path}: unpack it by hand if that is right."
        )
    return members


def _unpack(path: Path, members: Sequence[Path], folder: Path) -> None:
    """Write some files of an archive below a folder, a block at a time."""
    with _opened(path) as archive:
        known = _checked(archive, path)
        due = [(member, known[member.as_posix()]) for member in members]
        size, free = sum(info.file_size for _, info in due), shutil.disk_usage(folder).free
        if size > free:
            raise OSError(f"Expected {size >> 20} MiB of space to unpack {path} in {folder.parent}, got {free >> 20}.")
        for member, info in due:
            target = folder / member
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, _BLOCK)
