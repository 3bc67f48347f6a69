"""How much of the lesions the edge of a crop gives away, with whole images and with windows at random.

The reader here sees no pixel, only the size of an image. It learns from the training split where lesions lie relative
to the four edges: of all those places the sixteen that find most lesions together, the best first. What it scores on
the test split of a set, the edge gives away. ``CROPS`` names the folder of the set, ``WINDOW`` the side of the windows
(128).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.transforms import Compose

from scripts.boxes import pairwise_iou
from scripts.data.deeplesion.splits import load_records
from scripts.data.random_window import RandWindowd
from scripts.data.slabs.slab_reader import SlabReader
from scripts.data.transforms import LoadSlabd, SampleDataset
from scripts.metrics.image.image_evaluation import evaluate
from scripts.workflows.to_cases import to_case

GUESSES, CANDIDATES = 16, 1500


def images(folder: str, split: str, window: int | None) -> list[Any]:
    """Size, place and lesions of each image or window of a split, in pixels of what is shown."""
    steps = [LoadSlabd(SlabReader(num_slices=1)), *([] if window is None else [RandWindowd(window)])]
    data = SampleDataset(load_records(folder, split), Compose(steps))
    return [data[index] for index in range(len(data))]


def edges(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes ``(N, 4)`` as distances from the left, upper, right and lower edge; its own inverse."""
    return np.stack([boxes[:, 0], boxes[:, 1], width - boxes[:, 2], height - boxes[:, 3]], axis=1)


def best_places(samples: Sequence[dict[str, Any]]) -> np.ndarray:
    """``(K, 4)`` distances from the edges that find most lesions together, the best first."""
    sizes = [tuple(sample["image"].shape[1:]) for sample in samples]
    lesions = [sample["instances"]["boxes"].numpy() for sample in samples]
    places = np.concatenate([edges(boxes, *size) for boxes, size in zip(lesions, sizes, strict=True)])
    chosen = np.random.default_rng(0).permutation(len(places))[:CANDIDATES]
    places = places[np.sort(chosen)]
    hits = np.concatenate(
        [
            (pairwise_iou(edges(places, *size), boxes) >= 0.5) & upright(edges(places, *size))[:, None]
            for boxes, size in zip(lesions, sizes, strict=True)
        ],
        axis=1,
    )
    order, left = [], np.ones(hits.shape[1], dtype=bool)
    for _ in range(GUESSES):
        order.append(int((hits & left).sum(axis=1).argmax()))
        left &= ~hits[order[-1]]
    return places[order]


def upright(boxes: np.ndarray) -> np.ndarray:
    """Which of ``(N, 4)`` boxes end after they begin."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def guessed(sample: dict[str, Any], places: np.ndarray) -> Any:
    """The case of one image: the guesses that fit into it, the first one with the highest score."""
    boxes = edges(places, *sample["image"].shape[1:])
    keep = upright(boxes)
    scores = 1 / np.arange(1, len(boxes) + 1)
    found = {"boxes": boxes[keep], "scores": scores[keep], "labels": np.ones(int(keep.sum()))}
    return to_case({**sample, "pred": found})["case"]


def main() -> None:
    """Print what the reader finds in whole images and in windows."""
    folder = os.environ.get("CROPS")
    if folder is None:
        print("Set CROPS to the folder of a set of crops.")
        return
    for window in (None, int(os.environ.get("WINDOW", "128"))):
        places = best_places(images(folder, "train", window))
        metrics = evaluate([guessed(sample, places) for sample in images(folder, "test", window)])
        shares = [(name, metrics["sensitivity"][name] or 0.0) for name in ("0.5", "1", "2", "4")]
        found = ", ".join(f"{100 * share:.1f} % at {name}" for name, share in shares)
        low, high = metrics["sensitivity_interval"]["1"] or (0.0, 0.0)
        print(f"{'whole images' if window is None else f'windows of {window} pixels'}: {found}")
        print(f"  95 % interval at 1: {100 * low:.0f} to {100 * high:.0f} %, {metrics['counts']['lesions']} lesions")
