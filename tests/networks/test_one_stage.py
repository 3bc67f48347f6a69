"""The one-stage detector: MONAI's parts behind our interface."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.utils.box_selector import BoxSelector
from torch import Tensor, nn

from scripts.networks import (
    AnchorShapes,
    OneStageDetector,
    OneStageHead,
    ResNet2d,
    ResNet3d,
    TwoStageHead,
    mp3d_retinanet,
    retinanet_2d,
)
from scripts.networks.one_stage import FastBoxSelector, FocalLoss, RowFirstAnchors

NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
ONE = {"boxes": torch.tensor([[20.0, 4.0, 60.0, 24.0]]), "labels": torch.tensor([1])}
Make = Callable[..., OneStageDetector]


@pytest.fixture
def small() -> Make:
    def make(num_slices: int = 3, num_classes: int = 1, **changes: Any) -> OneStageDetector:
        torch.manual_seed(0)
        arguments = {"body": ResNet3d(layers=(1, 1, 1, 1), width=8), "fpn_channels": 16}
        return mp3d_retinanet(num_slices, num_classes, **{**arguments, **changes})

    return make


def slabs() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(3, 40, 70), torch.randn(3, 64, 64)]


def backward(losses: dict[str, Tensor] | list[dict[str, Tensor]]) -> None:
    assert isinstance(losses, dict)
    torch.stack(list(losses.values())).sum().backward()


class TestAnchors:
    def test_nine_a_cell_from_16_to_406_pixels_rows_first(self) -> None:
        anchors = RowFirstAnchors(AnchorShapes.of(3), 4.0)
        maps = [torch.zeros(2, 1, 512 // stride, 256 // stride) for stride in (4, 8, 16, 32, 64)]
        first, second = anchors(torch.zeros(2, 3, 512, 256), maps)
        assert anchors.num_anchors_per_location() == [9] * 5
        assert torch.equal(first, second)
        assert len(first) == 9 * sum(level.shape[2] * level.shape[3] for level in maps)
        sides = ((first[:, 2] - first[:, 0]) * (first[:, 3] - first[:, 1])).sqrt()
        assert sides.min().item() == pytest.approx(16)
        assert sides.max().item() == pytest.approx(256 * 2 ** (2 / 3), rel=1e-5)
        centres = (first[:, :2] + first[:, 2:]) / 2
        assert centres.max(dim=0).values.tolist() == pytest.approx([508, 252], abs=1e-3), "rows first"
        assert torch.equal(centres[9 * 64], torch.tensor([4.0, 0.0])), "second row of P2"


class TestFocalLoss:
    def test_by_hand(self) -> None:
        logits, targets = torch.tensor([[0.3], [-1.2]]), torch.tensor([[1.0], [0.0]])
        p, q = torch.sigmoid(torch.tensor([0.3, -1.2])).tolist()
        expected = -0.25 * (1 - p) ** 2 * math.log(p) - 0.75 * q**2 * math.log(1 - q)
        assert FocalLoss()(logits, targets).item() == pytest.approx(expected, rel=1e-5)


class TestFastBoxSelector:
    @pytest.mark.parametrize("classes", [1, 3])
    @pytest.mark.parametrize("seed", range(3))
    def test_selects_the_same_boxes_as_monai(self, seed: int, classes: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        boxes, logits = [], []
        for count in (80, 40, 0, 5):
            corners = torch.rand(count, 2, generator=generator) * 90 - 10
            sizes = torch.rand(count, 2, generator=generator) * 40
            boxes.append(torch.cat([corners, corners + sizes], dim=1))
            logits.append(torch.randn(count, classes, generator=generator))
        options: dict[str, Any] = {
            "score_thresh": 0.2,
            "topk_candidates_per_level": 60,
            "nms_thresh": 0.4,
            "detections_per_img": 30,
        }
        slow = BoxSelector(**options).select_boxes_per_image(boxes, logits, [64, 80])
        fast = FastBoxSelector(**options).select_boxes_per_image(boxes, logits, [64, 80])
        assert len(fast[0]) > 10
        assert all(torch.equal(one, other) for one, other in zip(fast, slow, strict=True))

    def test_nothing_left(self) -> None:
        boxes, scores, labels = FastBoxSelector().select_boxes_per_image(
            [torch.zeros(3, 4)], [torch.full((3, 1), -99.0)], [8, 8]
        )
        assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))


class TestTraining:
    @pytest.mark.parametrize("targets", [[ONE, ONE], [ONE, NONE], [NONE, NONE]], ids=["lesions", "one", "none"])
    @pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "autocast"])
    def test_named_finite_losses_reach_every_parameter(
        self, small: Make, targets: list[dict[str, Tensor]], dtype: torch.dtype | None
    ) -> None:
        network = small().train()
        with warnings.catch_warnings(), torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            warnings.simplefilter("error")
            losses = network(slabs(), targets)
        assert set(losses) == {"loss_classifier", "loss_box_reg"}
        assert all(value.ndim == 0 and value.isfinite() and value.dtype == torch.float32 for value in losses.values())
        assert (losses["loss_box_reg"].item() == 0) is all(len(target["boxes"]) == 0 for target in targets)
        backward(losses)
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name

    def test_the_targets_axes_are_swapped_once(self, small: Make) -> None:
        """A flat box on a wide slab: only anchors near it may be pulled up."""
        network = small().train()
        logits: list[Tensor] = []

        def keep(module: nn.Module, args: Any, output: Tensor) -> None:
            del module, args
            output.retain_grad()
            logits.append(output)

        network.network.classification_head.cls_logits.register_forward_hook(keep)  # type: ignore[union-attr]
        wide = torch.randn(1, 3, 32, 128)
        backward(network(wide, [{"boxes": torch.tensor([[96.0, 4.0, 120.0, 28.0]]), "labels": torch.tensor([1])}]))
        pulled = (logits[0].grad < 0).any(dim=1)[0].nonzero()  # type: ignore[operator]
        assert len(pulled)
        rows, columns = pulled.unbind(1)
        assert 2 <= rows.min() <= rows.max() <= 6, "centre at row 16 / 4"
        assert 24 <= columns.min() <= columns.max() <= 30, "centre at column 108 / 4"

    def test_losses_are_divided_by_the_number_of_positive_anchors(self, small: Make) -> None:
        """Twice the same slab has twice the positives, and the same loss."""
        network = small().train()
        slab = slabs()[1]
        one, two = network([slab], [ONE]), network([slab, slab], [ONE, ONE])
        for name in one:
            assert two[name].item() == pytest.approx(one[name].item(), rel=1e-4)

    def test_a_bad_pixel_shows_in_the_losses(self, small: Make) -> None:
        bad = slabs()
        bad[0][0, 0, 0] = float("nan")
        assert small().train()(bad, [ONE, NONE])["loss_classifier"].isnan()

    def test_the_head_starts_at_a_prior_of_one_percent(self, small: Make) -> None:
        bias = small().network.classification_head.cls_logits.bias  # type: ignore[union-attr]
        assert torch.sigmoid(bias).tolist() == pytest.approx([0.01] * 9, rel=1e-4)  # type: ignore[arg-type]

    def test_it_learns_one_slab(self, small: Make) -> None:
        network = small().train()
        optimizer = torch.optim.Adam(network.parameters(), 3e-3)
        slab = torch.zeros(1, 3, 64, 96)
        slab[:, :, 4:24, 20:60] = 2
        for _ in range(25):
            optimizer.zero_grad()
            backward(network(slab, [ONE]))
            optimizer.step()
        (found,) = network.eval()(slab)
        assert (found["boxes"][0] - ONE["boxes"][0]).abs().max() < 10


class TestDetection:
    @pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "autocast"])
    @torch.no_grad()
    def test_boxes_lie_in_the_slab_best_first(self, small: Make, dtype: torch.dtype | None) -> None:
        network = small(num_classes=2).eval()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            found = network(slabs())
        for result, slab in zip(found, slabs(), strict=True):
            assert set(result) == {"boxes", "scores", "labels"}
            assert 0 < len(result["boxes"]) <= 100
            assert result["boxes"].dtype == result["scores"].dtype == torch.float32
            assert (result["boxes"] >= 0).all()
            assert (result["boxes"] <= torch.tensor([slab.shape[2], slab.shape[1]] * 2)).all()
            assert (result["scores"].diff() <= 0).all()
            assert set(result["labels"].tolist()) <= {1, 2}

    @torch.no_grad()
    def test_a_batch_is_the_same_as_one_by_one(self, small: Make) -> None:
        network = small().eval()
        batch = [*slabs(), slabs()[1].flip(-1)]
        for together, slab in zip(network(batch), batch, strict=True):
            (alone,) = network([slab])
            for key in alone:
                torch.testing.assert_close(together[key], alone[key], atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("size", [(32, 32), (33, 95)])
    def test_slabs_of_any_size(self, small: Make, size: tuple[int, int]) -> None:
        (found,) = small().eval()(torch.randn(1, 3, *size))
        assert (found["boxes"][:, 2] <= size[1]).all()
        assert (found["boxes"][:, 3] <= size[0]).all()

    def test_non_finite_values_stop_it(self, small: Make) -> None:
        network = small().eval()
        bad = slabs()
        bad[1][0, 0, 0] = float("nan")
        with pytest.raises(ValueError, match="finite pixels in slab 1"):
            network(bad)
        nn.init.constant_(network.network.regression_head.bbox_reg.bias, float("inf"))  # type: ignore[union-attr, arg-type]
        with pytest.raises(ValueError, match="finite class scores and box offsets"):
            network(slabs())


class TestFactory:
    def test_it_is_monais_detector_and_holds_all_weights(self, small: Make) -> None:
        network = small()
        assert isinstance(network, RetinaNetDetector)
        assert network.backbone.num_slices == 3
        assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}
        again = small(num_slices=3)
        again.load_state_dict(network.state_dict())
        with torch.no_grad():
            (one,), (other,) = network.eval()(slabs()[:1]), again.eval()(slabs()[:1])
        assert all(torch.equal(one[key], other[key]) for key in one)

    def test_it_can_move_to_another_precision_after_use(self, small: Make) -> None:
        network = small().eval()
        network(torch.randn(1, 3, 32, 32))
        (found,) = network.double()(torch.randn(1, 3, 32, 32, dtype=torch.float64))
        assert found["boxes"].dtype == torch.float64

    def test_it_takes_the_numbers_of_a_two_stage_head(self, small: Make) -> None:
        network = small(head=TwoStageHead(anchor_scale=2.0, test_per_level=300, detections=7)).eval()
        assert isinstance(network.anchor_generator, RowFirstAnchors)
        assert network.anchor_generator.sizes[0].base(0)[1].tolist() == [-4, -4, 4, 4]  # type: ignore[operator]
        assert network.box_selector.topk_candidates_per_level == 300
        (found,) = network(slabs()[1:])
        assert len(found["boxes"]) == 7

    @pytest.mark.parametrize("change", [{"num_slices": 2}, {"num_classes": 0}])
    def test_wrong_numbers_are_rejected(self, small: Make, change: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="Expected"):
            small(**change)

    def test_training_needs_targets(self, small: Make) -> None:
        with pytest.raises(ValueError, match="Expected 2 targets"):
            small().train()(slabs())


class TestThreeSlicesAsColours:
    """The paper's reference [3]: P3 to P7, anchors of its own shapes."""

    shapes = AnchorShapes((0.423, 0.531, 0.673), (0.5, 0.8, 1.0, 1.25, 2.0), (8, 16, 32, 64, 128))

    def make(self, **changes: Any) -> OneStageDetector:
        torch.manual_seed(0)
        arguments = {"body": ResNet2d((1, 1, 1, 1), width=8), "fpn_channels": 16, "anchors": self.shapes}
        return retinanet_2d(3, **{**arguments, **changes})

    def test_anchors_and_levels(self) -> None:
        anchors = RowFirstAnchors(self.shapes, 4.0)
        network = self.make()
        levels = network.backbone(torch.zeros(1, 3, 512, 256))
        assert [tuple(level.shape[-2:]) for level in levels] == [(64 >> n, 32 >> n) for n in range(5)]
        (found,) = anchors(torch.zeros(1, 3, 512, 256), levels)
        assert anchors.num_anchors_per_location() == [15] * 5
        sides = ((found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])).sqrt()
        assert sides.unique().shape[0] >= 15
        assert sides.min().item() == pytest.approx(0.423 * 32, rel=1e-4)
        assert sides.max().item() == pytest.approx(0.673 * 512, rel=1e-4)

    def test_losses_reach_every_parameter_and_boxes_come_out(self) -> None:
        network = self.make().train()
        target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 30.0]]), "labels": torch.ones(1, dtype=torch.int64)}
        empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        backward(network(slabs(), [target, empty]))
        assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]
        with torch.no_grad():
            found = network.eval()(slabs())
        assert [set(one) for one in found] == [{"boxes", "scores", "labels"}] * 2

    def test_without_shapes_it_has_the_usual_anchors_from_p2_on(self) -> None:
        network = self.make(anchors=None)
        assert network.anchor_generator.num_anchors_per_location() == [9] * 5
        assert network.backbone(torch.zeros(1, 3, 64, 64))[0].shape[-1] == 16

    @pytest.mark.parametrize("strides", [(2, 4, 8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32, 60)])
    def test_strides_of_no_pyramid_are_rejected(self, strides: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="4 to 64 or 8 to 128"):
            self.make(anchors=AnchorShapes((1.0,), strides=strides))

    def test_more_slices_are_rejected(self) -> None:
        with pytest.raises(ValueError, match="3 slices"):
            retinanet_2d(9)


def test_further_heads_are_rejected_where_no_second_stage_reads_them() -> None:
    with pytest.raises(ValueError, match="no further heads for a one-stage detector, got tags"):
        OneStageHead.like(TwoStageHead(fields={"tags": lambda channels, pyramid: nn.Linear(channels, 1)}))  # type: ignore[dict-item]
