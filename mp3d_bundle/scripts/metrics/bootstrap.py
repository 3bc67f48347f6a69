"""95 % intervals by bootstrap over patients.

The slices of one patient are alike, so patients are drawn with replacement, not images: each resample
gives every image the number of times that its patient was drawn. Matching does not depend on the
resample, so it is done once; a resample only weights its outcome. Intervals are percentiles of the
resampled figures. They describe the chance of drawing these test patients, not that of training again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .average_precision import AveragePrecision
from .froc import FPS_PER_IMAGE, MEAN_FPS_PER_IMAGE, interpolate_curve
from .matching import Matches

LEVEL = 0.95
_RECALL_POINTS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Bootstrap:
    """How to resample.

    Attributes:
        resamples: Number of resamples; 0 gives no intervals.
        seed: Seed of the random numbers; the same seed gives the same intervals.
    """

    resamples: int = 1000
    seed: int = 0

    def weights(self, patients: Sequence[str]) -> np.ndarray:
        """Draw how often each image counts.

        Args:
            patients: Patient of every image.

        Returns:
            ``(resamples, num_images)`` int64; each row draws as many patients as there are. No rows for a
            single patient: resampling says nothing about the spread between patients then.

        Raises:
            ValueError: If the number of resamples or the seed is negative.
        """
        for name, value in (("resamples", self.resamples), ("seed", self.seed)):
            if value < 0:
                raise ValueError(f"Expected bootstrap {name} of 0 or more, got {value}.")
        # Sorted names: the draw does not depend on the order of the images.
        names, patient = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
        generator = np.random.default_rng(self.seed)
        resamples = self.resamples if len(names) > 1 else 0
        draws = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
        return draws[:, patient.reshape(-1)]


def interval(samples: np.ndarray) -> list[float] | None:
    """Percentile interval of resampled values.

    Args:
        samples: ``(R,)`` values; NaN (a resample without lesions) is left out.

    Returns:
        ``[low, high]`` at `LEVEL`, or None where no resample has a value.
    """
    values = samples[~np.isnan(samples)]
    if len(values) == 0:
        return None
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(values, [tail, 100 - tail])
    return [float(low), float(high)]


def resample_sensitivity(matches: Matches, weights: np.ndarray, targets: Sequence[float] = FPS_PER_IMAGE) -> np.ndarray:
    """Sensitivity at numbers of false positives per image in every resample.

    Args:
        matches: Matches of all images.
        weights: ``(R, num_images)`` integers, how often each image counts.
        targets: False positives per image.

    Returns:
        ``(R, T)`` float64; NaN in a resample without lesions.
    """
    false_positives = matches.false_positives
    # Duplicates that do not count repeat a point of the curve: leave them out. "First" and "last" of the
    # points that share a number of false positives stay the same.
    counts = np.flatnonzero(false_positives | (matches.hits > 0))
    image = matches.image[counts]
    hits = matches.hits[counts]
    wrong = false_positives[counts].astype(np.int64)
    values = np.full((len(weights), len(targets)), np.nan)
    for row, weight in enumerate(weights):
        lesions = weight[matches.lesion_image].sum()
        if lesions == 0:
            continue
        times = weight[image]
        fps = np.cumsum(times * wrong) / weight.sum()
        values[row] = interpolate_curve(fps, np.cumsum(times * hits) / lesions, targets, matches.rule)
    return values


def mean_sensitivity(
    values: np.ndarray, targets: Sequence[float], mean_over: Sequence[float] = MEAN_FPS_PER_IMAGE
) -> np.ndarray:
    """Mean sensitivity over some operating points.

    Args:
        values: ``(..., T)`` sensitivities at ``targets``.
        targets: False positives per image.
        mean_over: Those of the targets to average over; by default the paper's 0.5, 1, 2 and 4.

    Returns:
        ``(...)`` float64.

    Raises:
        ValueError: If one to average over is not among the targets.
    """
    if not set(mean_over) <= set(targets):
        raise ValueError(f"Expected {tuple(mean_over)} among the targets for the mean, got {tuple(targets)}.")
    return values[..., [list(targets).index(target) for target in mean_over]].mean(axis=-1)


def weighted_ap50(result: AveragePrecision, weight: np.ndarray) -> float:
    """COCO's AP50 with every image counted a number of times, from pycocotools' own matching.

    Args:
        result: Average precision of all images.
        weight: ``(num_images,)`` integers; all ones give ``result.ap50``.

    Returns:
        AP50 in [0, 1]; NaN without lesions.
    """
    lesions = (weight * result.lesions_per_image).sum()
    if lesions == 0:
        return float("nan")
    times = weight[result.image]
    right = np.cumsum(times * result.true_positive)
    precision = right / np.maximum(np.cumsum(times), 1)
    # COCO's envelope: at each recall the best precision at this or a higher recall.
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(right / lesions, _RECALL_POINTS)].mean())


def resample_ap50(result: AveragePrecision, weights: np.ndarray) -> np.ndarray:
    """AP50 in every resample, ``(R,)``; see `weighted_ap50`."""
    return np.array([weighted_ap50(result, weight) for weight in weights], dtype=np.float64)


def resample_found(found: np.ndarray, lesion_image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of lesions found at fixed score thresholds in every resample.

    Args:
        found: ``(L, T)`` bool, whether the lesion is found at each threshold.
        lesion_image: ``(L,)`` index of the lesion's image.
        weights: ``(R, num_images)`` integers.

    Returns:
        ``(R, T)`` float64; NaN in a resample without these lesions.
    """
    times = weights[:, lesion_image]
    with np.errstate(invalid="ignore"):
        return (times @ found.astype(np.int64)) / times.sum(axis=1, keepdims=True, dtype=np.float64)
