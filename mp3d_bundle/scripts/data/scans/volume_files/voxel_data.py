"""Read the voxels of a volume file: exactly as many bytes as the header says, with every checksum checked.

Compressed data are read to their end, where gzip, zlib and bzip2 keep a checksum. Uncompressed data have none:
only their length can be checked. Memory for the claim of a header is allocated only after the claim was compared
with the size of the files and the limit of the rules.
"""

from __future__ import annotations

import bz2
import gzip
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ....storage.printable import one_line
from .stored_image import MAX_GIGABYTES, ReadingRules, StoredImage

RAW, GZIP, ZLIB, BZIP2, TEXT, HEX = "raw", "gzip", "zlib", "bzip2", "text", "hex"
_BLOCK = 1 << 20
_GIB = 1 << 30
# Deflate cannot compress better than this.
_MOST_DEFLATED = 1032
# Scans compress far less: from this size on, such data are rejected as a zip bomb.
_RATIO_FROM_BYTES, _MAX_RATIO = 1 << 28, 200


@dataclass(frozen=True)
class Part:
    """A file with voxels.

    Attributes:
        path: The file.
        start: Offset of the data, compressed or not; a negative one counts from the end.
        skip: Bytes of the unpacked data before the first voxel.
    """

    path: Path
    start: int = 0
    skip: int = 0


def read_voxels(
    parts: Sequence[Part], shape: tuple[int, ...], dtype: np.dtype, encoding: str, rules: ReadingRules
) -> np.ndarray:
    """Read the voxels of a volume.

    Args:
        parts: The files, each with the same share of the voxels.
        shape: ``(I, J, K)``, index ``i`` being the fastest in the file, or ``(N, I, J, K)`` of several volumes.
        dtype: Type and byte order of the stored numbers.
        encoding: `RAW`, `GZIP`, `ZLIB` (of zlib or gzip, as MetaImage has it), `BZIP2`, or the numbers as `TEXT` or
            `HEX`.
        rules: Limit of its size.

    Returns:
        The same shape in this machine's byte order.

    Raises:
        ValueError: If the header claims more than the rules or the files allow.
        OSError: If data are damaged, truncated or longer than the header says.
    """
    where = parts[0].path
    size = math.prod(shape) * dtype.itemsize
    _check_claim(size + sum(part.skip for part in parts), parts, encoding, rules)
    share, left = divmod(size, len(parts))
    if left:
        raise ValueError(
            f"Expected files with the same number of voxels, the header of {where} divides {shape} among {len(parts)}."
        )
    values = np.empty(shape, dtype=dtype, order="F")
    target = values.reshape(-1, order="F").view(np.uint8).data
    for number, part in enumerate(parts):
        try:
            _fill(target[number * share : (number + 1) * share], part, encoding, dtype)
        except (EOFError, OSError, zlib.error, ValueError) as error:
            reason = one_line(error)
            raise OSError(f"Expected a complete and undamaged file, could not read {part.path} ({reason}).") from error
    return values.astype(dtype.newbyteorder("="), copy=False)


def as_itk(image: StoredImage, parts: Sequence[Part]) -> StoredImage:
    """A volume of a header and its files as ITK hands it over: numbers of 64 bits lose the digits that HU do not need.

    Args:
        image: The volume, with its header as its only file.
        parts: The files of the voxels, of which the header may be one.
    """
    files = (*image.files, *(part.path for part in parts if part.path not in image.files))
    if image.values.dtype != np.float64:
        return replace(image, files=files)
    with np.errstate(over="ignore"):
        return replace(image, values=image.values.astype(np.float32), files=files)


def _check_claim(size: int, parts: Sequence[Part], encoding: str, rules: ReadingRules) -> None:
    """Compare the bytes that a header claims with the limits and its files, before anything is allocated."""
    where = parts[0].path
    if size > rules.max_gigabytes * _GIB:
        raise ValueError(
            f"Expected at most {rules.max_gigabytes:g} GiB of voxels, the header claims {size / _GIB:.3g} GiB in "
            f"{where} (--max_gigabytes allows more)."
        )
    stored = sum(part.path.stat().st_size for part in parts)
    if encoding in (TEXT, HEX):
        # A voxel takes at least a digit and a space, or two digits a byte.
        most = stored * 8
    elif encoding == RAW:
        most = stored
    elif encoding == BZIP2:
        most = size
    else:
        most = stored * _MOST_DEFLATED
    if size > most:
        raise OSError(
            f"Expected {size} bytes of voxels, as the header says, {where} cannot hold them in {stored} bytes "
            "(cut short or damaged?)."
        )
    if size > _RATIO_FROM_BYTES and size > _MAX_RATIO * stored and rules.max_gigabytes <= MAX_GIGABYTES:
        raise ValueError(
            f"Expected a scan, got {size / _GIB:.1f} GiB packed into {stored / (1 << 20):.1f} MiB in {where} "
            f"(--max_gigabytes above {MAX_GIGABYTES:g} allows it)."
        )


def _fill(target: memoryview, part: Part, encoding: str, dtype: np.dtype) -> None:
    """Fill ``target`` with the data of a file, or raise EOFError, OSError or ValueError with the reason alone."""
    size = part.path.stat().st_size
    if part.start < 0 and size + part.start < 0:
        raise EOFError(f"{size} bytes instead of at least {-part.start}")
    with part.path.open("rb") as file:
        file.seek(part.start if part.start >= 0 else size + part.start)
        if encoding == RAW:
            held = size - file.tell() - part.skip
            if held != len(target):
                raise EOFError(f"{max(held, 0)} bytes of voxels, {len(target)} as the header says")
            file.seek(part.skip, 1)
            _copy(target, iter(lambda: file.read(_BLOCK), b""), 0)
        elif encoding in (TEXT, HEX):
            _copy(target, [_plain(file.read(), encoding, dtype)], part.skip)
        else:
            _copy(target, _unpack(file, encoding), part.skip)


def _copy(target: memoryview, chunks: Iterable[bytes], skip: int) -> None:
    """Copy chunks one after the other, all of them, leaving out the first ``skip`` bytes."""
    place = 0
    for chunk in chunks:
        taken = chunk[min(skip, len(chunk)) :]
        skip -= len(chunk) - len(taken)
        if place + len(taken) > len(target):
            raise EOFError(f"more than the {len(target)} bytes of voxels that the header gives")
        target[place : place + len(taken)] = taken
        place += len(taken)
    if place < len(target):
        raise EOFError(f"{place} bytes of voxels, {len(target)} as the header says")


def _plain(text: bytes, encoding: str, dtype: np.dtype) -> bytes:
    """Numbers written as text, or bytes as two hexadecimal digits each."""
    if encoding == HEX:
        return bytes.fromhex(text.decode("ascii"))
    if b"_" in text:
        raise ValueError("an underscore among the numbers")
    if dtype.kind == "f":
        return np.array([float(word) for word in text.split()], dtype=dtype).tobytes()
    numbers, limits = [int(word) for word in text.split()], np.iinfo(dtype)
    if not all(limits.min <= number <= limits.max for number in numbers):
        raise ValueError(f"a number that {dtype.name} cannot hold")
    return np.array(numbers, dtype=dtype).tobytes()


def _unpack(file: BinaryIO, encoding: str) -> Iterator[bytes]:
    """Unpacked data block by block, to the end of the file; raises if a checksum is wrong or something follows."""
    if encoding == GZIP:
        with gzip.GzipFile(fileobj=file) as packed:
            yield from iter(lambda: packed.read(_BLOCK), b"")
    elif encoding == ZLIB:
        yield from _inflate(file)
    else:
        yield from _unpack_bzip2(file)


def _inflate(file: BinaryIO) -> Iterator[bytes]:
    stream = zlib.decompressobj(32 + zlib.MAX_WBITS)
    while not stream.eof:
        packed = stream.unconsumed_tail or file.read(_BLOCK)
        chunk = stream.decompress(packed, _BLOCK)
        if not packed and not chunk and not stream.eof:
            raise EOFError("the compressed data end early")
        yield chunk
    if stream.unused_data or file.read(1):
        raise OSError("there is data after the compressed part")


def _unpack_bzip2(file: BinaryIO) -> Iterator[bytes]:
    # bz2.BZ2File ignores everything after the last stream.
    stream, packed = bz2.BZ2Decompressor(), b""
    while True:
        if stream.eof:
            packed = stream.unused_data or file.read(_BLOCK)
            if not packed:
                return
            stream = bz2.BZ2Decompressor()
        elif stream.needs_input:
            packed = file.read(_BLOCK)
            if not packed:
                raise EOFError("the compressed data end early")
        yield stream.decompress(packed, _BLOCK)
        packed = b""
