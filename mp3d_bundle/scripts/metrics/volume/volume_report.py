"""Write the evaluation of whole volumes into a folder: JSON, CSV and the FROC figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..bootstrap import Bootstrap
from ..evaluation_files import Evaluated, forget_evaluation, write_evaluation
from ..froc import curve_from_matches
from .volume_evaluation import evaluate_volumes
from .volume_figure import volume_froc_figure
from .volume_matching import check_volumes
from .volume_tables import volume_notes, volume_tables


def write_volume_report(
    cases: Sequence[Mapping[str, Any]],
    output_dir: str | Path,
    about: Evaluated = Evaluated("unnamed volumes"),
    *,
    bootstrap: Bootstrap | None = None,
    keep: Iterable[str | Path] = (),
) -> dict[str, Any]:
    """Evaluate the detections of volumes and write the result.

    The folder then holds ``sensitivity.csv``, ``froc.csv`` (corners of the curves), ``detections.csv`` and
    ``true_lesions.csv`` (outcome of every box), ``froc.png`` and, last, ``metrics.json``. Each file appears whole or
    not at all.

    Args:
        cases: See `scripts.metrics.volume.volume_matching`; every case names its patient.
        output_dir: Folder to write to, made if need be; an earlier evaluation there is removed.
        about: What the volumes are and where the detections come from.
        bootstrap: How to resample patients; 1,000 resamples by default.
        keep: Files in the folder that stay, see `forget_evaluation`.

    Returns:
        The content of ``metrics.json``: what `evaluate_volumes` returns first, with ``dataset``, ``notice``, ``notes``
        and the items of the origin.

    Raises:
        ValueError: If there is no case, a case is malformed or names no patient, or there are no labels.
        OSError: If a file cannot be written.
    """
    numbers, matches = evaluate_volumes(cases, bootstrap=bootstrap)
    heading = {"dataset": about.dataset, "notice": about.notice, "notes": volume_notes(numbers)}
    metrics = {**heading, **about.origin, **numbers}
    curves = {name: curve_from_matches(one) for name, one in matches.items()}
    figure = volume_froc_figure(curves, metrics, dataset_name=about.dataset, notice=about.notice)
    forget_evaluation(output_dir, keep)
    write_evaluation(output_dir, metrics, volume_tables(check_volumes(cases), metrics, matches, curves), figure)
    return metrics
