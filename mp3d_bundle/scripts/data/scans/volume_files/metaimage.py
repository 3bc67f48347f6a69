"""MetaImage files (``.mha``, ``.mhd``): headers are read strictly, voxels with every possible check."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from .header_text import (
    NO_ORIENTATION,
    NO_ORIGIN,
    NO_SPACING,
    Fields,
    axis_sizes,
    data_file,
    data_names,
    integers,
    millimetres,
    numbers,
    read_lines,
    shortened,
)
from .stored_image import ReadingRules, StoredImage, check_shape, check_spacing
from .voxel_data import RAW, ZLIB, Part, as_itk, read_voxels

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_DATA = "elementdatafile"
# Limits for lengths of directions: rounding, and the shortest and longest valid length.
_ROUNDING, _SHORTEST, _LONGEST = 1e-3, 0.5, 2.0


def read_metaimage(path: Path, rules: ReadingRules) -> StoredImage:
    """Read a MetaImage file, with its voxels in it or in files next to it.

    Raises:
        ValueError: If the header violates the format, the file is not three-dimensional, has several values
            per voxel, or names files elsewhere.
        OSError: If a file is missing, damaged, truncated or longer than its header says.
    """
    fields = _read_fields(path)
    sizes = axis_sizes(fields, "NDims", "DimSize", range(2, 5))
    shape = check_shape(tuple(sizes), path)
    channels = integers(fields.get("elementnumberofchannels") or "1", "ElementNumberOfChannels", path, count=1)[0]
    if channels != 1:
        raise ValueError(f"Expected one number per voxel, got {channels} (a colour image?) in {path}.")
    kind = fields.need("elementtype")
    if kind not in _TYPES:
        raise ValueError(f"Expected a type of number as 'ElementType', got {shortened(kind)} in {path}.")
    if not _flag(fields, "binarydata", default=True):
        raise ValueError(f"Expected binary voxels, got 'BinaryData = False' in {path}: convert the file first.")
    big = _flag(fields, "binarydatabyteordermsb", "elementbyteordermsb")
    dtype = np.dtype((">" if big else "<") + _TYPES[kind])
    affine, notes = _affine(fields, len(sizes))
    parts = _parts(fields, int(np.prod(sizes, dtype=object)) * dtype.itemsize)
    encoding = ZLIB if _flag(fields, "compresseddata") else RAW
    _check_compressed_size(fields, parts, encoding)
    return as_itk(StoredImage(read_voxels(parts, shape, dtype, encoding, rules), affine, (path,), notes=notes), parts)


def metaimage_files(path: Path) -> list[Path]:
    """The files that hold the voxels of a MetaImage file: itself, or those that its header names.

    Raises:
        ValueError: If the header is not as expected.
        OSError: If a file is missing.
    """
    return [part.path for part in _parts(_read_fields(path), 0)]


def _read_fields(path: Path) -> Fields:
    values: dict[str, str] = {}
    fields = Fields(path, values, (), 0)
    with path.open("rb") as file:
        lines = iter(read_lines(file, path))
        for line, end in lines:
            match = re.match(r"\s*([^=:\s]+)\s*[=:]\s*(.*?)\s*$", line)
            if match is None:
                if line.strip():
                    raise OSError(f"Expected lines 'Key = value' of a MetaImage, got {shortened(line)} in {path}.")
                continue
            fields.add(match[1].lower(), match[2])
            if match[1].lower() == _DATA:
                names = () if match[2].lower() == "local" else tuple(text.strip() for text, _ in lines)
                return Fields(path, values, tuple(name for name in names if name), end)
    raise OSError(f"Expected a complete MetaImage header, got none that ends with ElementDataFile in {path}.")


def _flag(fields: Fields, *keys: str, default: bool = False) -> bool:
    text = fields.get(*keys)
    if text is None or not text:
        return default
    if text[0].lower() not in "tf10":
        raise ValueError(f"Expected True or False as '{keys[0]}', got {shortened(text)} in {fields.path}.")
    return text[0].lower() in "t1"


def _affine(fields: Fields, dimensions: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """The affine, index to LPS mm, and notes on how it was found."""
    path, notes = fields.path, []

    def vector(*keys: str) -> list[float] | None:
        text = fields.get(*keys)
        return None if text is None else numbers(text, keys[0], path, count=dimensions)

    spacing, origin = vector("elementspacing", "elementsize"), vector("offset", "position", "origin")
    for key in ("position", "origin"):
        if vector(key) not in (None, origin):
            raise ValueError(f"Expected one Offset, got another as {key.capitalize()} in {path}.")
    if spacing is None:
        notes.append(NO_SPACING)
    check_spacing(tuple(spacing or ())[:3], path)
    directions = np.eye(3)
    turned = fields.get("transformmatrix", "rotation", "orientation")
    given = [text for key in ("transformmatrix", "rotation", "orientation") if (text := fields.get(key)) is not None]
    if any(numbers(one, "TransformMatrix", path) != numbers(given[0], "TransformMatrix", path) for one in given[1:]):
        raise ValueError(f"Expected one TransformMatrix, got others as Rotation or Orientation in {path}.")
    if turned is None:
        notes.append(NO_ORIENTATION)
    else:
        matrix = numbers(turned, "TransformMatrix", path, count=dimensions**2)
        directions = np.array(matrix).reshape(dimensions, dimensions).T[:3, :3]
    if origin is None:
        notes.append(NO_ORIGIN)
    factors, unit = millimetres([fields.get("distanceunits") or "mm"], path)
    if unit is not None:
        notes.append(unit)
    for key, neutral in (("elementtointensityfunctionslope", 1.0), ("elementtointensityfunctionoffset", 0.0)):
        text = fields.get(key)
        if text is not None and numbers(text, key, path, count=1) != [neutral]:
            notes.append(f"The header gives a scale of intensities ({key} {text}), which was not applied, as in ITK.")
    affine = np.eye(4)
    directions, note = _of_unit_length(directions, path)
    affine[:3, :3] = directions * np.array(spacing or [1.0] * dimensions)[:3] * factors[0]
    affine[:3, 3] = np.array(origin or [0.0] * dimensions)[:3] * factors[0]
    return affine, (*notes, *note)


def _of_unit_length(directions: np.ndarray, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Directions ``(3, 3)`` of axes in their columns, normalised if their length differs from 1 by more than
    rounding, and a note about it.

    Raises:
        ValueError: If one is too long or too short to be a direction.
    """
    lengths = np.linalg.norm(directions, axis=0)
    shown = " x ".join(f"{length:.4g}" for length in lengths)
    if not np.all((lengths >= _SHORTEST) & (lengths <= _LONGEST)):
        raise ValueError(f"Expected directions of length 1 as 'TransformMatrix', got {shown} in {path}.")
    if np.all(np.abs(lengths - 1) <= _ROUNDING):
        return directions, ()
    note = f"The directions in the header are not of length 1 ({shown}): they were normalised, the spacings are kept."
    return directions / lengths, (note,)


def _parts(fields: Fields, size: int) -> list[Part]:
    """Where the voxels are: after the header, in a file, or in a list or pattern of files."""
    path, value = fields.path, fields.need(_DATA)
    (header,) = integers(fields.get("headersize") or "0", "HeaderSize", path, count=1)
    if header < -1:
        raise ValueError(f"Expected a number of bytes as 'HeaderSize', got {header} in {path}.")
    if value.lower() == "local":
        if header > 0:
            raise ValueError(f"Expected no 'HeaderSize' where voxels follow the header, got {header} in {path}.")
        return [Part(path, -size if header else fields.end)]
    names = data_names(value, fields.names, path)
    return [Part(data_file(name, path), -(size // len(names)) if header else header) for name in names]


def _check_compressed_size(fields: Fields, parts: list[Part], encoding: str) -> None:
    """Compare the size of the compressed data with the file, if the header gives it in whole bytes."""
    text = fields.get("compresseddatasize") or ""
    if encoding == RAW or len(parts) > 1 or not text.isdecimal() or len(text) > 18 or int(text) == 0:
        return
    held = parts[0].path.stat().st_size - parts[0].start
    if int(text) != held:
        raise OSError(f"Expected {text} bytes of compressed voxels, as the header says, got {held} in {parts[0].path}.")
