"""Shares of a list: together they are the whole, and no scan is in two of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.data.scans.find_scans import ScanSource
from scripts.data.scans.scan_shards import shard_numbers, take_shard

NAMES = st.lists(st.text("abé/._0", min_size=1, max_size=5), max_size=30, unique=True)


def sources(names: list[str]) -> list[ScanSource]:
    return [ScanSource(Path("in") / name, name, series=name if "0" in name else None) for name in names]


@settings(deadline=None)
@given(NAMES, st.integers(1, 40), st.randoms(use_true_random=False))
def test_the_shares_are_the_whole_and_disjoint_in_any_order(names: list[str], total: int, drawn: random.Random) -> None:
    scans = sources(names)
    shares = []
    for number in range(total):
        # Each machine may list the folder in another order.
        shuffled = drawn.sample(scans, len(scans))
        shares.append(take_shard(shuffled, f"{number}/{total}"))
    together = [scan.name for share in shares for scan in share]
    assert len(together) == len(set(together))
    assert sorted(together) == sorted(names)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    for share in shares:
        assert [scan.name for scan in share] == sorted(scan.name for scan in share)


def test_without_a_share_all_scans_stay_in_their_order() -> None:
    scans = sources(["b", "a", "c"])
    assert take_shard(scans, None) == scans
    assert [scan.name for scan in take_shard(scans, "0/1")] == ["a", "b", "c"]
    assert [scan.name for scan in take_shard(scans, "1/2")] == ["b"]
    assert take_shard(scans, "7/8") == []


def test_scans_of_one_name_are_told_apart_by_their_path() -> None:
    """The input was a single path that holds several series."""
    scans = [ScanSource(Path(f"in/{name}"), "x", series=name) for name in ("3", "1", "2")]
    for order in (scans, scans[::-1]):
        assert [scan.series for scan in take_shard(order, "1/2")] == ["2"]


@pytest.mark.parametrize(
    "shard",
    ["4/4", "-1/4", "0/0", "1", "/", "1/", "/2", "a/b", "0.0/2", " 0/2", "0/2 ", "0/2\n", "0/9999999999", "٠/٢"],
)
def test_anything_else_is_rejected(shard: str) -> None:
    with pytest.raises(ValueError, match=r"share i/n with i from 0 to n - 1, such as 0/4, got "):
        shard_numbers(shard)


def test_leading_zeros_are_numbers() -> None:
    """``seq -w`` and ``printf %03d`` write them."""
    assert shard_numbers("007/100") == (7, 100)
