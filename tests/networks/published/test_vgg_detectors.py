"""Plain R-FCN and Faster R-CNN on VGG-16: counts by the layer list of their authors, and their second stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from scripts.networks import ThreeDCE, rfcn, vgg_faster_rcnn
from scripts.networks.published.vgg_detectors import BinVotes, RoundedPool

MAKERS: dict[str, Callable[..., ThreeDCE]] = {"R-FCN": rfcn, "Faster R-CNN": vgg_faster_rcnn}


def small(name: str, num_slices: int = 3, num_classes: int = 1) -> ThreeDCE:
    return MAKERS[name](num_slices, num_classes, width=8, rpn_channels=16, fc_channels=16)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        # 1x1 512 -> 512 and 1x1 512 -> 7 x 7 x (2 + 8).
        ("R-FCN", 512 * 512 + 512 + 512 * 490 + 490),
        # 512 x 7 x 7 -> 2048 -> 2048 -> 2 and 8.
        ("Faster R-CNN", 512 * 49 * 2048 + 2048 + 2048 * 2048 + 2048 + 2 * 2049 + 8 * 2049),
    ],
)
def test_parameters_are_those_of_the_layer_list(on_meta: torch.device, name: str, own: int) -> None:
    with on_meta:
        network = MAKERS[name]()
    body, proposals = 14_714_688, 1_203_034
    assert sum(parameter.numel() for parameter in network.parameters()) == body + proposals + own


@torch.no_grad()
def test_the_votes_of_rfcn_are_means_of_its_bins() -> None:
    network = small("R-FCN", num_classes=2).double().eval()
    (_,), (maps,) = network.features(torch.randn(1, 3, 64, 96, dtype=torch.float64))
    assert maps.shape == (1, 15 * 49, 8, 12)
    box = torch.tensor([[0.0, 0.0, 95.0, 63.0]], dtype=torch.float64)
    logits, offsets = network.roi_heads.predictor(network.roi_heads.box_head(network.roi_heads.pool([maps], [box])))
    # Bins of the whole map, from floor to ceiling.
    rows, columns = ([slice(bin * side // 7, -(-(bin + 1) * side // 7)) for bin in range(7)] for side in (8, 12))
    grid = maps[0].unflatten(0, (15, 7, 7))
    bins = [grid[:, y, x, rows[y], columns[x]].mean((1, 2)) for y in range(7) for x in range(7)]
    wanted = torch.stack(bins).mean(0)
    torch.testing.assert_close(logits[0], wanted[:3])
    # Those of the background, the first four, are not read.
    torch.testing.assert_close(offsets[0], wanted[7:].reshape(2, 4))


def test_votes_are_class_scores_first() -> None:
    logits, offsets = BinVotes(1)(torch.arange(10.0)[None])
    assert logits.tolist() == [[0, 1]]
    assert offsets.tolist() == [[[6, 7, 8, 9]]]


def test_rounded_bins_share_the_cells_at_their_edges() -> None:
    """By Caffe's rule: corners are rounded to cells, the last cell counts, bins reach from floor to ceiling."""
    level_map = torch.arange(64.0).reshape(1, 1, 8, 8)
    rois = torch.tensor([[0.0, 3.0, 5.0, 60.0, 59.0]])  # cells 0 to 8 and 1 to 7
    crop = RoundedPool().crop(level_map, rois, 8)[0, 0]
    assert crop.shape == (7, 7)
    ends = [min(-(-(column + 1) * 9 // 7), 8) - 1 for column in range(7)]  # nine cells in seven bins, in the map
    assert crop[0].tolist() == [8.0 + end for end in ends]
    assert crop[:, 0].tolist() == [8.0 * (1 + row) + ends[0] for row in range(7)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MAKERS)
def test_training_reaches_every_parameter(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = small(name).train()
    targets = [{"boxes": torch.tensor([[10.0, 12.0, 40.0, 50.0]]), "labels": torch.ones(1, dtype=torch.int64)}] * 2
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        losses: Any = network(torch.randn(2, 3, 64, 96), targets)
    sum(losses.values()).backward()
    for each, parameter in network.named_parameters():
        assert parameter.grad is not None, each
        assert parameter.grad.isfinite().all(), each
    (found,) = network.eval()(torch.randn(1, 3, 64, 96))
    assert found["boxes"].isfinite().all()
    assert len(found["scores"]) > 0


@pytest.mark.parametrize("name", MAKERS)
def test_one_slice_takes_the_place_of_three(name: str) -> None:
    network = small(name, 1).eval()
    slab = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        (found,) = network(slab)
        network.backbone.num_slices = 3  # type: ignore[assignment]
        (wanted,) = network(slab.expand(1, 3, 64, 64))
    assert torch.equal(found["boxes"], wanted["boxes"])


def test_evaluation_of_faster_rcnn_has_no_dropout() -> None:
    head = small("Faster R-CNN").eval().roi_heads.box_head
    assert [layer.p for layer in head.modules() if isinstance(layer, nn.Dropout)] == [0.5, 0.5]
    crops = torch.randn(3, 64, 7, 7)
    assert torch.equal(head(crops), head(crops))


@pytest.mark.parametrize("name", MAKERS)
def test_other_slice_counts_and_no_classes_are_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=f"Expected 1 or 3 slices for {name} on VGG-16, got 9"):
        small(name, 9)
    with pytest.raises(ValueError, match="at least one class"):
        small(name, 3, 0)
