"""The region proposal network's rules, seen through heads that give fixed answers."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.rpn import RPNHead

from scripts.networks import mp3d_fpn
from scripts.networks.heads.box_rules import Sampling
from scripts.networks.heads.rpn import ProposalLimits, PyramidAnchors, RegionProposalNetwork

ALL = Sampling(10**9, 0.5)


class FixedHead(nn.Module):
    """Gives the same objectness and offsets whatever it sees; both learnable."""

    def __init__(self, logits: list[Tensor], offsets: list[Tensor] | None = None) -> None:
        super().__init__()
        offsets = offsets or [torch.zeros(level.shape[0], 4 * level.shape[1], *level.shape[2:]) for level in logits]
        self.logits = nn.ParameterList(nn.Parameter(level) for level in logits)
        self.offsets = nn.ParameterList(nn.Parameter(level) for level in offsets)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        del features
        return list(self.logits), list(self.offsets)


def network(
    head: nn.Module, strides: tuple[int, ...] = (8,), ratios: tuple[float, ...] = (1.0,)
) -> RegionProposalNetwork:
    """One square anchor of 16 pixels at every eighth pixel, by default."""
    return RegionProposalNetwork(head, PyramidAnchors(strides, 2.0, ratios), sampling=ALL)  # type: ignore[arg-type]


def one_level(logits: Tensor, offsets: Tensor | None = None) -> tuple[RegionProposalNetwork, list[Tensor]]:
    """A network with one level of fixed logits (h, w), and features to run it on."""
    head = FixedHead([logits[None, None]], None if offsets is None else [offsets[None]])
    return network(head), [torch.zeros(1, 1, *logits.shape)]


def offsets_for(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Offsets (4, h, w) that make the 16-pixel anchors of stride 8 decode to ``boxes`` (h * w, 4), row after row."""
    anchors = PyramidAnchors((8,), 2.0, (1.0,))([torch.zeros(1, 1, *grid)])[0]
    sizes, centres = anchors[:, 2:] - anchors[:, :2], (anchors[:, 2:] + anchors[:, :2]) / 2
    shift = ((boxes[:, 2:] + boxes[:, :2]) / 2 - centres) / sizes
    return torch.cat([shift, torch.log((boxes[:, 2:] - boxes[:, :2]) / sizes)], dim=1).T.reshape(4, *grid)


SIZE = (40, 40)
LESION = torch.tensor([[8.0, 8.0, 24.0, 24.0]])


class TestLosses:
    """A 5 x 5 grid on 40 pixels: only the anchors centred on 8, 16, 24 are inside. The lesion is the middle one, with
    IoU 1/3 to its four neighbours (ignored) and 1/7 to the four at the corners (negative)."""

    def test_objectness_is_the_mean_over_sampled_anchors(self) -> None:
        rpn, features = one_level(torch.full((5, 5), 0.3))
        _, losses = rpn(features, [SIZE], [LESION])
        expected = (F.softplus(torch.tensor(-0.3)) + 4 * F.softplus(torch.tensor(0.3))) / 5
        torch.testing.assert_close(losses["loss_objectness"], expected)
        assert losses["loss_rpn_box_reg"].item() == 0

    def test_anchors_that_leave_the_image_do_not_train(self) -> None:
        rpn, features = one_level(torch.zeros(5, 5))
        rpn(features, [SIZE], [LESION])[1]["loss_objectness"].backward()
        signs = rpn.head.logits[0].grad[0, 0].sign().int().tolist()  # type: ignore[union-attr, index]
        assert signs == [[0, 0, 0, 0, 0], [0, 1, 0, 1, 0], [0, 0, -1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0]]

    def test_the_border_is_that_of_the_image_not_of_the_padding(self) -> None:
        rpn, features = one_level(torch.zeros(5, 5))
        rpn(features, [(40, 32)], [torch.zeros(0, 4)])[1]["loss_objectness"].backward()
        touched = rpn.head.logits[0].grad[0, 0] != 0  # type: ignore[union-attr, index]
        assert touched.any(dim=0).tolist() == [False, True, True, False, False], "x2 = 32 touches the border: out"
        assert touched.any(dim=1).tolist() == [False, True, True, True, False]

    @pytest.mark.parametrize("offset", [0.05, -0.05, 1 / 9, 0.5, -2.0])
    def test_box_loss_is_smooth_l1_with_beta_one_ninth_over_all_sampled_anchors(self, offset: float) -> None:
        rpn, features = one_level(torch.zeros(5, 5), torch.full((4, 5, 5), offset))
        _, losses = rpn(features, [SIZE], [LESION])
        size = abs(offset)
        each = 0.5 * size**2 * 9 if size < 1 / 9 else size - 0.5 / 9
        assert losses["loss_rpn_box_reg"].item() == pytest.approx(4 * each / 5, rel=1e-5)

    def test_offsets_are_learnt_without_deviations(self) -> None:
        lesion = torch.tensor([[9.0, 8.0, 25.0, 24.0]])  # 1/16 of the width to the right: IoU 15/17
        rpn, features = one_level(torch.zeros(5, 5), torch.tensor([1 / 16, 0, 0, 0]).reshape(4, 1, 1).expand(4, 5, 5))
        _, losses = rpn(features, [SIZE], [lesion])
        assert losses["loss_rpn_box_reg"].item() == pytest.approx(0, abs=1e-10)

    def test_a_slab_without_lesions_counts_one_positive(self) -> None:
        rpn, features = one_level(torch.full((5, 5), 0.3))
        _, losses = rpn(features, [SIZE], [torch.zeros(0, 4)])
        torch.testing.assert_close(losses["loss_objectness"], 9 * F.softplus(torch.tensor(0.3)) / (9 + 1))
        assert losses["loss_rpn_box_reg"].item() == 0
        losses["loss_rpn_box_reg"].backward()
        assert rpn.head.offsets[0].grad is not None  # type: ignore[union-attr, index]

    def test_the_batch_shares_one_normaliser(self) -> None:
        rpn = network(FixedHead([torch.full((2, 1, 5, 5), 0.3)]))
        features = [torch.zeros(2, 1, 5, 5)]
        _, losses = rpn(features, [SIZE, SIZE], [LESION, torch.zeros(0, 4)])
        positive, negative = F.softplus(torch.tensor(-0.3)), F.softplus(torch.tensor(0.3))
        torch.testing.assert_close(losses["loss_objectness"], (positive + 13 * negative) / (1 + 4 + 1 + 9))

    def test_no_anchor_inside_the_image_gives_no_loss_but_gradients(self) -> None:
        rpn, features = one_level(torch.zeros(2, 2))
        _, losses = rpn(features, [(12, 12)], [torch.tensor([[2.0, 2.0, 9.0, 9.0]])])
        assert {name: value.item() for name, value in losses.items()} == {
            "loss_objectness": 0.0,
            "loss_rpn_box_reg": 0.0,
        }
        losses["loss_objectness"].backward()

    def test_256_anchors_are_sampled_half_of_them_positive_at_most(self) -> None:
        """Logit 0 costs log 2 everywhere; gradients show what was sampled."""
        rpn = network(FixedHead([torch.zeros(1, 1, 64, 64)]))
        rpn.sampling = mp3d_fpn_rpn().sampling
        _, losses = rpn([torch.zeros(1, 1, 64, 64)], [(512, 512)], [torch.zeros(0, 4)])
        losses["loss_objectness"].backward()
        assert int((rpn.head.logits[0].grad != 0).sum()) == 256  # type: ignore[union-attr, index]
        assert losses["loss_objectness"].item() == pytest.approx(256 / 257 * math.log(2), rel=1e-5)
        rpn.zero_grad()
        lesions = PyramidAnchors((8,), 2.0, (1.0,))([torch.zeros(1, 1, 64, 64)])[0].reshape(64, 64, 4)
        lesions = lesions[1:63:2, 1:63:2].reshape(-1, 4)[:200]  # 200 anchors that do not overlap, each a lesion
        rpn([torch.zeros(1, 1, 64, 64)], [(512, 512)], [lesions])[1]["loss_objectness"].backward()
        gradient = rpn.head.logits[0].grad  # type: ignore[union-attr, index]
        assert (int((gradient < 0).sum()), int((gradient > 0).sum())) == (128, 128)


def mp3d_fpn_rpn() -> RegionProposalNetwork:
    with torch.device("meta"):
        return mp3d_fpn().rpn


class TestProposals:
    def propose(
        self, boxes: list[list[float]], logits: list[float], size: tuple[int, int] = (64, 64)
    ) -> list[list[float]]:
        """Proposals of a network with one level whose anchors decode to ``boxes``."""
        grid = (1, len(boxes))
        rpn, features = one_level(torch.tensor([logits]), offsets_for(torch.tensor(boxes), grid))
        (found,), losses = rpn.eval()(features, [size])
        assert losses == {}
        assert not found.requires_grad
        return [[round(value, 2) for value in box] for box in found.tolist()]

    def test_best_first(self) -> None:
        boxes = [[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]]
        assert self.propose(boxes, [-1.0, 2.0, 0.5]) == [boxes[1], boxes[2], boxes[0]]

    def test_boxes_above_iou_0_7_of_a_better_one_are_suppressed(self) -> None:
        best, exactly, above = [0.0, 0, 10, 10], [0.0, 0, 7, 10], [0.0, 0, 7.1, 10]
        assert self.propose([best, exactly], [2.0, 1.0]) == [best, exactly]
        assert self.propose([best, above], [2.0, 1.0]) == [best]

    def test_levels_do_not_suppress_each_other(self) -> None:
        head = FixedHead([torch.tensor([[[[2.0]]]]), torch.tensor([[[[1.0]]]])], [torch.zeros(1, 4, 1, 1)] * 2)
        rpn = RegionProposalNetwork(head, PyramidAnchors((16, 16), 2.0, (1.0,))).eval()  # type: ignore[arg-type]
        (found,), _ = rpn([torch.zeros(1, 1, 1, 1)] * 2, [(64, 64)])
        assert found.tolist() == [[0, 0, 16, 16]] * 2

    def test_anchors_at_the_border_propose_and_are_clipped_to_the_image(self) -> None:
        assert self.propose([[-5.0, -6, 20, 9], [50, 2, 80, 70]], [1.0, 0.0], (60, 70)) == [
            [0, 0, 20, 9],
            [50, 2, 70, 60],
        ]

    def test_boxes_without_area_inside_the_image_are_dropped(self) -> None:
        assert self.propose([[-9.0, 3, -1, 9], [3, 64, 9, 70], [1, 1, 2, 2]], [2.0, 1.0, 0.0]) == [[1, 1, 2, 2]]

    def test_nothing_left_is_legal(self) -> None:
        assert self.propose([[-9.0, 3, -1, 9]], [2.0]) == []

    @pytest.mark.parametrize(("training", "expected"), [(True, 2000 * 3 + 768 + 192), (False, 1000 * 3 + 768 + 192)])
    def test_2000_anchors_of_a_level_enter_nms_in_training_and_1000_in_evaluation(
        self, training: bool, expected: int
    ) -> None:
        """All offsets shrink the anchors so far that no box suppresses another."""
        levels = [torch.randn(1, 3, side, side) for side in (128, 64, 32, 16, 8)]
        offsets = [torch.full((1, 12, side, side), -9.0) for side in (128, 64, 32, 16, 8)]
        for offset in offsets:  # the three anchors of a cell move apart
            offset[:, 0::4] = torch.tensor([0.05, 0.1, 0.15]).reshape(1, 3, 1, 1)
            offset[:, 1::4] = 0.05
        default = mp3d_fpn_rpn()
        rpn = RegionProposalNetwork(
            FixedHead(levels, offsets),  # type: ignore[arg-type]
            PyramidAnchors(),
            train_limits=dataclasses.replace(default.train_limits, per_image=10**6),
            test_limits=dataclasses.replace(default.test_limits, per_image=10**6),
        ).train(training)
        features = [torch.zeros(1, 1, *level.shape[2:]) for level in levels]
        (found,), _ = rpn(features, [(512, 512)])
        assert len(found) == expected
        rpn.train_limits, rpn.test_limits = default.train_limits, default.test_limits
        (found,), _ = rpn(features, [(512, 512)])
        assert len(found) == 1000

    def test_the_best_of_a_level_enter(self) -> None:
        logits = torch.arange(25.0).reshape(5, 5) / 5
        rpn, features = one_level(logits)
        rpn.test_limits = ProposalLimits(per_level=3)
        (found,), _ = rpn.eval()(features, [(80, 80)])
        assert [box[:2] for box in found.tolist()] == [[24, 24], [16, 24], [8, 24]]

    @pytest.mark.parametrize("part", ["logits", "offsets"])
    def test_non_finite_output_is_rejected_in_evaluation(self, part: str) -> None:
        rpn, features = one_level(torch.zeros(2, 2), torch.zeros(4, 2, 2))
        getattr(rpn.head, part)[0].data[0, 0, 0, 0] = float("nan")
        with pytest.raises(ValueError, match="finite"):
            rpn.eval()(features, [(16, 16)])


def test_head_starts_normal_with_deviation_0_01() -> None:
    head = RPNHead(256, 3)
    rpn = mp3d_fpn_rpn()
    assert {name: value.shape for name, value in head.state_dict().items()} == {
        name: value.shape for name, value in rpn.head.state_dict().items()
    }
    for layer in (head.conv[0][0], head.cls_logits, head.bbox_pred):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.15)
        assert layer.bias.eq(0).all()


def maps(height: int, width: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Empty pyramid levels of a slab."""
    return [torch.empty(1, 1, -(-height // stride), -(-width // stride), dtype=dtype) for stride in (4, 8, 16, 32, 64)]


class TestPyramidAnchors:
    def test_a_512_pixel_slab_has_65472(self) -> None:
        levels = PyramidAnchors()(maps(512, 512))
        assert [len(level) for level in levels] == [49152, 12288, 3072, 768, 192]
        assert sum(len(level) for level in levels) == 65_472

    def test_areas_are_those_of_squares_from_16_to_256(self) -> None:
        anchors = PyramidAnchors()
        for level, side in enumerate((16, 32, 64, 128, 256)):
            sizes = anchors.base(level)[:, 2:] - anchors.base(level)[:, :2]
            torch.testing.assert_close(sizes.prod(dim=1), torch.full((3,), side**2.0))

    def test_wide_then_square_then_tall_and_not_rounded(self) -> None:
        widths, heights = (PyramidAnchors().base(0)[:, 2:] * 2).unbind(1)
        torch.testing.assert_close(heights / widths, torch.tensor([0.5, 1.0, 2.0]))
        assert widths[0].item() == pytest.approx(16 * math.sqrt(2), abs=1e-5)

    def test_centres_are_multiples_of_the_stride_row_after_row(self) -> None:
        levels = PyramidAnchors()(maps(64, 128))
        for level, stride in zip(levels, (4, 8, 16, 32, 64), strict=True):
            centres = (level[:, :2] + level[:, 2:]) / 2
            rows, columns = 64 // stride, 128 // stride
            expected = [(x * stride, y * stride) for y in range(rows) for x in range(columns) for _ in range(3)]
            torch.testing.assert_close(centres, torch.tensor(expected, dtype=torch.float32), atol=1e-4, rtol=0)

    def test_odd_levels_keep_their_stride(self) -> None:
        coarsest = PyramidAnchors()(maps(96, 160))[4]
        assert len(coarsest) == 2 * 3 * 3
        torch.testing.assert_close((coarsest[-1, :2] + coarsest[-1, 2:]) / 2, torch.tensor([128.0, 64.0]))

    def test_half_precision_networks_keep_exact_positions(self) -> None:
        last = PyramidAnchors().half()(maps(512, 512))[0][-1]
        assert last.dtype == torch.float32
        torch.testing.assert_close((last[:2] + last[2:]) / 2, torch.tensor([508.0, 508.0]))
