"""The cohort of a data set: patients with their series, split by patient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..synthetic_presets import Settings
from .annotations import TEST, TRAIN, VALIDATION, Identity
from .irregularities import CASES

# The case of a patient whose series is labelled on every slice.
WHOLE = "whole series"


@dataclass(frozen=True)
class Patient:
    """A patient to generate.

    Attributes:
        seed: Source of everything about the patient's pixels.
        series: Identities of the series, one entry each.
        keys: Number of key slices of each series.
        case: The irregular case of the patient, `WHOLE`, or None.
    """

    seed: np.random.SeedSequence
    series: tuple[Identity, ...]
    keys: tuple[int, ...]
    case: str | None = None


def draw_cohort(seed: np.random.SeedSequence, settings: Settings) -> list[Patient]:
    """Patients of the three splits, in the order of their numbers.

    The numbers of key slices are met exactly; the irregular cases are added, each once per split, and the series that
    are labelled on every slice. No patient is in two splits, and the splits are mixed over the patient numbers as in
    DeepLesion.
    """
    rng = np.random.default_rng(seed)
    wanted = {TRAIN: settings.num_train, VALIDATION: settings.num_validation, TEST: settings.num_test}
    drafts: list[tuple[int, list[int], str | None]] = []
    for split, count in wanted.items():
        drafts += [(split, keys, None) for keys in _draw_keys(rng, settings, count)]
        drafts += [(split, [1], case) for case in CASES if settings.irregularities]
        drafts += [(split, [1], WHOLE)] * _whole_series(settings, split)
    order = rng.permutation(len(drafts))
    patients = []
    for number, (index, child) in enumerate(zip(order, seed.spawn(len(drafts)), strict=True), start=1):
        split, keys, case = drafts[index]
        gender = "M" if rng.random() < 0.6 else "F"
        age = int(np.clip(rng.normal(57, 15), 2, 87))
        study, series, identities = 1, 0, []
        for _ in keys:
            new_study = series > 0 and rng.random() < 0.7
            study, series = (study + 1, 1) if new_study else (study, series + 1)
            identities.append(Identity(number, study, series, split, gender, age))
        patients.append(Patient(child, tuple(identities), tuple(keys), case))
    return patients


def _whole_series(settings: Settings, split: int) -> int:
    """Series of a split that are labelled on every slice; none in the test split, which stays that of key slices."""
    if split == VALIDATION:
        return math.ceil(settings.whole_series * settings.num_validation / settings.num_train)
    return settings.whole_series if split == TRAIN else 0


def _draw_keys(rng: np.random.Generator, settings: Settings, count: int) -> list[list[int]]:
    """Key slices per series for each patient, ``count`` in all."""
    patients = []
    while count > 0:
        keys: list[int] = []
        for _ in range(int(rng.geometric(1 / settings.series_per_patient))):
            number = min(int(rng.geometric(1 / settings.keys_per_series)), count, 12)
            if number:
                keys.append(number)
                count -= number
        patients.append(keys)
    return patients
