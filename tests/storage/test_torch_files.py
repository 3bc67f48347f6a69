"""PyTorch's files: no damaged bit that counts is believed, and no small file builds something huge."""

from __future__ import annotations

import io
import itertools
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.damaged_weights import BODY, flip_bits, same
from scripts.storage import torch_files
from scripts.storage.torch_files import read_tensors

CONTENT = {"model": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(300)}, "info": {"name": "small", "epoch": 3}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.save(CONTENT, tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_the_bits_of_a_small_file_are_checked_or_cannot_matter(saved: Path, step: int) -> None:
    bits = range(0, 8 * saved.stat().st_size, step)
    counts = flip_bits(saved, bits)
    assert counts.believed == []
    assert counts.refused + counts.harmless == len(bits)
    # The rest is padding, dates and versions, of eight records.
    assert counts.refused > 0.6 * len(bits)


def test_every_bit_of_the_content_is_rejected(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        entry = next(entry for entry in archive.infolist() if entry.filename.endswith(BODY))
        start = saved.read_bytes().index(archive.read(entry))
    counts = flip_bits(saved, range(8 * start, 8 * (start + entry.file_size)))
    assert (counts.refused, counts.harmless, counts.believed) == (8 * entry.file_size, 0, [])


def test_a_damaged_file_is_one_that_reads_otherwise() -> None:
    assert same(CONTENT, {**CONTENT})
    others = [
        {"model": CONTENT["model"]},
        {**CONTENT, "info": {"name": "small", "epoch": 4}},
        {**CONTENT, "info": {"name": "small", "epoch": 3.0}},
        {**CONTENT, "model": {**CONTENT["model"], "b": torch.ones(300, dtype=torch.float64)}},
        {**CONTENT, "model": {**CONTENT["model"], "b": torch.ones(1, 300)}},
        {**CONTENT, "model": {**CONTENT["model"], "b": torch.full((300,), float("nan"))}},
    ]
    assert not any(same(CONTENT, other) for other in others)
    assert same(others[-1], others[-1])


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content + b"x",
        lambda content: content + content,
        lambda content: b"x" + content,
        lambda content: b"PK\x03\x04" + content,
        lambda content: content[:-1],
        lambda content: content[:-22],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-2] + b"\x01\x00x",  # a comment, as the end of a zip may have
        lambda content: content[:100] + b"x" + content[100:],
        lambda content: content[:100] + content[101:],
        lambda content: content[:4],
        lambda content: b"",
    ],
)
def test_bytes_too_many_or_too_few_are_rejected(saved: Path, change: Callable[[bytes], bytes]) -> None:
    saved.write_bytes(change(saved.read_bytes()))
    with pytest.raises(ValueError, match=r"cannot read .*model\.pt: .") as caught:
        read_tensors(saved)
    assert len(str(caught.value).splitlines()) == 1


def test_a_record_marked_as_a_folder_is_rejected(saved: Path) -> None:
    # PyTorch reads such a record as success and leaves the tensor's memory as it was.
    content = bytearray(saved.read_bytes())
    at = content.rindex(b"/data/0") - 46 - len("model")
    assert content[at : at + 4] == b"PK\x01\x02"
    content[at + 38] |= 0x10
    saved.write_bytes(content)
    with pytest.raises(ValueError, match="is a folder"):
        read_tensors(saved)


def packed(saved: Path, *, method: int = zipfile.ZIP_STORED, twice: bool = False) -> bytes:
    """The file, packed anew by another program."""
    out = io.BytesIO()
    with zipfile.ZipFile(saved) as archive, zipfile.ZipFile(out, "w", method) as new:
        for name in archive.namelist():
            new.writestr(name, archive.read(name))
        if twice:
            new.writestr(name, archive.read(name))
    return out.getvalue()


def test_a_file_packed_by_another_program_is_read(saved: Path) -> None:
    saved.write_bytes(packed(saved))
    assert same(read_tensors(saved), CONTENT)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("how", [{"method": zipfile.ZIP_DEFLATED}, {"twice": True}])
def test_compressed_and_repeated_records_are_rejected(saved: Path, how: dict[str, Any]) -> None:
    saved.write_bytes(packed(saved, **how))
    with pytest.raises(ValueError, match="its record"):
        read_tensors(saved)


def test_files_of_before_pytorch_1_6_are_read(tmp_path: Path) -> None:
    torch.save(CONTENT, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same(read_tensors(tmp_path / "old.pt"), CONTENT)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def doubled(kind: Callable[[tuple[Any, Any]], Any]) -> Any:
    """A value that holds another one twice, which holds a third one twice, and so on: 2**100 in all."""
    value: Any = kind((1, 2))
    for _ in range(90):
        value = kind((value, value))
    return value


def late() -> list[Any]:
    """The same, filled from the outermost list to the innermost: each is small when it is put into the next."""
    lists: list[list[Any]] = [[] for _ in range(90)]
    for outer, inner in itertools.pairwise(lists):
        outer.extend([inner, inner])
    return lists[0]


def circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


BOMBS: dict[str, Callable[[], Any]] = {
    "nested": lambda: nested(200),
    "tuples": lambda: doubled(tuple),
    "lists": lambda: doubled(list),
    "dicts": lambda: doubled(lambda pair: {"a": pair[0], "b": pair[1]}),
    "keys": lambda: {doubled(tuple): 1},
    "late": late,
    "circle": circle,
    "text": lambda: ["a" * 1_000_000] * 1000,
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", [name for name in BOMBS if name != "keys"])
def test_values_far_larger_than_their_file_are_rejected_at_once(tmp_path: Path, name: str, old: bool) -> None:
    torch.save({"model": {}, "network": BOMBS[name]()}, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError, match=r"cannot read .*a\.pt: its values, written out, are more than"):
        read_tensors(tmp_path / "a.pt")


def test_a_key_that_would_be_hashed_for_ever_is_rejected() -> None:
    # Written by hand: already making the dict would take for ever.
    content = b"\x80\x02}" + b"K\x01q\x00" + b"h\x00h\x00\x86q\x00" * 90 + b"K\x01s."
    with pytest.raises(ValueError, match="written out"):
        torch_files.check_pickle(io.BytesIO(content))


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02", b"\x80\x02.", b"\x80\x02e.", b"\x80\x02h\x05.", b"\x80\x02(t", b"\x80\x02a."]
)
def test_damaged_pickles_are_rejected(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        torch_files.check_pickle(io.BytesIO(content))


def test_a_pickle_that_builds_millions_of_values_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_files, "_MOST_BUILT", 1000)
    torch_files.check_pickle(io.BytesIO(pickle.dumps(list(range(900)), 2)))
    with pytest.raises(ValueError, match="more than 1,000 values"):
        torch_files.check_pickle(io.BytesIO(pickle.dumps(list(range(1100)), 2)))


@pytest.mark.parametrize(
    "tensor", [torch.zeros(1).expand(10**12), torch.zeros(3, device="meta"), torch.eye(3).to_sparse()]
)
def test_tensors_that_are_not_plain_are_rejected(tmp_path: Path, tensor: torch.Tensor) -> None:
    torch.save({"model": {"a": tensor}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"it holds a tensor"):
        read_tensors(tmp_path / "a.pt")


def test_numpy_scalars_are_plain_values(tmp_path: Path) -> None:
    facts = [np.float64(0.75), np.float32(0.5), np.int64(7), np.bool_(True)]
    torch.save({"meta": facts}, tmp_path / "new.pt")
    assert read_tensors(tmp_path / "new.pt")["meta"] == facts


def test_numpy_scalars_of_either_numpy_are_known() -> None:
    names = {entry[1] for entry in torch_files._NUMPY_SCALARS if isinstance(entry, tuple)}
    assert names == {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"}
