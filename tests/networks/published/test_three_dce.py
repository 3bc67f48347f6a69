"""3DCE: its pooling against the definition in MXNet, its names, shapes and counts against its authors' files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scripts.networks import three_dce
from scripts.networks.published.authors_names import renamed
from scripts.networks.published.three_dce import THREE_DCE_NAMES, position_sensitive_pool


def by_loops(level_map: np.ndarray, rois: np.ndarray, scale: float, group: int) -> np.ndarray:
    """The definition, bin by bin."""
    maps, (height, width) = level_map.shape[1] // group**2, level_map.shape[2:]
    out = np.zeros((len(rois), maps, group, group))
    for number, (row, *corners) in enumerate(rois):
        x1, y1, x2, y2 = (math.copysign(math.floor(abs(corner) + 0.5), corner) for corner in corners)
        for gy in range(group):
            for gx in range(group):
                edges = []
                for start, end, step, size in ((y1, y2, gy, height), (x1, x2, gx, width)):
                    begin = start * scale
                    side = max((end + 1) * scale - begin, 0.1) / group
                    first, last = math.floor(step * side + begin), math.ceil((step + 1) * side + begin)
                    edges.append(slice(min(max(first, 0), size), min(max(last, 0), size)))
                for top in range(maps):
                    cells = level_map[int(row), (top * group + gy) * group + gx, edges[0], edges[1]]
                    out[number, top, gy, gx] = cells.mean() if cells.size else 0
    return out


class TestPool:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_it_equals_the_listed_case(self, shared: Path, dtype: torch.dtype) -> None:
        tiny = json.loads((shared / "reference/golden_field/3dce_psroi.json").read_text())["tiny"]
        level_map = (torch.arange(240) % 17).reshape(1, 8, 5, 6).to(dtype)
        got = position_sensitive_pool(level_map, torch.tensor(tiny["rois"], dtype=dtype), tiny["scale"], tiny["group"])
        assert got.dtype == dtype
        torch.testing.assert_close(got, torch.tensor(tiny["output"], dtype=dtype), rtol=0, atol=1e-6)

    def test_it_equals_the_definition_on_drawn_boxes_of_a_batch(self) -> None:
        drawn = np.random.default_rng(3)
        level_map = drawn.standard_normal((2, 3 * 49, 12, 16))
        corners = drawn.uniform([-20, -20], [130, 100], (40, 2))
        rois = np.concatenate([drawn.integers(0, 2, (40, 1)), corners, corners + drawn.uniform(0, 90, (40, 2))], axis=1)
        rois[0, 1:], rois[1, 1:] = [2.5, -2.5, 3.5, 0.5], [0, 0, 127, 95]
        got = position_sensitive_pool(torch.from_numpy(level_map), torch.from_numpy(rois), 1 / 8)
        np.testing.assert_allclose(got.numpy(), by_loops(level_map, rois, 1 / 8, 7), rtol=0, atol=1e-9)

    def test_gradients_go_to_the_cells_of_a_bin(self) -> None:
        level_map = torch.zeros(1, 49, 8, 8, dtype=torch.float64, requires_grad=True)
        position_sensitive_pool(level_map, torch.tensor([[0.0, 0.0, 0.0, 55.0, 55.0]]).double(), 1 / 8).sum().backward()
        wanted = torch.zeros(49, 8, 8, dtype=torch.float64)
        for place in range(49):
            wanted[place, place // 7, place % 7] = 1
        assert level_map.grad is not None
        torch.testing.assert_close(level_map.grad[0], wanted)

    def test_no_boxes(self) -> None:
        assert position_sensitive_pool(torch.zeros(1, 98, 4, 4), torch.zeros(0, 5), 1 / 8).shape == (0, 2, 7, 7)


@pytest.mark.parametrize(("slices", "count"), [(1, 17_195_150), (3, 17_195_150), (15, 21_209_230), (27, 25_223_310)])
def test_names_shapes_and_parameters_are_those_of_the_authors(
    shared: Path, on_meta: torch.device, slices: int, count: int
) -> None:
    keys = json.loads((shared / "reference/golden_field/checkpoint_keys_3dce.json").read_text())["keys"]
    images = max(slices // 3, 1)
    with on_meta:
        network = three_dce(slices)
        theirs = {name: torch.empty([490 * images if n == "490*M" else n for n in shape]) for name, shape in keys}
    ours = renamed(theirs, THREE_DCE_NAMES)
    assert len(ours) == len(theirs) == 40
    assert {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in network.state_dict().items()}
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_anchors_are_those_of_the_authors() -> None:
    base = three_dce(3, width=8, rpn_channels=8, fc_channels=8).rpn.anchors.base(0)
    sides = (base[:, 2:] - base[:, :2] + 1).tolist()
    assert len(sides) == 15
    assert sides[0] == [22, 12]  # 11 x 6 at scale 1
    assert sides[5] == [16, 16]
    assert sides[14] == [72, 144]


@torch.no_grad()
def test_proposals_come_from_the_image_in_the_middle() -> None:
    network = three_dce(9, width=8, rpn_channels=8, fc_channels=8).double().eval()
    slabs = torch.randn(2, 9, 64, 96, dtype=torch.float64)
    (middle,), (maps,) = network.features(slabs)
    alone = network.backbone.body(slabs[1:, 3:6])  # type: ignore[operator]
    torch.testing.assert_close(middle[1:], alone)
    assert maps.shape == (2, 3 * 490, 8, 12)
    last = network.backbone.position_maps(network.backbone.body(slabs[1:, 6:]))  # type: ignore[operator]
    torch.testing.assert_close(maps[1:, 980:], last)


@torch.no_grad()
def test_the_logit_of_an_anchor_is_that_of_its_softmax() -> None:
    head = three_dce(3, width=8, rpn_channels=8, fc_channels=8).rpn.head
    features = torch.randn(1, 64, 5, 6)
    scores = head.cls_logits(head.conv(features))
    wanted = scores.reshape(1, 2, 15, 5, 6).softmax(1)[:, 1]
    torch.testing.assert_close(head([features])[0][0].sigmoid(), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slices", [1, 9])
def test_training_reaches_every_parameter(slices: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = three_dce(slices, width=8, rpn_channels=16, fc_channels=16).train()
    targets = [{"boxes": torch.tensor([[10.0, 12.0, 40.0, 50.0]]), "labels": torch.ones(1, dtype=torch.int64)}] * 2
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        losses: Any = network(torch.randn(2, slices, 64, 96), targets)
    sum(losses.values()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    (found,) = network.eval()(torch.randn(1, slices, 64, 96))
    assert found["boxes"].isfinite().all()
    assert len(found["scores"]) > 0


@pytest.mark.parametrize("slices", [2, 6, 11, 39])
def test_other_slice_counts_are_rejected(slices: int) -> None:
    with pytest.raises(ValueError, match=f"33 slices for 3DCE, got {slices}"):
        three_dce(slices)
