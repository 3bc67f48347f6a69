"""How well tags and diameters of the lesions that are found are told.

Of each lesion counts the detection that finds it: the one with the highest score that overlaps it enough, whatever its
score is. Lesions that no detection finds are left out here, as their misses count in the FROC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import f1_score, precision_recall_curve, roc_auc_score

from ..evaluation_files import Table
from ..froc_numbers import finite
from ..matching import Matches

TAG_SCORES, TAGS = "tag_scores", "tags"
LENGTHS = ("long_axis_mm", "short_axis_mm")
TAG_THRESHOLD = 0.5
# Least and greatest score from which a tag may be named.
_THRESHOLDS = (0.2, 0.95)


def lesion_details(
    cases: Sequence[Mapping[str, Any]],
    matches: Matches,
    *,
    tag_names: Sequence[str] = (),
    tag_threshold: float | Sequence[float] | None = None,
) -> dict[str, Any]:
    """Numbers of tags and diameters.

    Args:
        cases: Checked cases. Detections may have the fields ``tag_scores`` ``(M, T)``, ``long_axis_mm`` and
            ``short_axis_mm`` ``(M,)``; lesions the fields ``tags`` ``(N, T)``, 1, 0 or -1 (unknown), ``recist``
            ``(N, 4, 2)`` and ``diameters`` ``(N, 2)`` in pixels.
        matches: Their matches.
        tag_names: Names of the tags; numbers where there are none.
        tag_threshold: Score from which a tag is named, for F1, one number or one for each; 0.5 if left out.

    Returns:
        ``diameters`` where lesions are measured, ``tags`` where they are tagged and detections have scores of tags; see
        `diameter_errors` and `tag_numbers`. Nothing for cases without a lesion of either kind.

    Raises:
        ValueError: If the detector scores another number of tags than lesions have, or has other names.
    """
    pairs = [
        (cases[image], int(matches.detection[row]), int(lesion))
        for image, lesion, row in zip(matches.lesion_image, matches.lesion, matches.found_by, strict=True)
        if row >= 0
    ]
    threshold = TAG_THRESHOLD if tag_threshold is None else tag_threshold
    found = {"diameters": diameter_errors(pairs), "tags": tag_numbers(pairs, tag_names, threshold)}
    return {name: numbers for name, numbers in found.items() if numbers is not None}


def diameter_errors(pairs: Sequence[tuple[Mapping[str, Any], int, int]]) -> dict[str, Any] | None:
    """Errors of both axes in mm, measured minus true.

    Args:
        pairs: Case, detection in it, and lesion that it finds.

    Returns:
        ``source`` (``"mask"`` for lengths that the detector measures, ``"box"`` for sides of its boxes), ``lesions``,
        and of each axis ``mean_error``, ``mean_absolute_error`` and ``sd``; None where no lesion that is found is
        measured.
    """
    measured = any(LENGTHS[0] in case.get("fields", {}) for case, _, _ in pairs)
    errors = []
    for case, detection, lesion in pairs:
        wanted = _true_lengths(case, lesion)
        if wanted is None:
            continue
        fields, sides = case.get("fields", {}), np.diff(case["boxes"][detection].reshape(2, 2), axis=0)[0]
        got = [fields[name][detection] for name in LENGTHS] if measured else sorted(sides * case["spacing"])[::-1]
        errors.append(np.asarray(got, dtype=np.float64) - wanted)
    known = np.array(errors).reshape(-1, 2)
    known = known[np.isfinite(known).all(axis=1)]
    if not len(known):
        return None
    numbers = {
        name: {
            "mean_error": finite(float(known[:, axis].mean())),
            "mean_absolute_error": finite(float(np.abs(known[:, axis]).mean())),
            "sd": finite(float(known[:, axis].std())),
        }
        for axis, name in enumerate(LENGTHS)
    }
    both = finite(float(np.abs(known).mean()))
    return {"source": "mask" if measured else "box", "lesions": len(known), "mean_absolute_error": both, **numbers}


def _true_lengths(case: Mapping[str, Any], lesion: int) -> np.ndarray | None:
    """Long and short diameter of a lesion in mm, None where they are not known."""
    fields, spacing = case.get("true_fields", {}), case.get("spacing")
    if spacing is None:
        return None
    if "recist" in fields and np.isfinite(fields["recist"][lesion]).all():
        ends = np.asarray(fields["recist"][lesion], dtype=np.float64) * spacing
        return np.linalg.norm(ends[[1, 3]] - ends[[0, 2]], axis=1)
    if "diameters" in fields and np.isfinite(fields["diameters"][lesion]).all():
        return np.asarray(fields["diameters"][lesion], dtype=np.float64) * float(np.mean(spacing))
    return None


def tag_numbers(
    pairs: Sequence[tuple[Mapping[str, Any], int, int]], names: Sequence[str], threshold: float | Sequence[float]
) -> dict[str, Any] | None:
    """Area under the ROC curve and F1 of each tag, and of all in the two ways of MULAN's tables.

    Args:
        pairs: Case, detection in it, and lesion that it finds.
        names: Of the tags.
        threshold: Score from which a tag is named, one number or one for each.

    Returns:
        ``lesions``, ``mean_auc``, ``mean_f1``, ``weighted_auc`` (a tag counts as often as lesions have it),
        ``overall_f1`` (of all tags of all lesions together), ``threshold`` and under ``per_tag`` of each tag
        ``positives``, ``negatives``, ``auc`` (None unless it has both), ``f1`` and ``best_threshold``, the score with
        the best F1 (None without a positive); None where no lesion that is found has tags, or detections have no
        scores.

    Raises:
        ValueError: If numbers of tags differ.
    """
    tagged = [
        (case["fields"][TAG_SCORES][detection], case["true_fields"][TAGS][lesion])
        for case, detection, lesion in pairs
        if TAG_SCORES in case.get("fields", {}) and TAGS in case.get("true_fields", {})
    ]
    if not tagged:
        return None
    count = len(tagged[0][0])
    limits = np.size(threshold) if np.ndim(threshold) else count
    numbers = (
        ("tags of each lesion", len(tagged[0][1])),
        ("names of tags", len(names) or count),
        ("thresholds of tags", limits),
    )
    for what, got in numbers:
        if got != count:
            raise ValueError(f"Expected {count} {what}, as many as the network scores, got {got}.")
    scores, truth = (np.array(part) for part in zip(*tagged, strict=True))
    known = (truth >= 0).any(axis=1)
    if not known.any():
        return None
    names = list(names) or [f"tag {number}" for number in range(1, count + 1)]
    least = np.broadcast_to(np.asarray(threshold, dtype=np.float64), count)
    per_tag = {name: _one_tag(scores[:, at], truth[:, at], least[at]) for at, name in enumerate(names)}
    means = {
        f"mean_{key}": finite(float(np.mean(values))) if (values := _known(per_tag, key)) else None
        for key in ("auc", "f1")
    }
    ranked = [(one["auc"], one["positives"]) for one in per_tag.values() if one["auc"] is not None]
    told = truth >= 0
    wanted, named = truth[told] == 1, (scores >= least)[told]
    areas, counts = np.array(ranked).reshape(-1, 2).T
    overall = {
        "weighted_auc": float(np.average(areas, weights=counts)) if ranked else None,
        "overall_f1": float(f1_score(wanted, named)) if wanted.any() else None,
    }
    named_from = np.asarray(threshold).tolist()
    return {"lesions": int(known.sum()), **means, **overall, "threshold": named_from, "per_tag": per_tag}


def _one_tag(scores: np.ndarray, truth: np.ndarray, threshold: float) -> dict[str, Any]:
    told = truth >= 0
    scores, wanted = scores[told], truth[told] == 1
    positives, negatives = int(wanted.sum()), int((~wanted).sum())
    auc = float(roc_auc_score(wanted, scores)) if positives and negatives else None
    f1 = float(f1_score(wanted, scores >= threshold)) if positives else None
    best = _best_threshold(scores, wanted) if positives else None
    return {"positives": positives, "negatives": negatives, "auc": auc, "f1": f1, "best_threshold": best}


def _best_threshold(scores: np.ndarray, wanted: np.ndarray) -> float:
    """The score from which a tag is named with the highest F1, within `_THRESHOLDS`, as MULAN chooses it."""
    precision, recall, limits = precision_recall_curve(wanted, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    low, high = _THRESHOLDS
    allowed = np.flatnonzero((limits >= low) & (limits <= high))
    rows = allowed if len(allowed) else np.arange(len(limits))
    return float(np.clip(limits[rows[np.argmax(f1[rows])]], low, high))


def _known(per_tag: Mapping[str, Mapping[str, Any]], key: str) -> list[float]:
    return [numbers[key] for numbers in per_tag.values() if numbers[key] is not None]


def detail_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Both as lines of plain text; none where there are none."""
    lines = []
    if numbers := metrics.get("diameters"):
        axes = ", ".join(
            f"{name.split('_')[0]} axis {numbers[name]['mean_absolute_error']:.2f} (mean error "
            f"{numbers[name]['mean_error']:+.2f}, sd {numbers[name]['sd']:.2f})"
            for name in LENGTHS
        )
        where = "measured" if numbers["source"] == "mask" else "sides of boxes"
        lines.append(f"  diameters, mean absolute error in mm of {numbers['lesions']} found lesions, {where}: {axes}")
    if numbers := metrics.get("tags"):
        keys = ("mean_auc", "mean_f1", "weighted_auc", "overall_f1")
        auc, f1, weighted, overall = ("-" if numbers[key] is None else f"{numbers[key]:.3f}" for key in keys)
        lines.append(
            f"  tags of {numbers['lesions']} found lesions, mean over tags: AUC {auc}, F1 {f1}; "
            f"AUC weighted by lesions {weighted}, F1 of all together {overall}"
        )
    return ["", *lines] if lines else []


def tag_table(metrics: Mapping[str, Any]) -> dict[str, Table]:
    """``tags.csv``, a row for each tag; nothing where there are no tags."""
    if "tags" not in metrics:
        return {}
    keys = ("positives", "negatives", "auc", "f1", "best_threshold")
    rows = ((name, *(numbers[key] for key in keys)) for name, numbers in metrics["tags"]["per_tag"].items())
    return {"tags": (("tag", *keys), rows)}
