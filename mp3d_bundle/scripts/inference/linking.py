"""From boxes in slices to lesions: greedy linking by overlap.

Going through the lattice slices from the feet up, a box continues the lesion whose latest box it overlaps
most, best overlaps first, if the overlap is at least ``min_iou`` and the lesion was seen at most
``max_gap`` slices before the slice below. Every other box begins a lesion.

The score of a lesion is that of its best box (the largest of several), which also bounds it in the plane and gives
it its further fields;
along z it reaches from the first to the last of its boxes. Boxes that are linked may score low
(`VolumeDetector.score_threshold`), what is reported as a lesion has to score high (``score_threshold``
here): so the faint ends of a lesion count towards its extent, and faint boxes of their own do not.

The rules and numbers were chosen by measurement, see docs/measurements/linking.md and ``benchmarks/linking.py``.
"""

from __future__ import annotations

import numpy as np

from ..boxes import pairwise_iou
from ..instances import select
from .detections import Lesion, SliceBoxes


def link_boxes(
    found: SliceBoxes,
    *,
    min_iou: float = 0.2,
    max_gap: int = 0,
    score_threshold: float = 0.0,
) -> list[Lesion]:
    """Link the boxes of a scan along z.

    Args:
        found: Boxes of all lattice slices.
        min_iou: Overlap in the plane, above 0, from which boxes of neighbouring slices belong together.
        max_gap: Slices without a box that a lesion may bridge.
        score_threshold: Lesions that score lower are left out.

    Returns:
        Lesions, best score first; each box belongs to at most one, without ``score_threshold`` to exactly one.

    Raises:
        ValueError: If ``min_iou`` is not in (0, 1], ``max_gap`` is negative or ``score_threshold`` is not in [0, 1].
    """
    if not 0 < min_iou <= 1 or max_gap < 0:
        raise ValueError(f"Expected min_iou in (0, 1] and max_gap >= 0, got {min_iou} and {max_gap}.")
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"Expected a score threshold from 0 to 1, got {score_threshold!r}.")
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
    solid = found.solid()
    lesions = [_lesion(found, solid, chain) for chain in chains]
    return sorted((one for one in lesions if one.score >= score_threshold), key=lambda lesion: -lesion.score)


def _lesion(found: SliceBoxes, solid: np.ndarray, chain: list[int]) -> Lesion:
    # Of equal scores the largest box: a lesion is widest where it is cut through its middle.
    x1, y1, x2, y2 = found.boxes[chain].T
    best = chain[int(np.lexsort(((x2 - x1) * (y2 - y1), found.scores[chain]))[-1])]
    key = found.boxes[best]
    return Lesion(
        box=np.array([*key[:2], solid[chain, 2].min(), *key[2:], solid[chain, 5].max()]),
        score=float(found.scores[best]),
        key=int(found.slices[best]),
        key_box=key,
        members=tuple(chain),
        fields=select(found.fields, best),
    )
