"""The detector as a graph of fixed outputs gives what the detector gives, for any batch, size and number of classes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from scripts.networks import FasterRCNN, ResNet3d, TwoStageHead, mp3d_fpn
from scripts.networks.export_graph import DetectionGraph, clip_to_slab, pad_to_stride, suppress, with_row
from scripts.networks.heads.box_rules import MMDETECTION
from scripts.networks.heads.rpn import anchor_grid


def narrow(num_classes: int = 1, num_slices: int = 3, **limits: float) -> FasterRCNN:
    """A small detector whose scores are spread, so that ranks mean something."""
    torch.manual_seed(0)
    head = TwoStageHead(**{"fc_channels": 16, "test_per_level": 60, "proposals": 100, **limits})
    body = ResNet3d(layers=[1, 1, 1, 1], width=8)
    detector = mp3d_fpn(num_slices, num_classes, body=body, fpn_channels=32, head=head).eval()
    with torch.no_grad():
        for parameter in (*detector.rpn.head.parameters(), *detector.roi_heads.predictor.parameters()):
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return detector


@torch.no_grad()
def assert_same(detector: FasterRCNN, slabs: Tensor) -> list[int]:
    """Row for row the detector's results, then zeros; returns how many boxes each slab has."""
    boxes, scores, labels = DetectionGraph(detector)(slabs)
    counts = []
    for row, found in enumerate(detector(slabs)):
        count = len(found["scores"])
        torch.testing.assert_close(boxes[row, :count], found["boxes"], rtol=0, atol=1e-4)
        torch.testing.assert_close(scores[row, :count], found["scores"], rtol=0, atol=1e-6)
        assert torch.equal(labels[row, :count], found["labels"])
        assert not boxes[row, count:].any()
        assert not scores[row, count:].any()
        assert not labels[row, count:].any()
        counts.append(count)
    return counts


@pytest.mark.parametrize("shape", [(1, 3, 96, 96), (2, 3, 101, 150), (3, 3, 256, 224), (1, 3, 33, 64)])
def test_batches_and_sizes(shape: tuple[int, ...]) -> None:
    counts = assert_same(narrow(), torch.randn(shape))
    assert len(counts) == shape[0]
    assert min(counts) > 0


def test_each_slab_of_a_batch_is_on_its_own() -> None:
    graph = DetectionGraph(narrow())
    slabs = torch.randn(3, 3, 96, 128)
    with torch.no_grad():
        together, each = graph(slabs), [graph(slab[None]) for slab in slabs]
    for index, result in enumerate(together):
        torch.testing.assert_close(result, torch.cat([single[index] for single in each]), rtol=0, atol=1e-4)


def test_several_classes() -> None:
    detector = narrow(num_classes=3)
    assert_same(detector, torch.randn(2, 3, 96, 128))
    labels = DetectionGraph(detector)(torch.randn(1, 3, 96, 128))[2]
    assert len(set(labels.unique().tolist()) & {1, 2, 3}) > 1


@pytest.mark.parametrize(
    ("limits", "most"),
    [({"detections": 7}, 7), ({"proposals": 5, "detections": 100}, 5), ({"score": 0.7}, 99), ({"score": 1.0}, 0)],
)
def test_limits_of_the_head(limits: dict[str, float], most: int) -> None:
    detector = narrow(**limits)
    (count,) = assert_same(detector, torch.randn(1, 3, 96, 128))
    assert count <= most
    assert DetectionGraph(detector)(torch.randn(1, 3, 96, 128))[0].shape == (1, detector.roi_heads.limits.per_image, 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_show_in_the_scores_of_their_slab(value: float) -> None:
    detector = narrow()
    slabs = torch.randn(2, 3, 96, 96)
    slabs[1, 0, 5, 7] = value
    with torch.no_grad():
        scores = DetectionGraph(detector)(slabs)[1]
    assert scores[0].isfinite().all()
    assert scores[1].isnan().all()
    with pytest.raises(ValueError, match="finite"):
        detector(slabs)


def test_broken_weights_show_too() -> None:
    detector = narrow()
    with torch.no_grad():
        detector.roi_heads.predictor.bbox_pred.bias[0] = torch.nan
        assert DetectionGraph(detector)(torch.randn(1, 3, 96, 96))[1].isnan().all()


def test_anchors_run_along_the_rows_of_a_map_that_is_not_square() -> None:
    base = torch.tensor([[-2.0, -1.0, 2.0, 1.0], [-1.0, -3.0, 1.0, 3.0]])
    grid = anchor_grid(torch.zeros(1, 5, 2, 3), base, 4).reshape(2, 3, 2, 4)
    for row in range(2):
        for column in range(3):
            shift = torch.tensor([4.0 * column, 4.0 * row] * 2)
            assert torch.equal(grid[row, column], base + shift)


def test_padding_and_clipping_know_rows_from_columns() -> None:
    slabs = torch.ones(1, 3, 40, 70)
    padded = pad_to_stride(slabs, 3)
    assert padded.shape == (1, 3, 64, 96)
    assert padded.sum() == slabs.sum()
    assert torch.equal(padded[..., :40, :70], slabs)
    assert pad_to_stride(padded, 3) is not None
    assert pad_to_stride(padded, 3).shape == padded.shape
    assert clip_to_slab(torch.tensor([[-3.0, 5.0, 90.0, 90.0]]), slabs).tolist() == [[0.0, 5.0, 70.0, 40.0]]


def test_groups_do_not_suppress_each_other() -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]])
    kept = suppress(torch.stack([box, box]), torch.tensor([[0.5, 0.9], [0.9, 0.5]]), 0.5)
    assert kept.tolist() == [[False, True], [True, False]]
    assert suppress(torch.zeros(0, 3, 4), torch.zeros(0, 3), 0.5).shape == (0, 3)


def test_boxes_get_the_row_of_their_slab() -> None:
    boxes = torch.arange(24.0).reshape(2, 3, 4)
    rows = with_row(boxes)
    assert rows[:, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(rows[:, 1:], boxes.reshape(6, 4))


def test_a_detector_with_further_heads_is_rejected() -> None:
    changed = narrow()
    changed.roi_heads.fields["tags"] = nn.Linear(4, 1)
    with pytest.raises(ValueError, match="further heads tags, which the graph does not return"):
        DetectionGraph(changed)


def test_a_detector_of_inclusive_boxes_is_rejected() -> None:
    changed = narrow()
    changed.rpn.rules = MMDETECTION
    with pytest.raises(ValueError, match="count their last pixel"):
        DetectionGraph(changed)
