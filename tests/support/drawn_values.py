"""Drawn boxes, instances and cases, for the tests that try a law on many examples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from scripts.data.records import Sample

SEEDS = st.integers(0, 2**32 - 1)


def random_boxes(generator: np.random.Generator, count: int, extent: tuple[float, float] = (90.0, 60.0)) -> np.ndarray:
    """Upright boxes ``(count, 4)`` of 1 to 30 pixels a side, their low corners anywhere in ``extent`` (x, y)."""
    low = generator.uniform(0, extent, (count, 2))
    return np.concatenate([low, low + generator.uniform(1, 30, (count, 2))], axis=1)


@st.composite
def boxes(draw: st.DrawFn, least: int = 0, most: int = 8) -> np.ndarray:
    """``(N, 4)`` float64 upright boxes; sides and corners are multiples of 1/4 pixel, so that they touch at times."""
    side, place = st.integers(1, 120), st.integers(-160, 400)
    rows = draw(st.lists(st.tuples(place, place, side, side), min_size=least, max_size=most))
    x, y, width, height = np.array(rows, dtype=np.float64).reshape(-1, 4).T / 4
    return np.stack([x, y, x + width, y + height], axis=1)


@st.composite
def open_instances(draw: st.DrawFn, least: int = 0) -> dict[str, np.ndarray]:
    """Instances with a field of every rule, and two that no rule knows; ``row`` counts the boxes."""
    found = draw(boxes(least=least))
    count, generator = len(found), np.random.default_rng(draw(SEEDS))
    return {
        "boxes": found,
        "labels": generator.integers(1, 9, count),
        "noisy": generator.uniform(size=count) < 0.5,
        "masks": generator.uniform(size=(count, 6, 7)),
        "recist": generator.uniform(-10, 90, (count, 4, 2)),
        "diameters": generator.uniform(1, 30, (count, 2)),
        "row": np.arange(count),
        "malignancy": generator.uniform(size=(count, 3)).astype(np.float32),
    }


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """A sample of an odd number of slices and of any two sides, with instances of open fields as float64 tensors."""
    depth = draw(st.sampled_from([1, 3, 5]))
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(SEEDS))
    return {
        "image": torch.rand(depth, height, width, generator=generator),
        "instances": {name: torch.from_numpy(values) for name, values in draw(open_instances()).items()},
        "scale_factor": torch.ones(2),
        "file_name": "000001_01_01_001.png",
        "spacing": (0.8, 0.8),
        "record": {},
    }  # type: ignore[typeddict-item]


@st.composite
def cases(draw: st.DrawFn, least_lesions: int = 1) -> list[dict[str, Any]]:
    """Images with lesions, of which some are found, some twice, and with wrong boxes; scores are equal at times."""
    generator = np.random.default_rng(draw(SEEDS))
    found = []
    for number in range(draw(st.integers(1, 5))):
        count = draw(st.integers(least_lesions if number == 0 else 0, 3))
        truth = random_boxes(generator, count, (300, 200))
        near = truth[generator.integers(0, count, 3)] + generator.normal(0, 1.5, (3, 4)) if count else truth
        # Boxes that shrink to nothing are not detections.
        near = near[(near[:, 2:] > near[:, :2]).all(axis=1)]
        wrong = random_boxes(generator, draw(st.integers(0, 4)), (300, 200))
        given = np.concatenate([near, wrong])
        found.append(
            {
                "id": f"{number:03d}",
                "patient": f"{number // 2:03d}",
                "boxes": given,
                "scores": generator.integers(1, 20, len(given)) / 20,
                "true_boxes": truth,
                "width": 400,
                "height": 300,
            }
        )
    return found
