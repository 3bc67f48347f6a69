"""Backbone of MULAN: gradients, precision, slices; `test_mulan` has the values of its authors' modules."""

from __future__ import annotations

import pytest
import torch

from scripts.networks.backbones.densenet_images import DenseImagesBackbone


def test_gradients_reach_every_parameter_and_half_precision_runs() -> None:
    network = DenseImagesBackbone(9, layers=(1, 1, 1), growth=8, out_channels=16)
    network(torch.randn(2, 9, 32, 32))[0].square().mean().backward()
    assert all(each.grad is not None for each in network.parameters())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert network.eval()(torch.randn(1, 9, 32, 32))[0].isfinite().all()


@pytest.mark.parametrize("count", [6, 8, 0, True])
def test_other_slice_counts_are_rejected(count: int) -> None:
    with pytest.raises(ValueError, match="three times an odd number"):
        DenseImagesBackbone(count)
