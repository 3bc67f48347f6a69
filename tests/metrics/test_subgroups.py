"""Groups by slice interval, size and type."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.metrics.cases import check_cases
from scripts.metrics.matching import match_detections
from scripts.metrics.subgroups import (
    group_members,
    interval_group,
    lesion_groups,
    short_diameter_mm,
    size_groups_mm,
    size_groups_px,
    type_groups,
)


def case(true_boxes: Any, **more: Any) -> dict[str, Any]:
    given = {"id": "a", "boxes": [], "scores": [], "true_boxes": true_boxes, "width": 640, "height": 512, **more}
    return check_cases([given])[0]


@pytest.mark.parametrize(
    ("interval", "name"),
    [(1, "1 mm"), (1.0, "1 mm"), (5.0, "5 mm"), (4.995, "5 mm"), (0.59998, "other"), (2.5, "other"), (None, "unknown")],
)
def test_interval_groups(interval: float | None, name: str) -> None:
    assert interval_group({"slice_interval": interval}) == name


def test_size_takes_the_padding_off() -> None:
    # 20 x 30 px with spacing 0.5 x 0.8 mm: (20 - 10) * 0.5 = 5 mm and (30 - 10) * 0.8 = 16 mm.
    one = case([[10, 10, 30, 40]], spacing=(0.5, 0.8))
    assert short_diameter_mm(one).tolist() == [5.0]
    assert short_diameter_mm(case([[10, 10, 14, 40]], spacing=(0.5, 0.8))).tolist() == [0.0]
    assert np.isnan(short_diameter_mm(case([[10, 10, 30, 40]]))).tolist() == [True]
    # Boxes of masks have none.
    assert short_diameter_mm({**one, "box_padding": 0.0}).tolist() == [10.0]


def test_size_groups_include_their_limits() -> None:
    boxes = [[0, 0, 19.9, 200], [0, 0, 20, 200], [0, 0, 40, 200], [0, 0, 40.1, 200]]
    assert size_groups_mm(case(boxes, spacing=(1.0, 1.0))) == ["< 10 mm", "10-30 mm", "10-30 mm", "> 30 mm"]
    squares = [[0, 0, side, side] for side in (31, 32, 96, 97)]
    assert size_groups_px(case(squares)) == ["< 32 px", "32-96 px", "32-96 px", "> 96 px"]


def test_types_have_deeplesions_names() -> None:
    one = case([[0, 0, 20, 20]] * 4, lesion_type=[1, 7, -1, 9])
    assert type_groups(one) == ["bone", "soft tissue", "unknown", "unknown"]
    assert type_groups(case([[0, 0, 20, 20]])) == ["unknown"]


def test_groups_come_in_the_order_of_a_report() -> None:
    members = group_members(["other", "1 mm", "5 mm", "unknown", "1 mm"])
    assert list(members) == ["1 mm", "5 mm", "other", "unknown"]
    assert members["1 mm"].tolist() == [False, True, False, False, True]
    assert group_members(["unknown", "unknown"]) == {}
    assert group_members([]) == {}


def test_lesions_left_out_by_the_rule_are_in_no_group() -> None:
    one = case([[0, 0, 0.5, 20], [0, 0, 20, 20]], lesion_type=[3, 5])
    groups = lesion_groups([one], match_detections([one]))
    assert {split: list(members) for split, members in groups.items()} == {
        "size_mm": [],
        "size_px": ["< 32 px"],
        "lesion_type": ["lung"],
    }


def test_the_size_estimate_agrees_with_measured_diameters(shared: Path) -> None:
    with open(shared / "data/deeplesion/DL_info_subset_1349.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    agree = 0
    for row in rows:
        spacing = [float(value) for value in row["Spacing_mm_px_"].split(",")]
        box = [float(value) for value in row["Bounding_boxes"].split(",")]
        measured = float(row["Lesion_diameters_Pixel_"].split(",")[1]) * spacing[0]
        (group,) = size_groups_mm(case([box], spacing=spacing[:2]))
        agree += group == ("< 10 mm" if measured < 10 else "10-30 mm" if measured <= 30 else "> 30 mm")
    assert round(agree / len(rows), 2) == 0.92
