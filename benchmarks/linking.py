"""Linking slice boxes into lesions: greedy IoU linking against weighted box clustering, by 3D FROC on synthetic scans.

The rules are compared on one set of scans (seeds from 3000) and reported on another (seeds from 4000, or SCANS_FROM). A
lesion is found by a box with 3D IoU > 0.3, and, as a second criterion, with intersection over the found box >= 0.3.
CHECKPOINT=FILE takes other weights than the demo's. MIRRORED=1 averages the scores of each slab and of its mirror
images.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou, nms

from scripts.boxes import pairwise_iou
from scripts.data.intensity import IntensityWindow
from scripts.data.scans.scan import read_scan
from scripts.data.slabs.slab_reader import resample_z
from scripts.data.synthetic.whole_scans import make_scan
from scripts.data.synthetic_presets import resolve
from scripts.inference.detections import Lesion, SliceBoxes, link_boxes
from scripts.inference.volume_detector import PlaneScale, SlabCutter, VolumeDetector
from scripts.metrics.froc import curve_from_matches, sensitivity_at
from scripts.metrics.matching import FrocRule, match_overlaps
from scripts.weights import load_network

CHECKPOINT = Path(os.environ.get("CHECKPOINT") or Path(__file__).resolve().parents[1] / "mp3d_bundle/models/demo.pt")
MIRRORED = bool(os.environ.get("MIRRORED"))
# Axes of slabs ``(D, H, W)``: none, left and right, head and feet, both.
MIRRORS = ((), (2,), (0,), (0, 2))
# First seed and number of scans.
CHOOSING, REPORTING = (3000, 24), (int(os.environ.get("SCANS_FROM", "4000")), 24)
LOWEST_SCORE = 0.1
# Overlap from which boxes of two mirror images are the same.
SAME = 0.5
BOX_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
FPS_PER_SCAN = (0.5, 1.0, 2.0, 4.0)
# Smallest overlap of a lesion and a box that match.
FOUND_IOU = 0.1
RULE = FrocRule("3D", iou_threshold=0.3, drop_unusable=False, shared_fps="last")
ScoreRule = Callable[[np.ndarray], float]
Linker = Callable[[SliceBoxes], list[Lesion]]
# Slice boxes of a scan, and its lesions (N, 6) in canonical edges.
Scan = tuple[SliceBoxes, np.ndarray]
# Slice boxes of a scan, its linked lesions, and their overlaps (M, N) of both kinds with the true ones.
Linked = tuple[SliceBoxes, list[Lesion], tuple[np.ndarray, np.ndarray]]


def best_score(scores: np.ndarray) -> float:
    """The best slice's score."""
    return float(scores.max())


def mean_of_best_three(scores: np.ndarray) -> float:
    """Mean over the best three slices; a missing slice counts as 0."""
    return float(np.sort(scores)[-3:].sum() / 3)


def noisy_or(scores: np.ndarray) -> float:
    """Probability that one of independent boxes is right, of the best three: length alone gives no advantage."""
    return float(1 - np.prod(1 - np.sort(scores)[-3:]))


def weighted_mean(scores: np.ndarray) -> float:
    """The score of weighted box clustering: the mean of the scores, weighted by themselves."""
    return float(np.square(scores).sum() / scores.sum())


SCORE_RULES = {
    "best": best_score,
    "mean of best three": mean_of_best_three,
    "noisy or of best three": noisy_or,
    "weighted mean": weighted_mean,
}


def cluster_boxes(found: SliceBoxes, *, min_iou: float = 0.2, max_gap: int = 0) -> list[Lesion]:
    """Weighted box clustering along z (after Jaeger et al., Retina U-Net, 2020).

    The best box left collects, slice by slice away from it, the boxes that overlap it; the lesion's box is the mean of
    its members weighted by their scores, its extent in z that of all members.
    """
    free = np.ones(len(found.scores), dtype=bool)
    solid, lesions = found.solid(), []
    for seed in np.argsort(-found.scores, kind="stable"):
        if not free[seed]:
            continue
        near = free & (pairwise_iou(found.boxes[seed : seed + 1], found.boxes)[0] >= min_iou)
        near[seed] = True
        numbers = np.unique(found.slices[near])
        # The run of slices around the seed's that has no hole longer than max_gap.
        runs = np.cumsum(np.diff(numbers, prepend=numbers[0]) > max_gap + 1)
        run = numbers[runs == runs[np.searchsorted(numbers, found.slices[seed])]]
        rows = np.flatnonzero(near & np.isin(found.slices, run))
        free[rows] = False
        plane = np.average(found.boxes[rows], axis=0, weights=found.scores[rows])
        box = np.array([*plane[:2], solid[rows, 2].min(), *plane[2:], solid[rows, 5].max()])
        score = float(found.scores[seed])
        lesions.append(Lesion(box, score, int(found.slices[seed]), found.boxes[seed], tuple(rows.tolist())))
    return lesions


def link_enclosing(found: SliceBoxes) -> list[Lesion]:
    """Greedy linking, boxes enclosing all of their members."""
    lesions = []
    for lesion in link_boxes(found):
        boxes = found.boxes[list(lesion.members)]
        low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        lesions.append(replace(lesion, box=np.array([*low, lesion.box[2], *high, lesion.box[5]])))
    return lesions


def link_averaging(found: SliceBoxes) -> list[Lesion]:
    """Greedy linking, boxes the mean of their members in the plane, weighted by score."""
    lesions = []
    for lesion in link_boxes(found):
        rows = list(lesion.members)
        plane = np.average(found.boxes[rows], axis=0, weights=found.scores[rows])
        lesions.append(replace(lesion, box=np.array([*plane[:2], lesion.box[2], *plane[2:], lesion.box[5]])))
    return lesions


LINKERS: dict[str, Linker] = {
    "greedy": link_boxes,
    "greedy, IoU 0.35": functools.partial(link_boxes, min_iou=0.35),
    "greedy, IoU 0.5": functools.partial(link_boxes, min_iou=0.5),
    "greedy, a gap": functools.partial(link_boxes, max_gap=1),
    "greedy, enclosing": link_enclosing,
    "greedy, mean box": link_averaging,
    "clustering": cluster_boxes,
    "clustering, a gap": functools.partial(cluster_boxes, max_gap=1),
}


def above(found: SliceBoxes, threshold: float) -> SliceBoxes:
    """The boxes that score at least ``threshold``."""
    keep = found.scores >= threshold
    return replace(found, boxes=found.boxes[keep], scores=found.scores[keep], slices=found.slices[keep])


def overlaps_3d(boxes: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersection over union, and over the found box, of ``(M, 6)`` with ``(N, 6)`` boxes; each ``(M, N)``."""
    boxes = boxes.reshape(-1, 6)
    sides = np.minimum(boxes[:, None, 3:], true[None, :, 3:]) - np.maximum(boxes[:, None, :3], true[None, :, :3])
    common = sides.clip(0).prod(axis=2)
    volume, others = ((each[:, 3:] - each[:, :3]).prod(axis=1) for each in (boxes, true))
    return common / (volume[:, None] + others[None] - common), common / volume[:, None]


def rescored(found: SliceBoxes, lesion: Lesion, score: ScoreRule) -> float:
    """The score of a lesion by another rule; several boxes of one slice count once, by the best of them."""
    rows = np.array(lesion.members)
    numbers = found.slices[rows]
    return score(np.array([found.scores[rows[numbers == number]].max() for number in np.unique(numbers)]))


def link_all(scans: Sequence[Scan], link: Linker, threshold: float) -> list[Linked]:
    """Link the boxes of every scan that score at least ``threshold``."""
    linked = []
    for found, true in scans:
        kept = above(found, threshold)
        lesions = link(kept)
        boxes = np.array([lesion.box for lesion in lesions]).reshape(-1, 6)
        linked.append((kept, lesions, overlaps_3d(boxes, true)))
    return linked


def sensitivities(linked: Sequence[Linked], score: ScoreRule) -> np.ndarray:
    """Sensitivity ``(2, 4)`` by 3D IoU and by intersection over the found box at `FPS_PER_SCAN`."""
    scores = [np.array([rescored(found, lesion, score) for lesion in lesions]) for found, lesions, _ in linked]
    curves = [
        curve_from_matches(match_overlaps([overlaps[kind] for _, _, overlaps in linked], scores, RULE))
        for kind in (0, 1)
    ]
    return np.array([sensitivity_at(curve, FPS_PER_SCAN) for curve in curves])


class Mirrored(nn.Module):
    """The best boxes of a slab and of its mirror images, each with the mean of its scores in all of them.

    Args:
        network: The detector, of one class.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, slabs: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Slabs ``(D, H, W)`` to ``boxes`` ``(N, 4)`` and ``scores`` ``(N,)`` of each, best first."""
        views = [self.network([slab.flip(axes) for slab in slabs]) for axes in MIRRORS]
        return [self._joined([view[row] for view in views], slab.shape[-1]) for row, slab in enumerate(slabs)]

    def _joined(self, views: Sequence[dict[str, Tensor]], width: int) -> dict[str, Tensor]:
        boxes = []
        for axes, view in zip(MIRRORS, views, strict=True):
            x1, y1, x2, y2 = view["boxes"].unbind(1)
            boxes.append(torch.stack([width - x2, y1, width - x1, y2], dim=1) if 2 in axes else view["boxes"])
        every = torch.cat(boxes)
        kept = every[nms(every, torch.cat([view["scores"] for view in views]), SAME)]
        mean = torch.zeros(len(kept))
        for own, view in zip(boxes, views, strict=True):
            if len(own):
                mean += ((box_iou(kept, own) > SAME) * view["scores"]).amax(dim=1) / len(views)
        order = mean.argsort(descending=True)
        return {"boxes": kept[order], "scores": mean[order]}


def detect(seeds: tuple[int, int]) -> list[Scan]:
    """Make synthetic scans and find the boxes in their slices."""
    network, info = load_network(CHECKPOINT)
    recipe = info["recipe"]
    scale = PlaneScale(pixel_spacing=recipe["pixel_spacing"])
    cutter = SlabCutter(resample_z, num_slices=recipe["num_slices"], scale=scale, from_last=True)
    if MIRRORED:
        network = Mirrored(network)
    detector = VolumeDetector(cutter, IntensityWindow(), score_threshold=LOWEST_SCORE, progress=False)
    scans = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds[0], sum(seeds)):
            path = Path(folder) / f"{seed}.nii.gz"
            make_scan(np.random.default_rng(seed), resolve("small", {}), path)
            scan = read_scan(path)
            truth = json.loads(path.with_name(f"{seed}.json").read_text())["lesions"]
            true = scan.boxes_from_stored(np.array([lesion["box"] for lesion in truth]).reshape(-1, 6))
            scans.append((detector(scan, network), true))
    return scans


def compare_rules(choosing: Sequence[Scan], reporting: Sequence[Scan]) -> None:
    """Print, for each way to link and to score, the best box threshold on one set and the figures on the other."""
    header = " ".join(f"{fps:>6g}" for fps in FPS_PER_SCAN)
    print(f"{'linking':18} {'score':22} boxes from, mean (choosing) | IoU: {header}   mean | IoBB: {header}   mean")
    for name, link in LINKERS.items():
        choices = {threshold: link_all(choosing, link, threshold) for threshold in BOX_THRESHOLDS}
        reports = {threshold: link_all(reporting, link, threshold) for threshold in BOX_THRESHOLDS}
        for rule, score in SCORE_RULES.items():
            means = {threshold: sensitivities(linked, score)[0].mean() for threshold, linked in choices.items()}
            best = max(means, key=lambda threshold: means[threshold])
            print(f"{name:18} {rule:22} {best:10} {means[best]:17.3f}", end="")
            for row in sensitivities(reports[best], score):
                print(" |     " + " ".join(f"{value:6.3f}" for value in [*row, row.mean()]), end="")
            print(flush=True)


def count_at_operating_points(scans: Sequence[Scan]) -> None:
    """Print what linking finds with its defaults, also at the score thresholds stored with the weights."""
    points = load_network(CHECKPOINT)[1].get("inference", {}).get("operating_points", {})
    linked = link_all(scans, link_boxes, LOWEST_SCORE)
    rates = zip(FPS_PER_SCAN, sensitivities(linked, best_score)[1], strict=True)
    print("IoBB, by false positives per scan: " + ", ".join(f"{value:.3f} at {fps:g}" for fps, value in rates))
    total = sum(len(true) for _, true in scans)
    for name, threshold in points.items():
        found = false = 0
        for _, lesions, (overlaps, _) in linked:
            hits = overlaps[[lesion.score >= threshold for lesion in lesions]] > FOUND_IOU
            found += int(hits.any(axis=0).sum())
            false += int((~hits.any(axis=1)).sum())
        print(
            f"{name:>6} per key slice, from {threshold:.3f}: {found} of {total} found, {false / len(scans):.1f} false"
        )


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(1)
    if not CHECKPOINT.is_file():
        raise FileNotFoundError(f"Expected the demo's weights, found no file {CHECKPOINT}: python -m scripts.demo.")
    choosing, reporting = detect(CHOOSING), detect(REPORTING)
    for scans in (choosing, reporting):
        count_at_operating_points(scans)
    compare_rules(choosing, reporting)


if __name__ == "__main__":
    main()
