"""The work behind ``python -m scripts.score``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.deeplesion.splits import dataset_notice
from ..metrics.bootstrap import Bootstrap
from ..metrics.evaluation_files import Evaluated, forget_evaluation, keep_inputs
from ..metrics.froc_numbers import counts_at
from ..metrics.image.image_report import write_report
from ..metrics.image.image_tables import format_table
from ..metrics.matching import RULES
from ..metrics.volume.volume_evaluation import applicable
from ..metrics.volume.volume_matching import check_volumes, match_volumes
from ..metrics.volume.volume_report import write_volume_report
from ..metrics.volume.volume_tables import format_volume_table
from ..storage.atomic_files import write_csv
from ..storage.output_folder import check_output_folder, evaluation_lock
from ..workflows.outside_detections import OutsideDetections, flat_cases, in_coco_style, solid_cases
from .early_checks import check_score

_COUNTS = "thresholds.csv"
_SCORES = (0.01, 0.02, 0.05, *(number / 10 for number in range(1, 10)), 0.95, 0.98, 0.99)


def score(
    truth: str,
    predictions: str,
    output: str = "scores",
    *,
    split: str | None = None,
    rule: str | None = None,
    category: str | None = None,
    missing_is_empty: bool = False,
    bootstrap_resamples: int = 1000,
    seed: int = 0,
) -> None:
    """Score the detections of any detector: FROC, average precision, intervals, counts at every threshold.

    Boxes on slices: COCO results JSON or CSV, against COCO instances JSON, DL_info.csv or a data set. Boxes in 3D:
    JSON or pickles by sub-volume, or a folder of lesions.json or of nnDetection's boxes, against lesions_3d.json or
    a label file. docs/own_data.md describes them.

    Args:
        truth: Label file, or folder of a data set.
        predictions: File or folder of the detections.
        output: Folder for the results.
        split: Of a data set: train, validation or test (the default); of label files of volumes also another part, or
            all. A COCO file has none.
        rule: Matching on slices: MP3D (the default), MULAN, 3DCE or MVP-Net; the strict form is reported as well.
        category: Name or id of the only category of a COCO file that counts; by default all, as one.
        missing_is_empty: A scan without a result has no detection; if not, it is an error.
        bootstrap_resamples: Resamples of the patients for the intervals.
        seed: Of the resamples.

    Raises:
        ValueError: If truth or detections are not as expected, or the results would replace them.
        OSError: If a file cannot be read or written.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if rule is not None and rule not in RULES:
        raise ValueError(f"Expected one of the rules {', '.join(RULES)}, got {rule!r}.")
    found, labels, folder = Path(predictions), Path(truth), Path(output)
    check_score(truth, predictions)
    keep_inputs(folder, found, labels)
    check_output_folder(folder)
    draw = Bootstrap(resamples=bootstrap_resamples, seed=seed)
    with evaluation_lock(folder):
        detections = OutsideDetections.read(found)
        if split is None and not (detections.flat and in_coco_style(labels)):
            split = "test"
        about = Evaluated(
            f"{labels.name} ({found.name})",
            dataset_notice(labels if labels.is_dir() else labels.parent),
            origin={"truth": truth, "predictions": predictions, "split": split},
        )
        if detections.flat:
            cases = flat_cases(labels, detections, split, category)
            matching = RULES[rule or "MP3D"]
            print(format_table(write_report(cases, folder, about, rule=matching, bootstrap=draw)))
            return
        for name, value in (("category", category), ("rule", rule)):
            if value is not None:
                raise ValueError(
                    f"Expected --{name} with detections on slices alone, got --{name} {value} with detections in 3D: "
                    f"{found}."
                )
        cases = solid_cases(labels, detections, str(split), missing_is_empty=missing_is_empty)
        rows = _solid_counts(cases)
        header = ("threshold", "found", "missed", "false_positives", "duplicates", "fps_per_volume", "sensitivity")
        forget_evaluation(folder)
        write_csv(("protocol", *header), rows, folder / _COUNTS)
        print(format_volume_table(write_volume_report(cases, folder, about, bootstrap=draw, keep=[folder / _COUNTS])))


def _solid_counts(cases: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Rows of ``thresholds.csv``: outcomes under each protocol from each score on."""
    checked, rows = check_volumes(cases), []
    for protocol in applicable(checked):
        matches = match_volumes(checked, protocol)
        for threshold in sorted({*_SCORES, *matches.scores.tolist()[:: max(1, len(matches.scores) // 100)]}):
            rows.append([protocol.name, *counts_at(matches, threshold).values()])
    return rows
