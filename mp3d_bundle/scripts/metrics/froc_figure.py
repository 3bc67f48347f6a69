"""The FROC figure: our curves beside the paper's points."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from ..storage.atomic_files import replacing
from .froc import FPS_PER_IMAGE, MEAN_FPS_PER_IMAGE, FrocCurve, interpolate_curve, sensitivity_at
from .image.image_evaluation import target_name

# Sensitivity in percent at 0.5, 1, 2 and 4 false positives per image (paper table 1, DeepLesion test set).
PAPER_POINTS = {
    "MP3D FPN, 9 slices": (79.60, 85.29, 89.61, 92.45),
    "FPN+3DCE, 9 slices": (74.06, 82.00, 87.58, 91.56),
}
_FIRST, _LAST = 0.25, 16.0
_COLOURS = ("#0b5fa5", "#d1495b", "#3a7d44", "#8d5a97", "#b07d12")
_PAPER_MARKERS = ("s", "D")

Intervals = Mapping[str, Sequence[float] | None]


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


def _draw_curve(axes: Axes, name: str, curve: FrocCurve, style: dict[str, Any], intervals: Intervals | None) -> None:
    dotted = draw_line(axes, curve, _FIRST, _LAST, style)
    points = 100 * sensitivity_at(curve)
    spans = [(intervals or {}).get(target_name(target)) for target in FPS_PER_IMAGE]
    axes.plot(FPS_PER_IMAGE, points, "o", markersize=5, clip_on=False, **style)
    for target, point, span in zip(FPS_PER_IMAGE, points, spans, strict=True):
        if span is not None:
            axes.errorbar([target], [point], bar(point, span), capsize=4, linewidth=1.2, clip_on=False, **style)
    label = (f"{name} (bars: 95 %)" if any(spans) else name) + dotted
    axes.plot([], [], "o-", linewidth=2, markersize=5, label=label, **style)


def _draw_paper(axes: Axes) -> None:
    for marker, (name, values) in zip(_PAPER_MARKERS, PAPER_POINTS.items(), strict=True):
        axes.plot(
            MEAN_FPS_PER_IMAGE,
            values,
            marker=marker,
            linestyle="--",
            linewidth=0.8,
            color="#555555",
            markerfacecolor="white",
            markersize=6,
            label=f"paper, on DeepLesion: {name}",
            zorder=2,
        )


def froc_figure(
    curves: Mapping[str, FrocCurve],
    *,
    dataset_name: str,
    notice: str | None = None,
    intervals: Mapping[str, Intervals] | None = None,
) -> Figure:
    """Draw FROC curves and, where they may be compared, the paper's points (table 1) in one figure.

    Args:
        curves: Name of each curve and the curve.
        dataset_name: What our curves were measured on; title of the figure and part of the legend. The
            legend says that the paper's points are DeepLesion.
        notice: What a reader must know before comparing, e.g. that the data are synthetic; set below the title. The
            paper's points are left out then: no warning outweighs points that seem to be reached.
        intervals: For curves that have them, ``{"0.5": [low, high], ...}`` as in the metrics.

    Returns:
        The figure (7.2 x 5.4 inches).

    Raises:
        ValueError: If there is no curve.
    """
    if not curves:
        raise ValueError("Expected at least one FROC curve to draw, got none.")
    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    axes = figure.add_subplot()
    if notice is None:
        _draw_paper(axes)
    for index, (name, curve) in enumerate(curves.items()):
        label = f"ours, on {dataset_name}: {name}"
        # The first curve lies on top.
        style = {"color": _COLOURS[index % len(_COLOURS)], "zorder": 3 + len(curves) - index}
        _draw_curve(axes, label, curve, style, (intervals or {}).get(name))
    style_froc_axes(axes, [_FIRST, *FPS_PER_IMAGE], "image")
    figure.suptitle(f"FROC on {dataset_name}", fontsize=13, fontweight="bold")
    if notice:
        axes.set_title(textwrap.fill(notice, 90), fontsize=9.5, color="#b00020")
    figure.legend(loc="outside lower center", fontsize=8.5, frameon=False, ncols=1)
    return figure


def write_froc_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG at 150 dots per inch.

    Raises:
        OSError: If the file cannot be written.
    """
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=150)
