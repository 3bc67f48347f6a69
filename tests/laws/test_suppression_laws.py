"""Laws of non-maximum suppression, of inclusive boxes and in the second stage of a detector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from scripts.boxes import pairwise_iou
from scripts.networks.heads.box_rules import MMDETECTION
from scripts.networks.heads.roi_heads import BoxPredictor, DetectionLimits, PyramidRoIAlign, RoIHeads
from support.drawn_values import SEEDS, random_boxes

THRESHOLD = st.sampled_from([0.1, 0.3, 0.5, 0.7])
SIZE = (200, 300)


class BoxesAsCrops(PyramidRoIAlign):
    """The coordinates of a box in the place of its crop."""

    def forward(self, features: list[Tensor], boxes: list[Tensor]) -> Tensor:
        return torch.cat(list(boxes)) / 50 - 1


def heads() -> RoIHeads:
    """A second stage of two classes whose scores and offsets depend on the box alone."""
    torch.manual_seed(0)
    made = RoIHeads(BoxesAsCrops(), TwoMLPHead(4, 16), BoxPredictor(16, 2))
    nn.init.normal_(made.predictor.cls_score.weight)
    return made.eval()


HEADS = heads()


def crowded(seed: int, count: int) -> np.ndarray:
    return random_boxes(np.random.default_rng(seed), count, (40.0, 30.0))


def check_suppressed(boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray, kept: np.ndarray, iou: float) -> None:
    """Kept boxes of a group do not overlap, every other one overlaps a better one that was kept."""
    alike = groups[:, None] == groups[None]
    near = (pairwise_iou(boxes, boxes) > iou) & alike
    assert not (near[np.ix_(kept, kept)] & ~np.eye(len(kept), dtype=bool)).any()
    for row in np.setdiff1d(np.arange(len(boxes)), kept):
        assert (near[row, kept] & (scores[kept] >= scores[row])).any()
    assert (np.diff(scores[kept]) <= 0).all()


@given(SEEDS, st.integers(0, 25), THRESHOLD)
def test_inclusive_suppression(seed: int, count: int, iou: float) -> None:
    generator = np.random.default_rng(seed)
    boxes, groups = np.round(crowded(seed, count)), generator.integers(0, 3, count)
    scores = generator.permutation(count) / 25
    kept = MMDETECTION.nms(*(torch.from_numpy(values) for values in (boxes, scores, groups)), iou).numpy()
    check_suppressed(boxes + np.array([0, 0, 1, 1]), scores, groups, kept, iou)
    order = generator.permutation(count)
    again = MMDETECTION.nms(*(torch.from_numpy(values[order]) for values in (boxes, scores, groups)), iou).numpy()
    np.testing.assert_array_equal(order[again], kept)


def detect(proposals: np.ndarray, limits: DetectionLimits) -> dict[str, np.ndarray]:
    HEADS.limits = limits
    (found,), _ = HEADS([], [torch.from_numpy(proposals).float()], [SIZE])
    return {name: values.detach().double().numpy() for name, values in found.items()}


@given(SEEDS, st.integers(1, 25), THRESHOLD)
def test_detections_do_not_overlap_and_nothing_else_is_lost(seed: int, count: int, iou: float) -> None:
    proposals = crowded(seed, count)
    limits = DetectionLimits(score=0.2, nms_iou=iou, per_image=1000)
    # No overlap is above 1: all boxes that score high enough.
    every, found = detect(proposals, replace(limits, nms_iou=1.0)), detect(proposals, limits)
    assert (every["scores"] > limits.score).all()
    rows = [np.flatnonzero((every["boxes"] == box).all(axis=1) & (every["scores"] == score))[0]
            for box, score in zip(found["boxes"], found["scores"], strict=True)]  # fmt: skip
    check_suppressed(every["boxes"], every["scores"], every["labels"], np.array(rows, dtype=np.int64), iou + 1e-6)
    few = detect(proposals, replace(limits, per_image=3))
    np.testing.assert_array_equal(few["boxes"], found["boxes"][:3])


@given(SEEDS, st.integers(1, 25), THRESHOLD)
def test_the_order_of_proposals_does_not_matter(seed: int, count: int, iou: float) -> None:
    proposals = crowded(seed, count)
    order = np.random.default_rng(seed).permutation(count)
    limits = DetectionLimits(nms_iou=iou)
    one, other = detect(proposals, limits), detect(proposals[order], limits)
    assert len(one["boxes"]) == len(other["boxes"])
    for name in ("scores", "boxes", "labels"):
        np.testing.assert_allclose(one[name], other[name], atol=1e-3, err_msg=name)
