"""RoIAlign with products of matrices in its backward pass, against torchvision's."""

from __future__ import annotations

import pytest
import torch
import torchvision.ops
from torch import Tensor

from scripts.networks.heads import roi_align as module
from scripts.networks.heads.roi_align import LARGEST_MAP, roi_align

# Row, x1, y1, x2, y2 in an image of 96 x 80 pixels: inside, small, a point, a line, as large as the image, across each
# border, in the corners, outside, far larger than the image, on pixels' centres.
ODD = [
    [0, 10, 12, 40, 50],
    [0, 10, 12, 11, 12.5],
    [0, 10, 12, 10, 12],
    [0, 10, 12, 60, 12],
    [0, 0, 0, 80, 96],
    [0, -20, 10, 20, 30],
    [0, 60, 80, 90, 110],
    [0, 76, 92, 80, 96],
    [0, -300, -300, -200, -200],
    [0, 200, 200, 300, 300],
    [0, -500, -500, 500, 500],
    [0, 2, 2, 30, 30],
]


def gradients(level_map: Tensor, rois: Tensor, cells: int = 7, scale: float = 0.25) -> tuple[Tensor, Tensor]:
    """The map's gradient here, and torchvision's, for the same gradient of the crops."""
    found = []
    for crop in (
        lambda leaf: roi_align(leaf, rois, cells, scale),
        lambda leaf: torchvision.ops.roi_align(leaf, rois, cells, scale, sampling_ratio=0, aligned=True),
    ):
        leaf = level_map.clone().requires_grad_()
        crops = crop(leaf)
        weights = torch.randn(crops.shape, dtype=crops.dtype, generator=torch.Generator().manual_seed(1))
        (crops * weights).sum().backward()
        assert leaf.grad is not None
        found.append(leaf.grad)
    return found[0], found[1]


def random_rois(number: int, rows: int, side: float) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand(number, 2, generator=generator, dtype=torch.float64) * 1.3 * side - 0.15 * side
    size = torch.rand(number, 2, generator=generator, dtype=torch.float64) ** 2 * side
    return torch.cat([torch.randint(rows, (number, 1), generator=generator), corner, corner + size], dim=1)


@pytest.mark.parametrize("row", ODD, ids=str)
def test_gradient_of_an_odd_box(row: list[float]) -> None:
    own, torchvisions = gradients(torch.zeros(1, 3, 24, 20, dtype=torch.float64), torch.tensor([row]).double())
    assert torch.allclose(own, torchvisions, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cells", [1, 2, 7])
@pytest.mark.parametrize("scale", [0.25, 1 / 32])
def test_gradient_of_many_boxes_in_many_images(cells: int, scale: float) -> None:
    rois = random_rois(600, 3, 96)
    rois = rois[rois[:, 0] != 1]  # one image has none
    own, torchvisions = gradients(torch.zeros(3, 4, 24, 24, dtype=torch.float64), rois, cells, scale)
    assert torch.allclose(own, torchvisions, rtol=1e-12, atol=1e-12)
    assert torch.count_nonzero(own[1]) == 0
    assert torch.count_nonzero(own[0]) > 0


def test_gradient_in_float32() -> None:
    own, torchvisions = gradients(torch.zeros(2, 64, 24, 24), random_rois(128, 2, 96).float())
    assert own.dtype == torch.float32
    assert (own - torchvisions).abs().max() < 2e-6 * torchvisions.abs().max()


def test_gradient_keeps_its_precision_in_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        own, torchvisions = gradients(torch.zeros(2, 8, 24, 24), random_rois(32, 2, 96).float())
    assert (own - torchvisions).abs().max() < 2e-6 * torchvisions.abs().max()


def test_no_boxes() -> None:
    own, torchvisions = gradients(torch.zeros(2, 3, 5, 5), torch.zeros(0, 5))
    assert own.shape == torchvisions.shape == (2, 3, 5, 5)
    assert torch.count_nonzero(own) == 0


def test_values_are_torchvisions() -> None:
    level_map = torch.randn(1, 3, 24, 20, generator=torch.Generator().manual_seed(0))
    rois = torch.tensor(ODD, dtype=torch.float32)
    expected = torchvision.ops.roi_align(level_map, rois, 7, 0.25, sampling_ratio=0, aligned=True)
    assert torch.equal(roi_align(level_map, rois, 7, 0.25), expected)
    assert torch.equal(roi_align(level_map.requires_grad_(), rois, 7, 0.25), expected)


@pytest.mark.parametrize(("side", "products"), [(64, True), (65, False)])
def test_large_maps_and_maps_that_do_not_learn_are_left_to_torchvision(
    monkeypatch: pytest.MonkeyPatch, side: int, products: bool
) -> None:
    assert LARGEST_MAP == 64 * 64
    asked = []
    gradient = module._map_gradient
    monkeypatch.setattr(module, "_map_gradient", lambda *given: asked.append(1) or gradient(*given))
    gradients(torch.zeros(1, 2, side, side), torch.tensor([[0.0, 4, 4, 40, 40]]))
    assert bool(asked) is products
    leaf = torch.zeros(1, 2, 8, 8, requires_grad=True)
    with torch.no_grad():
        assert not roi_align(leaf, torch.tensor([[0.0, 4, 4, 20, 20]]), 7, 0.25).requires_grad
