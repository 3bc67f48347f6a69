"""The figures of whole volumes as tables: for the terminal and as CSV rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..image.image_evaluation import target_name
from ..matching import Matches
from .volume_evaluation import found_overlaps
from .volume_matching import FPS_PER_VOLUME, INCLUSIVE, KEY_SLICE, OFFICIAL

_TARGETS = [target_name(target) for target in FPS_PER_VOLUME]
_BOX = ("x1", "y1", "z1", "x2", "y2", "z2")
TINY_BOXES = (
    "IoBB divides by the detected box alone: any box inside a lesion hits, however small. Read the IoU beside it."
)
SPARSE_KEYS = (
    "Of the lesions on key slices only those that were measured are labelled: part of the false positives under P3D "
    "are lesions."
)

SENSITIVITY_HEADER = ("protocol", "group", "volumes", "lesions", "fps_per_volume", "sensitivity", "low", "high")
FROC_HEADER = ("protocol", "score", "fps_per_volume", "sensitivity")


def volume_sensitivity_rows(metrics: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of ``sensitivity.csv``: every protocol, then the groups of the main one, a row per operating point."""
    volumes = metrics["counts"]["volumes"]
    tables = [(name, "all", {"volumes": volumes, **figures}) for name, figures in metrics["protocols"].items()]
    for split, groups in metrics["subgroups"].items():
        tables += [(metrics["main"], f"{split}: {name}", figures) for name, figures in groups.items()]
    for protocol, group, figures in tables:
        head = (protocol, group, figures["volumes"], figures["lesions"])
        for target in _TARGETS:
            span = figures["sensitivity_interval"][target] or (None, None)
            yield (*head, target, figures["sensitivity"][target], *span)
        span = figures["mean_sensitivity_interval"] or (None, None)
        yield (*head, "mean of 0.125 to 8", figures["mean_sensitivity"], *span)


def detection_header(matches: Mapping[str, Matches]) -> tuple[str, ...]:
    """Header of ``detections.csv``."""
    return ("id", "patient", "detection", *_BOX, "score", *(f"outcome ({name})" for name in matches))


def volume_detection_rows(
    cases: Sequence[Mapping[str, Any]], matches: Mapping[str, Matches]
) -> Iterator[tuple[Any, ...]]:
    """Rows of ``detections.csv``, best score first; boxes in the volume frame."""
    first = next(iter(matches.values()))
    # All protocols pool and sort the same detections: row by row they speak of the same one.
    outcomes = [one.outcomes for one in matches.values()]
    for row, (volume, detection, score) in enumerate(zip(first.image, first.detection, first.scores, strict=True)):
        case = cases[volume]
        box = [round(float(value), 3) for value in case["boxes"][detection]]
        yield (
            case["id"], case["patient"], int(detection), *box, float(score), *(str(one[row]) for one in outcomes)
        )  # fmt: skip


LESION_HEADER = (
    "protocol", "id", "patient", "lesion", *_BOX, "width_mm", "height_mm", "depth_mm", "found_score", "found_iou",
    "found_volume_ratio",
)  # fmt: skip


def volume_lesion_rows(
    cases: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any], matches: Mapping[str, Matches]
) -> Iterator[tuple[Any, ...]]:
    """Rows of ``true_lesions.csv``: each lesion under each protocol, the best score that finds it and how it fits."""
    for name, one in matches.items():
        in_3d = metrics["protocols"][name]["dimension"] == "3D"
        truth = "true_boxes" if metrics["protocols"][name]["labels"] == "3D boxes" else "key_boxes"
        unknown = np.full(len(one.lesion), np.nan)
        fit, ratio = found_overlaps(cases, one) if in_3d else (unknown, unknown)
        columns = (one.lesion_image, one.lesion, one.found_scores, fit, ratio)
        for volume, lesion, *numbers in zip(*columns, strict=True):
            case = cases[volume]
            box = case[truth][lesion]
            yield (
                name,
                case["id"],
                case["patient"],
                int(lesion),
                *(round(float(value), 3) for value in box),
                *_sides_mm(box, case.get("spacing"), in_3d),
                *(None if np.isnan(number) else round(float(number), 6) for number in numbers),
            )


def _sides_mm(box: np.ndarray, spacing: Sequence[float] | None, in_3d: bool) -> list[float | None]:
    """Width, height and depth of a lesion in mm; a label on one slice says nothing of its depth."""
    if spacing is None:
        return [None, None, None]
    sides = [round(float(side), 2) for side in (box[3:] - box[:3] + INCLUSIVE) * np.asarray(spacing)]
    return [*sides[:2], sides[2] if in_3d else None]


def official_predictions(cases: Sequence[Mapping[str, Any]]) -> dict[str, list[list[float]]]:
    """Detections as the hand-labelled set's code takes them: name to rows ``x1, y1, z1, x2, y2, z2, score``."""
    return {case["id"]: np.column_stack([case["boxes"], case["scores"]]).reshape(-1, 7).tolist() for case in cases}


def volume_notes(metrics: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures must know about the protocols they come from."""
    names = metrics["protocols"]
    notes = [TINY_BOXES] if OFFICIAL.name in names else []
    return [*notes, SPARSE_KEYS] if OFFICIAL.name in names and KEY_SLICE.name in names else notes


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _span(span: Sequence[float] | None) -> str:
    return "-" if span is None else f"{100 * span[0]:.0f}-{100 * span[1]:.0f}"


def _line(name: str, cells: Sequence[str]) -> str:
    return (f"  {name:<28}" + "".join(f"{cell:>8}" for cell in cells)).rstrip()


def format_volume_table(metrics: Mapping[str, Any]) -> str:
    """Set the main figures of an evaluation of volumes as a table of plain text.

    Args:
        metrics: What `write_volume_report` returns.

    Returns:
        Lines of at most 110 characters (notice and notes apart) without a newline at the end.
    """
    counts = metrics["counts"]
    lines = [
        f"{metrics['dataset']}: {counts['volumes']:,} volumes, {counts['patients']:,} patients,"
        f" {counts['detections']:,} detected lesions"
    ]
    lines += [metrics["notice"]] if metrics["notice"] else []
    lines += ["", _line("FPs per volume", [*_TARGETS, "  mean .125-8"])]
    groups = list(metrics["protocols"].items())
    for split in metrics["subgroups"].values():
        groups += [(f"{metrics['main']}, {name}", figures) for name, figures in split.items()]
    for name, figures in groups:
        values = [*figures["sensitivity"].values(), figures["mean_sensitivity"]]
        spans = [*figures["sensitivity_interval"].values(), figures["mean_sensitivity_interval"]]
        lines.append(_line(f"{name}, %", [_percent(value) for value in values]))
        shown = [_span(span) for span in spans] if any(spans) else []
        lines.append(_line(f"  {figures['lesions']:,} lesions{', 95 %' if shown else ''}", shown))
    found = metrics["protocols"].get(OFFICIAL.name, {}).get("found")
    if found and found["lesions"]:
        lines += [
            "",
            f"  Boxes that found a lesion by {OFFICIAL.name}: median IoU {found['median_iou']:.2f}, median volume "
            f"{found['median_volume_ratio']:.2f} of the lesion's.",
        ]
    return "\n".join([*lines, *(f"  {note}" for note in metrics["notes"])])
