"""Numbers, units and names in headers: read exactly, or rejected in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.data.scans.volume_files.header_text import (
    Fields,
    axis_sizes,
    data_names,
    integers,
    millimetres,
    numbers,
    shortened,
)

WHERE = Path("scan.mha")


def test_numbers_are_read() -> None:
    assert numbers("1 -2.5 3e2", "Offset", WHERE, count=3) == [1.0, -2.5, 300.0]
    assert integers("512 -4", "DimSize", WHERE) == [512, -4]


@pytest.mark.parametrize("text", ["1 2", "1 2 3 4", "1 2 x", "1 2 3_0", "1 2 nan", "1 inf 3", "1 2 1e999", ""])
def test_other_numbers_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="Expected 3 numbers as 'Offset'"):
        numbers(text, "Offset", WHERE, count=3)


@pytest.mark.parametrize("text", ["1", "1 2.0", "1 2 3", "1 " + "9" * 100_000, "1 ²"])
def test_other_whole_numbers_are_rejected_in_a_short_line(text: str) -> None:
    with pytest.raises(ValueError, match="Expected 2 whole numbers as 'DimSize'") as caught:
        integers(text, "DimSize", WHERE, count=2)
    assert len(str(caught.value)) < 200


def test_units_are_honoured_axis_by_axis() -> None:
    factors, note = millimetres(["mm", "cm", "Metre"], WHERE)
    assert factors == [1.0, 10.0, 1000.0]
    assert note == "The header gives lengths in mm x cm x Metre: converted to mm."
    assert millimetres(["mm", "", "???"], WHERE) == ([1.0, 1.0, 1.0], None)


def test_names_of_files_are_counted_out() -> None:
    assert data_names("a b.raw", (), WHERE) == ["a b.raw"]
    assert data_names("LIST", ("1.raw", "2.raw"), WHERE) == ["1.raw", "2.raw"]
    assert data_names("LIST 2D", ("1.raw",), WHERE) == ["1.raw"]
    assert data_names("s%02d.raw 3 1 -1", (), WHERE) == ["s03.raw", "s02.raw", "s01.raw"]
    # No pattern: C's own would take a billion spaces.
    assert data_names("s%0999999999d.raw 1 2 1", (), WHERE) == ["s%0999999999d.raw 1 2 1"]


def test_what_is_shown_is_one_short_line() -> None:
    assert len(shortened("x" * 10**6)) < 80
    assert "\n" not in shortened("a\nb\udcff")


def test_sizes_are_as_many_as_the_axes_that_a_file_may_have() -> None:
    def sizes(axes: str, lengths: str) -> list[int]:
        return axis_sizes(Fields(WHERE, {"ndims": axes, "dimsize": lengths}, (), 0), "NDims", "DimSize", range(2, 5))

    assert sizes("3", "5 6 7") == [5, 6, 7]
    for axes, lengths, message in (
        ("5", "1 1 1 1 1", "Expected a volume of 3 dimensions, got 5"),
        ("3", "5 6", "3 whole numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            sizes(axes, lengths)
