"""The FROC figure of images: our curves next to the paper's points."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..froc import MEAN_FPS_PER_IMAGE, FrocCurve
from ..froc_figure import Intervals, ShownCurve, draw_froc
from ..froc_numbers import PER_IMAGE

# Sensitivity in percent at 0.5, 1, 2 and 4 false positives per image (paper table 1, DeepLesion test set).
PAPER_POINTS = {
    "MP3D FPN, 9 slices": (79.60, 85.29, 89.61, 92.45),
    "FPN+3DCE, 9 slices": (74.06, 82.00, 87.58, 91.56),
}
_PAPER_MARKERS = ("s", "D")
_FIRST_TICK = 0.25


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
    shown = [
        ShownCurve(f"ours, on {dataset_name}: {name}", curve, (intervals or {}).get(name))
        for name, curve in curves.items()
    ]
    return draw_froc(
        shown,
        PER_IMAGE,
        title=f"FROC on {dataset_name}",
        notice=notice,
        background=_draw_paper if notice is None else None,
        first_tick=_FIRST_TICK,
    )
