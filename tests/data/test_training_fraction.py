"""Shares of the training images: nested, seeded, the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from scripts.data.deeplesion.splits import load_records
from scripts.data.training_fraction import Subset


def records(count: int) -> list[Any]:
    return [{"file_name": f"{index:06d}_01_01_{index % 100:03d}.png"} for index in range(count)]


def names(chosen: list[Any]) -> list[str]:
    return [record["file_name"] for record in chosen]


def test_shares_are_nested() -> None:
    everything = records(517)
    previous: set[str] = set()
    for fraction in (0.2, 0.4, 0.6, 0.8, 1.0):
        chosen = names(Subset(fraction)(everything))
        assert len(chosen) == round(fraction * 517)
        assert previous < set(chosen)
        previous = set(chosen)


def test_the_papers_share() -> None:
    """ "Around 4,500" of the 22,496 training images at 20 %."""
    assert len(Subset(0.2)(records(22_496))) == 4_499


def test_the_order_of_the_labels_does_not_matter_and_is_kept() -> None:
    everything = records(100)
    forwards, backwards = Subset(0.4, seed=3)(everything), Subset(0.4, seed=3)(everything[::-1])
    assert names(forwards) == sorted(names(forwards)) == names(backwards)[::-1]


def test_the_draw_is_the_same_everywhere() -> None:
    assert [name[:6] for name in names(Subset(0.2)(records(20)))] == ["000001", "000014", "000016", "000017"]


def test_seeds_differ_and_shares_are_spread() -> None:
    everything = records(1000)
    first, second = (set(names(Subset(0.2, seed)(everything))) for seed in (0, 1))
    assert 10 < len(first & second) < 80
    early = sum(name < "000500" for name in first)
    assert 70 < early < 130


def test_few_images() -> None:
    assert len(Subset(0.2)(records(1))) == 1
    assert Subset(0.2)([]) == []
    assert len(Subset()(records(3))) == 3


@pytest.mark.parametrize("fraction", [0.0, -0.2, 1.01, 20, True, float("nan")])
def test_other_fractions_are_rejected(fraction: float) -> None:
    with pytest.raises(ValueError, match="share of the training images above 0 and at most 1"):
        Subset(fraction)


def test_records_of_a_split_are_sampled(shared: Path) -> None:
    folder = shared / "data" / "deeplesion"
    arguments: Mapping[str, Any] = {
        "annotations": "DL_info_subset_1349.csv", "missing_images": "ignore",
    }  # fmt: skip
    whole = load_records(folder, "train", **arguments)
    part = load_records(folder, "train", **arguments, subset=Subset(0.4))
    assert len(part) == int(0.4 * len(whole) + 0.5)
    assert set(names(part)) < set(names(whole))
