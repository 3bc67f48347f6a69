"""Anchors and crops of inclusive boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.networks.heads.inclusive_boxes import (
    FixedAnchors,
    InclusiveRoIAlign,
    UnalignedRoIAlign,
    detectron_anchors,
    mmdetection_anchors,
)

RATIOS = (0.5, 1.0, 2.0)


def reference(shared: Path, name: str) -> dict[str, Any]:
    """Values of the authors' modules."""
    return json.loads((shared / f"reference/golden_field/{name}.json").read_text())


def test_anchors_of_mmdetection_equal_the_authors(shared: Path) -> None:
    wanted = reference(shared, "msb")["anchors"]
    bases = [mmdetection_anchors(stride, (2, 4, 6, 8), RATIOS) for stride in wanted["strides"]]
    assert bases == wanted["base"]
    grid = FixedAnchors(bases, wanted["strides"])([torch.empty(1, 1, 2, 3)])[0]
    assert grid.tolist() == wanted["grid_P2_2x3"]


def test_anchors_of_detectron_equal_the_authors(shared: Path) -> None:
    for level in reference(shared, "mvpnet")["slices_3"]["anchors"].values():
        assert detectron_anchors(int(level["stride"]), (4,), RATIOS) == level["base"]
    mulan = reference(shared, "mulan")["anchors"]
    assert detectron_anchors(4, (4, 6, 8, 12, 24), RATIOS) == mulan["cell"]


def test_there_are_anchors_for_each_level() -> None:
    with pytest.raises(ValueError, match="each of 2 levels"):
        FixedAnchors([[[0.0, 0.0, 3.0, 3.0]]], (4, 8))


@pytest.mark.parametrize("kind", [InclusiveRoIAlign, UnalignedRoIAlign])
def test_a_box_leaves_its_level_by_its_pixels(kind: type[InclusiveRoIAlign | UnalignedRoIAlign]) -> None:
    sides = torch.tensor([2.0, 110.0, 111.0, 222.0, 223.0, 446.0, 447.0, 900.0])
    boxes = torch.stack([sides * 0, sides * 0, sides, sides], dim=1)
    assert kind().levels(boxes).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_crops_of_a_ramp_read_the_right_places() -> None:
    """On a map whose value is its column, a crop gives the centres of its cells."""
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    box = [torch.tensor([[16.0, 16.0, 43.0, 43.0]])]
    inclusive = InclusiveRoIAlign((4,))([ramp], box)[0, 0, 0]
    torch.testing.assert_close(inclusive, 4.0 + (torch.arange(7) + 0.5) * 7 / 7)
    unaligned = UnalignedRoIAlign((4,))([ramp], box)[0, 0, 0]
    torch.testing.assert_close(unaligned, 4.0 + (torch.arange(7) + 0.5) * 6.75 / 7)


def test_only_the_older_rule_lets_a_crop_shrink_below_a_cell() -> None:
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    box = [torch.tensor([[16.0, 16.0, 16.0, 16.0]])]
    assert (InclusiveRoIAlign((4,))([ramp], box)[0, 0, 0].diff().sum()).item() == pytest.approx(0.25 * 6 / 7, rel=1e-4)
    assert (UnalignedRoIAlign((4,))([ramp], box)[0, 0, 0].diff().sum()).item() == pytest.approx(6 / 7, rel=1e-4)
