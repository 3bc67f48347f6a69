"""Boxes that nobody labelled, for training: Lesion Harvester's lists, or a model's own confident detections.

Half of DeepLesion's lesions have no label. What was mined in its images can be a region to ignore, in which no box is
called wrong, or a further lesion (Cai et al., "Lesion Harvester", IEEE TMI 2021).
"""

from __future__ import annotations

import csv
import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...boxes import check_boxes, pairwise_iou
from ...instances import IGNORED
from ..records import Record, unknown
from .subvolume_frames import to_slab
from .subvolume_labels import read_volume_labels

logger = logging.getLogger(__name__)

MINED_AS = ("ignored", "lesions")
MINED_SCORE = 0.9
# From this overlap on a mined box is a lesion that has a label.
_SAME = 0.5
_KNOWN = {"boxes", "labels", "noisy", "lesion_type", IGNORED}


@dataclass(frozen=True)
class Mined:
    """Adds mined boxes to the key slices of a data set.

    Attributes:
        path: A label file of sub-volumes (``.pkl`` or ``.json``, see `.subvolume_labels`), whose boxes count on every
            slice that they reach; or the ``detections.csv`` of an evaluation.
        kind: ``"ignored"``: regions to ignore; ``"lesions"``: lesions of the first class.
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
            ValueError: If it is not as expected, or lesions have fields that mined ones cannot have.
        """
        further = sorted({name for record in records for name in record["instances"]} - _KNOWN)
        if further and self.kind == "lesions":
            raise ValueError(f"Expected mined_as ignored where lesions have the fields {', '.join(further)}.")
        path = Path(self.path)
        read = _detections if path.suffix.lower() == ".csv" else _labels
        of_slice = read(path, self.score, records)
        added = same = 0
        found: list[Record] = []
        for record in records:
            boxes = of_slice.get(record["file_name"], np.zeros((0, 4)))
            labelled = record["instances"]["boxes"]
            free = boxes[(pairwise_iou(boxes, labelled) < _SAME).all(axis=1)]
            added, same = added + len(free), same + len(boxes) - len(free)
            found.append(self._with(record, free.astype(np.float32)))
        logger.info(
            "%s: %d mined boxes on %d key slices are %s; %d belong to lesions that have a label.",
            *(self.path, added, len(records), "lesions" if self.kind == "lesions" else "regions to ignore", same),
        )
        return found

    def _with(self, record: Record, boxes: np.ndarray) -> Record:
        own = dict(record["instances"])
        count = len(own["boxes"])
        more = unknown(own, len(boxes)) | {"boxes": boxes, "labels": np.ones(len(boxes), dtype=np.int64)}
        more["lesion_type"] = np.full(len(boxes), -1, dtype=np.int64)
        if self.kind == "ignored" or IGNORED in own:
            own[IGNORED] = own.get(IGNORED, np.zeros(count, dtype=bool))
            more[IGNORED] = np.full(len(boxes), self.kind == "ignored")
        joined = {name: np.concatenate([values, more[name]]) for name, values in own.items()}
        return {**record, "instances": joined}


def _labels(path: Path, score: float, records: Sequence[Record]) -> Mapping[str, np.ndarray]:
    """Boxes of sub-volumes, as slab-frame boxes ``(N, 4)`` by the file name of the key slice."""
    del score
    volumes = read_volume_labels(path).volumes
    by_series: dict[str, list[np.ndarray]] = defaultdict(list)
    for volume in volumes:
        by_series[volume.series] += [boxes for boxes in (volume.true_boxes, volume.key_boxes) if boxes is not None]
    found = {}
    for record in records:
        boxes = np.concatenate([np.zeros((0, 6)), *by_series.get(record["series"], [])])
        plane, first, last = to_slab(boxes)
        on_slice = plane[(first <= record["key_slice"]) & (record["key_slice"] <= last)]
        height, width = record["image_size"]
        inside = (on_slice[:, 2:] > 0).all(axis=1) & (on_slice[:, 0] < width) & (on_slice[:, 1] < height)
        found[record["file_name"]] = on_slice[inside]
    if not by_series.keys() & {record["series"] for record in records}:
        raise ValueError(f"Expected sub-volumes of the series of this data set, got none of them in {path}.")
    return found


def _detections(path: Path, score: float, records: Sequence[Record]) -> Mapping[str, np.ndarray]:
    """Boxes of an evaluation that score enough, likewise."""
    sizes = {record["file_name"]: record["image_size"] for record in records}
    found: dict[str, list[list[float]]] = defaultdict(list)
    known = False
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                known |= row["id"] in sizes
                certainty, box = _numbers(row, f"line {number} of {path}")
                if row["id"] in sizes and certainty >= score:
                    _check_inside(box, sizes[row["id"]], f"line {number} of {path}")
                    found[row["id"]].append(box)
    except (KeyError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"Expected the detections.csv of an evaluation, cannot use {path}: {error}.") from error
    if not known:
        raise ValueError(f"Expected detections on the key slices of this data set, got none of them in {path}.")
    return {name: np.array(boxes, dtype=np.float64) for name, boxes in found.items()}


def _numbers(row: Mapping[str, str], where: str) -> tuple[float, list[float]]:
    """Score and box of a detection."""
    try:
        score, *box = (float(row[name]) for name in ("score", "x1", "y1", "x2", "y2"))
    except ValueError as error:
        raise ValueError(f"Expected a score and a box as numbers, got others in {where}: {error}.") from None
    if not math.isfinite(score):
        raise ValueError(f"Expected a finite score, got {score} in {where}.")
    return score, box


def _check_inside(box: Sequence[float], size: tuple[int, int], where: str) -> None:
    check_boxes(np.array([box]), where)
    height, width = size
    x1, y1, x2, y2 = box
    if not (x1 < width and y1 < height and x2 > 0 and y2 > 0):
        raise ValueError(f"Expected a box in an image of {width} x {height} pixels, got {list(box)} in {where}.")
