"""Read pickled labels as plain data (numbers, text, lists, dicts, numpy arrays) without running code.

A pickle is a program: it may call anything it names. The public label files of DeepLesion's 3D sets are pickles; a
reader that admits nothing but the few functions that rebuild numpy arrays cannot be made to call anything else.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from .printable import one_line, shown, shown_name

# The largest public label file has 0.4 MB.
MAX_BYTES = 1 << 29
MAX_DEPTH = 32
# A value that is written once may be referenced many times; labels never have so many more values than bytes.
_SHARED = 100_000
_DIMENSIONS = 8
# Limit for the other sides of an array without elements.
_LONGEST = 1 << 20
_MAX_WHOLE = 1 << 63
_CODE = re.compile(r"[biuf](1|2|4|8)")
_PLAIN = (str, bytes, bool, int, float, np.number, np.bool_, type(None))


def _reject(why: str) -> NoReturn:
    raise pickle.UnpicklingError(why)


class _NumberType:
    """Stands in for ``numpy.dtype``, for numbers only: an array of objects could hold anything."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        if not (isinstance(code, str) and _CODE.fullmatch(code)):
            _reject(f"it holds an array of {_kind(code)}, not of numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        # Version and byte order; the rest is for records, which are not numbers.
        if not (isinstance(state, tuple) and len(state) > 5 and state[1] in ("<", ">", "|", "=")):
            _reject("it holds an array of an unknown type")
        if any(part is not None for part in state[2:5]):
            _reject("it holds an array of records, not of numbers")
        self.dtype = self.dtype.newbyteorder(state[1])


def _kind(code: Any) -> str:
    """numpy's name of a type from its short code."""
    short = isinstance(code, str) and re.fullmatch(r"[A-Za-z][0-9]{0,4}", code)
    return str(np.dtype(code)) if short and code[0] in "OSUVMmc" else shown(code)


class _Array(np.ndarray):
    """An array whose state must fit the bytes that come with it."""

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            _reject("it holds an array without a state")
        _, shape, kind, turned, data = state
        # Bytes of Python 2 come as text.
        data = data.encode("latin1") if isinstance(data, str) else data
        whole: Any = (1, _shape(shape, _number_type(kind), data), kind.dtype, bool(turned), data)
        super().__setstate__(whole)


def _number_type(kind: Any) -> np.dtype:
    if not isinstance(kind, _NumberType):
        _reject(f"it holds an array of {shown(kind)}, not of numbers")
    return kind.dtype


def _shape(shape: Any, dtype: np.dtype, data: Any) -> tuple[int, ...]:
    """A shape that the data fill; numpy would allocate as much as a file asks for."""
    size = len(data) if isinstance(data, (bytes, bytearray)) else -1
    lengths = shape if isinstance(shape, tuple) and len(shape) <= _DIMENSIONS else (-1,)
    count = 1
    for length in lengths:
        if isinstance(length, bool) or not isinstance(length, int) or not 0 <= length <= max(size, _LONGEST):
            _reject(f"it holds an array of the shape {shown(shape)}, which its {max(size, 0)} bytes do not fill")
        count *= length
    if count * dtype.itemsize != size:
        _reject(f"it holds an array of the shape {shown(shape)}, which its {max(size, 0)} bytes do not fill")
    return lengths


def _reconstruct(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """An array to be filled: always written without elements."""
    if shape != (0,):
        _reject(f"it makes room for an array of the shape {shown(shape)}")
    return _Array((0,), dtype=np.int8)


def _scalar(kind: Any, data: Any) -> Any:
    dtype = _number_type(kind)
    _shape((), dtype, data)
    return np.frombuffer(data, dtype=dtype)[0]


def _latin1(text: Any, encoding: Any) -> bytes:
    """How protocols 0 to 2 write bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        _reject(f"it encodes text as {shown(encoding)}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocols 0 to 2 write empty bytes, the content of an array without elements."""
    return b""


def _from_buffer(buffer: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    """How protocol 5 writes arrays."""
    dtype = _number_type(kind)
    _shape(shape, dtype, buffer)
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order="F" if order == "F" else "C").copy()


class _Call:
    """A function that a file may call, and nothing else: a pickle can set attributes of what it holds."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        _reject("it changes a function")


def _never(*arguments: Any) -> NoReturn:
    """What ``numpy.ndarray`` is named for: as the kind of an array, not to make one."""
    _reject("it makes an array without data")


def _admitted() -> dict[tuple[str, str], Callable[..., Any]]:
    names: dict[tuple[str, str], Callable[..., Any]] = {
        ("_codecs", "encode"): _latin1,
        ("numpy", "ndarray"): _never,
        ("numpy", "dtype"): _NumberType,
    }
    names["__builtin__", "bytes"] = names["builtins", "bytes"] = _no_bytes
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "_reconstruct"] = _reconstruct
        names[f"{core}.multiarray", "scalar"] = _scalar
        names[f"{core}.numeric", "_frombuffer"] = _from_buffer
    return names


# The reader in Python: the one in C allocates as many values as a file claims, even if it has ten bytes.
class _PlainUnpickler(pickle._Unpickler):  # pyright: ignore[reportAttributeAccessIssue]
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _Call(_admitted()[module_name, global_name])
        except KeyError:
            name = f"{module_name}.{global_name}"
            _reject(f"it names {shown_name(name)}, and calling that would run code that the file chooses")


def read_plain_pickle(path: str | Path) -> Any:
    """Read a pickle of plain values and numeric numpy arrays; files of Python 2 too.

    Args:
        path: The file.

    Returns:
        Its content: dicts, lists, tuples, texts, bytes, numbers and numeric arrays, nested `MAX_DEPTH` deep at most.

    Raises:
        FileNotFoundError: If the file does not exist.
        OSError: If it cannot be read.
        ValueError: If it is damaged, not a pickle, larger than `MAX_BYTES`, names anything but numpy's arrays, holds
            other values, or refers to values more often than labels can.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a label file, found no file {path}.")
    size = path.stat().st_size
    try:
        if size > MAX_BYTES:
            _reject(f"it has more than {MAX_BYTES >> 20} MiB")
        content = _PlainUnpickler(BytesIO(path.read_bytes()), encoding="latin1").load()
        _check(content, size + _SHARED)
        return content
    except OSError:
        raise
    except Exception as error:  # a damaged file can make the reader fail in any way
        reason = _reason(error)
        raise ValueError(f"Expected a pickle of plain values and arrays, cannot read {path}: {reason}.") from error


def _reason(error: Exception) -> str:
    """The reason of an error of our own or of the reader; others may be as long as the file."""
    if isinstance(error, EOFError):
        return "Ran out of input"
    if isinstance(error, pickle.UnpicklingError):
        return one_line(error, 300).rstrip(".")
    return f"it is damaged or not a pickle ({type(error).__name__})"


def _check(content: Any, budget: int) -> None:
    """Walk through all values, once for each reference."""
    level, depth = [content], 0
    while level:
        budget -= len(level)
        if budget < 0:
            _reject("it refers to values more often than its size allows")
        if depth > MAX_DEPTH:
            _reject(f"it is nested deeper than {MAX_DEPTH}")
        below: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                below.extend(value)
                below.extend(value.values())
            elif isinstance(value, (list, tuple)):
                below.extend(value)
            elif isinstance(value, int) and not -_MAX_WHOLE <= value < _MAX_WHOLE:
                _reject("it holds a whole number of more than 64 bits")
            elif not isinstance(value, (*_PLAIN, np.ndarray)):
                _reject(f"it holds a value of another kind, {type(value).__name__.lstrip('_')}")
            if len(below) > budget:
                _reject("it refers to values more often than its size allows")
        level, depth = below, depth + 1
