"""The folder of an evaluation: tables as CSV, the FROC figure, and ``metrics.json`` last; and what it is about."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..storage.atomic_files import write_csv, write_json
from .froc_figure import write_froc_figure

logger = logging.getLogger(__name__)

METRICS = "metrics.json"

# Header and rows of a CSV file.
Table = tuple[Sequence[str], Iterable[Sequence[Any]]]


@dataclass(frozen=True)
class Evaluated:
    """What was evaluated.

    Attributes:
        dataset: Name for titles: ``"DeepLesion test"``.
        notice: What every reader of the figures must know, e.g. that the data are synthetic; None for nothing.
        origin: What the detections come from, plain values: ``weights``, ``recipe``, ``split``.
        tag_names: Names of the tags that the detector scores.
        tag_threshold: Scores from which they are named, one number or one for each; None for the weights' own.
    """

    dataset: str
    notice: str | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    tag_names: Sequence[str] = ()
    tag_threshold: float | Sequence[float] | None = None


def forget_evaluation(output_dir: str | Path, *others: str) -> None:
    """Remove what says that a folder holds a whole evaluation, before the first file of another one is written.

    Args:
        output_dir: The folder; it may not be there.
        others: Names of further files there that the new evaluation may not have.

    Raises:
        OSError: If a file cannot be removed.
    """
    for name in (METRICS, *others):
        (Path(output_dir) / name).unlink(missing_ok=True)


def write_evaluation(
    output_dir: str | Path, metrics: Mapping[str, Any], tables: Mapping[str, Table], figure: Figure
) -> None:
    """Write an evaluation, each file whole or not at all. Files of an earlier one are replaced, its metrics go first.

    Args:
        output_dir: Folder to write to, made if need be.
        metrics: Content of ``metrics.json``, which is written last: where it is, the other files belong to it.
        tables: CSV files by their name without ending.
        figure: Content of ``froc.png``.

    Raises:
        OSError: If a file cannot be written.
    """
    folder = Path(output_dir)
    forget_evaluation(folder)
    for name, (header, rows) in tables.items():
        write_csv(header, rows, folder / f"{name}.csv")
    write_froc_figure(figure, folder / "froc.png")
    write_json(metrics, folder / METRICS)
    logger.info("Wrote the evaluation to %s.", folder)
