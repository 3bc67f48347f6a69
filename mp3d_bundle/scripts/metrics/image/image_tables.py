"""The numbers of an evaluation of images as tables: for the terminal and as CSV rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..cases import Case
from ..evaluation_files import Table
from ..froc import FrocCurve
from ..froc_numbers import PER_IMAGE, counts_at
from ..matching import Matches
from ..subgroups import LESION_TYPES, short_diameter_mm
from ..tables import TextTable, afroc_lines, box_cells, cell, froc_header, froc_rows, percent, subgroups_of
from .class_figures import class_groups, class_lines
from .lesion_details import detail_lines, tag_table

_TEXT = TextTable(name_width=24, cell_width=12, digits=1)
# Scores at which the table of hits, misses and false positives is read in addition to the operating points.
_SCORES = (0.01, 0.02, 0.05, *(number / 10 for number in range(1, 10)), 0.95, 0.98, 0.99)
_SPLITS = {
    "slice_interval": "by slice interval (FPs per image of the group)",
    "size_mm": "by short diameter, estimated from the box (thresholds of the whole set)",
    "size_px": "by size of the box in pixels (thresholds of the whole set)",
    "lesion_type": "by lesion type (thresholds of the whole set)",
}


def format_table(metrics: Mapping[str, Any]) -> str:
    """Set the main numbers of an evaluation as a table of plain text.

    Args:
        metrics: What `scripts.metrics.image.image_evaluation.evaluate` returns; ``dataset`` and ``notice`` are used
            where present.

    Returns:
        Lines of at most 110 characters (the notice apart) without a newline at the end.
    """
    counts = metrics["counts"]
    lines = [
        f"{metrics.get('dataset', 'Detections')}: {counts['images']:,} images, {counts['patients']:,} patients,"
        f" {counts['lesions']:,} lesions, {counts['detections']:,} detections"
    ]
    if metrics.get("notice"):
        lines.append(str(metrics["notice"]))
    lines += ["", _TEXT.line("FPs per image", [*PER_IMAGE.names, "mean .5-4"])]
    strict = {key.replace("_strict", ""): value for key, value in metrics.items() if "_strict" in key}
    for name, numbers in ((f"sensitivity % ({metrics['rule']})", metrics), ("duplicates as FPs", strict)):
        spans = _TEXT.spans("  95 % interval", numbers)
        lines += [_TEXT.values(name, numbers), *([] if spans is None else [spans])]
    points = metrics["operating_points"].values()
    thresholds = ["-" if point["threshold"] is None else f"{point['threshold']:.3f}" for point in points]
    found = [f"{point['lesions_found']}/{point['lesions_missed']}" for point in points]
    span = "" if metrics["ap50_interval"] is None else f" ({_TEXT.span(metrics['ap50_interval'])})"
    lines += [
        _TEXT.line("score threshold", thresholds),
        _TEXT.line("found / missed", found),
        "",
        f"  MAP@0.5 {percent(metrics['ap50'])}{span}, at IoU 0.75 {percent(metrics['ap75'])},"
        f" mean of 0.5-0.95 {percent(metrics['ap50_95'])}",
        *afroc_lines(metrics["afroc"], "image"),
    ]
    lines += detail_lines(metrics)
    for split, title in _SPLITS.items():
        groups = metrics["subgroups"][split].items()
        lines += ["", f"  {title}"] if groups else []
        for name, group in groups:
            values = map(percent, group["sensitivity"].values())
            lines.append(_TEXT.line(f"  {name} ({group['lesions']})", values))
    lines += class_lines(metrics, _TEXT)
    return "\n".join(lines)


def image_tables(
    cases: Sequence[Case], metrics: Mapping[str, Any], matches: Matches, curves: Sequence[FrocCurve]
) -> dict[str, Table]:
    """Header and rows of every CSV file, by its name without ending.

    Args:
        cases: The checked cases.
        metrics: What `scripts.metrics.image.image_evaluation.evaluate` returns of them.
        matches: Their matches.
        curves: Curves for ``froc.csv``, each named by its rule.
    """
    thresholds = list(metrics["thresholds"].values())
    cases = _with_classes(cases) if "classes" in metrics else cases
    found, true = scalar_fields(cases, "fields"), scalar_fields(cases, "true_fields")
    corners = (row for curve in curves for row in froc_rows(curve.rule.name, curve))
    return {
        "sensitivity": (SENSITIVITY_HEADER, sensitivity_rows(metrics)),
        "froc": (froc_header("curve", "image"), corners),
        "thresholds": (THRESHOLD_HEADER, threshold_rows(matches, thresholds)),
        "detections": ((*DETECTION_HEADER, *found), detection_rows(cases, matches, found)),
        "true_lesions": ((*LESION_HEADER, *true), lesion_rows(cases, matches, thresholds, true)),
        **tag_table(metrics),
    }


def _with_classes(cases: Sequence[Case]) -> list[Any]:
    """The cases with the classes of their boxes as a further field."""
    kinds = (("fields", "classes"), ("true_fields", "true_classes"))
    return [{**case, **{to: {**case[to], "class": case[key]} for to, key in kinds}} for case in cases]


SENSITIVITY_HEADER = (
    "group", "images", "lesions", "fps_per_image", "sensitivity", "low", "high",
    "strict_sensitivity", "strict_low", "strict_high",
)  # fmt: skip


def sensitivity_rows(metrics: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of ``sensitivity.csv``: the whole set, then every subgroup, one row per operating point."""
    counts = metrics["counts"]
    groups = {"all": {**metrics, "images": counts["images"], "lesions": counts["lesions"]}, **subgroups_of(metrics)}
    groups |= class_groups(metrics)
    for name, group in groups.items():
        for target in PER_IMAGE.names:
            yield (
                name,
                group.get("images"),
                group["lesions"],
                target,
                group["sensitivity"][target],
                *(group["sensitivity_interval"][target] or (None, None)),
                group.get("sensitivity_strict", {}).get(target),
                *(group.get("sensitivity_strict_interval", {}).get(target) or (None, None)),
            )


THRESHOLD_HEADER = (
    "threshold", "lesions_found", "lesions_missed", "false_positives", "duplicates", "fps_per_image", "sensitivity",
)  # fmt: skip


def threshold_rows(matches: Matches, thresholds: Sequence[float | None]) -> Iterator[tuple[Any, ...]]:
    """Rows of ``thresholds.csv``: hits, misses and false positives at round scores and operating points."""
    for threshold in sorted({*_SCORES, *(value for value in thresholds if value is not None)}):
        counts = counts_at(matches, threshold)
        yield tuple(counts[key] for key in THRESHOLD_HEADER)


DETECTION_HEADER = ("id", "patient", "x1", "y1", "x2", "y2", "score", "outcome")


def scalar_fields(cases: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """Names of the further fields of one number a box, in alphabetical order: a column each.

    Args:
        cases: Checked cases.
        key: ``"fields"`` of the detections or ``"true_fields"`` of the lesions.
    """
    return sorted({name for case in cases for name, values in case.get(key, {}).items() if values.ndim == 1})


def _cells(fields: Mapping[str, np.ndarray], names: Sequence[str], row: int) -> list[Any]:
    return [fields[name][row].item() if name in fields else None for name in names]


def detection_rows(
    cases: Sequence[Mapping[str, Any]], matches: Matches, fields: Sequence[str] = ()
) -> Iterator[tuple[Any, ...]]:
    """Rows of ``detections.csv``, the highest score first; boxes in pixels, 0-based, half-open; ``fields`` last."""
    columns = (matches.image, matches.detection, matches.scores, matches.outcomes)
    for image, detection, score, outcome in zip(*columns, strict=True):
        case = cases[image]
        cells = _cells(case.get("fields", {}), fields, detection)
        box = box_cells(case["boxes"][detection])
        yield (case["id"], case["patient"], *box, float(score), str(outcome), *cells)


LESION_HEADER = (
    "id", "patient", "lesion", "x1", "y1", "x2", "y2", "slice_interval", "short_diameter_mm", "lesion_type", "noisy",
    "found_score", *(f"found_at_{target}" for target in PER_IMAGE.names),
)  # fmt: skip


def lesion_rows(
    cases: Sequence[Mapping[str, Any]],
    matches: Matches,
    thresholds: Sequence[float | None],
    fields: Sequence[str] = (),
) -> Iterator[tuple[Any, ...]]:
    """Rows of ``true_lesions.csv``: every lesion, the highest score that finds it, where it is found, ``fields``."""
    for image, lesion, score in zip(matches.lesion_image, matches.lesion, matches.found_scores, strict=True):
        case = cases[image]
        types, noisy = case.get("lesion_type"), case.get("noisy")
        yield (
            case["id"],
            case["patient"],
            int(lesion),
            *box_cells(case["true_boxes"][lesion]),
            case.get("slice_interval"),
            cell(float(short_diameter_mm(case)[lesion]), 2),
            None if types is None else LESION_TYPES.get(int(types[lesion])),
            None if noisy is None else int(noisy[lesion]),
            cell(score),
            *(int(threshold is not None and score >= threshold) for threshold in thresholds),
            *_cells(case.get("true_fields", {}), fields, lesion),
        )
