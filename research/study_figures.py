"""The FROC curves of a table in one figure: the mean over seeds with the band from the lowest to the highest seed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.compare import read_evaluation
from scripts.metrics.froc import MEAN_FPS_PER_IMAGE, interpolate_curve
from scripts.metrics.froc_figure import style_froc_axes, write_froc_figure

# Okabe and Ito's colours: told apart by colour-blind readers.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
_TICKS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_GRID = np.geomspace(_TICKS[0], _TICKS[-1], 200)
_PER_PANEL = 8


@dataclass(frozen=True)
class Curve:
    """What to draw of a row.

    Attributes:
        folders: Evaluations of its seeds.
        paper: The paper's sensitivity in per cent at 0.5, 1, 2 and 4 false positives, drawn as open markers; None to
            leave them out, as where the data are not the paper's.
    """

    folders: Sequence[Path]
    paper: Sequence[float | None] | None = None


def _mean_curve(axes: Axes, label: str, folders: Sequence[Path], colour: str) -> None:
    curves = []
    for folder in folders:
        curve, _ = read_evaluation(folder)
        curves.append(100 * interpolate_curve(curve.fps_per_image, curve.sensitivity, _GRID.tolist(), curve.rule))
    stacked = np.stack(curves)
    seeds = f"{len(curves)} seed" + ("s" if len(curves) > 1 else "")
    axes.plot(_GRID, stacked.mean(axis=0), color=colour, linewidth=1.8, label=f"{label} ({seeds})")
    if len(curves) > 1:
        axes.fill_between(_GRID, stacked.min(axis=0), stacked.max(axis=0), color=colour, alpha=0.15, linewidth=0)


def _style(axes: Axes, title: str) -> None:
    style_froc_axes(axes, _TICKS, "image", sensitivity_step=20)
    if title:
        axes.set_title(title, fontsize=10)
    axes.legend(loc="best", fontsize=7.5, frameon=True, framealpha=0.8, edgecolor="none")


def _head(figure: Figure, title: str, notice: str | None) -> None:
    """Set title and notice: the notice stays with the picture wherever it is copied to."""
    figure.suptitle(title, fontsize=12, fontweight="bold")
    if notice:
        width = int(14 * figure.get_figwidth())
        figure.supxlabel(textwrap.fill(notice, width), fontsize=9, color="#b00020")


def froc_panels(panels: Mapping[str, Mapping[str, Curve]], path: Path, *, title: str, notice: str | None) -> None:
    """Draw the curves of a table and write them as PNG.

    Args:
        panels: By title of a panel, by label of a row: what to draw.
        path: File to write.
        title: Title of the figure.
        notice: What a reader must know, e.g. that the data are synthetic.

    Raises:
        ValueError: If there is nothing to draw.
        FileNotFoundError: If an evaluation is not there.
        OSError: If the file cannot be written.
    """
    filled = {name: rows for name, rows in panels.items() if rows}
    if not filled:
        raise ValueError("Expected at least one row with an evaluation to draw, got none.")
    columns = min(len(filled), 3)
    lines = math.ceil(len(filled) / columns)
    figure = Figure(figsize=(max(7.2, 4.2 * columns), 0.9 + 4.3 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, (name, rows) in zip(axes, filled.items(), strict=False):
        for index, (label, curve) in enumerate(rows.items()):
            colour = _COLOURS[index % _PER_PANEL]
            _mean_curve(panel, label, curve.folders, colour)
            points = [(x, y) for x, y in zip(MEAN_FPS_PER_IMAGE, curve.paper or (), strict=False) if y is not None]
            if points:
                panel.plot(*zip(*points, strict=True), "o", color=colour, markerfacecolor="white", markersize=5)
        _style(panel, name)
    for panel in axes[len(filled) :]:
        panel.set_visible(False)
    _head(figure, title, notice)
    write_froc_figure(figure, path)


def share_figure(
    lines: Mapping[str, Mapping[int, Sequence[float]]], path: Path, *, title: str, notice: str | None
) -> None:
    """Draw MAP@0.5 by share of the training images, a line for each method, and write it as PNG.

    Args:
        lines: By method, by share in per cent: MAP@0.5 in per cent of each seed.
        path: File to write.
        title: Title of the figure.
        notice: What a reader must know.

    Raises:
        OSError: If the file cannot be written.
    """
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for index, (name, points) in enumerate(lines.items()):
        shares = sorted(points)
        means = [float(np.mean(points[share])) for share in shares]
        colour = _COLOURS[index % _PER_PANEL]
        axes.plot(shares, means, "o-", color=colour, linewidth=1.8, label=name)
        for share in shares:
            axes.plot([share] * len(points[share]), points[share], "_", color=colour, markersize=9)
    axes.set_xticks([20, 40, 60, 80, 100])
    axes.set_ylim(0, 100)
    axes.set_xlabel("share of the training images, %")
    axes.set_ylabel("MAP@0.5 (dashes: single seeds)")
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8.5, frameon=False, loc="upper left")
    _head(figure, title, notice)
    write_froc_figure(figure, path)
