"""Reviews of results, as the report page saves them: ``lesions.json`` with a decision and a comment for each lesion."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....storage.printable import shown
from ....storage.safe_json import read_json

# What a person decides about a lesion; all begin undecided.
DECISIONS = ("accepted", "rejected", "uncertain", "undecided")
# Results round to 0.0001 mm, and others who write them perhaps to less.
_SAME_MM = 0.05


@dataclass(frozen=True)
class Review:
    """The review of the lesions of one scan.

    Attributes:
        path: The file.
        sha256: Of the files of the scan.
        boxes: ``(N, 6)`` ``i1, j1, k1, i2, j2, k2``, half-open edges of the stored voxels.
        decisions: Of each, one of `DECISIONS`.
        labels: Of each, its class from 1; None of a network of one class.
    """

    path: Path
    sha256: str
    boxes: np.ndarray
    decisions: tuple[str, ...]
    labels: tuple[int | None, ...]


def decision_of(lesion: Mapping[str, Any], where: str) -> str | None:
    """The decision about an entry of ``lesions``; None where nobody reviewed it.

    Raises:
        ValueError: If it is not one of `DECISIONS`.
    """
    if "review" not in lesion:
        return None
    review = lesion["review"]
    found = review.get("decision") if isinstance(review, Mapping) else review
    if found not in DECISIONS:
        raise ValueError(f"Expected {', '.join(DECISIONS)} as the decision of a review, got {shown(found)} in {where}.")
    return found


def sizes_of(lesions: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """``size_mm`` of entries of ``lesions``, ``(N, 3)``; NaN where an entry has none, as one that a person added."""
    sizes = np.full((len(lesions), 3), np.nan)
    for row, lesion in zip(sizes, lesions, strict=True):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            row[:] = lesion.get("size_mm", np.nan)
    return np.where(np.isfinite(sizes), sizes, np.nan)


def check_voxels_moved(lesion: Mapping[str, Any], index_to_lps: Any, where: str) -> None:
    """Reject a lesion whose ``box_lps_mm`` a person moved and whose ``box_voxel``, which alone is read, they did not.

    Results have the middle of both as ``center_lps_mm``: one that ``box_voxel`` still has and ``box_lps_mm`` has not.

    Args:
        lesion: An entry of ``lesions``; nothing is known of one without ``box_lps_mm`` or ``center_lps_mm``.
        index_to_lps: ``index_to_lps_mm`` of the result, ``(4, 4)``.
        where: Names the lesion.

    Raises:
        ValueError: If so.
    """
    try:
        voxels, millimetres = (np.reshape(lesion[key], (2, 3)).astype(float) for key in ("box_voxel", "box_lps_mm"))
        centre, matrix = np.reshape(lesion["center_lps_mm"], 3).astype(float), np.reshape(index_to_lps, (4, 4))
        middle = (matrix.astype(float) @ [*(voxels.mean(axis=0) - 0.5), 1.0])[:3]
    except (KeyError, TypeError, ValueError, OverflowError):
        return
    if np.allclose(middle, centre, atol=_SAME_MM) and not np.allclose(millimetres.mean(axis=0), centre, atol=_SAME_MM):
        raise ValueError(
            f"Expected the change of a box in box_voxel, which is what is read, got box_lps_mm with its middle at "
            f"{shown(millimetres.mean(axis=0).tolist())} and box_voxel still at {shown(centre.tolist())} mm in {where}."
        )


def read_review(path: Path) -> Review:
    """Read ``lesions_reviewed.json``.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not a review; what is wrong is named.
    """
    content = read_json(path, "a review (lesions_reviewed.json)")
    about = content.get("input") if isinstance(content, Mapping) else None
    lesions = content.get("lesions") if isinstance(content, Mapping) else None
    if not isinstance(about, Mapping) or not isinstance(about.get("sha256"), str) or not isinstance(lesions, list):
        raise ValueError(
            f"Expected a review that the report page saved, with 'input' and 'lesions', got another file: {path}."
        )
    boxes, decisions, labels = np.zeros((len(lesions), 6)), [], []
    model = content.get("model")
    classes = model.get("classes") if isinstance(model, Mapping) else None
    classes = classes if isinstance(classes, list) else []
    for at, lesion in enumerate(lesions):
        where = f"lesion {at + 1} of {path}"
        decision = decision_of(lesion, where) if isinstance(lesion, Mapping) else None
        if decision is None:
            raise ValueError(f"Expected a review with a decision about every lesion, got none in {where}.")
        try:
            boxes[at] = np.array(lesion.get("box_voxel"), dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            boxes[at] = np.nan
        if not np.isfinite(boxes[at]).all():
            got = shown(lesion.get("box_voxel"))
            raise ValueError(f"Expected six finite numbers as box_voxel, got {got} in {where}.")
        decisions.append(decision)
        if "class" in lesion and lesion["class"] not in classes:
            raise ValueError(f"Expected a class of model.classes, got {shown(lesion['class'])} in {where}.")
        labels.append(classes.index(lesion["class"]) + 1 if "class" in lesion else None)
    return Review(path, about["sha256"], boxes, tuple(decisions), tuple(labels))
