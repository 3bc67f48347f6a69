"""From a score to the probability that a box is right: isotonic calibration and how reliable it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from matplotlib.figure import Figure
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import GroupKFold

from ..storage.atomic_files import replacing

_FOLDS = 5


def fit_isotonic(scores: np.ndarray, hits: np.ndarray) -> dict[str, list[float]]:
    """Fit a rising, piecewise linear function from score to probability (scikit-learn's isotonic regression).

    Args:
        scores: ``(M,)`` scores of boxes.
        hits: ``(M,)`` bool, whether each overlaps a lesion enough.

    Returns:
        Plain ``scores`` and ``probabilities`` of its knots, for `numpy.interp`.

    Raises:
        ValueError: Unless there are boxes that hit and boxes that do not.
    """
    hits = np.asarray(hits, dtype=bool)
    if hits.all() or not hits.any():
        raise ValueError(
            f"Expected boxes that hit and boxes that do not, to calibrate scores on, got {int(hits.sum())} hits among "
            f"{len(hits)} boxes."
        )
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(scores, hits.astype(np.float64))
    return {"scores": fitted.X_thresholds_.tolist(), "probabilities": fitted.y_thresholds_.tolist()}


def held_out_probabilities(scores: np.ndarray, hits: np.ndarray, patients: Sequence[str]) -> np.ndarray:
    """Probabilities ``(M,)``, each from a calibration fitted without the box's patient.

    Raises:
        ValueError: If there are fewer than two patients, or a fold lacks hits or misses.
    """
    groups = len(set(patients))
    if groups < 2:
        raise ValueError(f"Expected boxes of at least two patients to judge a calibration by, got {groups}.")
    probabilities = np.zeros(len(scores))
    for fitting, held in GroupKFold(min(_FOLDS, groups)).split(scores, groups=list(patients)):
        knots = fit_isotonic(scores[fitting], hits[fitting])
        probabilities[held] = np.interp(scores[held], knots["scores"], knots["probabilities"])
    return probabilities


class Bin(TypedDict):
    """Boxes whose probabilities lie in one bin."""

    boxes: int
    mean_probability: float
    frequency: float


class Reliability(TypedDict):
    """What `reliability` measures."""

    ece: float
    brier: float
    bins: list[Bin]


def reliability(probabilities: np.ndarray, hits: np.ndarray, bins: int = 10) -> Reliability:
    """How well probabilities agree with the outcome.

    Args:
        probabilities: ``(M,)`` in [0, 1].
        hits: ``(M,)`` bool.
        bins: Number of equally wide bins.

    Returns:
        ``ece`` (expected calibration error: mean gap between probability and frequency, weighted by boxes),
        ``brier`` (mean squared error), and ``bins`` with boxes: ``boxes``, ``mean_probability``, ``frequency``.
    """
    index = np.minimum((probabilities * bins).astype(int), bins - 1)
    rows: list[Bin] = []
    for number in np.unique(index).tolist():
        inside = index == number
        rows.append(
            {
                "boxes": int(inside.sum()),
                "mean_probability": float(probabilities[inside].mean()),
                "frequency": float(hits[inside].mean()),
            }
        )
    gaps = [row["boxes"] * abs(row["mean_probability"] - row["frequency"]) for row in rows]
    return {
        "ece": float(sum(gaps) / len(hits)),
        "brier": float(np.mean((probabilities - hits) ** 2)),
        "bins": rows,
    }


def write_reliability_figure(
    measured: dict[str, Reliability], path: Path, *, title: str, notice: str | None = None
) -> None:
    """Draw frequency against probability.

    Args:
        measured: Results of `reliability` by name.
        path: PNG to write.
        title: What the boxes are from.
        notice: What a viewer must know.

    Raises:
        OSError: If the file cannot be written.
    """
    figure = Figure(figsize=(6, 6.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="perfect")
    for order, (name, result) in enumerate(measured.items()):
        points = [(row["mean_probability"], row["frequency"]) for row in result["bins"]]
        label = f"{name} (ECE {result['ece']:.3f}, Brier {result['brier']:.3f})"
        (line,) = axes.plot(*zip(*points, strict=True), "o-", markersize=5, label=label)
        for row, point in zip(result["bins"], points, strict=True):
            axes.annotate(
                f"{row['boxes']}",
                point,
                (4, -9 + 13 * order),
                textcoords="offset points",
                fontsize=7,
                color=line.get_color(),
            )
    axes.set(xlim=(-0.03, 1.08), ylim=(-0.03, 1.08), aspect="equal", title=title)
    axes.set(xlabel="score or probability of a box", ylabel="boxes that overlap a lesion enough")
    # Curves may lie on either side of the diagonal: the key goes outside. The small numbers are boxes.
    figure.legend(loc="outside upper center", fontsize=8, title="numbers: boxes in the bin", title_fontsize=7)
    if notice:
        figure.supxlabel(notice, fontsize=7, wrap=True)
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=120)
