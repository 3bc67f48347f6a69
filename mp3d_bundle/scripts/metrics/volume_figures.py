"""The FROC figure of whole volumes: one curve per protocol."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from .evaluation import target_name
from .froc import FrocCurve, interpolate_curve, sensitivity_at
from .volumes import FPS_PER_VOLUME

_COLOURS = ("#0b5fa5", "#3a7d44", "#b07d12", "#8d5a97", "#d1495b")
_FIRST, _LAST = FPS_PER_VOLUME[0], FPS_PER_VOLUME[-1]


def _draw(axes: Axes, curve: FrocCurve, figures: Mapping[str, Any], label: str, style: Mapping[str, Any]) -> None:
    end = float(curve.fps_per_image[-1]) if len(curve.scores) else 0.0
    grid = np.geomspace(_FIRST, _LAST, 400)
    values = 100 * interpolate_curve(curve.fps_per_image, curve.sensitivity, grid.tolist(), curve.rule)
    inside = grid <= end
    axes.plot(grid[inside], values[inside], linewidth=2, **style)
    # Beyond its last false positive the curve keeps its last value: dotted, as nothing was measured there.
    axes.plot(grid[~inside], values[~inside], linewidth=1.5, linestyle=":", **style)
    points = 100 * sensitivity_at(curve, FPS_PER_VOLUME)
    for target, point in zip(FPS_PER_VOLUME, points, strict=True):
        span = figures["sensitivity_interval"][target_name(target)]
        # A percentile interval need not hold the estimate, a bar must.
        bars = None if span is None else [[max(point - 100 * span[0], 0.0)], [max(100 * span[1] - point, 0.0)]]
        axes.errorbar([target], [point], bars, fmt="o", markersize=5, capsize=3, linewidth=1, clip_on=False, **style)
    label += "" if inside.all() else " (dotted: no more detections)"
    axes.plot([], [], "o-", linewidth=2, markersize=5, label=label, **style)


def volume_froc_figure(
    curves: Mapping[str, FrocCurve], metrics: Mapping[str, Any], *, dataset_name: str, notice: str | None = None
) -> Figure:
    """Draw the FROC curves of volumes.

    Args:
        curves: Curve of each protocol, by its name; those without a lesion are left out.
        metrics: What `evaluate_volumes` returns first.
        dataset_name: What was scored, for the title.
        notice: What a reader must know first, set below the title.

    Returns:
        The figure (7.2 x 5.4 inches).

    Raises:
        ValueError: If there is no curve.
    """
    if not curves:
        raise ValueError("Expected at least one FROC curve to draw, got none.")
    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    axes = figure.add_subplot()
    for index, (name, curve) in enumerate(curves.items()):
        figures = metrics["protocols"][name]
        if curve.num_lesions:
            # The first curve lies on top.
            style = {"color": _COLOURS[index % len(_COLOURS)], "zorder": 3 + len(curves) - index}
            _draw(axes, curve, figures, f"{name}, {curve.num_lesions:,} lesions ({figures['labels']})", style)
    axes.set_xscale("log", base=2)
    axes.set_xlim(_FIRST, _LAST)
    axes.set_xticks(list(FPS_PER_VOLUME))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 100)
    axes.set_yticks(range(0, 101, 10))
    axes.set_xlabel("false positives per volume")
    axes.set_ylabel("sensitivity, % (bars: 95 %)")
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"FROC of whole volumes: {dataset_name}", fontsize=13, fontweight="bold")
    if notice:
        axes.set_title(textwrap.fill(notice, 90), fontsize=9.5, color="#b00020")
    if any(curve.num_lesions for curve in curves.values()):
        figure.legend(loc="outside lower center", fontsize=8.5, frameon=False, ncols=1)
    return figure
