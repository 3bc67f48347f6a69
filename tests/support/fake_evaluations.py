"""Folders as evaluations write them, made of random boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.metrics.bootstrap import Bootstrap
from scripts.metrics.evaluation_files import Evaluated
from scripts.metrics.image.image_report import write_report

LESION = [100.0, 50.0, 7.0, 109.0, 69.0, 11.0]
ELSEWHERE = [300.0, 300.0, 7.0, 309.0, 309.0, 9.0]
KEY = [101.5, 50.0, 9.0, 109.0, 69.0, 9.0]


def image_cases(
    images: int = 24, *, boxes: int = 6, seed: int = 0, intervals: Sequence[float] = (1.0, 5.0)
) -> list[dict[str, Any]]:
    """Cases of random boxes and a duplicate; the first none, one or two of them are lesions.

    Args:
        images: How many cases, two of each patient.
        boxes: Boxes of each, without the duplicate.
        seed: Another seed makes other boxes.
        intervals: Slice intervals in mm, in turn.
    """
    generator = np.random.default_rng(seed)
    cases = []
    for number in range(images):
        corners = generator.uniform(0, 400, (boxes, 2))
        found = np.concatenate([corners, corners + generator.uniform(15, 90, (boxes, 2))], axis=1)
        count = number % 3
        cases.append(
            {
                "id": f"{number:03d}.png",
                "patient": f"p{number // 2}",
                "boxes": np.concatenate([found, found[:1] + 2]),
                "scores": generator.uniform(size=boxes + 1),
                "true_boxes": found[:count] + generator.normal(0, 3, (count, 4)),
                "width": 512,
                "height": 512,
                "slice_interval": intervals[number % len(intervals)],
                "spacing": (0.8, 0.8),
                "lesion_type": generator.integers(1, 9, count),
            }
        )
    return cases


def with_classes(cases: Sequence[dict[str, Any]], names: Sequence[str], *, right: bool = True) -> list[dict[str, Any]]:
    """Cases of several classes in turn; the detector names that of the box, or always the next one.

    Args:
        cases: Of `image_cases` with distances that matter: the first boxes are the lesions.
        names: The classes.
        right: Whether the detector is right about the class of the boxes of lesions.
    """
    found = []
    for case in cases:
        true = np.arange(len(case["true_boxes"])) % len(names)
        drawn = np.arange(len(case["boxes"])) % len(names)
        # The last box repeats the first.
        drawn[-1] = drawn[0]
        shift = 0 if right else 1
        said = np.array([names[(at + shift) % len(names)] for at in drawn])
        found.append({**case, "class_names": tuple(names), "classes": said, "true_classes": np.array(names)[true]})
    return found


def volume_cases() -> list[dict[str, Any]]:
    """Two volumes: one with a lesion in 3D that is found, one without; both with a lesion on a key slice."""
    shared = {"spacing": (0.5, 0.5, 5.0), "slice_interval": 5.0}
    return [
        {
            "id": f"00000{number}_01_01_001-020",
            "patient": f"00000{number}",
            "boxes": [LESION, ELSEWHERE][: 3 - number],
            "scores": [0.9 / number, 0.4][: 3 - number],
            "true_boxes": [LESION] if number == 1 else [],
            "key_boxes": [KEY],
            "tracks": [],
            **shared,
        }
        for number in (1, 2)
    ]


def evaluation_in(
    folder: Path, *, images: int = 60, boxes: int = 6, seed: int = 0, origin: dict[str, Any] | None = None
) -> Path:
    """Write the evaluation of a detector whose first box of each image is right, with a somewhat higher score."""
    generator = np.random.default_rng(seed)
    cases = []
    for index in range(images):
        corner = generator.uniform(0, 60, (boxes, 2))
        found = np.hstack([corner, corner + 20])
        scores = generator.uniform(0, 0.8, boxes)
        scores[0] += 0.2
        cases.append(
            {
                "id": f"{index}.png", "patient": str(index // 2), "width": 96, "height": 90, "boxes": found,
                "scores": scores, "true_boxes": found[:1] + 1,
            }
        )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    about = Evaluated("fakes validation", "Made up.", origin or {})
    write_report(cases, folder, about, bootstrap=Bootstrap(resamples=0))
    return folder
