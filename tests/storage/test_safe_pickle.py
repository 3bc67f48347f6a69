"""Pickled labels are read as plain data, and nothing that a file names is ever called."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.storage.safe_pickle import read_plain_pickle


class Runs:
    """Pickles as a call of ``os.mkdir``, which would leave a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_plain_values_come_back(tmp_path: Path, protocol: int) -> None:
    boxes = np.arange(12.0).reshape(2, 6)
    content = {"boxes": boxes, "none": np.zeros((0, 6)), "turned": np.asfortranarray(boxes), 6: [[1.5, np.float64(2)]]}
    read = read_plain_pickle(write(tmp_path / "a.pkl", pickle.dumps(content, protocol=protocol)))
    np.testing.assert_array_equal(read["boxes"], boxes)
    np.testing.assert_array_equal(read["turned"], boxes)
    assert read["none"].shape == (0, 6)
    assert read[6] == [[1.5, 2.0]]
    assert read["boxes"].flags.writeable


def test_an_array_of_python_2_comes_back(tmp_path: Path) -> None:
    # What Python 2 writes by protocol 2: numpy.core, and bytes as text.
    head = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    values = np.array([-1.5, 200.25], dtype="<f8").tobytes()
    body = b"(K\x01K\x02\x85" + dtype + b"\x89U" + bytes([len(values)]) + values + b"tb."
    np.testing.assert_array_equal(read_plain_pickle(write(tmp_path / "a.pkl", head + body)), [-1.5, 200.25])


def test_nothing_is_called(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for content in ({"a": Runs(trace)}, np.array([Runs(trace)], dtype=object)):
        path = write(tmp_path / "a.pkl", pickle.dumps(content))
        with pytest.raises(ValueError, match=r"cannot read .*a\.pkl: it (names \w+\.mkdir|holds an array of object)"):
            read_plain_pickle(path)
        assert not trace.exists()
    # The same bytes do run when Python reads them.
    pickle.loads(pickle.dumps(Runs(trace)))
    assert trace.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps(OrderedDict()), "names collections.OrderedDict"),
        (pickle.dumps(np.datetime64("2020-01-01")), "array of datetime64"),
        (pickle.dumps(np.zeros(3, dtype="S4")), "array of |S4"),
        (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "encodes text as 'rot13'"),
        (b"cnumpy.core.multiarray\nfrombuffer\n.", r"names numpy.core.multiarray.frombuffer"),
        (b"cscripts.storage.safe_pickle\nread_plain_pickle\n.", "names scripts.storage.safe_pickle.read_plain_pickle"),
        (b"cscripts\nread\0all\n.", r"names 'scripts.read\x00all'"),
        (b"", "Ran out of input"),
        (b"<html>", "not a pickle"),
        (pickle.dumps({"a": np.zeros(99)})[:-20], "exhausted"),
        (b"P1\n.", "persistent"),
    ],
)
def test_anything_else_is_rejected_with_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = write(tmp_path / "labels.pkl", content)
    with pytest.raises(ValueError, match="Expected a pickle of plain values") as error:
        read_plain_pickle(path)
    assert reason in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pkl"):
        read_plain_pickle(tmp_path / "absent.pkl")


def laughs(depth: int) -> list[Any]:
    """Lists of lists, each written once and meant twice."""
    value: list[Any] = ["ha"]
    for _ in range(depth):
        value = [value, value]
    return value


class Made:
    """Pickles as a call with chosen arguments and state."""

    def __init__(self, function: Any, arguments: tuple[Any, ...], state: Any = None) -> None:
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


RECONSTRUCT = np.zeros(0).__reduce__()[0]
SCALAR = np.float64(0).__reduce__()[0]
F8 = np.dtype("f8")
ITSELF: list[Any] = []
ITSELF.append(ITSELF)
BOMBS = [
    ("values more often", pickle.dumps(laughs(28))),
    ("values more often", pickle.dumps({"a": laughs(22)})),
    ("nested deeper", pickle.dumps(ITSELF)),
    ("nested deeper", b"]" * 5_000 + b"a" * 4_999 + b"."),
    ("not of numbers", pickle.dumps(Made(np.dtype, (laughs(24), False, True)))),
    ("not of numbers", pickle.dumps(Made(np.dtype, (["f8"] * 10_000, False, True)))),
    ("array of records", pickle.dumps(Made(np.dtype, ("f8", False, True), (3, "<", None, ("a",), {}, -1, -1, 0)))),
    ("array of records", pickle.dumps(Made(np.dtype, ("f8", False, True), (3, "<", (F8, (9,)), None, None, 8, 8, 0)))),
    ("makes an array without data", pickle.dumps(Made(np.ndarray, ((1 << 40,),)))),
    ("makes room", pickle.dumps(Made(RECONSTRUCT, (np.ndarray, (1 << 40,), b"b")))),
    ("do not fill", pickle.dumps(Made(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1 << 60,), F8, False, b"")))),
    ("do not fill", pickle.dumps(Made(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (3,), F8, False, b"1" * 23)))),
    ("do not fill", pickle.dumps(Made(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (-1,), F8, False, b"1" * 8)))),
    ("do not fill", pickle.dumps(Made(SCALAR, (F8, b"1")))),
    ("64 bits", pickle.dumps(10**400)),
    ("64 bits", pickle.dumps([{1 << 63: 1}])),
    ("another kind", pickle.dumps({1, 2})),
    ("complex", pickle.dumps(1j)),
    ("changes a function", b"c_codecs\nencode\n}(V__defaults__\nNub."),
    ("names " + "'a", b"c" + b"a" * 100_000 + b"\nb\n."),
    # Ten bytes that claim 2**60 bytes, or 2**31 places for values.
    *(("", opcode + (1 << 60).to_bytes(8, "little") + b"x.") for opcode in (b"\x8e", b"\x8d", b"\x96", b"\x95")),
    *(("", opcode + b"\xff\xff\xff\x7f" + b"x.") for opcode in (b"B", b"X", b"T", b"\x8b", b"j")),
    ("", b"\x80\x02Nr\xff\xff\xff\x7f" * 3 + b"j\x00\x00\x00\x00."),
    ("", b"Np999999999999\n" + b"g3\n."),
    ("", b"I" + b"9" * 100_000 + b"\n."),
]


@pytest.mark.parametrize(("reason", "content"), BOMBS)
def test_small_files_do_not_grow(tmp_path: Path, reason: str, content: bytes) -> None:
    path = write(tmp_path / "labels.pkl", content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="Expected a pickle of plain values") as error:
            read_plain_pickle(path)
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()
    assert reason in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 600


def test_values_that_are_shared_within_reason_are_read(tmp_path: Path) -> None:
    none, empty = np.zeros((0, 6)), []
    content = {f"volume {number}": (none if number % 2 else empty) for number in range(500)}
    read = read_plain_pickle(write(tmp_path / "a.pkl", pickle.dumps(content)))
    assert [np.shape(value) for value in read.values()] == [(0,), (0, 6)] * 250
