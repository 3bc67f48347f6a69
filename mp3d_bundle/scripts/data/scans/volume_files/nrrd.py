"""NRRD files (``.nrrd``, ``.nhdr``): headers are read strictly, voxels with every possible check."""

from __future__ import annotations

import math
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
from .voxel_data import BZIP2, GZIP, HEX, RAW, TEXT, Part, as_itk, read_voxels

_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long"), "i8"),
    **dict.fromkeys(("signed long long int", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_ENCODINGS = {
    "raw": RAW,
    **dict.fromkeys(("gz", "gzip"), GZIP),
    **dict.fromkeys(("bz2", "bzip2"), BZIP2),
    **dict.fromkeys(("txt", "text", "ascii"), TEXT),
    "hex": HEX,
}
# Signs from each space to LPS; the relation of other spaces to the patient is unknown.
_TO_LPS = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1.0, 1.0, 1.0)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1.0, -1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1.0, -1.0, 1.0)),
}
_OTHER_SPACES = ("scanner-xyz", "3d-right-handed", "3d-left-handed")
# Kinds of axes that hold the values of one voxel; any other is a spatial axis.
_KINDS_OF_VALUES = re.compile(
    r"(list|point|vector|covariant-vector|normal|stub|scalar|complex|quaternion"
    r"|\d-(vector|color|gradient|normal)|(rgb|hsv|xyz|rgba)-color|(2d|3d)-.*matrix)"
)
_KNOWN = re.compile(
    r"content|number|type|blocksize|dimension|space|spacedimension|sizes|spacings|thicknesses|axismins|axismaxs"
    r"|spacedirections|centers|centerings|kinds|labels|units|min|max|oldmin|oldmax|endian|encoding|lineskip|byteskip"
    r"|sampleunits|spaceunits|spaceorigin|measurementframe|datafile"
)
# Marks the keys of lines ``key:=value``, and the most volumes of a segmentation.
_OWN_KEY, _MOST_LAYERS = "=", 1000
_VECTOR = re.compile(r"\(([^()]*)\)|none", re.IGNORECASE)
_WORD_IN_QUOTES = re.compile(r'"((?:[^"\\]|\\.)*)"')


def read_nrrd(path: Path, rules: ReadingRules) -> StoredImage:
    """Read an NRRD file, with its voxels in it or in files next to it.

    Raises:
        ValueError: If the header violates the format, the file is not three-dimensional, has several values
            per voxel, or names files elsewhere.
        OSError: If a file is missing, damaged, truncated or longer than its header says.
    """
    return _read(_read_fields(path), rules, most=1)[0]


def read_nrrd_layers(path: Path, rules: ReadingRules) -> tuple[list[StoredImage], dict[str, str]]:
    """Read an NRRD file of one volume, or of several along its first axis, as 3D Slicer stores segmentations.

    Returns:
        The volumes, and the header's own lines ``key:=value``.

    Raises:
        ValueError: See `read_nrrd`.
        OSError: Likewise.
    """
    fields = _read_fields(path)
    own = {key.removeprefix(_OWN_KEY): value for key, value in fields.values.items() if key.startswith(_OWN_KEY)}
    return _read(fields, rules, most=_MOST_LAYERS), own


def _read(fields: Fields, rules: ReadingRules, most: int) -> list[StoredImage]:
    """The volumes of a file that has so many at most."""
    path = fields.path
    sizes = axis_sizes(fields, "dimension", "sizes", range(1, 17))
    axes = _places(fields, sizes)
    shape = check_shape(tuple(sizes[axis] for axis in axes), path)
    axes = axes[:3]
    count = math.prod(sizes) // math.prod(shape)
    if count > most or (count > 1 and axes != [1, 2, 3]):
        raise ValueError(f"Expected one number per voxel, got sizes {sizes} (a colour image?) in {path}.")
    dtype = _dtype(fields)
    affine, notes = _affine(fields, len(sizes), axes)
    encoding = _ENCODINGS.get(fields.need("encoding").lower())
    if encoding is None:
        known = ", ".join(_ENCODINGS)
        raise ValueError(f"Expected an encoding of {known}, got {shortened(fields.need('encoding'))} in {path}.")
    parts = _parts(fields, math.prod(sizes) * dtype.itemsize, encoding)
    volumes = read_voxels(parts, (count, *shape), dtype, encoding, rules)
    return [as_itk(StoredImage(values, affine, (path,), notes=notes), parts) for values in volumes]


def nrrd_files(path: Path) -> list[Path]:
    """The files that hold the voxels of an NRRD file: itself, or those that its header names.

    Raises:
        ValueError: If the header is not as expected.
        OSError: If a file is missing.
    """
    return [part.path for part in _parts(_read_fields(path), 0, RAW)]


def _read_fields(path: Path) -> Fields:
    values: dict[str, str] = {}
    fields = Fields(path, values, (), 0)
    with path.open("rb") as file:
        lines = iter(read_lines(file, path))
        magic, end = next(lines, ("", 0))
        if not re.fullmatch(r"NRRD(000[1-5]|00\.01)", magic):
            raise OSError(f"Expected an NRRD file, got one that begins with {shortened(magic)} at {path}.")
        names: list[str] = []
        for line, end in lines:
            if not line.strip():
                return Fields(path, values, tuple(names), end)
            if line.startswith("#"):
                continue
            if re.match(r"LIST\b", values.get("datafile", "")):
                names.append(line.strip())
                continue
            key, mark, value = line.partition(":")
            if mark and value.startswith("="):
                values.setdefault(_OWN_KEY + key.strip(), value[1:].strip())
                continue
            key = key.strip().lower().replace(" ", "")
            if not mark or not _KNOWN.fullmatch(key):
                raise OSError(f"Expected lines 'field: value' of an NRRD header, got {shortened(line)} in {path}.")
            fields.add("centers" if key == "centerings" else key, value.strip())
    if "datafile" not in values:
        raise OSError(f"Expected a complete NRRD header with an empty line after it, got none in {path}.")
    return Fields(path, values, tuple(names), end)


def _dtype(fields: Fields) -> np.dtype:
    kind = " ".join(fields.need("type").lower().split())
    if kind not in _TYPES:
        raise ValueError(f"Expected a type of number as 'type', got {shortened(kind)} in {fields.path}.")
    endian = (fields.get("endian") or "").lower()
    if _TYPES[kind][1] == "1" or fields.need("encoding").lower() in ("txt", "text", "ascii"):
        endian = endian or "little"
    if endian not in ("little", "big"):
        raise ValueError(f"Expected little or big as 'endian', got {shortened(endian)} in {fields.path}.")
    return np.dtype(("<" if endian == "little" else ">") + _TYPES[kind])


def _places(fields: Fields, sizes: list[int]) -> list[int]:
    """The axes along which voxels lie."""
    kinds = (fields.get("kinds") or "").lower().split()
    directions = _VECTOR.findall(fields.get("spacedirections") or "")
    if directions and len(directions) == len(sizes):
        found = [match[0].lower() != "none" for match in _VECTOR.finditer(fields.values["spacedirections"])]
        return [axis for axis, place in enumerate(found) if place]
    if len(kinds) == len(sizes):
        return [axis for axis, kind in enumerate(kinds) if not _KINDS_OF_VALUES.fullmatch(kind)]
    return list(range(len(sizes)))


def _affine(fields: Fields, dimensions: int, axes: list[int]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The affine, index to LPS mm, and notes on how it was found."""
    space, given = fields.get("space"), fields.get("spacedirections")
    if space is None and fields.get("spacedimension") is None:
        if given is not None or fields.get("spaceorigin") is not None:
            raise ValueError(f"Expected a line 'space' before directions in space, got none in {fields.path}.")
        return _affine_without_space(fields, dimensions, axes)
    path, notes = fields.path, []
    name = (space or "").lower()
    if name not in _TO_LPS:
        if space is not None and name not in _OTHER_SPACES:
            raise ValueError(f"Expected a space of three dimensions, got {shortened(space)} in {path}.")
        notes.append(
            f"The header does not relate its space ({space or 'without a name'}) to the patient: its axes were "
            "assumed to point left, to the back and up."
        )
    if space is None:
        integers(fields.need("spacedimension"), "space dimension", path, count=1)
    factors, unit = millimetres(_units(fields, "spaceunits", 3), path)
    signs = np.array(_TO_LPS.get(name, (1.0, 1.0, 1.0))) * factors
    affine = np.eye(4)
    if given is None:
        notes.append(NO_SPACING)
        notes.append(NO_ORIENTATION)
    else:
        vectors = [match[1] for match in _VECTOR.finditer(given) if match[1] is not None]
        if _VECTOR.sub("", given).strip() or len(vectors) != len(axes) or len(axes) != 3:
            raise ValueError(f"Expected three vectors as 'space directions', got {shortened(given)} in {path}.")
        columns = [numbers(text.replace(",", " "), "space directions", path, count=3) for text in vectors]
        affine[:3, :3] = np.array(columns).T * signs[:, None]
    origin = fields.get("spaceorigin")
    if origin is None:
        notes.append(NO_ORIGIN)
    else:
        match = re.fullmatch(r"\(([^()]*)\)", origin)
        text = match[1] if match else origin
        affine[:3, 3] = np.array(numbers(text.replace(",", " "), "space origin", path, count=3)) * signs
    return affine, (*notes, *([unit] if unit else []))


def _affine_without_space(fields: Fields, dimensions: int, axes: list[int]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The affine of a header that has at most the spacings of its axes."""
    path, notes = fields.path, []
    factors, unit = millimetres(_units(fields, "units", dimensions), path)
    spacing, text = [1.0] * 3, fields.get("spacings")
    if text is None:
        notes.append(NO_SPACING)
    else:
        spacing = _of_axes(text, "spacings", dimensions, axes, path)
        check_spacing(tuple(spacing), path)
    notes.append(NO_ORIENTATION)
    text = fields.get("axismins")
    origin = [0.0] * 3
    if text is None or set(text.lower().split()) == {"nan"}:
        notes.append(NO_ORIGIN)
    else:
        # The edge of the first voxel if voxels are cells, as ITK reads it.
        centers = (fields.get("centers") or "").lower().split()
        half = [0.0 if len(centers) == dimensions and centers[axis] == "node" else 0.5 for axis in axes]
        mins = _of_axes(text, "axis mins", dimensions, axes, path)
        origin = [low + part * edge for low, part, edge in zip(mins, half, spacing, strict=True)]
    affine = np.eye(4)
    scale = np.array([factors[axis] for axis in axes])
    affine[:3, :3] = np.diag(np.array(spacing) * scale)
    affine[:3, 3] = np.array(origin) * scale
    return affine, (*notes, *([unit] if unit else []))


def _of_axes(text: str, key: str, dimensions: int, axes: list[int], path: Path) -> list[float]:
    """The numbers of the spatial axes; those of others may be unknown (nan)."""
    words = text.split()
    if len(words) != dimensions:
        raise ValueError(f"Expected {dimensions} numbers as '{key}', got {shortened(text)} in {path}.")
    return numbers(" ".join(words[axis] for axis in axes), key, path, count=3)


def _units(fields: Fields, key: str, count: int) -> list[str]:
    text = fields.get(key)
    if text is None:
        return ["mm"] * count
    found = _WORD_IN_QUOTES.findall(text)
    if len(found) != count or _WORD_IN_QUOTES.sub("", text).strip():
        raise ValueError(f"Expected {count} units in quotes as '{key}', got {shortened(text)} in {fields.path}.")
    return found


def _parts(fields: Fields, size: int, encoding: str) -> list[Part]:
    """Where the voxels are: after the header, in a file, or in a list or pattern of files."""
    path = fields.path
    (lines,) = integers(fields.get("lineskip") or "0", "line skip", path, count=1)
    (skip,) = integers(fields.get("byteskip") or "0", "byte skip", path, count=1)
    if lines < 0 or skip < (-1 if encoding == RAW else 0):
        raise ValueError(f"Expected lines and bytes to skip, got {lines} and {skip} in {path}.")
    value = fields.get("datafile")
    if value is None:
        found = [(path, fields.end)]
    else:
        names = data_names(value, fields.names, path)
        found = [(data_file(name, path), 0) for name in names]
    parts = []
    for file, start in found:
        start += _lines_end(file, start, lines)
        parts.append(Part(file, -(size // len(found))) if skip < 0 else Part(file, start, skip))
    return parts


def _lines_end(path: Path, start: int, lines: int) -> int:
    """Bytes that a number of lines take."""
    if lines == 0:
        return 0
    with path.open("rb") as file:
        file.seek(start)
        length = 0
        for (_, end), _number in zip(read_lines(file, path), range(lines), strict=False):
            length = end
        return length
