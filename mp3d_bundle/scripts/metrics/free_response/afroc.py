"""Figures of merit of free-response studies: JAFROC and weighted AFROC, one number for all thresholds.

A case has a score for each lesion (that of the highest detection that finds it) and one for its false marks (the
highest of them). The figure is the chance that a lesion of any case has a higher score than the false marks of any
case; equal scores count half, and what is not marked is below every score. 1 is perfect, 0 the reverse; where every
lesion and every case has one mark whose score is drawn from one distribution it is 0.5.

- ``jafroc``: false marks on cases without lesions; every lesion counts the same (Chakraborty and Berbaum, Medical
  Physics 31, 2313, 2004).
- ``wafroc``: likewise, but every case with lesions counts the same, and its lesions share that (Chakraborty and Zhai,
  Medical Physics 43, 2548, 2016).
- ``jafroc1``, ``wafroc1``: false marks on all cases. DeepLesion's key slices all have a lesion, so it has these alone.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from ..bootstrap import interval
from ..matching import Matches

FIGURES = ("jafroc", "wafroc", "jafroc1", "wafroc1")


class FigureOfMerit(TypedDict):
    """A figure of `FIGURES` and its interval; None without a lesion or without a case for false marks."""

    value: float | None
    interval: list[float] | None


def case_scores(matches: Matches) -> np.ndarray:
    """The highest false mark of each case, ``(num_images,)`` float64; -inf for a case without one."""
    scores = np.full(matches.num_images, -np.inf)
    wrong = matches.false_positives
    np.maximum.at(scores, matches.image[wrong], matches.scores[wrong])
    return scores


def lesion_scores(matches: Matches) -> np.ndarray:
    """The score of each lesion, ``(L,)`` float64; -inf where nothing finds it."""
    return np.where(matches.found_by >= 0, matches.found_scores, -np.inf)


def resample_afroc(matches: Matches, weights: np.ndarray, figure: str) -> np.ndarray:
    """A figure of merit with every case counted a number of times.

    Args:
        matches: Matches of all images or volumes.
        weights: ``(R, num_images)`` integers; ones give the figure of the set itself.
        figure: One of `FIGURES`.

    Returns:
        ``(R,)`` float64 in [0, 1]; NaN where no lesion, or no case for false marks, is drawn.
    """
    lesions = np.bincount(matches.lesion_image, minlength=matches.num_images)
    rivals = np.flatnonzero(lesions == 0) if figure in ("jafroc", "wafroc") else np.arange(matches.num_images)
    false_marks = case_scores(matches)[rivals]
    order = np.argsort(false_marks, kind="stable")
    rivals, false_marks = rivals[order], false_marks[order]
    scores = lesion_scores(matches)
    below, upto = (np.searchsorted(false_marks, scores, side=side) for side in ("left", "right"))
    share = 1 / lesions[matches.lesion_image] if figure.startswith("w") else np.ones(len(scores))
    values = np.full(len(weights), np.nan)
    for row, weight in enumerate(weights):
        beaten = np.concatenate([[0.0], np.cumsum(weight[rivals], dtype=np.float64)])
        each = share * weight[matches.lesion_image]
        pairs = beaten[-1] * each.sum()
        if pairs > 0:
            values[row] = (each * (beaten[below] + beaten[upto])).sum() / (2 * pairs)
    return values


def afroc(matches: Matches, weights: np.ndarray) -> dict[str, FigureOfMerit]:
    """All figures of merit.

    Args:
        matches: Matches of all images or volumes; their rule says which detections are false marks.
        weights: ``(R, num_images)`` from `scripts.metrics.bootstrap.Bootstrap.weights`, for the intervals.

    Returns:
        By the names in `FIGURES`.
    """
    once = np.ones((1, matches.num_images), dtype=np.int64)
    found: dict[str, FigureOfMerit] = {}
    for figure in FIGURES:
        value = float(resample_afroc(matches, once, figure)[0])
        spread = None if np.isnan(value) else interval(resample_afroc(matches, weights, figure))
        found[figure] = {"value": None if np.isnan(value) else value, "interval": spread}
    return found
