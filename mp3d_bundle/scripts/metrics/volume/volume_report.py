"""Write the evaluation of whole volumes into a folder: JSON, CSV and the FROC figure."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...storage.atomic_files import write_csv, write_json
from ..bootstrap import Bootstrap
from ..froc import curve_from_matches
from ..froc_figure import write_froc_figure
from ..image.image_tables import froc_rows
from .volume_evaluation import evaluate_volumes
from .volume_figure import volume_froc_figure
from .volume_matching import check_volumes
from .volume_tables import (
    FROC_HEADER,
    LESION_HEADER,
    SENSITIVITY_HEADER,
    detection_header,
    volume_detection_rows,
    volume_lesion_rows,
    volume_notes,
    volume_sensitivity_rows,
)

logger = logging.getLogger(__name__)


def write_volume_report(
    cases: Sequence[Mapping[str, Any]],
    output_dir: str | Path,
    *,
    bootstrap: Bootstrap | None = None,
    dataset_name: str = "unnamed volumes",
    notice: str | None = None,
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate the detections of volumes and write the result.

    The folder then holds ``sensitivity.csv``, ``froc.csv`` (corners of the curves), ``detections.csv`` and
    ``true_lesions.csv`` (outcome of every box), ``froc.png`` and, last, ``metrics.json``. Each file appears whole or
    not at all.

    Args:
        cases: See `scripts.metrics.volume.volume_matching`; every case names its patient.
        output_dir: Folder to write to, made if need be; files of an earlier report are replaced.
        bootstrap: How to resample patients; 1,000 resamples by default.
        dataset_name: What the volumes are, for titles.
        notice: What every reader of the figures must know, e.g. that the data are synthetic.
        origin: What the detections come from, plain values: ``weights``, ``recipe``, ``deviations``.

    Returns:
        The content of ``metrics.json``: what `evaluate_volumes` returns first, with ``dataset``, ``notice``, ``notes``
        and ``origin``'s items.

    Raises:
        ValueError: If there is no case, a case is malformed or names no patient, or there are no labels.
        OSError: If a file cannot be written.
    """
    folder = Path(output_dir)
    figures, matches = evaluate_volumes(cases, bootstrap=bootstrap)
    checked = check_volumes(cases)
    metrics = {"dataset": dataset_name, "notice": notice, "notes": volume_notes(figures), **(origin or {}), **figures}
    curves = {name: curve_from_matches(one) for name, one in matches.items()}
    write_csv(SENSITIVITY_HEADER, volume_sensitivity_rows(metrics), folder / "sensitivity.csv")
    corners = [row for name, curve in curves.items() for row in froc_rows(name, curve)]
    write_csv(FROC_HEADER, corners, folder / "froc.csv")
    write_csv(detection_header(matches), volume_detection_rows(checked, matches), folder / "detections.csv")
    write_csv(LESION_HEADER, volume_lesion_rows(checked, metrics, matches), folder / "true_lesions.csv")
    figure = volume_froc_figure(curves, metrics, dataset_name=dataset_name, notice=notice)
    write_froc_figure(figure, folder / "froc.png")
    write_json(metrics, folder / "metrics.json")
    logger.info("Wrote the evaluation of %d volumes to %s.", len(checked), folder)
    return metrics
