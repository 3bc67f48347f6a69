"""The FROC figure: curves with their operating points and intervals, per image or per volume."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from ..storage.atomic_files import replacing
from .froc import FrocCurve, interpolate_curve, sensitivity_at, target_name
from .froc_numbers import OperatingPoints

_COLOURS = ("#0b5fa5", "#d1495b", "#3a7d44", "#8d5a97", "#b07d12")

Intervals = Mapping[str, Sequence[float] | None]


@dataclass(frozen=True)
class ShownCurve:
    """A curve of a figure.

    Attributes:
        label: Its text in the legend.
        curve: The curve.
        intervals: ``{"0.5": [low, high], ...}`` as in the metrics, where there are any.
    """

    label: str
    curve: FrocCurve
    intervals: Intervals | None = None


def draw_line(axes: Axes, curve: FrocCurve, first: float, last: float, style: Mapping[str, Any]) -> str:
    """Draw a FROC curve between two numbers of false positives.

    Returns:
        What its label must add: where it is dotted, nothing was measured; else nothing.
    """
    end = float(curve.fps_per_image[-1]) if len(curve.scores) else 0.0
    grid = np.geomspace(first, last, 400)
    values = 100 * interpolate_curve(curve.fps_per_image, curve.sensitivity, grid.tolist(), curve.rule)
    inside = grid <= end
    axes.plot(grid[inside], values[inside], linewidth=2, **style)
    # Beyond its last false positive the curve keeps its last value.
    axes.plot(grid[~inside], values[~inside], linewidth=1.5, linestyle=":", **style)
    return "" if inside.all() else " (dotted: no more detections)"


def bar(point: float, span: Sequence[float]) -> list[list[float]]:
    """Lengths below and above ``point`` (per cent) of a bar for the interval ``span`` (shares).

    A percentile interval need not hold the estimate, a bar must.
    """
    return [[max(point - 100 * span[0], 0.0)], [max(100 * span[1] - point, 0.0)]]


def style_froc_axes(axes: Axes, ticks: Sequence[float], per: str, *, sensitivity_step: int = 10) -> None:
    """Scales, labels and grid of a FROC figure.

    Args:
        axes: Where the curves are.
        ticks: Numbers of false positives, rising; the first and the last end the axis.
        per: What they are counted per: ``"image"`` or ``"volume"``.
        sensitivity_step: Per cent between two lines of the grid.
    """
    axes.set_xscale("log", base=2)
    axes.set_xlim(ticks[0], ticks[-1])
    axes.set_xticks(list(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 100)
    axes.set_yticks(range(0, 101, sensitivity_step))
    axes.set_xlabel(f"false positives per {per}")
    axes.set_ylabel("sensitivity, %")
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw(axes: Axes, shown: ShownCurve, targets: Sequence[float], first: float, style: Mapping[str, Any]) -> None:
    dotted = draw_line(axes, shown.curve, first, targets[-1], style)
    points = 100 * sensitivity_at(shown.curve, targets)
    spans = [(shown.intervals or {}).get(target_name(target)) for target in targets]
    axes.plot(targets, points, "o", markersize=5, clip_on=False, **style)
    for target, point, span in zip(targets, points, spans, strict=True):
        if span is not None:
            axes.errorbar([target], [point], bar(point, span), capsize=4, linewidth=1.2, clip_on=False, **style)
    label = (f"{shown.label} (bars: 95 %)" if any(spans) else shown.label) + dotted
    axes.plot([], [], "o-", linewidth=2, markersize=5, label=label, **style)


def draw_froc(
    curves: Sequence[ShownCurve],
    points: OperatingPoints,
    *,
    title: str,
    notice: str | None = None,
    background: Callable[[Axes], None] | None = None,
    first_tick: float | None = None,
) -> Figure:
    """Draw FROC curves.

    Args:
        curves: The curves; the first lies on top. Those without a lesion are left out.
        points: Where they are read.
        title: Title of the figure.
        notice: What a reader must know first, set below the title.
        background: Draws what lies below the curves and comes first in the legend.
        first_tick: Where the axis begins, if before the first operating point.

    Returns:
        The figure (7.2 x 5.4 inches).

    Raises:
        ValueError: If there is no curve.
    """
    if not curves:
        raise ValueError("Expected at least one FROC curve to draw, got none.")
    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    axes = figure.add_subplot()
    ticks = [*([] if first_tick is None else [first_tick]), *points.targets]
    if background is not None:
        background(axes)
    for index, shown in enumerate(curves):
        if shown.curve.num_lesions:
            style = {"color": _COLOURS[index % len(_COLOURS)], "zorder": 3 + len(curves) - index}
            _draw(axes, shown, points.targets, ticks[0], style)
    style_froc_axes(axes, ticks, points.per)
    figure.suptitle(title, fontsize=13, fontweight="bold")
    if notice:
        axes.set_title(textwrap.fill(notice, 90), fontsize=9.5, color="#b00020")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", fontsize=8.5, frameon=False, ncols=1)
    return figure


def write_froc_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG at 150 dots per inch.

    Raises:
        OSError: If the file cannot be written.
    """
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=150)
