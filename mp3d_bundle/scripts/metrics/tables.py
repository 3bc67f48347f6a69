"""What the tables of an evaluation share: columns of plain text, cells of CSV rows, and the corners of a curve."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .froc import FrocCurve
from .froc_numbers import Interval


@dataclass(frozen=True)
class TextTable:
    """Lines of a table of plain text, set in columns of fixed width.

    Attributes:
        name_width: Characters of the first column.
        cell_width: Characters of every other column.
        digits: Decimal places of the ends of an interval, in percent.
    """

    name_width: int
    cell_width: int
    digits: int

    def line(self, name: str, cells: Iterable[str]) -> str:
        """One line, indented by two characters."""
        # A cell that is as wide as its column or wider still begins with a space.
        cells = "".join(f" {cell:>{self.cell_width - 1}}" for cell in cells)
        return f"  {name:<{self.name_width}}{cells}".rstrip()

    def values(self, name: str, numbers: Mapping[str, Any]) -> str:
        """The line of the sensitivities and their mean, see `scripts.metrics.froc_numbers.FrocNumbers`."""
        return self.line(name, map(percent, [*numbers["sensitivity"].values(), numbers["mean_sensitivity"]]))

    def spans(self, name: str, numbers: Mapping[str, Any]) -> str | None:
        """The line of their intervals; None where there is not one."""
        spans = [*numbers["sensitivity_interval"].values(), numbers["mean_sensitivity_interval"]]
        return self.line(name, map(self.span, spans)) if any(spans) else None

    def span(self, span: Interval) -> str:
        """An interval in percent, ``-`` for None."""
        return "-" if span is None else "-".join(f"{100 * end:.{self.digits}f}" for end in span)


def percent(value: float | None) -> str:
    """A share in percent, ``-`` for None."""
    return "-" if value is None else f"{100 * value:.1f}"


def afroc_lines(figures: Mapping[str, Any], per: str) -> list[str]:
    """The figures of merit of `scripts.metrics.free_response.afroc` with their intervals as lines of plain text.

    Args:
        figures: By name.
        per: What a case is: ``"image"`` or ``"volume"``.
    """

    def shown(name: str) -> str:
        value, span = figures[name]["value"], figures[name]["interval"]
        ends = "" if span is None else f" ({span[0]:.3f}-{span[1]:.3f})"
        return "-" if value is None else f"{value:.3f}{ends}"

    rows = ((f"false marks on {per}s without lesions", ""), (f"false marks on all {per}s", "1"))
    return [
        f"  {where}: JAFROC{form} {shown(f'jafroc{form}')}, weighted AFROC{form} {shown(f'wafroc{form}')}"
        for where, form in rows
        if figures[f"jafroc{form}"]["value"] is not None
    ]


def subgroups_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Every subgroup of an evaluation by its name in CSV files: ``"slice_interval: 5 mm"``."""
    splits = metrics["subgroups"].items()
    return {f"{split}: {name}": group for split, members in splits for name, group in members.items()}


def box_cells(box: np.ndarray) -> list[float]:
    """A box as cells of a row, to a thousandth of a pixel."""
    return [round(float(value), 3) for value in box]


def cell(number: float, digits: int | None = None) -> float | None:
    """A number as cell of a row, rounded if ``digits`` says so; empty (None) for NaN."""
    if np.isnan(number):
        return None
    return float(number) if digits is None else round(float(number), digits)


def froc_header(first: str, per: str) -> tuple[str, ...]:
    """Header of ``froc.csv``: ``first`` names the curve, ``per`` is ``"image"`` or ``"volume"``."""
    return (first, "score", f"fps_per_{per}", "sensitivity")


def froc_rows(name: str, curve: FrocCurve) -> Iterator[tuple[Any, ...]]:
    """Rows of ``froc.csv``: the corners of a curve (between them only false positives are added)."""
    if len(curve.scores) == 0:
        return
    # A corner is a point whose sensitivity differs from its neighbour's on either side.
    rises = np.flatnonzero(np.diff(curve.sensitivity) != 0)
    for index in sorted({0, len(curve.scores) - 1, *rises.tolist(), *(rises + 1).tolist()}):
        yield (
            name,
            float(curve.scores[index]),
            float(curve.fps_per_image[index]),
            cell(curve.sensitivity[index]),
        )
