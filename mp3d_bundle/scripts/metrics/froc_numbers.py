"""The numbers of a FROC as reports hold them: at operating points, with intervals, per image or per volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from .bootstrap import LEVEL, Bootstrap, interval, mean_sensitivity, resample_sensitivity
from .froc import FPS_PER_IMAGE, MEAN_FPS_PER_IMAGE, curve_from_matches, sensitivity_at, target_name
from .matching import Matches, select_images
from .subgroups import group_members, interval_group

# ``[low, high]``, or None where it is not defined.
Interval = list[float] | None


class FrocNumbers(TypedDict):
    """Sensitivities by operating point, their mean, and the intervals of both; None where there is no lesion."""

    sensitivity: dict[str, float | None]
    sensitivity_interval: dict[str, Interval]
    mean_sensitivity: float | None
    mean_sensitivity_interval: Interval


class Group(TypedDict, total=False):
    """Numbers of a subgroup: ``images`` or ``volumes`` where it is one of those, a mean where it has a FROC."""

    images: int
    volumes: int
    lesions: int
    sensitivity: dict[str, float | None]
    sensitivity_interval: dict[str, Interval]
    mean_sensitivity: float | None
    mean_sensitivity_interval: Interval


class Counts(TypedDict):
    """Hits, misses and false positives at a score threshold, see `counts_at`."""

    threshold: float | None
    lesions_found: int
    lesions_missed: int
    false_positives: int
    duplicates: int
    fps_per_image: float
    sensitivity: float | None


class Resampling(TypedDict):
    """How the intervals were made."""

    unit: str
    level: float
    resamples: int
    seed: int
    mean_over: list[float]


def finite(number: float) -> float | None:
    """A float for JSON, which knows neither NaN nor infinity: None for those."""
    return float(number) if np.isfinite(number) else None


@dataclass(frozen=True)
class OperatingPoints:
    """Where a FROC is read.

    Attributes:
        per: What false positives are counted per: ``"image"`` or ``"volume"``.
        targets: Numbers of false positives per image or volume, rising.
        mean_over: Those of them over which the mean is taken.
    """

    per: str
    targets: tuple[float, ...]
    mean_over: tuple[float, ...]

    @property
    def names(self) -> list[str]:
        """Names of the targets in reports."""
        return [target_name(target) for target in self.targets]

    def by_name(self, values: np.ndarray) -> dict[str, float | None]:
        """Values ``(T,)``, one of each target, by its name."""
        return {name: finite(value) for name, value in zip(self.names, values, strict=True)}

    def intervals(self, samples: np.ndarray) -> dict[str, Interval]:
        """Intervals of resampled values ``(R, T)`` by the names of the targets."""
        return {name: interval(samples[:, column]) for column, name in enumerate(self.names)}

    def numbers(self, matches: Matches, weights: np.ndarray) -> FrocNumbers:
        """Sensitivities of matched images or volumes.

        Args:
            matches: Their matches.
            weights: ``(R, images)`` from `Bootstrap.weights`.
        """
        values = sensitivity_at(curve_from_matches(matches), self.targets)
        samples = resample_sensitivity(matches, weights, self.targets)
        return {
            "sensitivity": self.by_name(values),
            "sensitivity_interval": self.intervals(samples),
            "mean_sensitivity": finite(float(mean_sensitivity(values, self.targets, self.mean_over))),
            "mean_sensitivity_interval": interval(mean_sensitivity(samples, self.targets, self.mean_over)),
        }

    def by_slice_interval(
        self, cases: Sequence[Mapping[str, Any]], matches: Matches, weights: np.ndarray
    ) -> dict[str, Group]:
        """`numbers` of each slice-interval group, with its ``images`` or ``volumes`` and its ``lesions``."""
        split: dict[str, Any] = {}
        for name, mask in group_members([interval_group(case) for case in cases]).items():
            group = select_images(matches, mask)
            sizes = {f"{self.per}s": group.num_images, "lesions": len(group.lesion)}
            split[name] = {**sizes, **self.numbers(group, weights[:, mask])}
        return split

    def resampling(self, bootstrap: Bootstrap, weights: np.ndarray) -> Resampling:
        """How the intervals were made, for the report."""
        return {
            "unit": "patient",
            "level": LEVEL,
            "resamples": len(weights),
            "seed": bootstrap.seed,
            "mean_over": list(self.mean_over),
        }


PER_IMAGE = OperatingPoints("image", FPS_PER_IMAGE, MEAN_FPS_PER_IMAGE)


def counts_at(matches: Matches, threshold: float) -> Counts:
    """Count hits, misses and false positives when only scores of at least ``threshold`` are kept.

    Args:
        matches: Matches of all images.
        threshold: Lowest score kept; ``inf`` keeps nothing.

    Returns:
        ``threshold``, ``lesions_found`` (true positives), ``lesions_missed`` (false negatives), ``false_positives``
        and ``duplicates`` (both as detections; under a strict rule a duplicate is a false positive too),
        ``fps_per_image`` and ``sensitivity``.
    """
    kept = matches.scores >= threshold
    found = int(matches.hits[kept].sum())
    lesions = len(matches.lesion)
    false_positives = int(matches.false_positives[kept].sum())
    return {
        "threshold": finite(threshold),
        "lesions_found": found,
        "lesions_missed": lesions - found,
        "false_positives": false_positives,
        "duplicates": int((matches.outcomes[kept] == "duplicate").sum()),
        "fps_per_image": false_positives / matches.num_images,
        "sensitivity": found / lesions if lesions else None,
    }
