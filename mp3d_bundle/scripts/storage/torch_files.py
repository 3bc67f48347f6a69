"""Read PyTorch's files after checking every checksum, every byte and the size of the content.

PyTorch itself reads the zip that it writes without checking its checksums, and unpickles anything in it. Here a
file is read only if each record has the checksum that the zip gives, if no byte is outside of the records, and if
what the pickle builds is not larger or deeper than real files are. Then it is read as tensors and plain values,
never as code.
"""

from __future__ import annotations

import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from .needed_files import need_weights

# Training frameworks leave numpy scalars in checkpoints (a best score, a time). They are plain values. The module has
# one name before numpy 2 and another one since.
_NUMPY_SCALARS: list[Any] = [
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *{type(np.dtype(code)) for code in "?bhilqBHILQefd"},
]
_ZIP = b"PK\x03\x04"
_LOCAL = struct.Struct("<4s5H3L2H")
_BLOCK = 1 << 20
# A directory, by the DOS attribute: PyTorch would leave the memory of its tensor as it found it.
_FOLDER = 0x10
# In the format of before PyTorch 1.6 the object is the fourth of these pickles; tensors follow, without a checksum.
_OLD_PICKLES = 5
# A full-size checkpoint has 10,000 values, nested ten deep.
_MOST_VALUES, _MOST_LEVELS = 10_000_000, 100
_MOST_BUILT = 1_000_000
_WORDS = 300


def read_tensors(path: str | Path) -> Any:
    """Read a PyTorch file as tensors and plain values, never as pickled code.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged in any bit that counts, has too many or too few bytes, is not a PyTorch file,
            holds anything but tensors on the CPU and plain values, or builds more than its size could hold.
    """
    path = Path(path)
    need_weights(path)
    try:
        with path.open("rb") as file:
            _check_content(file)
            file.seek(0)
            with torch.serialization.safe_globals(_NUMPY_SCALARS):
                content = torch.load(file, map_location="cpu", weights_only=True)
            _check_tensors(content)
            return content
    except OSError:
        raise
    except Exception as error:  # a damaged file can make the reader fail in any way
        raise ValueError(
            f"Expected a PyTorch file with tensors and plain values only, cannot read {path}: {_reason(error)}."
        ) from error


def _reason(error: Exception) -> str:
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused:
        return f"it holds an object of {refused[1]}, and making one would run code that the file chooses"
    # The first bytes of a text file look like unknown instructions: the message is then just a number.
    first = (str(error).splitlines() or [""])[0][:_WORDS].rstrip(".")
    return first if " " in first else "it is not such a file, or it is damaged"


def _check_content(file: BinaryIO) -> None:
    start = file.read(len(_ZIP))
    file.seek(0)
    if start != _ZIP:
        for _ in range(_OLD_PICKLES):
            check_pickle(file)
        return
    with zipfile.ZipFile(file) as archive:
        check_archive(archive, file)
        for entry in archive.infolist():
            if entry.filename.endswith("/data.pkl"):
                with archive.open(entry) as content:
                    check_pickle(content)


def check_archive(archive: zipfile.ZipFile, file: BinaryIO) -> None:
    """Check a zip as PyTorch writes it, to the last byte that counts.

    Every record must be stored uncompressed, follow the one before without a gap, have the same description in its
    header and in the directory, and match the checksum there; nothing may follow the directory. Only padding, dates,
    versions and the attributes of the directory may still differ, without effect.

    Args:
        archive: The zip.
        file: The same, for reading bytes.

    Raises:
        ValueError: If a record breaks one of these rules; names the record.
        zipfile.BadZipFile: If a record's header is damaged.
    """
    end = 0
    names = set()
    for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset):
        name = entry.orig_filename
        if name in names or entry.header_offset != end:
            raise ValueError(f"its record {name!r} is not where the one before it ends")
        names.add(name)
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError(f"its record {name!r} is compressed")
        if entry.is_dir() or entry.external_attr & _FOLDER:
            raise ValueError(f"its record {name!r} is a folder")
        with archive.open(entry) as content:  # raises if the name differs in header and directory
            checksum = 0
            while block := content.read(_BLOCK):
                checksum = zlib.crc32(block, checksum)
        if checksum != entry.CRC:
            raise ValueError(f"the checksum of its record {name!r} is wrong")
        end = _end_of(entry, file)
    listed = sum(46 + len(_encoded(entry)) + len(entry.extra) + len(entry.comment) for entry in archive.infolist())
    file.seek(0, 2)
    # The end of the directory, with or without the larger one for files above 4 GB.
    after = file.tell() - archive.start_dir - listed
    if archive.start_dir != end or archive.comment or after not in (22, 22 + 76):
        raise ValueError("it has too many or too few bytes")


def _encoded(entry: zipfile.ZipInfo) -> bytes:
    return entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437")


def _end_of(entry: zipfile.ZipInfo, file: BinaryIO) -> int:
    """Where the bytes of a record end, its header and what follows its content included."""
    file.seek(entry.header_offset)
    _, _, flags, method, _, _, checksum, packed, size, name, extra = _LOCAL.unpack(file.read(_LOCAL.size))
    end = entry.header_offset + _LOCAL.size + name + extra + entry.compress_size
    told = {(entry.CRC, entry.compress_size, entry.file_size)}
    # In a streamed zip the numbers follow the content; those of large records are in the extra field.
    found = (checksum, packed, size)
    if flags & 8:
        file.seek(end)
        wide = max(entry.file_size, entry.compress_size) >= 0xFFFFFFFF
        follow = struct.Struct("<4sL2Q" if wide else "<4s3L")
        mark, *numbers = follow.unpack(file.read(follow.size))
        end += follow.size
        if mark != b"PK\x07\x08" or tuple(numbers) not in told:
            raise ValueError(f"the record {entry.orig_filename!r} has two different descriptions")
        told.add((0, 0, 0))
    large = packed == size == 0xFFFFFFFF and checksum in (0, entry.CRC)
    if (found not in told and not large) or method != entry.compress_type or (flags ^ entry.flag_bits) & 8:
        raise ValueError(f"the record {entry.orig_filename!r} has two different descriptions")
    return end


_ONE = {"NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "GLOBAL"}
_TEXTS = {"BINUNICODE", "SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES", "SHORT_BINUNICODE"}
_EMPTY = {"EMPTY_LIST", "EMPTY_TUPLE", "EMPTY_DICT", "EMPTY_SET"}
# How many values an instruction pops to push one; None for all since the last mark.
_JOIN = {"TUPLE": None, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "NEWOBJ": 2, "REDUCE": 2, "BINPERSID": 1}
# How many values an instruction adds to the one below them.
_ADD = {"APPEND": 1, "APPENDS": None, "SETITEM": 2, "SETITEMS": None, "ADDITEMS": None, "BUILD": 1}
_READ = {"BINGET", "LONG_BINGET"}
_NOTE = {"BINPUT", "LONG_BINPUT"}


class _Graph:
    """The values that a pickle would build and which value holds which, without building any."""

    def __init__(self) -> None:
        self.weights: list[int] = []
        self.children: list[list[int]] = []
        self.stack: list[int] = []
        self.marks: list[int] = []
        self.memo: dict[int, int] = {}

    def push(self, weight: int = 1, children: list[int] | None = None) -> None:
        self.stack.append(len(self.weights))
        self.weights.append(weight)
        self.children.append(children or [])

    def take(self, count: int | None) -> list[int]:
        """Take values off the stack: ``count``, or all since the last mark."""
        start = self.marks.pop() if count is None else len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise ValueError("its pickle is damaged")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def step(self, name: str, argument: Any) -> None:
        """Follow one instruction."""
        if name in _ONE or name in _TEXTS or name in _EMPTY:
            self.push(1 + len(argument) if name in _TEXTS else 1)
        elif name in _JOIN:
            self.push(1, self.take(_JOIN[name]))
        elif name in _ADD:
            taken = self.take(_ADD[name])
            self.children[self.stack[-1]].extend(taken)
        elif name in _READ:
            self.stack.append(self.memo[argument])
        elif name in _NOTE:
            self.memo[argument] = self.stack[-1]
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"its pickle has the instruction {name}, which PyTorch does not write")

    def measure(self) -> tuple[float, float]:
        """Number of values in the pickle's object, written out, and their depth; infinite for a cycle."""
        sizes: dict[int, float] = {}
        depths: dict[int, float] = {}
        for at, done in self._walk():
            if done:
                held = self.children[at]
                sizes[at] = self.weights[at] + sum(sizes.get(child, float("inf")) for child in held)
                depths[at] = 1 + max((depths.get(child, float("inf")) for child in held), default=0)
        return sizes[self.stack[-1]], depths[self.stack[-1]]

    def _walk(self) -> Iterator[tuple[int, bool]]:
        """Every value below the last one, before and after what it holds, without recursion."""
        seen: set[int] = set()
        due = [(self.stack[-1], False)]
        while due:
            at, done = due.pop()
            if not done:
                if at in seen:
                    continue
                seen.add(at)
                due.append((at, True))
                due.extend((child, False) for child in self.children[at] if child not in seen)
            yield at, done


def check_pickle(file: Any) -> None:
    """Reject a pickle that builds far more than it holds: few bytes can name the same value 2**100 times.

    Nothing is built: reading the instructions is enough. An error message, a hash or a comparison of such a value
    would not end within a lifetime.

    Args:
        file: At the start of a pickle; afterwards at its end.

    Raises:
        ValueError: If it is damaged, has instructions that PyTorch does not write, or its object is too large or too
            deep.
    """
    graph = _Graph()
    try:
        for instruction, argument, _ in pickletools.genops(file):
            graph.step(instruction.name, argument)
            if len(graph.weights) > _MOST_BUILT:
                raise ValueError(f"its pickle builds more than {_MOST_BUILT:,} values")
        size, depth = graph.measure()
    except (IndexError, KeyError) as error:
        raise ValueError("its pickle is damaged") from error
    if depth > _MOST_LEVELS or size > _MOST_VALUES:
        raise ValueError(
            f"its values, written out, are more than {_MOST_VALUES:,} or nested more than {_MOST_LEVELS} deep"
        )


def _check_tensors(content: Any) -> None:
    """Reject tensors that claim more elements than the file holds, or are of a kind that weights never have."""
    if isinstance(content, Tensor):
        if content.layout != torch.strided or content.device.type != "cpu" or content.is_quantized:
            kind = f"{content.layout} on {content.device.type}"
            raise ValueError(f"it holds a tensor that is not a dense one on the CPU: {kind}")
        held = content.untyped_storage().nbytes()
        if content.numel() * content.element_size() > held:
            raise ValueError(f"it holds a tensor of shape {tuple(content.shape)} made of {held} bytes")
    elif isinstance(content, dict):
        for value in content.values():
            _check_tensors(value)
    elif isinstance(content, (list, tuple, set)):
        for value in content:
            _check_tensors(value)
