"""Write an evaluation into a folder: JSON, CSV and the FROC figure."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...storage.atomic_files import write_csv, write_json
from ..bootstrap import Bootstrap
from ..cases import check_cases
from ..froc import curve_from_matches
from ..froc_figure import froc_figure, write_froc_figure
from ..matching import RELEASED, FrocRule, match_detections
from .image_evaluation import evaluate
from .image_tables import (
    DETECTION_HEADER,
    FROC_HEADER,
    LESION_HEADER,
    SENSITIVITY_HEADER,
    THRESHOLD_HEADER,
    detection_rows,
    froc_rows,
    lesion_rows,
    scalar_fields,
    sensitivity_rows,
    threshold_rows,
)

logger = logging.getLogger(__name__)


def write_report(
    cases: Sequence[Mapping[str, Any]],
    output_dir: str | Path,
    *,
    rule: FrocRule = RELEASED,
    bootstrap: Bootstrap | None = None,
    dataset_name: str = "unnamed data",
    notice: str | None = None,
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate cases and write the result.

    The folder then holds ``sensitivity.csv`` (operating points of the whole set and of every subgroup),
    ``froc.csv`` (corners of the curves), ``thresholds.csv`` (hits, misses and false positives by score),
    ``detections.csv`` and ``true_lesions.csv`` (outcome of every box), ``froc.png`` and, last, ``metrics.json``.
    Each file appears whole or not at all.

    Args:
        cases: See `scripts.metrics.cases`; every case names its patient.
        output_dir: Folder to write to, made if need be; files of an earlier report are replaced.
        rule: Matching of the FROC.
        bootstrap: How to resample patients; 1,000 resamples by default.
        dataset_name: What the cases are, for titles: ``"DeepLesion test"``.
        notice: What every reader of the figures must know, e.g. that the data are synthetic.
        origin: What the detections come from, plain values: ``weights``, ``split``.

    Returns:
        What `evaluate` returns, with ``dataset``, ``notice`` and ``origin``'s items; the content of ``metrics.json``.

    Raises:
        ValueError: If there is no case, a case is malformed or names no patient.
        OSError: If a file cannot be written.
    """
    folder = Path(output_dir)
    checked = check_cases(cases)
    about = {"dataset": dataset_name, "notice": notice, **(origin or {})}
    metrics = {**about, **evaluate(checked, rule=rule, bootstrap=bootstrap)}
    matches = match_detections(checked, rule)
    curve = curve_from_matches(matches)
    strict = curve_from_matches(replace(matches, rule=rule.strict()))
    thresholds = list(metrics["thresholds"].values())
    write_csv(SENSITIVITY_HEADER, sensitivity_rows(metrics), folder / "sensitivity.csv")
    write_csv(
        FROC_HEADER,
        [row for one in (curve, strict) for row in froc_rows(one.rule.name, one)],
        folder / "froc.csv",
    )
    write_csv(THRESHOLD_HEADER, threshold_rows(matches, thresholds), folder / "thresholds.csv")
    found, true = scalar_fields(checked, "fields"), scalar_fields(checked, "true_fields")
    write_csv((*DETECTION_HEADER, *found), detection_rows(checked, matches, found), folder / "detections.csv")
    write_csv((*LESION_HEADER, *true), lesion_rows(checked, matches, thresholds, true), folder / "true_lesions.csv")
    figure = froc_figure(
        {"field's rule": curve, "duplicates as false positives": strict},
        dataset_name=dataset_name,
        notice=notice,
        intervals={"field's rule": metrics["sensitivity_interval"]},
    )
    write_froc_figure(figure, folder / "froc.png")
    write_json(metrics, folder / "metrics.json")
    logger.info("Wrote the evaluation of %d images to %s.", len(checked), folder)
    return metrics
