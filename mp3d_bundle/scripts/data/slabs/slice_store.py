"""Slices of a series in one file: int16 HU as NumPy stores them, written once and read without decoding.

A *store* is a copy of a data set whose ``Images_int16`` takes the place of ``Images_png``. Its folder of a series has
``slices.npy``, ``(n, H, W)`` int16 HU, and ``slices.json``: the names of the PNGs that the series has, which of them
are kept, and checksums. Paths of slices keep their names (``SERIES/NNN.png``), but no such files exist, so that
the same records and the same code read both.
"""

from __future__ import annotations

import functools
import os
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...storage.atomic_files import replacing, sha256, write_json
from ...storage.safe_json import read_json

STORED_IMAGES, PNG_IMAGES = "Images_int16", "Images_png"
PIXELS, CONTENT = "slices.npy", "slices.json"
FORMAT, VERSION = "mp3d slices", 1
_NAME = re.compile(r"(\d+)\.png")
_PIXEL = np.dtype("<i2")


@dataclass(frozen=True)
class StoredSeries:
    """What a store has of a series.

    Attributes:
        folder: The series.
        names: Names of all PNGs of the series, by slice number; only some of them may be kept.
        rows: Of each kept slice, its place in the file and the CRC-32 of its bytes.
        shape: Rows and columns of a slice.
        offset: First byte of the pixels.
        sha256: Of the whole file of pixels.
        source: What identifies the PNGs that it was made of.
    """

    folder: Path
    names: Mapping[int, str]
    rows: Mapping[int, tuple[int, int]]
    shape: tuple[int, int]
    offset: int
    sha256: str
    source: str
    _checked: set[int] = field(default_factory=set, compare=False, repr=False)

    def read(self, number: int) -> np.ndarray:
        """Pixels of a slice, ``(H, W)`` int16 HU.

        Raises:
            FileNotFoundError: If the series has no such slice, or it is not kept.
            ValueError: If the file is damaged.
        """
        path = self.folder / PIXELS
        if number not in self.rows:
            if number in self.names:
                raise FileNotFoundError(
                    f"Expected slice {number} in {path}, but the store was made without it: make it again with a "
                    "larger --reach_mm."
                )
            raise FileNotFoundError(f"Expected slice {number} in {path}, but the series has no such slice.")
        row, wanted = self.rows[number]
        height, width = self.shape
        try:
            pixels = np.fromfile(path, _PIXEL, height * width, offset=self.offset + row * height * width * 2)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"Expected the slices of a series at {path}, but the file does not exist."
            ) from None
        # Once for each slice and process: the check takes longer than reading.
        if pixels.size != height * width or (number not in self._checked and zlib.crc32(pixels.data) != wanted):
            raise ValueError(f"Expected slice {number} as it was written, but {path} is damaged: make the store again.")
        self._checked.add(number)
        return pixels.reshape(self.shape).astype(np.int16, copy=False)


def png_names(folder: Path) -> dict[int, str]:
    """Names of the slices in a folder of PNGs, by their numbers.

    Raises:
        ValueError: If two files have the same number.
    """
    found: dict[int, str] = {}
    for name in sorted(os.listdir(folder)):
        if match := _NAME.fullmatch(name):
            if (number := int(match[1])) in found:
                raise ValueError(f"Expected one slice {number} in {folder}, got {found[number]} and {name}.")
            found[number] = name
    return dict(sorted(found.items()))


def stored_series(folder: str | Path) -> StoredSeries | None:
    """What a store has of the series in a folder; None if the folder is not one of a store.

    Raises:
        ValueError: If the description of the series, or its file, is damaged.
    """
    return _open(str(folder))


@functools.lru_cache(maxsize=1024)
def _open(folder: str) -> StoredSeries | None:
    path = Path(folder) / CONTENT
    if not path.is_file():
        return None
    content = read_json(path, "the slices of a series")
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        raise ValueError(f"Expected slices of a store of version {VERSION}, got something else in {path}.")
    try:
        names = {_number(name): name for name in content["names"]}
        kept = [(int(number), int(crc)) for number, crc in content["kept"]]
        height, width = (int(side) for side in content["shape"])
        digest, source = str(content["sha256"]), str(content["source"])
        if len(names) != len(content["names"]) or not {number for number, _ in kept} <= set(names):
            raise ValueError("kept slices that the series does not have")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"Expected names, kept slices and their shape, cannot read {path}: {error!s:.200}.") from error
    rows = {number: (row, crc) for row, (number, crc) in enumerate(kept)}
    offset = _checked_offset(path.with_name(PIXELS), (len(kept), height, width))
    return StoredSeries(path.parent, names, rows, (height, width), offset, digest, source)


def _number(name: Any) -> int:
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise ValueError(f"a slice called {name!r:.40}")
    return int(match[1])


def _checked_offset(path: Path, shape: tuple[int, int, int]) -> int:
    """First byte of the pixels in a file of int16 slices of this shape."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            found, by_columns, dtype = read(file)
            offset, size = file.tell(), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise FileNotFoundError(f"Expected the slices of a series at {path}, but the file does not exist.") from None
    except ValueError as error:
        raise ValueError(f"Expected slices as a NumPy file, cannot read {path}: {error}.") from error
    wanted = offset + int(np.prod(shape)) * _PIXEL.itemsize
    if (found, by_columns, dtype, size) != (shape, False, _PIXEL, wanted):
        raise ValueError(
            f"Expected {wanted} bytes with slices {shape} of {_PIXEL}, got {size} with {found} of {dtype} in {path}."
        )
    return offset


def slice_names(folder: str | Path) -> list[str] | None:
    """Names that the slices of a stored series have as PNGs; None if the folder is not one of a store."""
    stored = stored_series(folder)
    return None if stored is None else list(stored.names.values())


def slice_exists(path: Path) -> bool:
    """Whether there is a slice of this path, as a PNG or in a store."""
    if path.is_file():
        return True
    stored = stored_series(path.parent)
    return stored is not None and stored.names.get(int(path.stem)) == path.name


def images_folder(dataset_dir: Path) -> Path:
    """The folder of the series of a data set, ``Images_png``; or ``Images_int16`` if it is a store."""
    stored = dataset_dir / STORED_IMAGES
    return stored if stored.is_dir() and not (dataset_dir / PNG_IMAGES).exists() else dataset_dir / PNG_IMAGES


def source_of(folder: Path, names: Sequence[str]) -> str:
    """What identifies PNGs without reading them: their names, sizes and times of the last change."""
    states = [(name, os.stat(folder / name)) for name in names]
    lines = [f"{name} {state.st_size} {state.st_mtime_ns}\n" for name, state in states]
    return f"{zlib.crc32(''.join(lines).encode()):08x}-{len(lines)}-{sum(state.st_size for _, state in states)}"


def is_complete(folder: Path, names: Mapping[int, str], source: str) -> bool:
    """Whether a series of a store is there, undamaged to the last byte, and made of these PNGs."""
    _open.cache_clear()
    try:
        stored = stored_series(folder)
        alike = stored is not None and (stored.names, stored.source) == (names, source)
        return stored is not None and alike and sha256(folder / PIXELS) == stored.sha256
    except (OSError, ValueError):
        return False


def write_series(
    folder: Path, names: Mapping[int, str], kept: Sequence[int], read: Callable[[str], np.ndarray], source: str
) -> None:
    """Write a series of a store; its description is written last, so that a series with one is complete.

    Args:
        folder: Of the series in the store.
        names: Of all PNGs of the series, by slice number.
        kept: Numbers of the slices to write, at least one.
        read: Gives ``(H, W)`` int16 HU of a name.
        source: Of `source_of`.

    Raises:
        OSError: If a file cannot be read or written.
        ValueError: If slices differ in size; the file is named.
    """
    (folder / CONTENT).unlink(missing_ok=True)
    first = read(names[kept[0]])
    header = {"descr": _PIXEL.str, "fortran_order": False, "shape": (len(kept), *first.shape)}
    rows = []
    with replacing(folder / PIXELS) as part, part.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for number in kept:
            pixels = read(names[number])
            if pixels.shape != first.shape:
                raise ValueError(
                    f"Expected slices of {first.shape} pixels like {names[kept[0]]}, got {pixels.shape} in "
                    f"{names[number]} of the series {folder.name}."
                )
            content = pixels.astype(_PIXEL).tobytes()
            rows.append([number, zlib.crc32(content)])
            file.write(content)
    described = {"format": FORMAT, "version": VERSION, "names": list(names.values()), "shape": list(first.shape)}
    checks = {"kept": rows, "sha256": sha256(folder / PIXELS), "source": source}
    write_json(described | checks, folder / CONTENT)
    _open.cache_clear()
