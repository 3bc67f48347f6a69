"""The second stage's rules, seen through predictors that give fixed answers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from scripts.networks import mp3d_fpn
from scripts.networks.heads.box_rules import MMDETECTION, Sampling
from scripts.networks.heads.roi_heads import BoxPredictor, PyramidRoIAlign, RoIHeads, RoIs

SIZE = [(512, 512)]
FEATURES = [torch.zeros(1, 2, 512 // stride, 512 // stride) for stride in (4, 8, 16, 32, 64)]


def heads(cls_bias: list[float], box_bias: list[float], **changes: Any) -> RoIHeads:
    """Second stage that answers every proposal with the same logits and offsets (those of each class in a row)."""
    predictor = BoxPredictor(8, len(cls_bias) - 1)
    for layer, bias in ((predictor.cls_score, cls_bias), (predictor.bbox_pred, box_bias)):
        nn.init.zeros_(layer.weight)
        layer.bias.data = torch.tensor(bias)
    pool = PyramidRoIAlign()
    return RoIHeads(pool, TwoMLPHead(2 * 49, 8), predictor, **changes)


def default_heads() -> RoIHeads:
    with torch.device("meta"):
        return mp3d_fpn().roi_heads


def target(boxes: list[list[float]], labels: list[int] | None = None) -> dict[str, Tensor]:
    labels = [1] * len(boxes) if labels is None else labels
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}


def square(side: float) -> list[float]:
    return [10.0, 20.0, 10.0 + side, 20.0 + side]


class TestPyramidRoIAlign:
    @pytest.mark.parametrize(
        ("side", "level"), [(1, 0), (111.99, 0), (112, 1), (223.9, 1), (224, 2), (447.9, 2), (448, 3), (2000, 3)]
    )
    def test_boxes_change_level_at_112_224_and_448_pixels(self, side: float, level: int) -> None:
        assert PyramidRoIAlign().levels(torch.tensor([square(side)])).tolist() == [level]
        wide = torch.tensor([[0.0, 0.0, 2 * side, side / 2]])
        assert PyramidRoIAlign().levels(wide).tolist() == [level], "the area counts, not the longer side"

    def test_each_box_is_read_from_its_level_and_slab_in_order(self) -> None:
        features = [torch.empty(2, 1, 512 // stride, 512 // stride) for stride in (4, 8, 16, 32, 64)]
        for level, feature in enumerate(features):
            feature[0], feature[1] = level, 10 + level
        first, second = [square(300), square(20), square(460)], [square(150), square(40)]
        crops = PyramidRoIAlign()(features, [torch.tensor(first), torch.tensor(second)])
        assert crops.shape == (5, 1, 7, 7)
        assert crops.mean(dim=(1, 2, 3)).tolist() == pytest.approx([2, 0, 3, 11, 10])

    def test_crops_are_aligned_by_half_a_pixel(self) -> None:
        """A ramp over cells i holds i at the image position 4 (i + 0.5)."""
        ramp = torch.arange(128.0).expand(1, 1, 128, 128)
        box = torch.tensor([[40.0, 40.0, 96.0, 96.0]])  # bins of 8 pixels
        crop = PyramidRoIAlign()([ramp] * 4, [box])
        expected = torch.tensor([(40 + 8 * index + 4) / 4 - 0.5 for index in range(7)])
        torch.testing.assert_close(crop[0, 0, 3], expected)

    def test_sampling_adapts_to_the_bin(self) -> None:
        """Bins of 4 x 4 cells take 4 x 4 samples, one in the middle of each cell: the exact mean."""
        torch.manual_seed(0)
        feature = torch.rand(1, 1, 128, 128)
        box = torch.tensor([[16.0, 32.0, 16 + 4 * 28.0 - 1e-3, 32 + 4 * 28.0 - 1e-3]])
        crop = PyramidRoIAlign()([feature] * 4, [box])
        torch.testing.assert_close(crop, F.avg_pool2d(feature[..., 8:36, 4:32], 4), atol=1e-4, rtol=0)

    def test_half_precision_features_do_not_move_the_boxes(self) -> None:
        ramp = torch.arange(128.0).expand(1, 1, 128, 128)
        box = torch.tensor([[401.0, 300.7, 441.3, 345.1]])
        exact = PyramidRoIAlign()([ramp] * 4, [box])
        half = PyramidRoIAlign()([ramp.bfloat16()] * 4, [box])
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half, exact.bfloat16())

    def test_no_boxes(self) -> None:
        features = [torch.rand(2, 3, 8, 8, requires_grad=True) for _ in range(4)]
        assert PyramidRoIAlign()(features, [torch.zeros(0, 4)] * 2).shape == (0, 3, 7, 7)


class TestTraining:
    def losses(self, module: RoIHeads, proposals: list[list[float]], lesions: list[list[float]]) -> dict[str, Tensor]:
        found, losses = module.train()(FEATURES, [torch.tensor(proposals).reshape(-1, 4)], SIZE, [target(lesions)])
        assert found == []
        return losses

    def test_lesions_are_proposals_too(self) -> None:
        module = heads([0.0, 1.0], [0.0, 0.0, 0.0, 0.0])
        losses = self.losses(module, [], [square(20)])
        torch.testing.assert_close(losses["loss_classifier"], -torch.tensor([0.0, 1.0]).log_softmax(0)[1])

    def test_iou_of_one_half_is_positive(self) -> None:
        lesion, half, less = [0.0, 0, 10, 10], [0.0, 0, 10, 5], [0.0, 0, 10, 4.9]
        positive, negative = (-torch.tensor([0.0, 1.0]).log_softmax(0)[index] for index in (1, 0))
        module = heads([0.0, 1.0], [0.0] * 4)
        losses = self.losses(module, [half], [lesion])
        torch.testing.assert_close(losses["loss_classifier"], positive)
        losses = self.losses(module, [half, less], [lesion])
        torch.testing.assert_close(losses["loss_classifier"], (2 * positive + negative) / 3)

    @pytest.mark.parametrize("offset", [0.5, -0.5, 3.0])
    def test_box_loss_is_smooth_l1_with_beta_1_over_all_samples(self, offset: float) -> None:
        module = heads([0.0, 0.0], [offset, 0.0, 0.0, 0.0])
        losses = self.losses(module, [[100.0, 100, 120, 120]] * 3, [square(20)])
        each = 0.5 * offset**2 if abs(offset) < 1 else abs(offset) - 0.5
        assert losses["loss_box_reg"].item() == pytest.approx(each / 4)

    def test_offsets_are_learnt_in_deviations_0_1_and_0_2(self) -> None:
        """A proposal one tenth too far left and half as tall: offsets (1, 0, 0, log 2 / 0.2)."""
        lesion, proposal = [11.0, 10.0, 21.0, 30.0], [10.0, 15.0, 20.0, 25.0]
        module = heads([0.0, 0.0], [1.0, 0.0, 0.0, math.log(2) / 0.2], sampling=Sampling(512, 0.25))
        module.matching = type(module.matching)(0.4, 0.4)
        losses = self.losses(module, [proposal], [lesion])
        own = 0.5 + (math.log(2) / 0.2 - 0.5)  # the lesion as its own proposal wants offsets of zero
        assert losses["loss_box_reg"].item() == pytest.approx(own / 2, rel=1e-5)

    def test_512_proposals_are_sampled_a_quarter_of_them_positive_at_most(self) -> None:
        module = heads([0.0, 1.0], [0.0] * 4, sampling=default_heads().sampling)
        lesion = [0.0, 0, 20, 20]
        losses = self.losses(module, [lesion] * 400 + [[100.0, 100, 130, 130]] * 600, [lesion])
        positive, negative = (-torch.tensor([0.0, 1.0]).log_softmax(0)[index] for index in (1, 0))
        torch.testing.assert_close(losses["loss_classifier"], (128 * positive + 384 * negative) / 512)

    def test_offsets_of_the_own_class_are_learnt(self) -> None:
        module = heads([0.0, 0.0, 0.0], [9.0, 9.0, 9.0, 9.0, 0.0, 0.0, 0.0, 0.0])
        _, losses = module.train()(FEATURES, [torch.zeros(0, 4)], SIZE, [target([square(20)], [2])])
        assert losses["loss_box_reg"].item() == 0
        _, losses = module(FEATURES, [torch.zeros(0, 4)], SIZE, [target([square(20)], [1])])
        assert losses["loss_box_reg"].item() == pytest.approx(4 * 8.5)

    @pytest.mark.parametrize("proposals", [[], [[100.0, 100, 130, 130]]])
    def test_without_lesions_every_parameter_still_gets_a_gradient(self, proposals: list[list[float]]) -> None:
        module = heads([0.0, 1.0], [0.5] * 4)
        losses = self.losses(module, proposals, [])
        assert losses["loss_box_reg"].item() == 0
        assert losses["loss_classifier"].isfinite()
        torch.stack(list(losses.values())).sum().backward()
        assert all(parameter.grad is not None for parameter in module.parameters())


class TestDetection:
    def detect(self, module: RoIHeads, proposals: list[list[float]]) -> dict[str, Tensor]:
        (found,), losses = module.eval()(FEATURES, [torch.tensor(proposals).reshape(-1, 4)], SIZE)
        assert losses == {}
        return found

    def test_scores_are_those_of_the_lesion_class_and_labels_start_at_1(self) -> None:
        found = self.detect(heads([0.0, 1.0], [0.0] * 4), [square(20)])
        torch.testing.assert_close(found["boxes"], torch.tensor([square(20)]))
        torch.testing.assert_close(found["scores"], torch.tensor([0.0, 1.0]).softmax(0)[1:])
        assert found["labels"].tolist() == [1]

    def test_every_score_above_zero_is_reported(self) -> None:
        assert len(self.detect(heads([0.0, -80.0], [0.0] * 4), [square(20)])["scores"]) == 1
        found = self.detect(heads([0.0, -200.0], [0.0] * 4), [square(20)])
        assert [tuple(value.shape) for value in found.values()] == [(0, 4), (0,), (0,)]

    def test_offsets_are_undone_in_deviations_and_clipped_to_the_image(self) -> None:
        found = self.detect(heads([0.0, 0.0], [1.0, -2.0, 0.0, math.log(2) / 0.2]), [[0.0, 10.0, 10.0, 30.0]])
        torch.testing.assert_close(found["boxes"], torch.tensor([[1.0, 0.0, 11.0, 36.0]]))

    def test_boxes_above_iou_0_5_of_a_better_one_are_suppressed(self) -> None:
        module = heads([0.0, 0.0], [0.0] * 4)
        assert len(self.detect(module, [[0.0, 0, 10, 10], [0.0, 0, 10, 5]])["boxes"]) == 2
        assert len(self.detect(module, [[0.0, 0, 10, 10], [0.0, 0, 10, 5.1]])["boxes"]) == 1

    def test_classes_do_not_suppress_each_other(self) -> None:
        found = self.detect(heads([0.0, 1.0, 2.0], [0.0] * 8), [square(20)])
        assert found["labels"].tolist() == [2, 1], "best first"

    def test_each_class_has_its_own_offsets(self) -> None:
        found = self.detect(heads([0.0, 2.0, 1.0], [1.0, 0, 0, 0, 2.0, 0, 0, 0]), [[10.0, 10.0, 20.0, 20.0]])
        assert found["boxes"][:, 0].tolist() == pytest.approx([11.0, 12.0])

    def test_at_most_100_are_reported(self) -> None:
        boxes = [
            [20.0 * column, 20.0 * row, 20.0 * column + 5, 20.0 * row + 5] for row in range(25) for column in range(25)
        ]
        module = heads([0.0, 0.0], [0.0] * 4, limits=default_heads().limits)
        assert len(self.detect(module, boxes)["boxes"]) == 100

    def test_no_proposals_give_no_detections(self) -> None:
        found = self.detect(heads([0.0, 0.0], [0.0] * 4), [])
        assert [tuple(value.shape) for value in found.values()] == [(0, 4), (0,), (0,)]

    @pytest.mark.parametrize("layer", ["cls_score", "bbox_pred"])
    def test_non_finite_output_is_rejected(self, layer: str) -> None:
        module = heads([0.0, 0.0], [0.0] * 4)
        getattr(module.predictor, layer).bias.data[0] = float("nan")
        with pytest.raises(ValueError, match="finite"):
            self.detect(module, [square(20)])


def test_layers_start_as_in_the_released_code() -> None:
    torch.manual_seed(0)
    predictor = BoxPredictor(1024, 80)
    assert predictor.cls_score.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert predictor.bbox_pred.weight.std().item() == pytest.approx(0.001, rel=0.02)
    box_head = TwoMLPHead(2 * 49, 256)
    RoIHeads(PyramidRoIAlign(), box_head, BoxPredictor(256, 1))
    bound = math.sqrt(6 / (256 + 256))
    assert 0.99 * bound < box_head.fc7.weight.abs().max() <= bound * 1.0001
    for layer in (predictor.cls_score, predictor.bbox_pred, box_head.fc6, box_head.fc7):
        assert layer.bias.eq(0).all()


class Ages(nn.Module):
    """A number per box: reads the vectors' mean, and records what it was given to learn."""

    reads = ("age",)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, rois: RoIs) -> Tensor:
        assert len(rois.vectors) == sum(len(boxes) for boxes in rois.boxes)
        self.seen = rois
        return rois.vectors.mean(dim=1) * self.scale

    def loss(self, outputs: Tensor, lesions: dict[str, Tensor]) -> Tensor:
        assert len(outputs) == len(lesions["boxes"])
        self.learned = lesions["age"]
        return (outputs - lesions["age"]).abs().sum()

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs


class TestFurtherHeads:
    def module(self, **changes: Any) -> RoIHeads:
        torch.manual_seed(0)
        return heads([0.0, 1.0], [0.0] * 4, fields={"age": Ages()}, **changes)

    def test_a_head_learns_from_the_lesions_of_the_positive_proposals(self) -> None:
        module = self.module()
        two = {**target([square(20), [200.0, 200, 260, 260]]), "age": torch.tensor([3.0, 8.0]), "other": torch.ones(1)}
        none = {**target([]), "age": torch.zeros(0)}
        proposals = [torch.tensor([[201.0, 200, 260, 261], [400.0, 400, 420, 420]]), torch.tensor([square(9)])]
        features = [torch.cat([feature, feature]) for feature in FEATURES]
        _, losses = module.train()(features, proposals, SIZE * 2, [two, none])
        head = module.fields["age"]
        # Each lesion is its own proposal; the box next to the second belongs to it.
        assert sorted(head.learned.tolist()) == [3, 8, 8]
        assert [len(boxes) for boxes in head.seen.boxes] == [3, 0]
        owner = {3.0: square(20)[0], 8.0: 200.0}
        for box, age in zip(head.seen.boxes[0], head.learned, strict=True):
            assert abs(box[0].item() - owner[age.item()]) <= 1
        assert losses["loss_age"].item() > 0

    def test_without_lesions_every_parameter_still_gets_a_gradient(self) -> None:
        module = self.module()
        given = {**target([]), "age": torch.zeros(0)}
        _, losses = module.train()(FEATURES, [torch.tensor([square(9)])], SIZE, [given])
        torch.stack(list(losses.values())).sum().backward()
        assert all(parameter.grad is not None for parameter in module.parameters())

    def test_each_detection_has_the_field_of_its_own_proposal(self) -> None:
        module = self.module().eval()
        torch.manual_seed(1)
        features = [torch.rand(2, 2, 512 // stride, 512 // stride) for stride in (4, 8, 16, 32, 64)]
        boxes = [torch.tensor([square(20), [10.0, 20, 30, 41], [200.0, 200, 260, 260]]), torch.tensor([square(90)])]
        found, _ = module(features, boxes, SIZE * 2)
        assert [sorted(one) for one in found] == [["age", "boxes", "labels", "scores"]] * 2
        assert [len(one["age"]) for one in found] == [2, 1]
        for slab, one in enumerate(found):
            for box, age in zip(one["boxes"], one["age"], strict=True):
                row = int((boxes[slab] - box).abs().sum(dim=1).argmin())
                alone = [feature[slab : slab + 1] for feature in features]
                vector = module.box_head(module.pool(alone, [boxes[slab][row : row + 1]]))
                torch.testing.assert_close(age, vector.mean())

    def test_a_field_that_is_not_finite_is_rejected(self) -> None:
        module = self.module().eval()
        nn.init.constant_(module.fields["age"].scale, float("nan"))
        with pytest.raises(ValueError, match="finite age of the detections"):
            module(FEATURES, [torch.tensor([square(20)])], SIZE)

    def test_no_head_takes_the_name_of_a_field_that_all_detectors_give(self) -> None:
        with pytest.raises(ValueError, match="other names than boxes, scores, labels, got 'scores'"):
            heads([0.0, 1.0], [0.0] * 4, fields={"scores": Ages()})


def test_boxes_below_a_pixel_are_not_inverted() -> None:
    """Inclusive boxes that shrink below a pixel, and one beyond the edge: metrics and writers read half-open boxes."""
    made = heads([0.0, 5.0], [0.0, 0.0, -100.0, -100.0], rules=MMDETECTION).eval()
    proposals = torch.tensor([[10.0, 20.0, 25.0, 35.0], [500.0, 40.0, 515.0, 55.0]])
    (found,), _ = made(FEATURES, [proposals], SIZE)
    boxes = found["boxes"]
    assert len(boxes) == 2
    assert ((boxes[:, 2:] - boxes[:, :2] > 0) & (boxes[:, 2:] - boxes[:, :2] <= 1)).all()
    assert (boxes[:, 2:] <= 512).all()
