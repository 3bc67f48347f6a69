"""Reading pickled labels as plain data: numbers, text, lists, dicts and numpy arrays, and nothing that runs code.

A pickle is a program: it may call whatever it names. The public label files of DeepLesion's 3D sets are pickles; a
reader that admits nothing but the few functions that rebuild numpy arrays cannot be made to call anything else.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# What numpy itself writes into a pickle, taken from it: the names of the modules change between its versions.
_RECONSTRUCT: Callable[..., Any] = np.zeros(0).__reduce__()[0]  # pyright: ignore[reportAssignmentType]
_SCALAR: Callable[..., Any] = np.float64(0).__reduce__()[0]  # pyright: ignore[reportAssignmentType]
_NUMERIC = "biufc"


def _number_type(*arguments: Any) -> np.dtype:
    """``numpy.dtype``, for numbers only: an array of objects could hold anything."""
    dtype = np.dtype(*arguments)
    if dtype.kind not in _NUMERIC:
        raise pickle.UnpicklingError(f"it holds an array of {dtype}, not of numbers")
    return dtype


def _latin1(text: str, encoding: str) -> bytes:
    """How protocols 0 to 2 write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it encodes text as {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocols 0 to 2 write empty bytes, the content of an array without elements."""
    return b""


def _from_buffer(buffer: Any, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """How protocol 5 writes arrays."""
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order="F" if order == "F" else "C").copy()


def _admitted() -> dict[tuple[str, str], Any]:
    names: dict[tuple[str, str], Any] = {
        ("_codecs", "encode"): _latin1,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): _number_type,
    }
    names["__builtin__", "bytes"] = names["builtins", "bytes"] = _no_bytes
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "_reconstruct"] = _RECONSTRUCT
        names[f"{core}.multiarray", "scalar"] = _SCALAR
        names[f"{core}.numeric", "_frombuffer"] = _from_buffer
    return names


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _admitted()[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it names {module_name}.{global_name}, and calling that would run code that the file chooses"
            ) from None


def read_plain_pickle(path: str | Path) -> Any:
    """Read a pickle of plain values and numeric numpy arrays; files of Python 2 too.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, no pickle, or names anything beside numpy's arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a label file, found no file {path}.")
    with path.open("rb") as file:
        try:
            return _PlainUnpickler(file, encoding="latin1").load()
        except OSError:
            raise
        except Exception as error:  # a damaged file can make the reader fail in any way
            reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
            raise ValueError(f"Expected a pickle of plain values and arrays, cannot read {path}: {reason}.") from error
