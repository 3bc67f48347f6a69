"""Box rules: the field's systems against the values of their authors' modules; coding, matching, sampling."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from scripts.boxes import clip
from scripts.networks.heads.box_rules import (
    BACKGROUND,
    CLAIMS_AT_ANY_OVERLAP,
    DETECTRON,
    HALF_OPEN,
    IGNORED,
    MMDETECTION,
    BoxCoder,
    BoxRules,
    Matching,
    Sampling,
)

RPN_MATCHING = Matching(0.7, 0.3, low_quality_floor=0.3)
MULAN = BoxRules(inclusive=True, deviations=(1.0, 1.0, 1.0, 1.0), both_ways=False)


def coder_values(shared: Path, name: str) -> dict[str, Any]:
    """What an authors' coder gave."""
    values = json.loads((shared / f"reference/golden_field/{name}.json").read_text())
    return values.get("slices_3", values)["box_coder"]


@pytest.mark.parametrize(
    ("name", "rules", "wanted"),
    [("msb", MMDETECTION, "gt"), ("mvpnet", DETECTRON, "encoded_to"), ("mulan", MULAN, "gt")],
)
def test_offsets_equal_the_authors(shared: Path, name: str, rules: BoxRules, wanted: str) -> None:
    values = {key: torch.tensor(each) for key, each in coder_values(shared, name).items() if isinstance(each, list)}
    coder = rules.coder(2)
    boxes = coder.decode(values["deltas"].double(), values["proposals"].double())
    if name == "msb":
        boxes = rules.clip(boxes, 96, 128)
    torch.testing.assert_close(boxes.float(), values["decoded"], atol=2e-4, rtol=1e-6)
    encoded = coder.encode(values[wanted].double(), values["proposals"].double())
    torch.testing.assert_close(encoded.float(), values["encoded"], atol=1e-5, rtol=1e-5)


def test_the_first_stage_measures_offsets_in_sizes() -> None:
    box, moved = torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([[1.0, 0.0, 10.0, 9.0]])
    assert MMDETECTION.coder(1).encode(moved, box)[0, 0].item() == pytest.approx(0.1)
    assert MMDETECTION.coder(2).encode(moved, box)[0, 0].item() == pytest.approx(1.0)


def test_shrinking_is_bounded_in_mmdetection_only() -> None:
    box, offsets = torch.tensor([[0.0, 0.0, 99.0, 99.0]]), torch.tensor([[0.0, 0.0, -10.0, -10.0]])
    assert MMDETECTION.sides(MMDETECTION.coder(1).decode(offsets, box))[0, 0].item() == pytest.approx(1.6, rel=1e-4)
    assert DETECTRON.sides(DETECTRON.coder(1).decode(offsets, box))[0, 0].item() == pytest.approx(0.0, abs=0.01)


def test_the_last_pixel_counts() -> None:
    first, second = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[1.0, 1.0, 2.0, 2.0]])
    assert MMDETECTION.iou(first, second).item() == pytest.approx(1 / 7)
    assert HALF_OPEN.iou(first, second).item() == 0
    assert MMDETECTION.sides(first).tolist() == [[2.0, 2.0]]
    assert MMDETECTION.clip(torch.tensor([[-3.0, 1.0, 40.0, 50.0]]), 20, 30).tolist() == [[0.0, 1.0, 29.0, 19.0]]


def test_suppression_counts_the_last_pixel() -> None:
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 2.0, 1.0]])
    scores, groups = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64)
    assert MMDETECTION.nms(boxes, scores, groups, 0.3).tolist() == [0]
    assert HALF_OPEN.nms(boxes, scores, groups, 0.3).tolist() == [0, 1]
    assert MMDETECTION.nms(boxes, scores, torch.tensor([0, 1]), 0.3).tolist() == [0, 1]


def test_boxes_below_a_pixel_are_reported_as_the_pixels_they_cover() -> None:
    boxes = torch.tensor([[3.0, 4.0, 9.0, 8.0], [3.0, 4.0, 2.5, 8.0], [5.0, 4.0, 5.0, 3.0], [95.0, 63.0, 95.0, 63.0]])
    wanted = [[3.0, 4.0, 9.0, 8.0], [3.0, 4.0, 3.5, 8.0], [5.0, 4.0, 6.0, 4.0 + 1 / 256], [95.0, 63.0, 96.0, 64.0]]
    assert MMDETECTION.reported(boxes).tolist() == wanted
    assert torch.equal(HALF_OPEN.reported(boxes), boxes)
    assert MMDETECTION.reported(torch.zeros(0, 4)).shape == (0, 4)


def test_half_open_boxes_follow_the_plain_rules_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(40, 2, generator=generator) * 50
    boxes = torch.cat([corners, corners + torch.rand(40, 2, generator=generator) * 30], dim=1)
    scores, groups = torch.rand(40, generator=generator), torch.arange(40) % 3
    assert torch.equal(HALF_OPEN.iou(boxes, boxes), box_iou(boxes, boxes))
    assert torch.equal(HALF_OPEN.clip(boxes, 40, 60), clip(boxes, 40, 60))
    assert torch.equal(HALF_OPEN.nms(boxes, scores, groups, 0.3), batched_nms(boxes, scores, groups, 0.3))


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

    def test_a_claimed_box_may_stay_with_its_best_ground_truth(self) -> None:
        iou = torch.tensor([[0.8, 0.6, 0.1], [0.2, 0.5, 0.1]])
        assert Matching(0.7, 0.3, low_quality_floor=1e-3)(iou).tolist() == [0, 1, BACKGROUND]
        assert CLAIMS_AT_ANY_OVERLAP(iou).tolist() == [0, 0, BACKGROUND]
        assert CLAIMS_AT_ANY_OVERLAP(torch.tensor([[0.0, 0.01]])).tolist() == [BACKGROUND, 0]

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


@pytest.mark.parametrize(("rules", "share"), [(HALF_OPEN, 6.0), (MMDETECTION, 5.0)])
def test_a_box_is_in_a_region_from_half_of_its_area_on(rules: BoxRules, share: float) -> None:
    """Boxes are 12 pixels wide, inclusive ones of the same numbers 13: their half is 6 and 6.5 pixels."""
    boxes = torch.tensor([[0.0, 0.0, 12.0, 12.0]])
    for width, inside in ((share, rules is HALF_OPEN), (share + 1.5, True), (share - 0.5, False)):
        region = torch.tensor([[0.0, 0.0, width, 40.0]])
        assert rules.in_regions(boxes, region).tolist() == [inside]
    assert rules.in_regions(boxes, torch.tensor([[20.0, 0, 40, 40], [0.0, 0, 40, 40]])).tolist() == [True]
    assert rules.in_regions(boxes, torch.zeros(0, 4)).tolist() == [False]
