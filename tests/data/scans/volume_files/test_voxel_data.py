"""Voxels of files: every checksum counts, no byte is missing or left over, no claim takes memory."""

from __future__ import annotations

import bz2
import gzip
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from scripts.data.scans.volume_files.stored_image import DEFAULT_RULES, ReadingRules
from scripts.data.scans.volume_files.voxel_data import BZIP2, GZIP, RAW, ZLIB, Part, read_voxels

VALUES = np.random.default_rng(0).integers(-1000, 1000, (7, 9, 11)).astype("<i2")
DATA = VALUES.tobytes(order="F")
PACKERS = {GZIP: gzip.compress, ZLIB: zlib.compress, BZIP2: bz2.compress}


def read(path: Path, content: bytes, encoding: str, rules: ReadingRules = DEFAULT_RULES, **part: int) -> np.ndarray:
    path.write_bytes(content)
    return read_voxels([Part(path, **part)], (7, 9, 11), np.dtype("<i2"), encoding, rules)


@pytest.mark.parametrize("encoding", PACKERS)
def test_no_flipped_bit_changes_a_voxel(tmp_path: Path, encoding: str) -> None:
    packed = PACKERS[encoding](DATA)
    refused = 0
    for at in np.random.default_rng(1).choice(len(packed) * 8, 150, replace=False):
        content = bytearray(packed)
        content[at // 8] ^= 1 << at % 8
        try:
            values = read(tmp_path / "x", bytes(content), encoding)
        except OSError:
            refused += 1
        else:
            np.testing.assert_array_equal(values, VALUES)
    # What may pass are the remarks in gzip's header alone.
    assert refused >= 145


@pytest.mark.parametrize("encoding", PACKERS)
@pytest.mark.parametrize("change", ["cut", "cut checksum", "garbage", "other member", "longer", "shorter", "empty"])
def test_nothing_is_missing_and_nothing_follows(tmp_path: Path, encoding: str, change: str) -> None:
    pack = PACKERS[encoding]
    packed = pack(DATA)
    content = {
        "cut": packed[: len(packed) // 2],
        "cut checksum": packed[:-2],
        "garbage": packed + b"garbage",
        "other member": packed + pack(b"more"),
        "longer": pack(DATA + b"xx"),
        "shorter": pack(DATA[:-2]),
        "empty": b"",
    }[change]
    with pytest.raises(OSError, match=r"x"):
        read(tmp_path / "x", content, encoding)


@pytest.mark.parametrize("encoding", [GZIP, BZIP2])
def test_data_in_several_members_are_read(tmp_path: Path, encoding: str) -> None:
    pack = PACKERS[encoding]
    np.testing.assert_array_equal(read(tmp_path / "x", pack(DATA[:77]) + pack(DATA[77:]), encoding), VALUES)


@pytest.mark.parametrize("encoding", PACKERS)
def test_bomb_is_stopped_where_the_header_ends(tmp_path: Path, encoding: str) -> None:
    content = PACKERS[encoding](b"\0" * (64 << 20))
    tracemalloc.start()
    with pytest.raises(OSError, match="more than the 1386 bytes"):
        read(tmp_path / "x", content, encoding)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize("encoding", [RAW, GZIP, ZLIB, BZIP2])
def test_claims_are_checked_before_memory_is_taken(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "x").write_bytes(DATA)
    tracemalloc.start()
    for shape, rules in (((10**6, 10**6, 10**6), DEFAULT_RULES), ((1000, 1000, 900), DEFAULT_RULES)):
        with pytest.raises((OSError, ValueError), match=r"GiB|cannot hold"):
            read_voxels([Part(tmp_path / "x")], shape, np.dtype("<i2"), encoding, rules)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_limit_can_be_raised(tmp_path: Path) -> None:
    rules = ReadingRules(max_gigabytes=1e-6)
    with pytest.raises(ValueError, match=r"at most 1e-06 GiB of voxels.*max_gigabytes allows more"):
        read(tmp_path / "x", DATA, RAW, rules)
    np.testing.assert_array_equal(read(tmp_path / "x", DATA, RAW), VALUES)


def test_places_in_a_file(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(tmp_path / "x", b"head" + DATA, RAW, start=4), VALUES)
    np.testing.assert_array_equal(read(tmp_path / "x", b"head" + DATA, RAW, start=-len(DATA)), VALUES)
    np.testing.assert_array_equal(
        read(tmp_path / "x", b"h" + zlib.compress(b"ead" + DATA), ZLIB, start=1, skip=3), VALUES
    )
