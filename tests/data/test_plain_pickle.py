"""Pickled labels are read as plain data, and nothing that a file names is ever called."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.data.plain_pickle import read_plain_pickle


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
        (b"cscripts.data.plain_pickle\nread_plain_pickle\n.", "names scripts.data.plain_pickle.read_plain_pickle"),
        (b"", "Ran out of input"),
        (b"<html>", "invalid load key"),
        (pickle.dumps({"a": np.zeros(99)})[:-20], "truncated"),
        (b"P1\n.", "persistent"),
    ],
)
def test_anything_else_is_refused_with_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = write(tmp_path / "labels.pkl", content)
    with pytest.raises(ValueError, match="Expected a pickle of plain values") as error:
        read_plain_pickle(path)
    assert reason in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pkl"):
        read_plain_pickle(tmp_path / "absent.pkl")
