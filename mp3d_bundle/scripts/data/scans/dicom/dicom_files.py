"""Read DICOM files: with or without preamble, deflated, damaged, or mislabelled.

Tags may be missing, empty, multi-valued or malformed.
"""

from __future__ import annotations

import functools
import hashlib
import io
import math
import os
import re
import warnings
import zlib
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from struct import unpack
from typing import IO

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.uid import DeflatedExplicitVRLittleEndian

from ....storage.dicom_errors import ODD_CONTENT
from ....storage.printable import one_line, shown_name

# Opens one file.
Open = Callable[[], IO[bytes]]

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
# The table of contents of a medium: it is marked as DICOM and has no image.
_DIRECTORY = "dicomdir"
# Not opened: a folder may hold very many of them.
OTHER_SUFFIXES = (".png", ".jpg", ".nii", ".nii.gz", ".nrrd", ".mha", ".csv", ".json", ".txt", ".xml", ".zip", ".pdf")
# A slice of 4096 x 4096 pixels of 32 bits has half of this; a deflated file may claim any size.
MAX_INFLATED_BYTES = 128 << 20
# Far more than the file of one slice has, with any header.
MAX_FILE_BYTES = 512 << 20
_DEFLATED = DeflatedExplicitVRLittleEndian
_HEAD = 132
# Start of a data set without preamble: the meta group or the first elements of group 8.
_FIRST_GROUPS = (0x0002, 0x0008)
_VRS = frozenset((b"AE", b"CS", b"DA", b"LO", b"OB", b"PN", b"SH", b"SQ", b"TM", b"UI", b"UL", b"US"))
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9.-]+")
# What makes an image that of its header: whose it is, and where its pixels lie and what they mean.
IDENTITY = ("SOPInstanceUID", "SeriesInstanceUID", "PatientID")
_IMAGE_TAGS = (*IDENTITY, "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "RescaleIntercept",
               "RescaleSlope")  # fmt: skip
_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")


class ForeignFileError(ValueError):
    """A file with a DICOM name and other content."""


class _Inflatable(io.BufferedIOBase):
    """A file that measures its deflated content before it is inflated."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int | None = -1, /) -> bytes:
        """Read. A request for the whole rest comes only when it is inflated.

        Raises:
            ValueError: If the inflated content is larger than a slice can be.
        """
        content = self._file.read(-1 if size is None else size)
        if size is None or size < 0:
            _check_inflated(content)
        return content

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """As any file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As any file."""
        return self._file.tell()


def _check_inflated(content: bytes) -> None:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        size = len(inflater.decompress(content, MAX_INFLATED_BYTES + 1))
    except zlib.error as error:
        raise ValueError(f"deflated content is damaged: {error}") from error
    if size > MAX_INFLATED_BYTES:
        raise ValueError(f"deflated content of more than {MAX_INFLATED_BYTES >> 20} MiB")


def may_be_dicom(path: Path) -> bool:
    """Whether the content decides what a file is: False for names of other kinds of files, and for a ``DICOMDIR``."""
    name = path.name.lower()
    return name != _DIRECTORY and not name.endswith(OTHER_SUFFIXES)


def starts_as_dicom(file: IO[bytes]) -> bool:
    """Whether a file, open at its start, is marked as DICOM (``DICM`` after 128 bytes) or begins as a data set does.

    Raises:
        OSError: If it cannot be read.
    """
    head = file.read(_HEAD)
    return _is_marked(head) or _is_bare(head)


def _is_marked(head: bytes) -> bool:
    return head[128:] == b"DICM"


def _is_bare(head: bytes) -> bool:
    """Whether a file begins with the data set itself, as planning systems export it."""
    if len(head) < _HEAD:
        return False
    group, element, length = unpack("<HHI", head[:8])
    plausible = head[4:6] in _VRS or length <= 1024
    return group in _FIRST_GROUPS and element <= 0xFF and plausible


def read_dataset(path: Path, open_file: Open | None = None, *, tags: Sequence[str] | None = None) -> pydicom.Dataset:
    """Read a file's data set without its pixels, or some of its tags.

    The coding in the meta group is not trusted: pydicom looks at the data set itself.

    Args:
        path: The file.
        open_file: How to open it, by default from disk.
        tags: Keywords of the wanted tags; pixels are read if ``PixelData`` is among them.

    Returns:
        The tags that are there; of a truncated file those before the cut.

    Raises:
        ForeignFileError: If it is another kind of file.
        OSError: If it cannot be read as DICOM.
    """
    wanted = None if tags is None else list(tags)
    try:
        with open_file() if open_file else path.open("rb") as file, warnings.catch_warnings():
            # A wrong coding in the meta group has no effect.
            warnings.filterwarnings("ignore", message="Expected (im|ex)plicit VR, but found")
            head = file.read(_HEAD)
            if not _is_marked(head) and not _is_bare(head):
                # A file truncated within its preamble (zeros) or its mark may have been a slice.
                if head[:128].strip(b"\0") or not b"DICM".startswith(head[128:]):
                    raise ForeignFileError(f"Expected a DICOM file, got something else in {path}.")
                raise InvalidDicomError("cut short in its first bytes" if head else "an empty file")
            file.seek(0)
            return pydicom.dcmread(
                _Inflatable(file),
                stop_before_pixels=wanted is None or "PixelData" not in wanted,
                specific_tags=wanted,
                force=True,
            )
    except ForeignFileError:
        raise
    except ODD_CONTENT as error:
        reason = one_line(error, 200)
        raise OSError(f"Expected a complete DICOM file, could not read the header of {path} ({reason}).") from error


def read_bytes(path: Path) -> bytes:
    """The bytes of the file of one slice.

    Raises:
        OSError: If it cannot be read, or is larger than the file of a slice can be.
    """
    with path.open("rb") as file:
        # Python takes as much memory as it is asked for before it reads.
        content = file.read(min(os.fstat(file.fileno()).st_size, MAX_FILE_BYTES) + 1)
    if len(content) > MAX_FILE_BYTES:
        raise OSError(f"Expected a DICOM slice of at most {MAX_FILE_BYTES >> 20} MiB, {path} is larger.")
    return content


def bytes_before_pixels(path: Path, content: bytes, found: pydicom.Dataset) -> bytes | None:
    """The bytes of a file before its pixels: enough to read its header again without opening it.

    Args:
        path: The file.
        content: Its bytes.
        found: Its header, which may have been read some time before.

    Returns:
        None where the pixels cannot be located, because they are deflated or damaged.

    Raises:
        OSError: If the file holds another image than when its header was read.
    """
    try:
        dataset = read_dataset(path, functools.partial(io.BytesIO, content), tags=[*_IMAGE_TAGS, "PixelData"])
    except (ForeignFileError, OSError):
        return None
    check_same_image(path, found, dataset, _IMAGE_TAGS)
    element = dataset.get_item("PixelData")
    if not isinstance(element, RawDataElement) or dataset.file_meta.get("TransferSyntaxUID") == _DEFLATED:
        return None
    return content[: element.value_tell]


def check_same_image(path: Path, found: pydicom.Dataset, now: pydicom.Dataset, tags: Sequence[str] = IDENTITY) -> None:
    """Check that a file still holds the image of the header that was found in it: in a long list, hours before.

    Args:
        path: The file.
        found: The header that was found.
        now: The header as it is read now.
        tags: Keywords of the tags to compare, which both were read with.

    Raises:
        OSError: If one differs.
    """
    for tag in tags:
        there, here = read_text(found, tag), read_text(now, tag)
        if there != here:
            raise OSError(
                f"Expected the image that the search for scans found, got another one ({tag} {shown_name(there)} then, "
                f"{shown_name(here)} now) in {path}: it was replaced in the meantime. Run the command again."
            )


def missing_pixels(path: Path) -> OSError:
    """The error of a file that ends in its header."""
    return OSError(f"Expected a complete DICOM file, there are no pixels in {path}: it is cut short.")


def read_pixel_bytes(path: Path, open_file: Open) -> bytes:
    """The stored pixels of a file as they are coded; none at all if it has none.

    Raises:
        OSError: If it cannot be read as DICOM.
    """
    element = read_dataset(path, open_file, tags=["PixelData"]).get_item("PixelData")
    pixels = None if element is None else element.value
    return pixels if isinstance(pixels, bytes) else b""


def is_raw(header: pydicom.Dataset) -> bool:
    """Whether pixels are uncompressed; a private coding of a vendor counts as compression."""
    syntax = header.file_meta.get("TransferSyntaxUID")
    # Without a meta group the coding is DICOM's default, which is uncompressed.
    return syntax is None or (syntax.is_transfer_syntax and not syntax.is_compressed)


def uid_name(uid: str) -> str:
    """A file name for the text of a header's UID, which can hold neither a path nor a person's name.

    Returns:
        The UID; ``series_`` and a hash of any other text.
    """
    return uid if _UID.fullmatch(uid) else f"series_{hashlib.sha256(uid.encode(errors='replace')).hexdigest()[:16]}"


def label_of(text: str) -> str:
    """A header's text as the name of a folder: not a path, not hidden, not the parent folder."""
    return _NOT_IN_NAMES.sub("_", text).strip("_.")


def read_numbers(header: pydicom.Dataset, tag: str, path: Path | str) -> list[float]:
    """The numbers of a tag; an empty list if it is absent or empty.

    Args:
        header: The header.
        tag: Keyword of the tag.
        path: Name of the file in messages.

    Raises:
        ValueError: If one is not a finite number.
    """
    try:
        value = header.get(tag)
        if value is None or value == "":
            return []
        numbers = [_number(one) for one in (value if isinstance(value, (MultiValue, list)) else [value])]
    # pydicom converts values on access, each kind with its own errors.
    except ODD_CONTENT as error:
        reason = one_line(error)
        raise ValueError(f"Expected numbers in the DICOM tag {tag}, got others in {path} ({reason}).") from error
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"Expected finite numbers in the DICOM tag {tag}, got {value} in {path}.")
    return numbers


def read_vector(header: pydicom.Dataset, tag: str, length: int, path: Path | str) -> list[float]:
    """The ``length`` numbers of a required tag.

    Raises:
        ValueError: If there are more or fewer, or one is not a finite number.
    """
    numbers = read_numbers(header, tag, path)
    if len(numbers) != length:
        word = "number" if length == 1 else "numbers"
        raise ValueError(f"Expected {length} {word} in the DICOM tag {tag}, got {header.get(tag)} in {path}.")
    return numbers


def read_number(header: pydicom.Dataset, tag: str, path: Path | str) -> float | None:
    """The number of a tag; None if it is absent or empty.

    Raises:
        ValueError: If there are several, or it is not a finite number.
    """
    return read_vector(header, tag, 1, path)[0] if read_numbers(header, tag, path) else None


def _number(value: object) -> float:
    """Convert a number of pydicom's, or text that is one; bytes and sequences are rejected."""
    if not isinstance(value, (int, float, str, Decimal)):
        raise TypeError(f"got {type(value).__name__}")
    return float(value)


def read_text(header: pydicom.Dataset, tag: str) -> str:
    """The text of a tag without blanks around it, several values with a backslash between them as DICOM stores them.

    Returns:
        The text on one line, a blank for each character that cannot be printed; ``""`` if the tag is absent, empty or
        not a text.
    """
    try:
        value = header.get(tag)
        values = value if isinstance(value, (MultiValue, list, tuple)) else [value]
        text = "\\".join("" if one is None else str(one).strip() for one in values).strip("\0 ")
        printed = text.isprintable()
        return text if printed else "".join(one if one.isprintable() else " " for one in text)
    except ODD_CONTENT:
        return ""
