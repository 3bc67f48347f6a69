"""Detections of whole volumes against lesions in 3D: overlaps, protocols and the matching.

Boxes are in the *volume frame* of the hand-labelled DeepLesion volumes: ``x1, y1, z1, x2, y2, z2``, first and
last pixel (0-based) and first and last slice (by its number in the series), all inclusive, so that a side has
``last - first + 1`` pixels or slices.

A *volume case* is a mapping with these keys:

========================  ==========================================================================
``id``                    name of the volume, unique in the list (``"000001_01_01_103-115"``)
``patient``               name of the patient (needed by the bootstrap only)
``boxes``, ``scores``     detected lesions, ``(M, 6)`` and ``(M,)``; ``M = 0`` is legal
``true_boxes``            lesions in 3D, ``(N, 6)``; ``N = 0`` is legal; absent or None where not labelled
``key_boxes``             lesions labelled on one slice, ``(N, 6)`` with ``z1 == z2``; likewise
``tracks``                optional, ``(K, 6)``: ``row, z, x1, y1, x2, y2``, the box of detection ``row`` on
                          slice ``z``
``ignored_boxes``         optional, ``(K, 6)``: regions in which nothing is known
``classes``               optional, ``(M,)``, the class that a detector names for each box
``true_classes``          optional, ``(N,)``, the class of each of ``true_boxes``
``class_names``           optional, all classes of the data set, the same in every case
``slice_interval``        optional, mm; ``spacing`` optional, ``(x, y, z)`` mm
========================  ==========================================================================

Every protocol pools the detections of all volumes, best score first. A detection that overlaps no lesion of its
volume enough is a false positive; otherwise it finds every lesion that it overlaps enough and that nothing found
before, possibly several; if all of them were found before, it is neither; nor is one of which half lies in a region to
ignore, where it overlaps no lesion enough. False positives are divided by the number of
volumes, those without a lesion included (Yan et al., IEEE TMI 2020, evaluation code of the hand-labelled set).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np

from ..cases import shown_id
from ..froc_numbers import OperatingPoints
from ..matching import FrocRule, Matches, match_overlaps

Dimension = Literal["2D", "P3D", "3D", "track"]
Overlap = Literal["IOU", "IOBB", "IOGT", "IOBBGT"]

# Operating points in false positives per volume; the hand-labelled set's mean is taken over the first seven.
FPS_PER_VOLUME = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
MEAN_FPS_PER_VOLUME = FPS_PER_VOLUME[:7]
PER_VOLUME = OperatingPoints("volume", FPS_PER_VOLUME, MEAN_FPS_PER_VOLUME)
# What is added to last - first: the last pixel and slice belong to the box.
INCLUSIVE = 1.0


@dataclass(frozen=True)
class Protocol:
    """How detections of volumes are matched to lesions.

    Attributes:
        name: Name in reports.
        dimension: ``"3D"`` compares boxes in 3D; ``"P3D"`` a box in 3D with a lesion labelled on one slice, in
            the plane, if the box reaches that slice; ``"track"`` likewise with the detection's own box on that
            slice (the case's ``tracks``); ``"2D"`` boxes ``(N, 4)`` in the plane.
        overlap: Intersection over union (``"IOU"``), over the detected box (``"IOBB"``), over the labelled box
            (``"IOGT"``), or the larger of the last two (``"IOBBGT"``).
        threshold: A detection with at least this overlap hits.
        truth: Key of the labels in a case.
    """

    name: str
    dimension: Dimension
    overlap: Overlap
    threshold: float
    truth: str = "true_boxes"

    @property
    def rule(self) -> FrocRule:
        """The counting: inclusive pixels, ties in the given order, the last of points that share their FPs."""
        return FrocRule(
            self.name,
            iou_threshold=self.threshold,
            extra_pixels=INCLUSIVE,
            drop_unusable=False,
            shared_fps="last",
        )


# The hand-labelled set's own (Yan et al. 2020).
OFFICIAL = Protocol("3D IoBB 0.3", "3D", "IOBB", 0.3)
# Also reported, because a tiny box inside a lesion has an IoBB of 1.
IOU_30 = Protocol("3D IoU 0.3", "3D", "IOU", 0.3)
IOU_50 = Protocol("3D IoU 0.5", "3D", "IOU", 0.5)
# Against key slices: with the lesion's 3D box (Yan et al. 2020) and with its box on the slice itself (Cai et al.,
# "Lesion Harvester", IEEE TMI 2021).
KEY_SLICE = Protocol("P3D IoU 0.5", "P3D", "IOU", 0.5, "key_boxes")
KEY_SLICE_TRACK = Protocol("P3D IoU 0.5 by slice", "track", "IOU", 0.5, "key_boxes")
PROTOCOLS = (OFFICIAL, IOU_30, IOU_50, KEY_SLICE, KEY_SLICE_TRACK)


def _sides(low: np.ndarray, high: np.ndarray, extra: float) -> np.ndarray:
    return np.maximum(high - low + extra, 0.0)


def pairwise_overlap(
    boxes: np.ndarray, others: np.ndarray, *, dimension: Dimension, overlap: Overlap, extra: float = INCLUSIVE
) -> np.ndarray:
    """Overlap of every detected box with every labelled one, in float64.

    Args:
        boxes: ``(M, 6)`` detected boxes ``x1, y1, z1, x2, y2, z2``; ``(M, 4)`` in two dimensions.
        others: ``(N, 6)`` labelled boxes, for ``"P3D"`` with ``z1 == z2``; ``(N, 4)`` in two dimensions.
        dimension: ``"2D"``, ``"P3D"`` or ``"3D"``, see `Protocol`.
        overlap: Which overlap, see `Protocol`.
        extra: Added to every side: 1 for inclusive pixels and slices, 0 for continuous edges.

    Returns:
        ``(M, N)`` in [0, 1].

    Raises:
        ValueError: If the dimension or the overlap is unknown, or a label of ``"P3D"`` spans several slices.
    """
    axes = 2 if dimension == "2D" else 3
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 2 * axes)
    others = np.asarray(others, dtype=np.float64).reshape(-1, 2 * axes)
    if dimension == "P3D":
        if (others[:, 2] != others[:, 5]).any():
            raise ValueError("Expected labels on a single slice (z1 == z2) for P3D overlaps, got one on several.")
        reached = (boxes[:, None, 2] <= others[None, :, 2]) & (others[None, :, 2] <= boxes[:, None, 5])
        plane = [0, 1, 3, 4]
        flat = pairwise_overlap(boxes[:, plane], others[:, plane], dimension="2D", overlap=overlap, extra=extra)
        return flat * reached
    if dimension not in ("2D", "3D"):
        raise ValueError(f"Expected 2D, P3D or 3D as the dimension of overlaps, got {dimension!r}.")
    low = np.maximum(boxes[:, None, :axes], others[None, :, :axes])
    high = np.minimum(boxes[:, None, axes:], others[None, :, axes:])
    shared = _sides(low, high, extra).prod(axis=-1)
    sizes = _sides(boxes[:, :axes], boxes[:, axes:], extra).prod(axis=-1)[:, None]
    other_sizes = _sides(others[:, :axes], others[:, axes:], extra).prod(axis=-1)[None, :]
    if overlap == "IOU":
        return _ratio(shared, sizes + other_sizes - shared)
    if overlap == "IOBB":
        return _ratio(shared, sizes)
    if overlap == "IOGT":
        return _ratio(shared, other_sizes)
    if overlap == "IOBBGT":
        return np.maximum(_ratio(shared, sizes), _ratio(shared, other_sizes))
    raise ValueError(f"Expected IOU, IOBB, IOGT or IOBBGT as the overlap, got {overlap!r}.")


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    whole = np.broadcast_to(whole, part.shape)
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def track_overlap(tracks: np.ndarray, count: int, others: np.ndarray, overlap: Overlap) -> np.ndarray:
    """Overlap in the plane of every detection's own box on the label's slice with the label.

    Args:
        tracks: ``(K, 6)`` ``row, z, x1, y1, x2, y2``, see the head of this module.
        count: Number of detections ``M``.
        others: ``(N, 6)`` labels on one slice each.
        overlap: Which overlap, see `Protocol`.

    Returns:
        ``(M, N)``; 0 where the detection has no box on the slice.
    """
    flat = pairwise_overlap(tracks[:, 2:], others[:, [0, 1, 3, 4]], dimension="2D", overlap=overlap)
    flat = flat * (tracks[:, None, 1] == others[None, :, 2])
    result = np.zeros((count, len(others)))
    np.maximum.at(result, tracks[:, 0].astype(np.int64), flat)
    return result


def has_truth(cases: Sequence[Mapping[str, Any]], protocol: Protocol) -> bool:
    """Whether the first of the cases holds what a protocol needs; `match_volumes` checks the others."""
    needed = [protocol.truth, *(["tracks"] if protocol.dimension == "track" else [])]
    return len(cases) > 0 and all(cases[0].get(key) is not None for key in needed)


def _overlaps(case: Mapping[str, Any], protocol: Protocol) -> np.ndarray:
    truth = case.get(protocol.truth)
    if truth is None:
        raise ValueError(f"Expected {protocol.truth} in every volume for {protocol.name}, got none in {case['id']}.")
    if protocol.dimension != "track":
        return pairwise_overlap(case["boxes"], truth, dimension=protocol.dimension, overlap=protocol.overlap)
    if case.get("tracks") is None:
        raise ValueError(f"Expected tracks in every volume for {protocol.name}, got none in {case['id']}.")
    return track_overlap(case["tracks"], len(case["boxes"]), truth, protocol.overlap)


def match_volumes(cases: Sequence[Mapping[str, Any]], protocol: Protocol = OFFICIAL) -> Matches:
    """Match the detections of all volumes to their lesions.

    Args:
        cases: Volume cases, see the head of this module; boxes ``(N, 4)`` for a protocol in two dimensions.
        protocol: How overlaps are measured, and from where they hit.

    Returns:
        The outcome of every detection and lesion; its images are the volumes.

    Raises:
        ValueError: If there is no case, a case is malformed, or one lacks the labels of the protocol.
    """
    checked = check_volumes(cases, columns=4 if protocol.dimension == "2D" else 6)
    overlaps = [_overlaps(case, protocol) for case in checked]
    dimension: Dimension = "2D" if protocol.dimension == "2D" else "3D"
    regions = [case.get("ignored_boxes") for case in checked]
    inside = [
        None if region is None else pairwise_overlap(case["boxes"], region, dimension=dimension, overlap="IOBB")
        for case, region in zip(checked, regions, strict=True)
    ]
    return match_overlaps(overlaps, [case["scores"] for case in checked], protocol.rule, inside)


class _Found(TypedDict):
    id: str
    boxes: np.ndarray
    scores: np.ndarray


class VolumeCase(_Found, total=False):
    """The detections and the truth of one volume, see the head of this module."""

    patient: str
    true_boxes: np.ndarray | None
    key_boxes: np.ndarray | None
    ignored_boxes: np.ndarray | None
    classes: np.ndarray | None
    true_classes: np.ndarray | None
    class_names: tuple[str, ...]
    tracks: np.ndarray | None
    slice_interval: float | None
    spacing: tuple[float, float, float] | None


def check_volumes(cases: Sequence[Mapping[str, Any]], *, columns: int = 6) -> list[VolumeCase]:
    """Check volume cases and bring their arrays to float64.

    Args:
        cases: See the head of this module; arrays or lists.
        columns: Numbers per box: 6, or 4 in two dimensions.

    Returns:
        New dictionaries in the same order.

    Raises:
        ValueError: If there is no case, an identifier appears twice, or a case is malformed; the volume is named.
    """
    if len(cases) == 0:
        raise ValueError("Expected at least one volume to evaluate, got none.")
    checked = [_check_volume(case, columns) for case in cases]
    names = [case["id"] for case in checked]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"Expected one case per volume, got {shown_id(twice)} twice.")
    return checked


def _check_volume(case: Mapping[str, Any], columns: int) -> VolumeCase:
    if not isinstance(case, Mapping):
        raise ValueError(f"Expected a mapping as volume, got {type(case).__name__}.")
    for key in ("id", "boxes", "scores"):
        if key not in case:
            raise ValueError(
                f"Expected id, boxes and scores in every volume, got no {key} in {shown_id(str(case.get('id')))}."
            )
    where = shown_id(str(case["id"]))
    checked: Any = {**case, "id": str(case["id"]), "scores": _numbers(case["scores"], "scores", where).reshape(-1)}
    for key, of in (("classes", "boxes"), ("true_classes", "true_boxes")):
        if case.get(key) is not None:
            checked[key] = np.asarray(case[key], dtype=str).reshape(-1)
            if len(checked[key]) != len(case[of]):
                raise ValueError(f"Expected {key} of {len(case[of])} boxes, got {len(checked[key])} in {where}.")
    for key in ("boxes", "true_boxes", "key_boxes", "ignored_boxes"):
        # Labels may be None where lesions are not labelled in this way; detections may not.
        if key == "boxes" or case.get(key) is not None:
            checked[key] = check_volume_boxes(case[key], f"{key} of {where}", columns=columns)
    if case.get("tracks") is not None:
        tracks = _numbers(case["tracks"], "tracks", where)
        if tracks.size and (tracks.ndim != 2 or tracks.shape[1] != 6):
            raise ValueError(f"Expected tracks of six numbers, got shape {tracks.shape} in {where}.")
        checked["tracks"] = tracks.reshape(-1, 6)
    scores = checked["scores"]
    if len(scores) != len(checked["boxes"]) or not np.isfinite(scores).all():
        raise ValueError(
            f"Expected a finite score for each of {len(checked['boxes'])} boxes, got {len(scores)} scores, "
            f"{int(np.isfinite(scores).sum())} of them finite, in {where}."
        )
    return checked


def _numbers(values: Any, key: str, where: str) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"Expected numbers as {key}, got something else in {where}.") from None


def check_volume_boxes(values: Any, where: str, *, columns: int = 6) -> np.ndarray:
    """Check boxes in the volume frame.

    Args:
        values: ``(N, columns)`` numbers; anything empty means no box.
        where: What they belong to, for messages.
        columns: 6, or 4 in two dimensions.

    Returns:
        ``(N, columns)`` float64.

    Raises:
        ValueError: If the shape is another one, a value is not finite, or a box is empty.
    """
    try:
        boxes = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"Expected boxes of {columns} numbers, got something else as {where}.") from None
    if boxes.size == 0:
        return boxes.reshape(0, columns)
    if boxes.ndim != 2 or boxes.shape[1] != columns:
        raise ValueError(f"Expected boxes of {columns} numbers, got shape {boxes.shape} as {where}.")
    sides = boxes[:, columns // 2 :] - boxes[:, : columns // 2] + INCLUSIVE
    bad = np.flatnonzero(~(np.isfinite(boxes).all(axis=1) & (sides > 0).all(axis=1)))
    if len(bad):
        raise ValueError(
            f"Expected finite boxes that end after they begin, got {boxes[bad[0]].tolist()} as row {bad[0]} of {where}."
        )
    return boxes
