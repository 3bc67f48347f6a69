"""The FROC figure of whole volumes: one curve per protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from ..froc import FrocCurve
from ..froc_figure import ShownCurve, draw_froc
from .volume_matching import PER_VOLUME


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
    shown = []
    for name, curve in curves.items():
        numbers = metrics["protocols"][name]
        label = f"{name}, {curve.num_lesions:,} lesions ({numbers['labels']})"
        shown.append(ShownCurve(label, curve, numbers["sensitivity_interval"]))
    title = f"FROC of whole volumes: {dataset_name}"
    return draw_froc(shown, PER_VOLUME, title=title, notice=notice)
