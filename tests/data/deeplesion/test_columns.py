"""Columns and splits of DL_info.csv, as the real file has them."""

from __future__ import annotations

from pathlib import Path

from scripts.data.deeplesion.columns import CLASS_COLUMN, COLUMNS, IGNORED_COLUMN, SPLITS


def test_the_columns_are_those_of_the_real_file(shared: Path) -> None:
    header = (shared / "data/deeplesion/DL_info_patient1.csv").read_text(encoding="utf-8").splitlines()[0]
    # The copy next to the checkout has one more at the end.
    assert tuple(header.split(",")[: len(COLUMNS)]) == COLUMNS


def test_our_own_columns_are_others() -> None:
    assert not {CLASS_COLUMN, IGNORED_COLUMN} & set(COLUMNS)
    assert sorted(SPLITS.values()) == [1, 2, 3]
