"""The FROC figure of whole volumes: one curve per protocol."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..froc import FrocCurve, sensitivity_at
from ..froc_figure import bar, draw_line, style_froc_axes
from ..image.image_evaluation import target_name
from .volume_matching import FPS_PER_VOLUME

_COLOURS = ("#0b5fa5", "#3a7d44", "#b07d12", "#8d5a97", "#d1495b")


def _draw(axes: Axes, curve: FrocCurve, figures: Mapping[str, Any], label: str, style: Mapping[str, Any]) -> None:
    dotted = draw_line(axes, curve, FPS_PER_VOLUME[0], FPS_PER_VOLUME[-1], style)
    points = 100 * sensitivity_at(curve, FPS_PER_VOLUME)
    for target, point in zip(FPS_PER_VOLUME, points, strict=True):
        span = figures["sensitivity_interval"][target_name(target)]
        bars = None if span is None else bar(point, span)
        axes.errorbar([target], [point], bars, fmt="o", markersize=5, capsize=3, linewidth=1, clip_on=False, **style)
    axes.plot([], [], "o-", linewidth=2, markersize=5, label=label + dotted, **style)


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
    style_froc_axes(axes, FPS_PER_VOLUME, "volume")
    axes.set_ylabel("sensitivity, % (bars: 95 %)")
    figure.suptitle(f"FROC of whole volumes: {dataset_name}", fontsize=13, fontweight="bold")
    if notice:
        axes.set_title(textwrap.fill(notice, 90), fontsize=9.5, color="#b00020")
    if any(curve.num_lesions for curve in curves.values()):
        figure.legend(loc="outside lower center", fontsize=8.5, frameon=False, ncols=1)
    return figure
