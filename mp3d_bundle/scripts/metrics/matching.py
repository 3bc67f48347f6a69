"""Which detections hit, which lesions are found: the matching that all FROC figures are computed from.

The field's rule (3DCE, MULAN, MVP-Net, AlignShift and the released MP3D code share it): the detections
of all images are taken from the highest score down. A detection whose best IoU with the lesions of its
image is below the threshold is a false positive. Otherwise it finds every lesion that it overlaps enough
and that no earlier detection has found, possibly several; if all of them were found before, it is a
duplicate, and neither helps nor harms. The codes differ in details; `FrocRule` names the details.

A detection that hits nothing and lies in a region to ignore, with at least half of its area (COCO's rule for crowds at
its first threshold; Lesion Harvester), is neither a hit nor a false positive.

Duplicates make the rule kinder than COCO's: a detector without non-maximum suppression loses nothing.
`STRICT` therefore counts them as false positives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ..boxes import pairwise_iou, pairwise_share
from .cases import check_cases

# A detection lies in a region from this share of its own area, or volume, on.
IN_REGION = 0.5
# The released code drops lesions thinner than this many pixels from its FROC.
SMALLEST_SIDE = 1.0


@dataclass(frozen=True)
class FrocRule:
    """The details in which FROC codes differ.

    Attributes:
        name: Name in reports.
        iou_threshold: A detection with at least this IoU hits.
        extra_pixels: Pixels added to widths and heights: 0 for continuous coordinates, 1 for inclusive ones.
        duplicates_are_false_positives: Whether a detection counts against the detector when all the
            lesions that it overlaps were found by higher scores.
        drop_unusable: Whether to leave out lesions less than one pixel wide or high, or outside the image.
        drop_noisy: Whether to leave out the lesions marked ``noisy``; the image stays.
        shared_fps: Which of several curve points with the same number of false positives a target that
            falls on them takes: the first (before the hits that follow the false positive) or the last.
        beyond: What a target beyond the last false positive takes: the last sensitivity, what a line through the last
            two points gives (at most 1), or nothing (NaN).
        ties: Which of two equal scores comes first: the earlier one (order of the images, then of the
            detections in the image) or the later one.
    """

    name: str
    iou_threshold: float = 0.5
    extra_pixels: float = 0.0
    duplicates_are_false_positives: bool = False
    drop_unusable: bool = True
    drop_noisy: bool = False
    shared_fps: Literal["first", "last"] = "first"
    ties: Literal["earlier", "later"] = "earlier"
    beyond: Literal["last", "line", "nothing"] = "last"

    def strict(self) -> FrocRule:
        """The same rule with duplicates counted as false positives."""
        name = self.name if self.duplicates_are_false_positives else f"{self.name}, strict"
        return replace(self, name=name, duplicates_are_false_positives=True)


# The released MP3D code: the rule behind the paper's Table 1.
RELEASED = FrocRule("MP3D")
# MULAN and AlignShift: inclusive pixels, last of shared points, noisy annotations removed.
MULAN = FrocRule("MULAN", extra_pixels=1.0, drop_unusable=False, drop_noisy=True, shared_fps="last")
# What the curve says beyond its end: 3DCE draws a line on, MVP-Net says nothing.
THREE_DCE = replace(MULAN, name="3DCE", beyond="line")
MVP_NET = replace(MULAN, name="MVP-Net", beyond="nothing")
RULES = {rule.name: rule for rule in (RELEASED, MULAN, THREE_DCE, MVP_NET)}
# The released rule, but a second box on a found lesion is a false positive.
STRICT = RELEASED.strict()


@dataclass(frozen=True)
class Matches:
    """Outcome of every detection and every lesion of a list of cases.

    Detections are pooled over images in score order, best first (`FrocRule.ties` decides equal scores),
    lesions in the order of the cases. ``M`` detections, ``L`` lesions.

    Attributes:
        rule: The rule that was applied.
        num_images: Number of cases, those without lesions included.
        image: ``(M,)`` int64, index of the detection's case.
        detection: ``(M,)`` int64, index of the detection in its case.
        scores: ``(M,)`` float64, descending.
        hits: ``(M,)`` int64, how many lesions the detection is the first to find.
        overlaps: ``(M,)`` bool, whether it overlaps any lesion enough.
        lesion_image: ``(L,)`` int64, index of the lesion's case.
        lesion: ``(L,)`` int64, index of the lesion in its case.
        found_by: ``(L,)`` int64, row of the detection that found it, -1 if none did.
        num_dropped: Lesions that the rule leaves out.
        neutral: ``(M,)`` bool, whether it hits nothing and lies in a region to ignore; None without regions.
    """

    rule: FrocRule
    num_images: int
    image: np.ndarray
    detection: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    overlaps: np.ndarray
    lesion_image: np.ndarray
    lesion: np.ndarray
    found_by: np.ndarray
    num_dropped: int
    neutral: np.ndarray | None = None

    @property
    def false_positives(self) -> np.ndarray:
        """``(M,)`` bool: the detections that count as false positives under the rule."""
        wrong = self.hits == 0 if self.rule.duplicates_are_false_positives else ~self.overlaps
        return wrong if self.neutral is None else wrong & ~self.neutral

    @property
    def outcomes(self) -> np.ndarray:
        """``(M,)`` str: ``"hit"``, ``"false positive"``, ``"duplicate"`` (of found lesions) or ``"ignored"``."""
        found = np.where(self.hits > 0, "hit", np.where(self.overlaps, "duplicate", "false positive"))
        return found if self.neutral is None else np.where(self.neutral, "ignored", found)

    @property
    def found_scores(self) -> np.ndarray:
        """``(L,)`` float64: highest score that finds the lesion, NaN if no detection does."""
        scores = np.append(self.scores, np.nan)
        return scores[self.found_by]


def usable_lesions(case: Mapping[str, Any], rule: FrocRule) -> np.ndarray:
    """Which lesions of a checked case count under ``rule``, ``(N,)`` bool (released code: dataset filter)."""
    boxes = case["true_boxes"]
    keep = np.ones(len(boxes), dtype=bool)
    if rule.drop_unusable:
        sides = boxes[:, 2:] - boxes[:, :2]
        limits = np.array([case["width"], case["height"]])
        inside = np.minimum(boxes[:, 2:], limits) - np.maximum(boxes[:, :2], 0.0)
        keep &= (sides >= SMALLEST_SIDE).all(axis=1) & (inside > 0).all(axis=1)
    if rule.drop_noisy and case.get("noisy") is not None:
        keep &= ~case["noisy"]
    return keep


def _match_image(enough: np.ndarray, scores: np.ndarray, rule: FrocRule) -> tuple[np.ndarray, ...]:
    """Match one image: hits (M,), overlaps (M,) and the finder of each lesion (N,), in the case's own order."""
    rank = _descending(scores, rule)
    ranked = enough[rank]
    hits = np.zeros(len(scores), dtype=np.int64)
    finder = np.full(enough.shape[1], -1, dtype=np.int64)
    found = ranked.any(axis=0)
    if found.any():
        # A lesion belongs to the first detection that overlaps it enough, whatever else that one finds.
        finder[found] = rank[ranked.argmax(axis=0)[found]]
        np.add.at(hits, finder[found], 1)
    return hits, np.asarray(enough.any(axis=1)), finder


def _descending(scores: np.ndarray, rule: FrocRule) -> np.ndarray:
    """Indices of the scores from high to low, equal ones in the rule's order."""
    if rule.ties == "earlier":
        return np.argsort(-scores, kind="stable")
    return np.argsort(scores, kind="stable")[::-1]


def match_detections(cases: Sequence[Mapping[str, Any]], rule: FrocRule = RELEASED) -> Matches:
    """Match the detections of all cases to their lesions.

    Args:
        cases: See `scripts.metrics.cases`.
        rule: The details of the matching.

    Returns:
        The outcome of every detection and lesion.

    Raises:
        ValueError: If there is no case or a case is malformed.
    """
    checked = check_cases(cases)
    lesions = [np.flatnonzero(usable_lesions(case, rule)) for case in checked]
    overlaps = [
        pairwise_iou(case["boxes"], case["true_boxes"][kept], rule.extra_pixels)
        for case, kept in zip(checked, lesions, strict=True)
    ]
    regions = [case.get("ignored_boxes") for case in checked]
    inside = [
        None if region is None else pairwise_share(case["boxes"], region, rule.extra_pixels)
        for case, region in zip(checked, regions, strict=True)
    ]
    matches = match_overlaps(overlaps, [case["scores"] for case in checked], rule, inside)
    dropped = sum(len(case["true_boxes"]) for case in checked) - len(matches.lesion)
    return replace(matches, lesion=np.concatenate(lesions), num_dropped=dropped)


def match_overlaps(
    overlaps: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    rule: FrocRule,
    inside: Sequence[np.ndarray | None] = (),
) -> Matches:
    """Match detections to lesions by overlaps that were measured before, by any measure.

    Args:
        overlaps: One ``(M, N)`` array per image, of each detection with each lesion.
        scores: One ``(M,)`` array per image.
        rule: Threshold, ties and counting; what it says about boxes and lesions is up to the caller.
        inside: One ``(M, K)`` array per image, the share of each detection that is in each region to ignore, or None;
            nothing at all where no image has regions.

    Returns:
        The outcome of every detection and lesion.
    """
    counts = np.array([len(values) for values in scores])
    starts = np.cumsum(counts) - counts
    parts: list[tuple[np.ndarray, ...]] = []
    for index, (overlap, values) in enumerate(zip(overlaps, scores, strict=True)):
        hits, any_overlap, finder = _match_image(overlap >= rule.iou_threshold, values, rule)
        pooled = np.where(finder >= 0, finder + starts[index], -1)
        parts.append((hits, any_overlap, np.arange(len(finder)), np.full(len(finder), index), pooled))
    hits, any_overlap, lesion, lesion_image, finder = (np.concatenate(column) for column in zip(*parts, strict=True))
    pooled_scores = np.concatenate(scores)
    order = _descending(pooled_scores, rule)
    row = np.empty(len(order) + 1, dtype=np.int64)
    row[order] = np.arange(len(order))
    row[-1] = -1  # a lesion that nothing found (finder -1) keeps its -1
    known = any(part is not None for part in inside)
    free = [
        np.zeros(len(values), dtype=bool) if part is None else (part >= IN_REGION).any(axis=1)
        for part, values in zip(inside, scores, strict=known)
    ]
    return Matches(
        rule=rule,
        num_images=len(overlaps),
        image=np.repeat(np.arange(len(overlaps)), counts)[order],
        detection=np.concatenate([np.arange(count) for count in counts])[order],
        scores=pooled_scores[order],
        hits=hits[order],
        overlaps=any_overlap[order],
        lesion_image=lesion_image,
        lesion=lesion,
        found_by=row[finder],
        num_dropped=0,
        neutral=np.concatenate(free)[order] & ~any_overlap[order] if known else None,
    )


def select_images(matches: Matches, keep: np.ndarray) -> Matches:
    """Restrict matches to some images.

    Args:
        matches: Matches of all images.
        keep: ``(num_images,)`` bool.

    Returns:
        Matches of the images kept, numbered anew in their order; dropped lesions are no longer counted.
    """
    index = np.cumsum(keep) - 1
    rows = keep[matches.image]
    lesions = keep[matches.lesion_image]
    row = np.append(np.cumsum(rows) - 1, -1)
    return replace(
        matches,
        num_images=int(keep.sum()),
        image=index[matches.image[rows]],
        detection=matches.detection[rows],
        scores=matches.scores[rows],
        hits=matches.hits[rows],
        overlaps=matches.overlaps[rows],
        lesion_image=index[matches.lesion_image[lesions]],
        lesion=matches.lesion[lesions],
        found_by=row[matches.found_by[lesions]],
        num_dropped=0,
        neutral=None if matches.neutral is None else matches.neutral[rows],
    )
