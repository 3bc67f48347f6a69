"""The numbers of whole volumes as tables: for the terminal and as CSV rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..evaluation_files import Table
from ..froc import FrocCurve
from ..matching import Matches
from ..tables import TextTable, afroc_lines, box_cells, cell, froc_header, froc_rows, subgroups_of
from .volume_evaluation import found_overlaps
from .volume_matching import INCLUSIVE, KEY_SLICE, OFFICIAL, PER_VOLUME

_TEXT = TextTable(name_width=28, cell_width=8, digits=0)
# Letters of a class in the table of plain text.
_NAME = 12
_BOX = ("x1", "y1", "z1", "x2", "y2", "z2")
TINY_BOXES = (
    "IoBB divides by the detected box alone: any box inside a lesion hits, however small. Read the IoU next to it."
)
SPARSE_KEYS = (
    "Where only some of the lesions on key slices are labelled, as in DeepLesion, part of the false positives under "
    "P3D are lesions."
)

SENSITIVITY_HEADER = ("protocol", "group", "volumes", "lesions", "fps_per_volume", "sensitivity", "low", "high")


def volume_tables(
    cases: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    matches: Mapping[str, Matches],
    curves: Mapping[str, FrocCurve],
) -> dict[str, Table]:
    """Header and rows of every CSV file, by its name without ending.

    Args:
        cases: The checked volume cases.
        metrics: What `evaluate_volumes` returns of them first.
        matches: Their matches by protocol.
        curves: Their curves by protocol.
    """
    corners = (row for name, curve in curves.items() for row in froc_rows(name, curve))
    outcomes = [f"outcome ({name})" for name in matches]
    return {
        "sensitivity": (SENSITIVITY_HEADER, volume_sensitivity_rows(metrics)),
        "froc": (froc_header("protocol", "volume"), corners),
        "detections": ((*DETECTION_HEADER, *outcomes), volume_detection_rows(cases, matches)),
        "true_lesions": (LESION_HEADER, volume_lesion_rows(cases, metrics, matches)),
    }


def volume_sensitivity_rows(metrics: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of ``sensitivity.csv``: every protocol, then the groups of the main one, a row per operating point."""
    volumes = metrics["counts"]["volumes"]
    tables = [(name, "all", {"volumes": volumes, **figures}) for name, figures in metrics["protocols"].items()]
    tables += [(metrics["main"], name, group) for name, group in subgroups_of(metrics).items()]
    for kind, figures in metrics.get("classes", {}).items():
        head = {"volumes": volumes, "lesions": figures["lesions"]}
        tables += [(name, f"class: {kind}", {**head, **numbers}) for name, numbers in figures["protocols"].items()]
    for protocol, group, figures in tables:
        head = (protocol, group, figures["volumes"], figures["lesions"])
        for target in PER_VOLUME.names:
            span = figures["sensitivity_interval"][target] or (None, None)
            yield (*head, target, figures["sensitivity"][target], *span)
        span = figures["mean_sensitivity_interval"] or (None, None)
        yield (*head, "mean of 0.125 to 8", figures["mean_sensitivity"], *span)


DETECTION_HEADER = ("id", "patient", "detection", *_BOX, "score")


def volume_detection_rows(
    cases: Sequence[Mapping[str, Any]], matches: Mapping[str, Matches]
) -> Iterator[tuple[Any, ...]]:
    """Rows of ``detections.csv``, best score first; boxes in the volume frame."""
    first = next(iter(matches.values()))
    # All protocols pool and sort the same detections: row by row they speak of the same one.
    outcomes = [one.outcomes for one in matches.values()]
    for row, (volume, detection, score) in enumerate(zip(first.image, first.detection, first.scores, strict=True)):
        case = cases[volume]
        box = box_cells(case["boxes"][detection])
        cells = [str(one[row]) for one in outcomes]
        yield (case["id"], case["patient"], int(detection), *box, float(score), *cells)


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
                *box_cells(box),
                *_sides_mm(box, case.get("spacing"), in_3d),
                *(cell(number, 6) for number in numbers),
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
    """What a reader of the numbers must know about the protocols they come from."""
    names = metrics["protocols"]
    notes = [TINY_BOXES] if OFFICIAL.name in names else []
    return [*notes, SPARSE_KEYS] if OFFICIAL.name in names and KEY_SLICE.name in names else notes


def format_volume_table(metrics: Mapping[str, Any]) -> str:
    """Set the main numbers of an evaluation of volumes as a table of plain text.

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
    lines += ["", _TEXT.line("FPs per volume", [*PER_VOLUME.names, "  mean .125-8"])]
    groups = list(metrics["protocols"].items())
    for split in metrics["subgroups"].values():
        groups += [(f"{metrics['main']}, {name}", figures) for name, figures in split.items()]
    for kind, figures in metrics.get("classes", {}).items():
        name, numbers = next(iter(figures["protocols"].items()))
        groups.append((f"{name}, {kind[:_NAME]}", {"lesions": figures["lesions"], **numbers}))
    for name, figures in groups:
        label = f"  {figures['lesions']:,} lesions"
        lines += [_TEXT.values(f"{name}, %", figures), _TEXT.spans(f"{label}, 95 %", figures) or f"  {label}"]
    lines += ["", *afroc_lines(metrics["protocols"][metrics["main"]]["afroc"], "volume")]
    found = metrics["protocols"].get(OFFICIAL.name, {}).get("found")
    if found and found["lesions"]:
        lines += [
            "",
            f"  Boxes that found a lesion by {OFFICIAL.name}: median IoU {found['median_iou']:.2f}, median volume "
            f"{found['median_volume_ratio']:.2f} of the lesion's.",
        ]
    return "\n".join([*lines, *(f"  {note}" for note in metrics["notes"])])
