"""Cells, lines and corners that the tables of every evaluation are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scripts.metrics.froc import froc_curve
from scripts.metrics.matching import MULAN, STRICT
from scripts.metrics.tables import (
    TextTable,
    afroc_lines,
    box_cells,
    cell,
    froc_header,
    froc_rows,
    percent,
    subgroups_of,
)
from support.fake_evaluations import image_cases


@pytest.mark.parametrize("rule", [MULAN, STRICT])
def test_corners_give_the_whole_curve(rule: Any) -> None:
    curve = froc_curve(image_cases(), rule)
    rows = list(froc_rows("a", curve))
    assert len(rows) < len(curve.scores)
    grid = np.linspace(0, float(curve.fps_per_image[-1]), 50)
    for target in grid:
        reached = max((row[3] for row in rows if row[2] <= target), default=0.0)
        assert reached == max(curve.sensitivity[curve.fps_per_image <= target], default=0.0)


def test_the_cells_of_a_curve_are_those_of_its_header() -> None:
    (row, *_) = froc_rows("a", froc_curve(image_cases()))
    assert len(row) == len(froc_header("curve", "image"))
    assert froc_header("protocol", "volume")[2] == "fps_per_volume"


def test_what_is_not_defined_is_an_empty_cell_or_a_dash() -> None:
    assert cell(float("nan")) is None
    assert cell(float("nan"), 2) is None
    assert cell(1.23456, 2) == 1.23
    assert cell(1.23456) == 1.23456
    assert percent(None) == "-"
    assert percent(0.1234) == "12.3"
    assert box_cells(np.array([1.23456, 2.0, 3.0, 4.0])) == [1.235, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("digits", [0, 1])
def test_columns_have_their_widths(digits: int) -> None:
    table = TextTable(name_width=10, cell_width=12, digits=digits)
    numbers = {
        "sensitivity": {"1": 0.5, "2": None},
        "sensitivity_interval": {"1": [0.25, 0.75], "2": None},
        "mean_sensitivity": 0.5,
        "mean_sensitivity_interval": None,
    }
    values, spans = table.values("values", numbers), table.spans("spans", numbers)
    assert values.split() == ["values", "50.0", "-", "50.0"]
    assert spans is not None
    assert spans.split() == ["spans", ("25-75", "25.0-75.0")[digits], "-", "-"]
    assert len(values) == len(spans) == 2 + 10 + 3 * 12
    none = {**numbers, "sensitivity_interval": {"1": None, "2": None}}
    assert table.spans("spans", none) is None


def test_subgroups_are_named_by_their_split() -> None:
    metrics = {"subgroups": {"size": {"small": 1, "large": 2}, "type": {}}}
    assert subgroups_of(metrics) == {"size: small": 1, "size: large": 2}


def test_figures_of_merit_have_a_line_for_each_kind_that_is_defined() -> None:
    figures = {
        "jafroc": {"value": None, "interval": None},
        "wafroc": {"value": None, "interval": None},
        "jafroc1": {"value": 0.81234, "interval": [0.7, 0.9]},
        "wafroc1": {"value": 0.8, "interval": None},
    }
    assert afroc_lines(figures, "image") == [
        "  false marks on all images: JAFROC1 0.812 (0.700-0.900), weighted AFROC1 0.800"
    ]
    figures |= {"jafroc": {"value": 0.5, "interval": None}, "wafroc": {"value": 1.0, "interval": [0.25, 1.0]}}
    assert afroc_lines(figures, "volume")[0] == (
        "  false marks on volumes without lesions: JAFROC 0.500, weighted AFROC 1.000 (0.250-1.000)"
    )


def test_cells_never_touch() -> None:
    line = TextTable(name_width=4, cell_width=8, digits=1).line("a", ["100.0-100.0", "99.9-100.0", "50.0"])
    assert line.split() == ["a", "100.0-100.0", "99.9-100.0", "50.0"]
