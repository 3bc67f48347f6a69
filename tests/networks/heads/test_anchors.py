"""Anchors, box coding, matching and sampling: each number by its effect."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from scripts.networks.heads.anchors import BACKGROUND, IGNORED, BoxCoder, Matching, PyramidAnchors, Sampling

RPN_MATCHING = Matching(0.7, 0.3, low_quality_floor=0.3)


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


class TestBoxCoder:
    boxes = torch.tensor([[10.0, 20.0, 50.0, 30.0], [0.0, 0.0, 7.0, 90.0]])
    references = torch.tensor([[12.0, 18.0, 44.0, 40.0], [5.0, 5.0, 25.0, 45.0]])

    @pytest.mark.parametrize("deviations", [(1, 1, 1, 1), (0.1, 0.1, 0.2, 0.2)])
    def test_decode_undoes_encode(self, deviations: tuple[float, ...]) -> None:
        coder = BoxCoder(deviations)
        torch.testing.assert_close(coder.decode(coder.encode(self.boxes, self.references), self.references), self.boxes)

    def test_empty_boxes(self) -> None:
        empty = torch.zeros(0, 4)
        assert BoxCoder().encode(empty, empty).shape == (0, 4)
        assert BoxCoder().decode(torch.zeros(0, 3, 4), empty).shape == (0, 3, 4)

    def test_offsets_are_measured_in_deviations(self) -> None:
        reference = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
        moved = torch.tensor([[1.0, 4.0, 11.0, 24.0]])
        torch.testing.assert_close(BoxCoder().encode(moved, reference), torch.tensor([[0.1, 0.2, 0.0, 0.0]]))
        torch.testing.assert_close(
            BoxCoder((0.1, 0.1, 0.2, 0.2)).encode(moved, reference), torch.tensor([[1.0, 2.0, 0.0, 0.0]])
        )
        grown = torch.tensor([[-5.0, -10.0, 15.0, 30.0]])
        torch.testing.assert_close(
            BoxCoder((0.1, 0.1, 0.2, 0.2)).encode(grown, reference), torch.tensor([[0.0, 0.0, 5.0, 5.0]]) * math.log(2)
        )

    @pytest.mark.parametrize(
        ("offset", "factor"), [(50.0, 62.5), (-50.0, 1 / 62.5), (4.0, math.exp(4)), (-4, 0.01831564)]
    )
    def test_sizes_stay_within_a_factor_of_62_5_both_ways(self, offset: float, factor: float) -> None:
        reference = torch.tensor([[0.0, 0.0, 100.0, 10.0]], dtype=torch.float64)
        decoded = BoxCoder().decode(torch.tensor([[0.0, 0.0, offset, offset]], dtype=torch.float64), reference)
        sizes = decoded[:, 2:] - decoded[:, :2]
        torch.testing.assert_close(sizes, torch.tensor([[100.0, 10.0]], dtype=torch.float64) * factor)

    def test_several_classes_share_a_reference(self) -> None:
        offsets = torch.randn(2, 3, 4)
        together = BoxCoder().decode(offsets, self.references)
        for index in range(3):
            torch.testing.assert_close(together[:, index], BoxCoder().decode(offsets[:, index], self.references))


class TestMatching:
    def test_thresholds_of_the_proposal_network(self) -> None:
        iou = torch.tensor([[0.70, 0.69, 0.30, 0.29, 0.95]])
        assert RPN_MATCHING(iou).tolist() == [0, IGNORED, IGNORED, BACKGROUND, 0]

    def test_threshold_of_the_second_stage(self) -> None:
        assert Matching(0.5, 0.5)(torch.tensor([[0.5, 0.4999, 0.0]])).tolist() == [0, BACKGROUND, BACKGROUND]

    def test_a_poorly_covered_lesion_claims_all_its_best_anchors_above_the_floor(self) -> None:
        iou = torch.tensor([[0.40, 0.10, 0.40, 0.35]])
        assert RPN_MATCHING(iou).tolist() == [0, BACKGROUND, 0, IGNORED]
        assert RPN_MATCHING(iou * 0.75).tolist() == [0, BACKGROUND, 0, BACKGROUND], "a best IoU of 0.3 is enough"
        assert RPN_MATCHING(iou * 0.7).tolist() == [BACKGROUND] * 4

    def test_the_later_claim_wins(self) -> None:
        iou = torch.tensor([[0.60, 0.10], [0.40, 0.10]])
        assert RPN_MATCHING(iou).tolist() == [1, BACKGROUND], "though the first lesion overlaps it more"

    def test_a_claim_overrides_a_good_match(self) -> None:
        iou = torch.tensor([[0.9, 0.8], [0.1, 0.75]])
        assert RPN_MATCHING(iou).tolist() == [0, 1]

    def test_no_low_quality_matches_in_the_second_stage(self) -> None:
        assert Matching(0.5, 0.5)(torch.tensor([[0.4, 0.1]])).tolist() == [BACKGROUND, BACKGROUND]

    @pytest.mark.parametrize("matching", [RPN_MATCHING, Matching(0.5, 0.5)])
    def test_nothing_to_match(self, matching: Matching) -> None:
        assert matching(box_iou(torch.zeros(0, 4), torch.rand(3, 4))).tolist() == [BACKGROUND] * 3
        assert matching(box_iou(torch.rand(2, 4), torch.zeros(0, 4))).tolist() == []
        assert matching(box_iou(torch.zeros(0, 4), torch.zeros(0, 4))).tolist() == []


class TestSampling:
    def matches(self, positives: int, negatives: int, ignored: int = 5) -> Tensor:
        each = [torch.zeros(positives), torch.full((negatives,), BACKGROUND), torch.full((ignored,), IGNORED)]
        return torch.cat(each).long()[torch.randperm(positives + negatives + ignored)]

    @pytest.mark.parametrize(
        ("positives", "negatives", "expected"),
        [(3, 5000, (3, 253)), (500, 5000, (128, 128)), (500, 20, (128, 20)), (0, 5000, (0, 256)), (9, 0, (9, 0))],
    )
    def test_negatives_fill_what_positives_leave(
        self, positives: int, negatives: int, expected: tuple[int, int]
    ) -> None:
        matches = self.matches(positives, negatives)
        chosen, background = Sampling(256, 0.5)(matches)
        assert (len(chosen), len(background)) == expected
        assert (matches[chosen] >= 0).all()
        assert (matches[background] == BACKGROUND).all()
        assert len(set(chosen.tolist() + background.tolist())) == sum(expected), "without replacement"

    def test_draws_follow_the_seed_and_vary(self) -> None:
        matches = self.matches(0, 1000)
        draws = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            draws.append(sorted(Sampling(10, 0.5)(matches)[1].tolist()))
        assert draws[0] == draws[1] != draws[2]
