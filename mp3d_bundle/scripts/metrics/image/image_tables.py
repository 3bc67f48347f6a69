"""The figures of an evaluation as tables: for the terminal and as CSV rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..froc import FPS_PER_IMAGE, FrocCurve
from ..matching import Matches
from ..subgroups import LESION_TYPES, short_diameter_mm
from .image_evaluation import counts_at, target_name

_TARGETS = [target_name(target) for target in FPS_PER_IMAGE]
# Scores at which the table of hits, misses and false positives is read besides the operating points.
_SCORES = (0.01, 0.02, 0.05, *(number / 10 for number in range(1, 10)), 0.95, 0.98, 0.99)
_SPLITS = {
    "slice_interval": "by slice interval (FPs per image of the group)",
    "size_mm": "by short diameter, estimated from the box (thresholds of the whole set)",
    "size_px": "by size of the box in pixels (thresholds of the whole set)",
    "lesion_type": "by lesion type (thresholds of the whole set)",
}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _span(span: Sequence[float] | None) -> str:
    return "-" if span is None else f"{100 * span[0]:.1f}-{100 * span[1]:.1f}"


def _line(name: str, cells: Sequence[str]) -> str:
    return f"  {name:<24}" + "".join(f"{cell:>11}" for cell in cells)


def _froc_lines(metrics: Mapping[str, Any], suffix: str, name: str) -> list[str]:
    values = [*metrics[f"sensitivity{suffix}"].values(), metrics[f"mean_sensitivity{suffix}"]]
    spans = [*metrics[f"sensitivity{suffix}_interval"].values(), metrics[f"mean_sensitivity{suffix}_interval"]]
    lines = [_line(name, [_percent(value) for value in values])]
    if any(spans):
        lines.append(_line("  95 % interval", [_span(span) for span in spans]))
    return lines


def _split_lines(groups: Mapping[str, Any], title: str) -> list[str]:
    lines = ["", f"  {title}"]
    for name, group in groups.items():
        cells = [_percent(value) for value in group["sensitivity"].values()]
        lines.append(_line(f"  {name} ({group['lesions']})", cells))
    return lines


def format_table(metrics: Mapping[str, Any]) -> str:
    """Set the main figures of an evaluation as a table of plain text.

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
    lines += ["", _line("FPs per image", [*_TARGETS, "mean .5-4"])]
    lines += _froc_lines(metrics, "", f"sensitivity % ({metrics['rule']})")
    lines += _froc_lines(metrics, "_strict", "duplicates as FPs")
    points = metrics["operating_points"].values()
    thresholds = ["-" if point["threshold"] is None else f"{point['threshold']:.3f}" for point in points]
    lines.append(_line("score threshold", thresholds))
    lines.append(_line("found / missed", [f"{point['lesions_found']}/{point['lesions_missed']}" for point in points]))
    span = "" if metrics["ap50_interval"] is None else f" ({_span(metrics['ap50_interval'])})"
    lines += [
        "",
        f"  MAP@0.5 {_percent(metrics['ap50'])}{span}, at IoU 0.75 {_percent(metrics['ap75'])},"
        f" mean of 0.5-0.95 {_percent(metrics['ap50_95'])}",
    ]
    for split, title in _SPLITS.items():
        if metrics["subgroups"][split]:
            lines += _split_lines(metrics["subgroups"][split], title)
    return "\n".join(lines)


SENSITIVITY_HEADER = (
    "group", "images", "lesions", "fps_per_image", "sensitivity", "low", "high",
    "strict_sensitivity", "strict_low", "strict_high",
)  # fmt: skip


def sensitivity_rows(metrics: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of ``sensitivity.csv``: the whole set, then every subgroup, one row per operating point."""
    counts = metrics["counts"]
    groups = {"all": {**metrics, "images": counts["images"], "lesions": counts["lesions"]}}
    for split, members in metrics["subgroups"].items():
        groups.update({f"{split}: {name}": group for name, group in members.items()})
    for name, group in groups.items():
        for target in _TARGETS:
            strict = group.get("sensitivity_strict", {}).get(target)
            yield (
                name,
                group.get("images"),
                group["lesions"],
                target,
                group["sensitivity"][target],
                *(group["sensitivity_interval"][target] or (None, None)),
                strict,
                *(group.get("sensitivity_strict_interval", {}).get(target) or (None, None)),
            )


FROC_HEADER = ("curve", "score", "fps_per_image", "sensitivity")


def froc_rows(name: str, curve: FrocCurve) -> Iterator[tuple[Any, ...]]:
    """Rows of ``froc.csv``: the corners of a curve (between them only false positives are added)."""
    if len(curve.scores) == 0:
        return
    # A corner is a point whose sensitivity differs from its neighbour's on either side.
    rises = np.flatnonzero(np.diff(curve.sensitivity) != 0)
    for index in sorted({0, len(curve.scores) - 1, *rises.tolist(), *(rises + 1).tolist()}):
        sensitivity = float(curve.sensitivity[index])
        yield (
            name,
            float(curve.scores[index]),
            float(curve.fps_per_image[index]),
            None if np.isnan(sensitivity) else sensitivity,
        )


THRESHOLD_HEADER = (
    "threshold", "lesions_found", "lesions_missed", "false_positives", "duplicates", "fps_per_image", "sensitivity",
)  # fmt: skip


def threshold_rows(matches: Matches, thresholds: Sequence[float | None]) -> Iterator[tuple[Any, ...]]:
    """Rows of ``thresholds.csv``: hits, misses and false positives at round scores and operating points."""
    for threshold in sorted({*_SCORES, *(value for value in thresholds if value is not None)}):
        yield tuple(counts_at(matches, threshold)[key] for key in THRESHOLD_HEADER)


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
        box = [round(float(value), 3) for value in case["boxes"][detection]]
        cells = _cells(case.get("fields", {}), fields, detection)
        yield (case["id"], case["patient"], *box, float(score), str(outcome), *cells)


LESION_HEADER = (
    "id", "patient", "lesion", "x1", "y1", "x2", "y2", "slice_interval", "short_diameter_mm", "lesion_type", "noisy",
    "found_score", *(f"found_at_{target}" for target in _TARGETS),
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
        size = float(short_diameter_mm(case)[lesion])
        yield (
            case["id"],
            case["patient"],
            int(lesion),
            *(round(float(value), 3) for value in case["true_boxes"][lesion]),
            case.get("slice_interval"),
            None if np.isnan(size) else round(size, 2),
            None if types is None else LESION_TYPES.get(int(types[lesion])),
            None if noisy is None else int(noisy[lesion]),
            None if np.isnan(score) else float(score),
            *(int(threshold is not None and score >= threshold) for threshold in thresholds),
            *_cells(case.get("true_fields", {}), fields, lesion),
        )
