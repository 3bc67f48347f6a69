"""Box rules of the field's systems against the values of their authors' modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.ops import batched_nms, box_iou

from scripts.boxes import clip
from scripts.networks.heads.box_rules import DETECTRON, HALF_OPEN, MMDETECTION, BoxRules

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


def test_half_open_boxes_follow_the_plain_rules_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(40, 2, generator=generator) * 50
    boxes = torch.cat([corners, corners + torch.rand(40, 2, generator=generator) * 30], dim=1)
    scores, groups = torch.rand(40, generator=generator), torch.arange(40) % 3
    assert torch.equal(HALF_OPEN.iou(boxes, boxes), box_iou(boxes, boxes))
    assert torch.equal(HALF_OPEN.clip(boxes, 40, 60), clip(boxes, 40, 60))
    assert torch.equal(HALF_OPEN.nms(boxes, scores, groups, 0.3), batched_nms(boxes, scores, groups, 0.3))
