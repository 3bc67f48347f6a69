"""Write the evaluation of images into a folder: JSON, CSV and the FROC figure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...storage.atomic_files import replacing
from ..bootstrap import Bootstrap
from ..cases import check_cases
from ..evaluation_files import Evaluated, forget_evaluation, write_evaluation
from ..froc import curve_from_matches
from ..matching import RELEASED, FrocRule, match_detections
from .coco_results import coco_results
from .image_evaluation import evaluate
from .image_figure import froc_figure
from .image_tables import image_tables
from .lesion_details import lesion_details


def write_report(
    cases: Sequence[Mapping[str, Any]],
    output_dir: str | Path,
    about: Evaluated = Evaluated("unnamed data"),
    *,
    rule: FrocRule = RELEASED,
    bootstrap: Bootstrap | None = None,
) -> dict[str, Any]:
    """Evaluate cases and write the result.

    The folder then holds ``sensitivity.csv`` (operating points of the whole set and of every subgroup),
    ``froc.csv`` (corners of the curves), ``thresholds.csv`` (hits, misses and false positives by score),
    ``detections.csv`` and ``true_lesions.csv`` (outcome of every box), ``coco_results.json`` (the detections in
    COCO's format), ``tags.csv`` of a detector with tags, ``froc.png`` and, last, ``metrics.json``.
    Each file appears whole or not at all.

    Args:
        cases: See `scripts.metrics.cases`; every case names its patient.
        output_dir: Folder to write to, made if need be; an earlier evaluation there is removed.
        about: What the cases are and where the detections come from.
        rule: Matching of the FROC.
        bootstrap: How to resample patients; 1,000 resamples by default.

    Returns:
        What `evaluate` and `lesion_details` return, with ``dataset``, ``notice`` and the items of the origin; the
        content of ``metrics.json``.

    Raises:
        ValueError: If there is no case, a case is malformed or names no patient.
        OSError: If a file cannot be written.
    """
    checked = check_cases(cases)
    metrics = {
        "dataset": about.dataset,
        "notice": about.notice,
        **about.origin,
        **evaluate(checked, rule=rule, bootstrap=bootstrap),
    }
    matches = match_detections(checked, rule)
    metrics |= lesion_details(checked, matches, tag_names=about.tag_names, tag_threshold=about.tag_threshold)
    curve = curve_from_matches(matches)
    strict = curve_from_matches(replace(matches, rule=rule.strict()))
    figure = froc_figure(
        {"field's rule": curve, "duplicates as false positives": strict},
        dataset_name=about.dataset,
        notice=about.notice,
        intervals={"field's rule": metrics["sensitivity_interval"]},
    )
    forget_evaluation(output_dir)
    with replacing(Path(output_dir) / "coco_results.json") as part:
        part.write_text(json.dumps(coco_results(checked), allow_nan=False), encoding="utf-8")
    write_evaluation(output_dir, metrics, image_tables(checked, metrics, matches, [curve, strict]), figure)
    return metrics
