"""MVP-Net against the values of its authors' modules, and its reading of windows and positions by example."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from scripts.networks import MVPNet, mvp_net
from scripts.networks.published.authors_names import renamed
from scripts.networks.published.mvp_net import MVPNET_NAMES, MultiViewBackbone, PositionHead
from support.field_values import check_block, checkpoint


@pytest.fixture(scope="module")
def values(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "reference/golden_field/mvpnet.json").read_text())["slices_3"]


@torch.no_grad()
def test_every_listed_tensor_equals_the_authors(values: dict[str, Any]) -> None:
    network = mvp_net(3).double().eval()
    # The layers behind the listed tensors hold most numbers, and drawing them takes long.
    listed = [key for key in values["keys"] if not key[0].startswith(("Box_", "Position_"))]
    loaded = network.load_state_dict(renamed(checkpoint({**values, "keys": listed}), MVPNET_NAMES), strict=False)
    assert not loaded.unexpected_keys
    assert all(name.startswith(("roi_heads.", "position.")) for name in loaded.missing_keys)
    images = torch.from_numpy(np.random.default_rng(values["input"]["rng_seed"]).standard_normal((3, 3, 96, 128)))
    seen: dict[str, torch.Tensor] = {}
    network.backbone.fpn.register_forward_hook(
        lambda *a: seen.update({f"mvp3.fpn_P{i + 2}": level for i, level in enumerate(a[2].values())})
    )
    levels = network.backbone.from_images(images)
    seen |= {f"mvp3.gated_P{i + 2}": level for i, level in enumerate(levels)}
    seen |= {f"mvp3.rpn_cls_P{i + 2}": level for i, level in enumerate(network.rpn.head(levels)[0])}
    for block in values["outputs"]:
        check_block(block, seen[block["tag"]], 1e-8)
    assert len(values["outputs"]) >= 4


@pytest.mark.parametrize(("slices", "count"), [(3, 79_118_733), (9, 157_173_741)])
def test_names_shapes_and_parameters_are_those_of_the_authors(
    shared: Path, on_meta: torch.device, slices: int, count: int
) -> None:
    keys = json.loads((shared / f"reference/golden_field/checkpoint_keys_mvpnet_{slices}.json").read_text())["keys"]
    theirs = {key[0]: torch.empty(key[1], device="meta") for key in keys}
    with on_meta:
        network = mvp_net(slices)
    ours = renamed(theirs, MVPNET_NAMES)
    assert len(ours) == len(theirs)
    assert {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in network.state_dict().items()}
    assert sum(parameter.numel() for parameter in network.parameters()) == count


class TestViews:
    def test_three_slices_are_three_windows(self) -> None:
        backbone = MultiViewBackbone(3, channels=16, width=8)
        hounsfield = torch.tensor([-2000.0, -1024.0, -174.0, 50.0, 274.0, 484.0, 1050.0, 1425.0])
        pixels = (hounsfield.clamp(-1024, 1050) + 1024) / 2074 * 255
        slab = ((pixels - 123.675) / 58.395).expand(1, 3, 1, 8)
        views = backbone.as_images(slab)
        assert views.shape == (3, 3, 1, 8)
        seen = (hounsfield.clamp(-1024, 1050)[None] - torch.tensor([[-174.0], [-1493.0], [-534.0]])) / torch.tensor(
            [[448.0], [1977.0], [1959.0]]
        )
        wanted = seen.clamp(0, 1) * 255 - 100
        torch.testing.assert_close(views[:, 0, 0], wanted, rtol=0, atol=1e-3)
        assert wanted[0].tolist() == pytest.approx([-100, -100, -100, 27.5, 155, 155, 155, 155])

    def test_a_wider_slab_gives_the_whole_windows(self) -> None:
        backbone = MultiViewBackbone(3, channels=16, width=8, window=(-1493.0, 1425.0, 0.0, 1.0))
        views = backbone.as_images(torch.tensor([0.0, 255.0]).expand(1, 3, 1, 2))
        torch.testing.assert_close(views[:, 0, 0], torch.tensor([[-100.0, 155.0]] * 3))

    def test_nine_slices_are_three_images_for_each_window(self) -> None:
        backbone = MultiViewBackbone(9, channels=16, width=8)
        slab = torch.zeros(1, 9, 1, 1) + torch.arange(9.0).reshape(1, 9, 1, 1) * 0.01
        views = backbone.as_images(slab)
        assert views.shape == (9, 3, 1, 1)
        flat = views.reshape(3, 9)
        assert (flat.diff(dim=1) > 0).all()
        steps = flat[:, -1] - flat[:, 0]
        assert (steps[0] / steps[1]).item() == pytest.approx(1977 / 448, rel=1e-3)

    def test_other_slice_counts_are_rejected(self) -> None:
        with pytest.raises(ValueError, match="3 or 9 slices"):
            mvp_net(6)
        with pytest.raises(ValueError, match="reads 3 slices"):
            MultiViewBackbone(3, channels=16, width=8)(torch.zeros(1, 9, 64, 64))


class TestPosition:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]])
    heights = torch.tensor([0.5, 0.9, 0.1])

    def test_the_corrected_loss_is_a_mean(self) -> None:
        loss = PositionHead(32).loss(self.logits, self.heights, torch.full((3,), 0.6))
        entropy = F.cross_entropy(self.logits, torch.ones(3, dtype=torch.int64))
        distance = (0.1**2 + 0.3**2 + 0.5**2) / 2 / 3
        assert loss.item() == pytest.approx(0.1 * entropy.item() + distance, rel=1e-5)

    def test_the_released_distance_is_three_times_as_large(self) -> None:
        z = torch.full((3,), 0.6)
        entropy = 0.1 * F.cross_entropy(self.logits, torch.ones(3, dtype=torch.int64))
        released = PositionHead(32, as_released=True).loss(self.logits, self.heights, z) - entropy
        corrected = PositionHead(32).loss(self.logits, self.heights, z) - entropy
        assert (released / corrected).item() == pytest.approx(3, rel=1e-5)

    @pytest.mark.parametrize(("z", "part"), [(0.0, 0), (0.579, 0), (0.58, 1), (0.719, 1), (0.72, 2), (1.0, 2)])
    def test_parts_of_the_body(self, z: float, part: int) -> None:
        logits = torch.zeros(1, 3)
        logits[0, part] = 50.0
        assert PositionHead(32).loss(logits, torch.tensor([z]), torch.tensor([z])).item() == pytest.approx(0, abs=1e-6)

    def test_the_released_rule_has_no_part_for_one(self) -> None:
        z = torch.ones(3)
        with pytest.raises(ValueError, match="assigns no part to 1"):
            PositionHead(32, as_released=True).loss(self.logits, self.heights, z)
        with pytest.raises(ValueError, match=r"1 at most, got \[1.5"):
            PositionHead(32).loss(self.logits, self.heights, 1.5 * z)

    @pytest.mark.parametrize(("slices", "first"), [(3, 0), (9, 3)])
    def test_nine_slices_show_the_second_window(self, slices: int, first: int) -> None:
        network = mvp_net(slices, channels=16, fc_channels=16)
        level = torch.arange(slices).repeat_interleave(16).float().reshape(1, -1, 1, 1).repeat(2, 1, 1, 1)
        views = network.middle_views(level)
        assert views[:, 0, 0, 0].tolist() == [first, first + 1, first + 2] * 2


def narrow(slices: int = 3) -> MVPNet:
    torch.manual_seed(0)
    return mvp_net(slices, channels=32, fc_channels=32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_reaches_every_parameter(dtype: torch.dtype) -> None:
    network = narrow().train()
    boxes, labels = torch.tensor([[10.0, 12.0, 40.0, 50.0]]), torch.ones(1, dtype=torch.int64)
    targets = [{"boxes": boxes, "labels": labels, "position": torch.tensor([0.6])}, {"boxes": boxes, "labels": labels}]
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        losses: Any = network(torch.randn(2, 3, 64, 96), targets)
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_position"}
    assert losses["loss_position"] > 0
    sum(losses.values()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_without_positions_their_loss_is_zero() -> None:
    targets = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]
    targets.append({"boxes": torch.tensor([[1.0, 1.0, 9.0, 9.0]]), "labels": torch.ones(1, dtype=torch.int64)})
    targets[1]["position"] = torch.tensor([math.nan])
    losses: Any = narrow(9).train()(torch.randn(2, 9, 64, 64), targets)
    assert losses["loss_position"].item() == 0
    assert all(math.isfinite(loss.item()) for loss in losses.values())


@torch.no_grad()
def test_detections_do_not_depend_on_the_neighbours_in_a_batch() -> None:
    network = narrow().double().eval()
    slabs = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    both, alone = network(slabs), network(slabs[1:])
    torch.testing.assert_close(both[1]["scores"], alone[0]["scores"], rtol=0, atol=1e-5)
    assert len(alone[0]["scores"]) > 0
