"""The search of Zlocha et al. for RetinaNet's anchors, on the sizes of DeepLesion's training boxes.

Three scales and five ratios (1, two numbers and their inverses) at sides of 32 to 512 pixels, by differential evolution
on (1 - IoU)^2 * -log(IoU) of each box's best anchor; box and anchor share their centre. The peer are RetinaNet's usual
anchors. Boxes come from ``DL_info.csv`` in the folder that ``DEEPLESION`` names.
"""

from __future__ import annotations

import os

import numpy as np
from scipy.optimize import differential_evolution

from scripts.data.deeplesion.splits import load_records

SIDES = np.array([32.0, 64.0, 128.0, 256.0, 512.0])
USUAL = ([1.0, 2 ** (1 / 3), 2 ** (2 / 3)], [0.5, 1.0, 2.0])


def best_iou(sizes: np.ndarray, scales: np.ndarray | list[float], ratios: list[float]) -> np.ndarray:
    """IoU of each of ``(N, 2)`` sizes with the best anchor around the same centre, ``(N,)``."""
    sides = (SIDES[:, None, None] * np.asarray(scales)[None, :, None]).repeat(len(ratios), axis=2)
    root = np.sqrt(ratios)
    anchors = np.stack([(sides / root).ravel(), (sides * root).ravel()], axis=1)
    shared = np.minimum(sizes[:, None], anchors[None]).prod(axis=2)
    return (shared / (sizes.prod(axis=1)[:, None] + anchors.prod(axis=1)[None] - shared)).max(axis=1)


def shapes(values: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Scales and ratios of one candidate: two ratios, then three scales."""
    return values[2:], [1.0, values[0], 1 / values[0], values[1], 1 / values[1]]


def main() -> None:
    """Search, and print the result next to the usual anchors."""
    folder = os.environ.get("DEEPLESION")
    if folder is None:
        print("Set DEEPLESION to the folder of DL_info.csv.")
        return
    boxes = np.concatenate(
        [record["instances"]["boxes"] for record in load_records(folder, "train", missing_images="ignore")]
    )
    sizes, counts = np.unique(boxes[:, 2:] - boxes[:, :2], axis=0, return_counts=True)
    share = counts / counts.sum()

    def cost(values: np.ndarray) -> float:
        iou = best_iou(sizes, *shapes(values))
        return float((share * -((1 - iou) ** 2) * np.log(iou)).sum())

    found = differential_evolution(cost, [(1, 4)] * 2 + [(0.4, 2)] * 3, popsize=15, rng=0, maxiter=80, tol=1e-3)
    for name, (scales, ratios) in (("usual", USUAL), ("found", shapes(found.x))):
        iou = best_iou(sizes, scales, ratios)
        print(f"{name}: scales {np.round(np.sort(scales), 3)}, ratios {np.round(np.sort(ratios), 3)}")
        print(f"  mean IoU {(share * iou).sum():.3f}, {counts[iou < 0.5].sum()} of {len(boxes)} boxes below 0.5")
