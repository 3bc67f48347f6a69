"""From boxes in slices to lesions: a first, simple rule.

Going through the lattice slices from the feet up, a box continues the lesion whose latest box it overlaps
most, best overlaps first, if the overlap is at least ``min_iou`` and the lesion was seen at most
``max_gap`` slices before the slice below. Every other box begins a lesion. The score of a lesion is the
best of its boxes.
"""

from __future__ import annotations

import numpy as np

from ..boxes import pairwise_iou
from .detections import Lesion, SliceBoxes


def link_boxes(found: SliceBoxes, *, min_iou: float = 0.2, max_gap: int = 1) -> list[Lesion]:
    """Link the boxes of a scan along z.

    Args:
        found: Boxes of all lattice slices.
        min_iou: Overlap in the plane, above 0, from which boxes of neighbouring slices belong together.
        max_gap: Slices without a box that a lesion may bridge.

    Returns:
        Lesions, best score first; each box belongs to exactly one.

    Raises:
        ValueError: If ``min_iou`` is not in (0, 1] or ``max_gap`` is negative.
    """
    if not 0 < min_iou <= 1 or max_gap < 0:
        raise ValueError(f"Expected min_iou in (0, 1] and max_gap >= 0, got {min_iou} and {max_gap}.")
    chains: list[list[int]] = []
    for number in np.unique(found.slices):
        rows = np.flatnonzero(found.slices == number)
        open_chains = [chain for chain in chains if number - found.slices[chain[-1]] <= max_gap + 1]
        overlaps = pairwise_iou(found.boxes[[chain[-1] for chain in open_chains]], found.boxes[rows])
        free = set(range(len(rows)))
        for flat in np.argsort(-overlaps, axis=None, kind="stable"):
            chain, row = np.unravel_index(flat, overlaps.shape)
            if overlaps[chain, row] < min_iou:
                break
            # A chain that grew in this slice ends with one of its rows.
            if row in free and found.slices[open_chains[chain][-1]] != number:
                open_chains[chain].append(int(rows[row]))
                free.remove(int(row))
        chains.extend([int(rows[row])] for row in sorted(free))
    lesions = [_lesion(found, chain) for chain in chains]
    return sorted(lesions, key=lambda lesion: -lesion.score)


def _lesion(found: SliceBoxes, chain: list[int]) -> Lesion:
    solid = found.solid()[chain]
    best = chain[int(np.argmax(found.scores[chain]))]
    return Lesion(
        box=np.concatenate([solid[:, :3].min(axis=0), solid[:, 3:].max(axis=0)]),
        score=float(found.scores[best]),
        key=int(found.slices[best]),
        key_box=found.boxes[best],
        members=tuple(chain),
    )
