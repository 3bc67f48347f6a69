"""DICOM files as they come: with and without preamble, deflated, damaged, or something else by that name."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from struct import error as StructError
from struct import unpack
from typing import IO

import pydicom
from pydicom.errors import InvalidDicomError

# Opens a file of its own to read its header.
Open = Callable[[], IO[bytes]]

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
# The table of contents of a medium, which is marked as DICOM and holds no image.
_DIRECTORY = "dicomdir"
# Not worth opening: a folder may hold very many of them.
OTHER_SUFFIXES = (".png", ".jpg", ".nii", ".nii.gz", ".nrrd", ".mha", ".csv", ".json", ".txt", ".xml", ".zip", ".pdf")
# A slice of 4096 x 4096 pixels of 32 bits has half of this; a deflated file may claim any size.
MAX_INFLATED_BYTES = 128 << 20
_HEAD = 132
# What a data set without preamble begins with: the meta group or the first elements of group 8.
_FIRST_GROUPS = (0x0002, 0x0008)
_VRS = frozenset((b"AE", b"CS", b"DA", b"LO", b"OB", b"PN", b"SH", b"SQ", b"TM", b"UI", b"UL", b"US"))
# pydicom's errors for what it does not expect; those of a damaged archive are told where it is opened.
_ODD = (
    InvalidDicomError,
    OSError,
    EOFError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    NotImplementedError,
    MemoryError,
    StructError,
)


class ForeignFileError(ValueError):
    """A file that is named like DICOM and is something else."""


class _Inflatable(io.BufferedIOBase):
    """A file whose deflated content is measured before anybody inflates it at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int | None = -1, /) -> bytes:
        """Read; all that is left is asked for in order to inflate it, and only then.

        Raises:
            ValueError: If it would come to more than one slice can be.
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


def is_dicom(path: Path, open_file: Open | None = None) -> bool:
    """Whether a file is named or marked (``DICM`` after 128 bytes) as DICOM or begins as a data set does.

    A ``DICOMDIR`` counts as none.

    Args:
        path: Its name.
        open_file: How to open it, by default from disk, where a pipe or a link to nothing is none.

    Raises:
        OSError: If it cannot be read.
    """
    name = path.name.lower()
    if name.endswith(DICOM_SUFFIXES):
        return True
    if name == _DIRECTORY or name.endswith(OTHER_SUFFIXES):
        return False
    # A pipe would keep the reader waiting for a writer.
    if open_file is None and not path.is_file():
        return False
    with open_file() if open_file else path.open("rb") as file:
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

    The meta group's word on how the data set is coded is not relied on: pydicom looks at the data set itself.

    Args:
        path: The file.
        open_file: How to open it, by default from disk.
        tags: Keywords of the wanted tags; pixels are read if ``PixelData`` is among them.

    Returns:
        What there is of them; of a file cut short those before the cut.

    Raises:
        ForeignFileError: If it is no DICOM file but something else.
        OSError: If it cannot be read as DICOM.
    """
    wanted = None if tags is None else list(tags)
    try:
        with open_file() if open_file else path.open("rb") as file, warnings.catch_warnings():
            # That the meta group is wrong about the coding changes nothing.
            warnings.filterwarnings("ignore", message="Expected (im|ex)plicit VR, but found")
            head = file.read(_HEAD)
            if not _is_marked(head) and not _is_bare(head):
                # Cut short within the preamble, which is zeros, or its mark it may have been a slice.
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
    except _ODD as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise OSError(f"Expected a complete DICOM file, could not read the header of {path} ({reason}).") from error
