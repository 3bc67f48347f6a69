"""Boxes that nobody labelled, for training: Lesion Harvester's lists, or a model's own confident detections.

Half of DeepLesion's lesions have no label. What was mined in its images can be a region to ignore, in which no box is
called wrong, or a further lesion (Cai et al., "Lesion Harvester", IEEE TMI 2021).
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...boxes import check_boxes, pairwise_iou
from ...instances import IGNORED
from ..importing.set_tables import table_rows
from ..records import Record, unknown
from .subvolume_frames import to_slab
from .subvolume_labels import read_volume_labels

logger = logging.getLogger(__name__)

MINED_AS = ("ignored", "lesions")
MINED_SCORE = 0.9
# From this overlap on a mined box is a lesion that has a label.
_SAME = 0.5
# Boxes ``(N, 4)`` and the name of the class of each, "" where it has none.
Boxes = tuple[np.ndarray, Sequence[str]]
_NONE: Boxes = (np.zeros((0, 4)), ())
# Columns of an evaluation's detections.
_NEEDED = ("id", "score", "x1", "y1", "x2", "y2")
_KNOWN = {"boxes", "labels", "noisy", "lesion_type", IGNORED}


@dataclass(frozen=True)
class Mined:
    """Adds mined boxes to the key slices of a data set.

    Attributes:
        path: A label file of sub-volumes (``.pkl`` or ``.json``, see `.subvolume_labels`), whose boxes count on every
            slice that they reach; or the ``detections.csv`` of an evaluation.
        kind: ``"ignored"``: regions to ignore; ``"lesions"``: lesions. In a set of several classes they are of the
            class that the file names; what has none, or one that the set does not have, becomes a region to ignore.
        score: Detections that score lower are left out; labels have no score.
    """

    path: str | Path
    kind: str = "ignored"
    score: float = MINED_SCORE

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: If the kind is not one of `MINED_AS`.
        """
        if self.kind not in MINED_AS:
            raise ValueError(f"Expected {' or '.join(MINED_AS)} as mined_as, got {self.kind!r}.")

    def __call__(self, records: Sequence[Record]) -> list[Record]:
        """The records with the boxes on their slices that are not of a lesion with a label.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it is not as expected, lesions have fields that mined ones cannot have, or none of them is
                of a class of the set.
        """
        further = sorted({name for record in records for name in record["instances"]} - _KNOWN)
        if further and self.kind == "lesions":
            raise ValueError(f"Expected mined_as ignored where lesions have the fields {', '.join(further)}.")
        path = Path(self.path)
        read = read_detections if path.suffix.lower() == ".csv" else _labels
        of_slice = read(path, self.score, records)
        classes = self._classes(of_slice, records)
        added = same = unnamed = twice = 0
        found: list[Record] = []
        for record in records:
            boxes, names = of_slice.get(record["file_name"], _NONE)
            free = (pairwise_iou(boxes, record["instances"]["boxes"]) < _SAME).all(axis=1)
            same += int((~free).sum())
            first = _first(boxes, names) if classes else np.ones(len(boxes), dtype=bool)
            twice += int((free & ~first).sum())
            rows = np.flatnonzero(free & first)
            # Labels count from 1; one class needs no name.
            labels = np.array([classes.get(names[row], 0) if classes else 1 for row in rows.tolist()], dtype=np.int64)
            added, unnamed = added + len(rows), unnamed + int((labels == 0).sum())
            found.append(self._with(record, boxes[rows].astype(np.float32), labels))
        logger.log(
            logging.INFO if added else logging.WARNING,
            "%s: %d mined boxes on %d key slices are %s; %d belong to lesions that have a label.",
            *(self.path, added, len(records), "lesions" if self.kind == "lesions" else "regions to ignore", same),
        )
        if classes:
            logger.info(
                "%s: %d of these boxes have no class of this set and are regions to ignore; %d more are left out, "
                "where one of another class scores higher.",
                *(self.path, unnamed, twice),
            )
        return found

    def _classes(self, of_slice: Mapping[str, Boxes], records: Sequence[Record]) -> dict[str, int]:
        """Labels of the classes by name where mined boxes become lesions of several classes, else none."""
        categories: Any = records[0].get("categories") if records and self.kind == "lesions" else None
        classes = {} if categories is None else {name: row for row, name in enumerate(categories.names, start=1)}
        told = {name for _, names in of_slice.values() for name in names}
        if told and len(classes) > 1 and not told & classes.keys():
            got = ", ".join(sorted(told - {""})) or "none"
            raise ValueError(
                f"Expected boxes of the classes {', '.join(classes)}, as the data set has, got {got} in {self.path}: "
                "mined_as ignored makes regions to ignore of them."
            )
        return classes if len(classes) > 1 else {}

    def _with(self, record: Record, boxes: np.ndarray, labels: np.ndarray) -> Record:
        own = dict(record["instances"])
        count = len(own["boxes"])
        more = unknown(own, len(boxes)) | {"boxes": boxes, "labels": np.maximum(labels, 1)}
        more["lesion_type"] = np.full(len(boxes), -1, dtype=np.int64)
        regions = (labels == 0) | (self.kind == "ignored")
        if self.kind == "ignored" or regions.any() or IGNORED in own:
            own[IGNORED] = own.get(IGNORED, np.zeros(count, dtype=bool))
            more[IGNORED] = regions
        joined = {name: np.concatenate([values, more[name]]) for name, values in own.items()}
        return {**record, "instances": joined}


def _first(boxes: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Whether each box ``(N, 4)``, best first, is the first of the classes that are named in its place."""
    kept: list[int] = []
    overlaps = pairwise_iou(boxes, boxes) >= _SAME
    for row in range(len(boxes)):
        if not any(overlaps[row, other] and names[row] != names[other] for other in kept):
            kept.append(row)
    return np.isin(np.arange(len(boxes)), kept)


def _labels(path: Path, score: float, records: Sequence[Record]) -> Mapping[str, Boxes]:
    """Boxes of sub-volumes, as slab-frame boxes by the file name of the key slice."""
    del score
    by_series: dict[str, list[tuple[np.ndarray, Sequence[str]]]] = defaultdict(list)
    for volume in read_volume_labels(path).volumes:
        for boxes, names in ((volume.true_boxes, volume.true_classes), (volume.key_boxes, None)):
            if boxes is not None:
                by_series[volume.series].append((boxes, names or [""] * len(boxes)))
    found, outside = {}, 0
    for record in records:
        parts = by_series.get(record["series"], [])
        names = [name for _, own in parts for name in own]
        plane, first, last = to_slab(np.concatenate([np.zeros((0, 6)), *(boxes for boxes, _ in parts)]))
        height, width = record["image_size"]
        here = (first <= record["key_slice"]) & (record["key_slice"] <= last)
        inside = (plane[:, 2:] > 0).all(axis=1) & (plane[:, 0] < width) & (plane[:, 1] < height)
        outside += int((here & ~inside).sum())
        here &= inside
        found[record["file_name"]] = plane[here], [names[row] for row in np.flatnonzero(here)]
    if not by_series.keys() & {record["series"] for record in records}:
        raise ValueError(f"Expected sub-volumes of the series of this data set, got none of them in {path}.")
    if outside:
        logger.warning("%s: %d boxes are left out: they lie outside of their image.", path, outside)
    return found


def read_detections(path: Path, score: float, records: Sequence[Record]) -> dict[str, Boxes]:
    """Read the boxes of an evaluation, a ``detections.csv``.

    Args:
        path: The file.
        score: Boxes that score lower are left out.
        records: The key slices of a data set; boxes elsewhere are left out.

    Returns:
        By the file name of the key slice, slab-frame boxes ``(N, 4)``, best first, and the class of each.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is another file, or one of other slices.
    """
    sizes = {record["file_name"]: record["image_size"] for record in records}
    found: dict[str, list[tuple[float, list[float], str]]] = defaultdict(list)
    if not path.is_file():
        raise FileNotFoundError(f"Expected the detections.csv of an evaluation, found no file {path}.")
    rows = table_rows(path)
    _, columns = next(rows)
    if missing := [name for name in _NEEDED if name not in columns]:
        raise ValueError(f"Expected the detections.csv of an evaluation, got no column {', '.join(missing)} in {path}.")
    known = low = other = 0
    for line, row in rows:
        image, *numbers = (row[columns[name]] for name in _NEEDED)
        certainty, box = _numbers(numbers, f"line {line} of {path}")
        if image not in sizes:
            other += 1
            continue
        known += 1
        if certainty < score:
            low += 1
            continue
        _check_inside(box, sizes[image], f"line {line} of {path}")
        found[image].append((certainty, box, row[columns["class"]] if "class" in columns else ""))
    if not known:
        raise ValueError(f"Expected detections on the key slices of this data set, got none of them in {path}.")
    logger.info(
        "%s: %d of %d detections are left out: %d score below %g, %d are on other images.",
        *(path, low + other, known + other, low, score, other),
    )
    best = {name: sorted(rows, key=lambda row: -row[0]) for name, rows in found.items()}
    return {name: (np.array([row[1] for row in rows]), [row[2] for row in rows]) for name, rows in best.items()}


def _numbers(fields: Sequence[str], where: str) -> tuple[float, list[float]]:
    """Score and box of a detection."""
    try:
        score, *box = map(float, fields)
    except ValueError as error:
        raise ValueError(f"Expected a score and a box as numbers, got others in {where}: {error}.") from None
    if not math.isfinite(score):
        raise ValueError(f"Expected a finite score, got {score} in {where}.")
    return score, box


def _check_inside(box: Sequence[float], size: tuple[int, int], where: str) -> None:
    check_boxes(np.array([box]), where)
    height, width = size
    x1, y1, x2, y2 = box
    near = -width <= x1 and -height <= y1 and x2 <= 2 * width and y2 <= 2 * height
    if not (near and x1 < width and y1 < height and x2 > 0 and y2 > 0):
        raise ValueError(f"Expected a box in an image of {width} x {height} pixels, got {list(box)} in {where}.")
