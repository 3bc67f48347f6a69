"""Boxes of one scan as a detector's result file has them: our ``lesions.json``, and nnDetection's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...data.importing.truth.reviews import sizes_of
from ...storage.safe_json import read_json
from ...storage.safe_pickle import read_plain_pickle
from .checked_results import check_corners, six_numbers

# Sides in voxels; boxes of nnDetection that are narrower than the voxel around them would have none.
_NARROWEST = 0.5
# nnDetection wants this after the name of a case in that of its image.
_MODALITY = "_0000"


@dataclass(frozen=True)
class ResultBoxes:
    """Detections of one scan.

    Attributes:
        boxes: ``(N, 6)`` edges ``i1 j1 k1 i2 j2 k2`` of the voxels of the file.
        scores: ``(N,)``.
        names: What the scan may be called, the likeliest first.
        digest: SHA-256 of its files, None where it is not known.
        classes: ``(N,)`` name of the class of each, None where the file does not tell.
        sizes_mm: ``(N, 3)`` sides of the boxes along the axes of the scan, NaN where unknown; None of nnDetection.
        cut_at: Score below which lesions were left out; 0 where none were.
        linked_from: Least score of the boxes in slices that were linked to lesions; 0 where the file does not tell.
    """

    boxes: np.ndarray
    scores: np.ndarray
    names: list[str]
    digest: Any = None
    classes: np.ndarray | None = None
    sizes_mm: np.ndarray | None = None
    cut_at: float = 0.0
    linked_from: float = 0.0


def own_result(path: Path, name: str) -> ResultBoxes:
    """Lesions of our ``lesions.json``, with their classes where the network distinguished several.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not as expected.
    """
    content = read_json(path, "lesions")
    try:
        boxes = six_numbers([lesion["box_voxel"] for lesion in content["lesions"]])
        scores = np.array([lesion["score"] for lesion in content["lesions"]], dtype=np.float64)
        sizes = sizes_of(content["lesions"])
        called, digest = str(content["input"]["name"]), content["input"].get("sha256")
        settings = content.get("settings", {})
        shown_from, linked_from = (float(settings.get(key) or 0) for key in ("score_threshold", "box_threshold"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"Expected lesions with box_voxel and score, cannot use {path}: {type(error).__name__} {error}."
        ) from error
    stem = called
    for ending in (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".zip"):
        stem = stem.removesuffix(ending)
    kinds = [lesion.get("class") for lesion in content["lesions"]]
    several = isinstance(content.get("model"), dict) and "classes" in content["model"]
    classes = np.array([str(kind) for kind in kinds], dtype=str) if several and None not in kinds else None
    # Without a box there is no lesion, whatever is shown.
    cut_at = shown_from if shown_from > linked_from else 0.0
    called_so = [called, name, name.rpartition("/")[2], stem]
    return ResultBoxes(boxes, scores, called_so, digest, classes, sizes, cut_at, linked_from)


def nndetection(path: Path, name: str) -> ResultBoxes:
    """Boxes of nnDetection as edges ``i1 j1 k1 i2 j2 k2`` of the voxels of the file.

    It has them as ``z1 y1 z2 y2 x1 x2``, the axes of the array being those of SimpleITK. On both sides they end at the
    centre of the first voxel that is no longer of the lesion: one of voxels 3 to 5 has 2 and 6
    (``instances_to_boxes`` and ``boxes2nii`` of its code), so its edges are 3 and 6.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not as expected.
    """
    form = "pred_boxes and pred_scores"
    try:
        if path.suffix == ".json":
            form = 'a box and a score for each number, as {"1": {"box": [...], "score": 0.9}},'
            entries = list(read_json(path, "boxes").values())
            boxes, scores = [entry["box"] for entry in entries], [entry["score"] for entry in entries]
        else:
            content = read_plain_pickle(path)
            boxes, scores = content["pred_boxes"], content["pred_scores"]
        table = six_numbers(boxes)
        check_corners(table[:, [4, 1, 0]], table[:, [5, 3, 2]])
        numbers = np.array(scores, dtype=np.float64).reshape(-1)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"Expected {form} of nnDetection, cannot use {path}: {type(error).__name__} {error}."
        ) from error
    if len(table) != len(numbers):
        raise ValueError(f"Expected a score for each of {len(table)} boxes, got {len(numbers)} in {path}.")
    low, high = table[:, [4, 1, 0]] + 1, table[:, [5, 3, 2]]
    middle, half = (low + high) / 2, np.maximum(high - low, _NARROWEST) / 2
    return ResultBoxes(np.column_stack([middle - half, middle + half]), numbers, [name, name + _MODALITY])
