"""Find thresholds and a calibration on a validation split and store them with the weights.

    python -m scripts.operating_points --checkpoint models/model.pt --evaluation ../runs/validation

Run from the bundle's folder. ``--evaluation`` is the folder that ``run evaluating --split validation`` wrote with
these weights. Afterwards inference takes ``--operating_point 1`` and gives a probability with every lesion.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..metrics.calibration import (
    Reliability,
    fit_isotonic,
    held_out_probabilities,
    reliability,
    write_reliability_figure,
)
from ..metrics.froc import FrocCurve, threshold_at
from ..metrics.image.lesion_details import TAG_THRESHOLD
from ..metrics.matching import FrocRule
from ..storage.atomic_files import write_json
from ..storage.needed_files import need_evaluation
from ..storage.safe_json import read_json
from ..weights import read_tensors, tensors_sha256, write_atomically
from .early_checks import check_operating_points

logger = logging.getLogger(__name__)

# The first two are for whole scans, where dozens of slices add up; 250 images resolve no stricter rate than the first.
FPS_PER_IMAGE = (0.004, 0.02, 0.05, 0.125, 0.5, 1.0, 2.0, 4.0)
VALIDATION = "validation"
RULE = "isotonic regression of whether a box overlaps a lesion enough on its score"


@dataclass(frozen=True)
class Boxes:
    """The boxes of an evaluation, best score first.

    Attributes:
        scores: ``(M,)`` float64, descending.
        hits: ``(M,)`` bool, whether a box overlaps a lesion enough.
        false: ``(M,)`` bool, whether it counts as a false positive.
        patients: Patient of each.
        metrics: Content of ``metrics.json``.
    """

    scores: np.ndarray
    hits: np.ndarray
    false: np.ndarray
    patients: list[str]
    metrics: dict[str, Any]


def read_boxes(folder: str | Path) -> Boxes:
    """Read ``detections.csv`` and ``metrics.json`` of an evaluation.

    Raises:
        FileNotFoundError: If one of them does not exist.
        ValueError: If one of them is invalid, or no box was found.
    """
    folder = Path(folder)
    need_evaluation(folder)
    try:
        metrics = read_json(folder / "metrics.json")
        with (folder / "detections.csv").open(newline="") as file:
            all_rows = list(csv.DictReader(file))
        # What lies in a region to ignore says nothing about scores.
        rows = [row for row in all_rows if row["outcome"] != "ignored"]
        scores = np.array([float(row["score"]) for row in rows])
        outcomes = np.array([row["outcome"] for row in rows])
        patients = [row["patient"] for row in rows]
        if int(metrics["counts"]["images"]) < 1 or not np.isin(outcomes, ["hit", "duplicate", "false positive"]).all():
            raise ValueError("no images, or an unknown outcome")
        counted = int(metrics["counts"]["detections"])
    except (KeyError, TypeError, ValueError, OverflowError, csv.Error) as error:
        raise ValueError(f"Expected the files of an evaluation in {folder}, cannot read them: {error!r}.") from error
    if len(all_rows) != counted or not np.isfinite(scores).all():
        raise ValueError(
            f"Expected the {counted} detections that metrics.json counts, each with a finite score, got "
            f"{len(all_rows)} in {folder / 'detections.csv'}: cut short, or of another evaluation?"
        )
    if not rows:
        raise ValueError(f"Expected detections to find thresholds on, got none in {folder / 'detections.csv'}.")
    order = np.argsort(-scores, kind="stable")
    false = outcomes == "false positive"
    return Boxes(scores[order], ~false[order], false[order], [patients[row] for row in order], metrics)


def check_origin(metrics: Mapping[str, Any], model: Any, where: str) -> None:
    """Reject an evaluation of other weights; warn of another split, of windows, and if it does not name its weights.

    Args:
        metrics: Content of ``metrics.json``.
        model: Tensors of the weights file.
        where: Weights file and evaluation, for messages.

    Raises:
        ValueError: If the evaluation is of other weights, or the file has no tensors by name.
    """
    if metrics.get("random_window") is not None:
        logger.warning(
            "The evaluation was made in windows of %s pixels at random. Inference sees whole slices, in which scores "
            "may be others: evaluate without --random_window if whole slices can be scored (%s).",
            *(metrics["random_window"], where),
        )
    weights = metrics.get("weights")
    if not isinstance(weights, Mapping) or "tensors_sha256" not in weights:
        logger.warning("The evaluation does not name its weights, so they cannot be checked: %s.", where)
        return
    if not isinstance(model, Mapping) or not all(isinstance(value, Tensor) for value in model.values()):
        raise ValueError(f"Expected a dict of tensors under 'model', got {type(model).__name__}: {where}.")
    found, scored = tensors_sha256(model), str(weights["tensors_sha256"])
    if found != scored:
        raise ValueError(
            f"Expected an evaluation of these weights (tensors {found[:12]}), got one of {weights.get('path')} "
            f"(tensors {scored[:12]}): {where}."
        )
    if metrics.get("split") != VALIDATION:
        logger.warning(
            "Expected an evaluation of the %s split, got one of %s: %s. Figures on a split on which thresholds were "
            "chosen are too good.",
            *(VALIDATION, metrics.get("split"), where),
        )


def find_thresholds(boxes: Boxes, targets: Sequence[float] = FPS_PER_IMAGE) -> dict[str, float]:
    """The lowest threshold within each number of false positives per image, by its name (``"0.5"``).

    Numbers that even the best score exceeds are left out and logged.
    """
    images = int(boxes.metrics["counts"]["images"])
    curve = FrocCurve(
        np.cumsum(boxes.false) / images, np.cumsum(boxes.hits) / 1.0, boxes.scores, images, 1, FrocRule("validation")
    )
    points = {f"{target:g}": float(value) for target, value in zip(targets, threshold_at(curve, targets), strict=True)}
    for name in [name for name, value in points.items() if not np.isfinite(value)]:
        logger.warning("No threshold gives as few as %s false positives per image: left out.", name)
        del points[name]
    return points


def default_point(settings: Mapping[str, Any], where: str) -> str:
    """The operating point that weights have as the default of inference, "" if they have none.

    Args:
        settings: What they say of inference.
        where: Weights file, for the warning about a default that differs from all of their points and stays.
    """
    held = settings.get("score_threshold")
    name = next((name for name, value in settings.get("operating_points", {}).items() if value == held), "")
    if held is not None and not name:
        logger.warning(
            "The score threshold of inference stays at %g, which is none of the earlier operating points: give "
            "--default to set it by this evaluation (%s).",
            *(held, where),
        )
    return name


def find_tag_thresholds(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The score from which each tag is named, by its name: that of the best F1; 0.5 for tags that no lesion has.

    Args:
        metrics: Content of ``metrics.json``; empty without tags.

    Raises:
        ValueError: If the numbers of the tags cannot be read.
    """
    try:
        per_tag = metrics["tags"]["per_tag"] if "tags" in metrics else {}
        best = {str(name): numbers["best_threshold"] for name, numbers in per_tag.items()}
        return {name: TAG_THRESHOLD if value is None else float(value) for name, value in best.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"Expected numbers of tags of an evaluation, cannot read them: {error!r}.") from error


def calibrate(boxes: Boxes) -> tuple[dict[str, list[float]] | None, dict[str, Reliability]]:
    """Fit a calibration, and measure the scores and the probabilities; None if there are too few boxes for it."""
    measured = {"score": reliability(boxes.scores, boxes.hits)}
    try:
        held_out = held_out_probabilities(boxes.scores, boxes.hits, boxes.patients)
        knots = fit_isotonic(boxes.scores, boxes.hits)
    except ValueError as error:
        logger.warning("Scores are left without a calibration. %s", error)
        return None, measured
    return knots, {**measured, "calibrated, patients held out": reliability(held_out, boxes.hits)}


def operating_points(
    checkpoint: str, evaluation: str, *, target: str = "", default: str = "", **inference: float
) -> None:
    """Store with the weights the thresholds and the calibration that an evaluation gives.

    ``operating_points.json`` and ``reliability.png`` are written to the evaluation's folder.

    Args:
        checkpoint: Weights file.
        evaluation: Folder of an evaluation of these weights on a validation split.
        target: Weights file to write; ``checkpoint`` itself if empty.
        default: Operating point of inference if none is named: this one, or the next that can be reached. Weights that
            have such a point keep it if this is left out, at its new threshold.
        inference: Further settings of inference to store: box_threshold, and pixel_spacing if it differs from the
            recipe's.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is invalid, the evaluation is of other weights, or a setting is unknown.
        OSError: If a file cannot be written.
    """
    check_operating_points(checkpoint, evaluation, target, inference)
    content = read_tensors(checkpoint)
    if not isinstance(content, dict) or not isinstance(content.get("info"), dict):
        raise ValueError(f"Expected a weights file with the key 'info', got another file in {checkpoint}.")
    boxes = read_boxes(evaluation)
    for item, values in (boxes.metrics.get("deviations") or {}).items():
        logger.warning(
            "The evaluation was made with %s %s, the weights' recipe has %s.", item, values["used"], values["weights"]
        )
    check_origin(boxes.metrics, content.get("model"), f"{checkpoint}, {Path(evaluation) / 'metrics.json'}")
    points = find_thresholds(boxes)
    default = default or default_point(content["info"].get("inference", {}), checkpoint)
    reached = [name for name in points if default and float(name) >= float(default)]
    if default and not reached:
        raise ValueError(f"Expected a default out of {', '.join(points)} false positives per image, got {default}.")
    knots, measured = calibrate(boxes)
    name = str(boxes.metrics.get("dataset"))
    info = content["info"]
    settings = {**info.get("inference", {}), **inference, "operating_points": points}
    if default:
        settings["score_threshold"] = points[reached[0]]
    tags = find_tag_thresholds(boxes.metrics)
    if tags:
        settings["tag_threshold"] = list(tags.values())
    info["inference"] = settings
    info["calibration"] = {**knots, "rule": RULE, "dataset": name} if knots else None
    folder = Path(evaluation)
    notice = boxes.metrics.get("notice") or info.get("notice")
    write_reliability_figure(measured, folder / "reliability.png", title=name, notice=notice)
    summary = {"dataset": name, "fps_per_image": points, "reliability": measured, "calibration": info["calibration"]}
    named = {"tag_threshold": tags} if tags else {}
    write_json({**summary, **named, "notice": notice}, folder / "operating_points.json")
    write_atomically(content, Path(target or checkpoint))
    if tags:
        print(f"Thresholds of {len(tags)} tags, by their best F1")
    for fps, threshold in points.items():
        print(f"{fps:>6} false positives per image: score >= {threshold:.4f}")
    print(f"Wrote {target or checkpoint}, and reliability.png and operating_points.json in {folder}.")
