"""Backbone of AlignShift, TSM and A3D against the values of their authors' modules."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.networks.backbones.densenet import AlignShift, SlicePairs, TemporalShift
from scripts.networks.backbones.densenet_slab import DenseSlabBackbone
from scripts.networks.published.align_shift import AUTHORS_BACKBONE
from support.field_values import backbone_state, check_block


@pytest.mark.parametrize(("name", "mix"), [("alignshift", AlignShift), ("a3d", SlicePairs)])
def test_features_equal_the_authors(shared: Path, name: str, mix: type) -> None:
    values = json.loads((shared / "reference/golden_field/alignshift_a3d.json").read_text())[name]["D3"]
    network = DenseSlabBackbone(3, mix).double().eval()
    network.load_state_dict(backbone_state(values, AUTHORS_BACKBONE))
    assert sum(each.numel() for each in network.parameters()) == values["parts"]["backbone"]
    given = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 1, 3, 96, 128)))[:, 0]
    seen: dict[str, torch.Tensor] = {}
    network.body.denseblock1.register_forward_hook(
        lambda *a: seen.update(tap_denseblock1=a[2].unflatten(0, (1, 3)).transpose(1, 2))
    )
    network.reductions[0].register_forward_hook(lambda *a: seen.update(tap_reductionz1=a[2]))
    for case in values["cases"].values():
        thickness = case["thickness"] and torch.tensor(case["thickness"], dtype=torch.float64)
        with torch.no_grad():
            seen["feat"] = network(given, thickness)[0]
        for block in case["outputs"]:
            check_block(block, seen[block["tag"].split(".")[-1]], 1e-8)


def test_each_slab_has_its_own_thickness() -> None:
    network = DenseSlabBackbone(3, AlignShift, layers=(1, 1, 1), growth=8, out_channels=16).eval()
    slabs = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        both = network(slabs, torch.tensor([1.0, 5.0]))[0]
        default = network(slabs)[0]  # 2 mm, which moves as far as 1 mm
        thick = network(slabs[1:], torch.tensor([5.0]))[0]
    torch.testing.assert_close(both[:1], default[:1])
    torch.testing.assert_close(both[1:], thick)
    assert (both[1] - default[1]).abs().max() > 1e-4


@pytest.mark.parametrize("mix", [AlignShift, TemporalShift, SlicePairs])
def test_gradients_reach_every_parameter_and_half_precision_runs(mix: type) -> None:
    network = DenseSlabBackbone(3, mix, layers=(1, 1, 1), growth=8, out_channels=16)
    network(torch.randn(2, 3, 32, 32))[0].square().mean().backward()
    assert all(each.grad is not None for each in network.parameters() if each.requires_grad)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert network.eval()(torch.randn(1, 3, 32, 32))[0].isfinite().all()


def test_other_slice_counts_are_rejected() -> None:
    with pytest.raises(ValueError, match="odd number of slices"):
        DenseSlabBackbone(4, AlignShift)
    network = DenseSlabBackbone(3, AlignShift, layers=(1, 1, 1), growth=8, out_channels=16)
    with pytest.raises(ValueError, match="reads 3 slices"):
        network(torch.zeros(1, 7, 32, 32))
