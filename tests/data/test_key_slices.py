"""The key slice moves along z as far as the lesion reaches, and no further."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.data.key_slices import RandKeySliced


def record(folder: Path, *, side: float = 50.0, interval: float = 2.0, slices: range = range(1, 30)) -> Any:
    for number in slices:
        (folder / f"{number:03d}.png").touch()
    return {
        "image": str(folder / "015.png"),
        "key_slice": 15,
        "slice_range": (1, 29),
        "slice_interval": interval,
        "spacing": (0.8, 0.8),
        "instances": {"boxes": np.array([[10.0, 10.0, 10.0 + side, 90.0]], np.float32)},
    }


def offsets(one: Any, count: int = 600, **options: Any) -> Counter[int]:
    move = RandKeySliced(**options)
    move.set_random_state(seed=0)
    found: Counter[int] = Counter()
    for _ in range(count):
        moved = move(one)
        assert Path(moved["image"]).name == f"{moved['key_slice']:03d}.png"
        found[moved["key_slice"] - 15] += 1
    return found


def test_the_reach_is_half_the_radius_of_the_short_diameter(tmp_path: Path) -> None:
    one = record(tmp_path)  # 40 pixels of 0.8 mm: a radius of 16 mm, half of it is 4 slices
    move = RandKeySliced()
    assert move.reach(one) == 4
    assert RandKeySliced(1.0).reach(one) == 8
    assert move.reach(record(tmp_path, interval=5.0)) == 1
    assert move.reach(record(tmp_path, side=9.0)) == 0
    assert move.reach({**record(tmp_path, side=44), "box_padding": 2.0}) == 4
    one["instances"]["diameters"] = np.array([[40.0, 10.0]])
    assert move.reach(one) == 1
    one["instances"]["diameters"] = np.array([[np.nan, np.nan]])  # not measured: that of the box
    assert move.reach(one) == 4
    one["instances"] = {"boxes": np.zeros((0, 4), np.float32)}
    assert move.reach(one) == 0


def test_small_offsets_are_more_likely_and_both_sides_alike(tmp_path: Path) -> None:
    found = offsets(record(tmp_path), 2000)
    assert set(found) == set(range(-4, 5))
    for offset, count in found.items():
        assert abs(count / 2000 - (5 - abs(offset)) / 25) < 0.04


def test_only_stored_slices_of_the_subvolume_are_taken(tmp_path: Path) -> None:
    one = record(tmp_path, slices=range(14, 18))
    assert set(offsets(one)) == {-1, 0, 1, 2}
    one["slice_range"] = (15, 16)
    assert set(offsets(one)) == {0, 1}
    assert one["key_slice"] == 15


def test_the_last_draw_can_be_used_again_and_the_share_is_checked(tmp_path: Path) -> None:
    move = RandKeySliced()
    move.set_random_state(seed=1)
    one = record(tmp_path)
    assert move(one) == move(one, randomize=False)
    with pytest.raises(ValueError, match="share from 0 to 1, got 2"):
        RandKeySliced(2)
