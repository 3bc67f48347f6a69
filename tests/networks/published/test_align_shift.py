"""AlignShift, TSM and A3D as whole detectors: the authors' tensors, anchors and offsets, losses and detections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.networks import a3d, align_shift, temporal_shift
from scripts.networks.published.align_shift import ALIGN_SHIFT_NAMES
from support.whole_detectors import check_both_ways, check_checkpoint, keys_of, target

FACTORIES: dict[str, Any] = {"alignshift": align_shift, "tsm": temporal_shift, "a3d": a3d}


@pytest.mark.parametrize(
    ("name", "slices", "parameters"),
    [
        ("alignshift", 3, 70_527_078),
        ("alignshift", 7, 76_032_102),
        ("tsm", 3, 70_527_078),
        ("tsm", 7, 76_032_102),
        ("a3d", 3, 70_757_775),
        ("a3d", 7, 77_257_359),
    ],
)
def test_the_authors_tensors_fit(shared: Path, name: str, slices: int, parameters: int) -> None:
    entry = keys_of(shared, name)[f"{slices}_slices"]
    assert entry["n_params"] == parameters
    check_checkpoint(lambda: FACTORIES[name](slices), entry, ALIGN_SHIFT_NAMES)


def test_anchors_and_offsets_equal_the_authors(shared: Path) -> None:
    values = json.loads((shared / "reference/golden_field/alignshift_a3d.json").read_text())["a3d"]["D3"]
    network = narrow("a3d")
    anchors = network.rpn.anchors([torch.zeros(1, 1, 2, 3)])[0]
    torch.testing.assert_close(anchors, torch.tensor(values["anchors"]["grid_2x3"]))
    coder = {
        name: torch.tensor(values["box_coder"][name], dtype=torch.float64) for name in ("proposals", "gt", "encoded")
    }
    encoded = network.roi_heads.coder.encode(coder["gt"], coder["proposals"])
    torch.testing.assert_close(encoded, coder["encoded"], rtol=1e-5, atol=1e-5)


def narrow(name: str, **settings: Any) -> Any:
    return FACTORIES[name](3, growth=8, channels=16, fc_channels=32, **settings)


@pytest.mark.parametrize("name", FACTORIES)
def test_it_learns_and_finds(name: str) -> None:
    found = check_both_ways(narrow(name), 3, [target([[10.0, 20.0, 40.0, 50.0]]), target([])])
    assert all(one["masks"].shape == (len(one["boxes"]), 28, 28) for one in found)
    assert sum(len(one["boxes"]) for one in found) > 0


@pytest.mark.parametrize("name", FACTORIES)
def test_boxes_may_have_classes(name: str) -> None:
    boxes = target([[10.0, 20.0, 40.0, 50.0], [50.0, 10.0, 70.0, 30.0]], labels=torch.tensor([2, 3]))
    found = check_both_ways(narrow(name, num_classes=3), 3, [boxes, target([])])
    assert {1, 2, 3} >= set(torch.cat([one["labels"] for one in found]).tolist()) != {1}
    with pytest.raises(ValueError, match="at least one class besides background, got num_classes=0"):
        narrow(name, num_classes=0)


def test_masks_may_be_left_out() -> None:
    network = narrow("tsm", masks=False)
    network(torch.zeros(1, 3, 32, 32), [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}])
    with pytest.raises(ValueError, match="Expected a tensor 'masks'"):
        narrow("tsm")(
            torch.zeros(1, 3, 32, 32), [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]
        )


def test_each_slab_may_have_a_thickness_of_its_own() -> None:
    network = narrow("alignshift").eval()
    slabs = [torch.randn(3, 64, 64), torch.randn(3, 32, 64), torch.randn(3, 64, 64)]
    with torch.no_grad():
        together = network(slabs, thickness=[5.0, 2.0, 5.0])
        for slab, mm, found in zip(slabs, (5.0, 2.0, 5.0), together, strict=True):
            alone = narrow("alignshift", thickness=mm).eval()
            alone.load_state_dict(network.state_dict())
            (wanted,) = alone([slab])
            torch.testing.assert_close(found["boxes"], wanted["boxes"])
            torch.testing.assert_close(found["scores"], wanted["scores"])
        thin = network([slabs[0]], thickness=2.0)[0]["scores"]
    assert thin.shape != together[0]["scores"].shape or not torch.allclose(thin, together[0]["scores"])
    with pytest.raises(ValueError, match="thickness for each of 3 slabs"):
        network(slabs, thickness=[5.0, 2.0])


def test_thickness_counts_in_training() -> None:
    network = narrow("alignshift", masks=False).train()
    seen = []
    network.backbone.register_forward_hook(lambda module, given, out: seen.append(given[1]))
    goal = {"boxes": torch.tensor([[10.0, 20.0, 40.0, 50.0]]), "labels": torch.ones(1, dtype=torch.int64)}
    network(torch.randn(2, 3, 64, 64), [goal, goal], thickness=[5.0, 1.0])
    network(torch.randn(2, 3, 64, 64), [goal, goal])
    assert seen[0].tolist() == [5.0, 1.0]
    assert seen[1] is None
