"""Detections of sub-volumes that others made, in the layouts in which they are passed on.

A ``.json`` or ``.pkl`` file holds a dict from the name of a sub-volume to one of these, the same in all of the file:

- rows ``x1, y1, z1, x2, y2, z2, score`` in the volume frame (see `data.volume_frames`), as the hand-labelled set's own
  evaluation code takes them;
- ``{"boxes": rows of six numbers, "scores": numbers}``, likewise in the volume frame;
- tracklets, as Lesion Harvester's evaluation code takes them (Cai et al., IEEE TMI 2021): a list of lesions, each a
  list of ``(z, [x1, y1, x2, y2, score])``, slices counted from 0 at the first one of the sub-volume, pixels from 1.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.deeplesion.subvolume_frames import from_harvester
from ..data.deeplesion.subvolume_labels import VolumeLabel, parse_name, read_content
from ..metrics.volume.volume_matching import check_volume_boxes
from ..storage.printable import shown

logger = logging.getLogger(__name__)

Detections = dict[str, np.ndarray]

# Half a slice beyond the first or last one still belongs to that slice.
_HALF = 0.5
_PLANE = [0, 1, 3, 4]


def read_predictions(path: str | Path, names: Sequence[str], content: Any = None) -> dict[str, Detections]:
    """Read detections.

    Args:
        path: See the head of this module; no rows where nothing was detected.
        names: Sub-volumes that must be there; further ones are left out, with a line in the log.
        content: What the file holds, if it has been read.

    Returns:
        By name ``boxes`` ``(M, 6)`` in the volume frame and ``scores`` ``(M,)``. Of a tracklet the box is what encloses
        it and the score is the best of its slices; ``tracks`` ``(K, 6)`` hold its slices, see `metrics.volumes`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is damaged, a sub-volume is missing or comes twice, rows are not as expected, or a box is
            outside of the slices of its sub-volume.
    """
    path = Path(path)
    content = read_content(path) if content is None else content
    if not isinstance(content, Mapping):
        raise ValueError(f"Expected a dict of sub-volumes, got {type(content).__name__} in {path}.")
    if "schema_version" in content:
        raise ValueError(
            f"Expected detections of sub-volumes, got the lesions of a scan in {path}: give its folder, and an "
            "imported set as the truth."
        )
    rows: dict[str, tuple[VolumeLabel, Any]] = {}
    for key, value in content.items():
        # The same sub-volume may be called by its name and by that of its file.
        label = parse_name(str(key), path)
        if label.name in rows:
            raise ValueError(f"Expected each sub-volume once, got {label.name} again as {shown(key)} in {path}.")
        rows[label.name] = label, value
    missing = [name for name in names if name not in rows]
    if missing:
        raise ValueError(
            f"Expected detections for every sub-volume (an empty list for none), got none for {len(missing)} of "
            f"{len(names)}, {missing[0]} the first, in {path}."
        )
    if len(rows) > len(names):
        logger.warning("%s: %d sub-volumes that are not scored are left out.", path, len(rows) - len(names))
    found = {name: _prediction(*rows[name], f"{path}, {name}") for name in names}
    return _alike(found, path)


def _prediction(label: VolumeLabel, value: Any, where: str) -> Detections:
    if isinstance(value, Mapping):
        if not {"boxes", "scores"} <= set(value):
            raise ValueError(f"Expected the keys boxes and scores, got {shown(list(value))} in {where}.")
        boxes, scores = check_volume_boxes(value["boxes"], where), _numbers(value["scores"]).reshape(-1)
        if len(scores) != len(boxes):
            raise ValueError(
                f"Expected a score for each of {len(boxes)} boxes, got {shown(value['scores'])} in {where}."
            )
        found = {"boxes": boxes, "scores": scores}
    elif _is_tracklets(value):
        found = _tracklets(value, label, where)
    else:
        table = _numbers(value)
        table = table.reshape(0, 7) if table.size == 0 else table
        if table.ndim != 2 or table.shape[1] != 7:
            raise ValueError(
                f"Expected rows of seven numbers (a box and its score), got shape {table.shape} in {where}."
            )
        found = {"boxes": check_volume_boxes(table[:, :6], where), "scores": table[:, 6]}
    if not np.isfinite(found["scores"]).all():
        raise ValueError(f"Expected finite scores, got {shown(found['scores'].tolist())} in {where}.")
    _check_slices(found["boxes"], label, where)
    return found


def _numbers(value: Any) -> np.ndarray:
    """Numbers in any shape; what is not numbers becomes a table that fits nowhere."""
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.full((1, 1), np.nan)


def _is_tracklets(value: Any) -> bool:
    """Whether a value is a list of lists of pairs."""
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(
            isinstance(lesion, (list, tuple))
            and len(lesion) > 0
            and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in lesion)
            for lesion in value
        )
    )


def _tracklets(value: Sequence[Sequence[tuple[Any, Any]]], label: VolumeLabel, where: str) -> Detections:
    boxes, scores, tracks = [], [], [np.zeros((0, 6))]
    for row, lesion in enumerate(value):
        places = [_numbers(z) for z, _ in lesion]
        plane = [_numbers(box) for _, box in lesion]
        good = all(z.shape == () and np.isfinite(z) for z in places) and all(box.shape == (5,) for box in plane)
        if not good:
            raise ValueError(
                f"Expected tracklets of (slice, [x1, y1, x2, y2, score]), got {shown(lesion)} as lesion {row} in "
                f"{where}."
            )
        stored = np.array([[*box[:4], z, z] for box, z in zip(plane, places, strict=True)])
        here = check_volume_boxes(from_harvester(stored, label.first), f"lesion {row} of {where}")
        tracks.append(np.column_stack([np.full(len(here), row), here[:, 2], here[:, _PLANE]]))
        boxes.append([*here[:, :3].min(axis=0), *here[:, 3:].max(axis=0)])
        scores.append(max(float(box[4]) for box in plane))
    return {"boxes": np.array(boxes), "scores": np.array(scores), "tracks": np.concatenate(tracks)}


def _check_slices(boxes: np.ndarray, label: VolumeLabel, where: str) -> None:
    """Reject boxes outside of their sub-volume: they would count as false positives, and their lesions as missed."""
    outside = (boxes[:, 2] < label.first - _HALF) | (boxes[:, 5] > label.last + _HALF)
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"Expected boxes within the slices {label.first} to {label.last} of their sub-volume, by their numbers in "
            f"the series and not counted from 0, got z from {boxes[row, 2]:g} to {boxes[row, 5]:g} as row {row} in "
            f"{where}."
        )


def _alike(found: dict[str, Detections], path: Path) -> dict[str, Detections]:
    """Tracks of all sub-volumes or of none."""
    tracked = [name for name, detections in found.items() if "tracks" in detections]
    if not tracked:
        return found
    for name, detections in found.items():
        if "tracks" not in detections:
            if len(detections["boxes"]):
                raise ValueError(
                    f"Expected tracklets in every sub-volume as in {tracked[0]}, got boxes in {path}, {name}."
                )
            detections["tracks"] = np.zeros((0, 6))
    return found
