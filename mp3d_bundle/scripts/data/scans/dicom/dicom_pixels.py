"""From the pixels of a DICOM slice to Hounsfield units: bits, padding and rescale, as the header gives them."""

from __future__ import annotations

import functools
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from ..volume_files.stored_image import read_itk_pixels
from .dicom_files import is_raw, missing_pixels, read_dataset, read_number
from .enhanced_ct import frame_of, image_name

_INT16 = np.iinfo(np.int16)
# The largest value of 12 bits with the usual intercept: brighter padding is a frame and becomes air.
_BRIGHTEST_HU = 3071.0
_AIR_HU = -1024.0
_DEPTHS = (16, 32)


@dataclass(frozen=True)
class _Bits:
    """Position of a stored value in its word."""

    allocated: int
    stored: int
    high: int
    signed: bool

    @property
    def shift(self) -> int:
        """Bits below the value."""
        return self.high + 1 - self.stored


def check_pixels(path: Path) -> None:
    """Check that a file has pixels of any kind.

    Raises:
        OSError: If they are missing: the file ends in its header.
    """
    if read_dataset(path, tags=["PixelData"]).get_item("PixelData") is None:
        raise missing_pixels(path)


def read_hounsfield(path: Path, header: pydicom.Dataset, content: bytes) -> np.ndarray:
    """Read the pixels of a slice.

    Args:
        path: The file; compressed pixels are decoded from it unless it holds several frames, others are taken from
            ``content``.
        header: Its header, checked to be that of a grey slice with a rescale.
        content: Its bytes; of a frame those of a file of its own, see
            `scripts.data.scans.dicom.enhanced_ct.frame_files`.

    Returns:
        ``(columns, rows)`` int16 HU. Pixels that the header calls padding are -1024 where they would be brighter than
        12 bits allow; dark padding is unchanged.

    Raises:
        ValueError: If bits, padding or rescale are invalid, or values too bright for HU.
        OSError: If there are fewer or more pixels than the header gives, or they cannot be decoded.
    """
    where = image_name(path, header)
    bits = _bits(where, header)
    slope, intercept = (read_number(header, tag, where) for tag in ("RescaleSlope", "RescaleIntercept"))
    if slope is None or intercept is None:
        raise ValueError(f"Expected the DICOM tags RescaleSlope and RescaleIntercept, one is missing in {where}.")
    padding = _padding(where, header, bits)
    if is_raw(header):
        words = _words(where, header, bits, content)
        # Padding may be outside of the bits of values: it is detected before they are extracted.
        whole = _signed(words, bits.allocated) if bits.signed else words.astype(np.int64)
        padded = None if padding is None else (whole >= padding[0]) & (whole <= padding[1])
        hu = _rescale(_stored(words, bits, padded, where), slope, intercept)
    else:
        hu = _decoded(path, header, content)
        padded = None
        if padding is not None:
            low, high = sorted(edge * slope + intercept for edge in padding)
            padded = (hu >= low) & (hu <= high)
    if padded is not None and padding is not None:
        hu = np.where(padded, _padding_hu(padding, slope, intercept), hu)
    brightest = float(hu.max())
    if not np.isfinite(hu).all() or brightest > _INT16.max:
        raise ValueError(
            f"Expected Hounsfield units of at most {_INT16.max}, got {brightest:g} in {where}: padding that its header "
            "does not name, or an invalid rescale?"
        )
    return np.clip(np.rint(hu), _INT16.min, _INT16.max).astype(np.int16)


def _bits(where: str, header: pydicom.Dataset) -> _Bits:
    allocated, stored, high, signed = (
        read_number(header, tag, where) for tag in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    )
    allocated = int(allocated or 0)
    stored = allocated if stored is None else int(stored)
    bits = _Bits(allocated, stored, stored - 1 if high is None else int(high), bool(signed))
    if allocated not in _DEPTHS or not 1 <= stored <= allocated or not stored <= bits.high + 1 <= allocated:
        raise ValueError(
            f"Expected values within words of 16 or 32 bits, got BitsAllocated {allocated}, BitsStored {stored} and "
            f"HighBit {bits.high} in {where}."
        )
    if signed not in (None, 0, 1):
        raise ValueError(f"Expected PixelRepresentation 0 or 1, got {signed:g} in {where}.")
    if bits.shift and not is_raw(header):
        raise ValueError(f"Expected HighBit {stored - 1} in a compressed file, got {bits.high} in {where}.")
    return bits


def _padding(where: str, header: pydicom.Dataset, bits: _Bits) -> tuple[int, int] | None:
    """The lowest and the highest word of padding; None if the header names none."""
    value = read_number(header, "PixelPaddingValue", where)
    if value is None:
        return None
    limit = read_number(header, "PixelPaddingRangeLimit", where)
    edges = []
    for edge in (value, value if limit is None else limit):
        # The sign of the tag is independent of the sign of the pixels.
        word = int(edge) % (1 << bits.allocated)
        edges.append(word - (1 << bits.allocated) if bits.signed and word >> (bits.allocated - 1) else word)
    return min(edges), max(edges)


def _padding_hu(padding: tuple[int, int], slope: float, intercept: float) -> float:
    """The HU of padding: its own value, or air if that would be bright."""
    hu = padding[0] * slope + intercept
    return _AIR_HU if max(hu, padding[1] * slope + intercept) > _BRIGHTEST_HU else hu


def _words(where: str, header: pydicom.Dataset, bits: _Bits, content: bytes) -> np.ndarray:
    """The words of a raw slice, ``(columns, rows)`` unsigned."""
    rows, columns = int(header.Rows), int(header.Columns)
    dataset = read_dataset(Path(where), functools.partial(io.BytesIO, content), tags=["PixelData"])
    # Straight from the file: pydicom would look for the kind of words in tags that were not read.
    element = dataset.get_item("PixelData")
    pixels = None if element is None else element.value
    size = rows * columns * bits.allocated // 8
    got = len(pixels) if isinstance(pixels, bytes) else 0
    if not isinstance(pixels, bytes) or got < size:
        raise OSError(f"Expected {size} bytes of pixels, got {got} in {where}: it is cut short.")
    if pixels[size:].strip(b"\0"):
        raise OSError(f"Expected {size} bytes of pixels, got {got} in {where}: its size differs from the header.")
    order = "<" if dataset.original_encoding[1] is not False else ">"
    return np.frombuffer(pixels, f"{order}u{bits.allocated // 8}", rows * columns).reshape(rows, columns).T


def _signed(words: np.ndarray, width: int) -> np.ndarray:
    """Unsigned numbers of ``width`` bits read as two's complement."""
    wide = words.astype(np.int64)
    return wide - ((wide >> (width - 1)) << width)


def _stored(words: np.ndarray, bits: _Bits, padded: np.ndarray | None, where: str) -> np.ndarray:
    """The values in words, int64."""
    if bits.shift:
        below = words & words.dtype.type((1 << bits.shift) - 1)
        if (below if padded is None else below[~padded]).any():
            raise ValueError(
                f"Expected nothing below the lowest of {bits.stored} bits with HighBit {bits.high}, got values there "
                f"in {where}: its header does not give the bits of the pixels."
            )
    values = (words.astype(np.int64) >> bits.shift) & ((1 << bits.stored) - 1)
    return _signed(values, bits.stored) if bits.signed else values


def _rescale(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    # Through float32, as ITK gives the values of compressed files.
    return (stored * slope + intercept).astype(np.float32)


def _decoded(path: Path, header: pydicom.Dataset, content: bytes) -> np.ndarray:
    """HU of a compressed slice ``(columns, rows)`` float32, decoded and rescaled by ITK (GDCM)."""
    where = image_name(path, header)
    try:
        if frame_of(header) is None:
            _, values = read_itk_pixels(path)
        else:
            with tempfile.TemporaryDirectory(prefix="mp3d-") as folder:
                file = Path(folder) / "frame.dcm"
                file.write_bytes(content)
                _, values = read_itk_pixels(file)
    except OSError as error:
        syntax = header.file_meta.TransferSyntaxUID
        raise OSError(
            f"Expected pixels that can be decoded, got {syntax.name} ({syntax}) in {where}: the file is damaged, or "
            "there is no decoder for its compression; decompress it first (such as gdcmconv --raw does)."
        ) from error
    if values.shape != (header.Columns, header.Rows, 1):
        raise OSError(f"Expected {header.Columns} x {header.Rows} pixels, got {values.shape} in {where}.")
    return values[..., 0]
