"""FPN+3DCE: triplets in the right order, proposals from the middle one, fusion before the second stage."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scripts.data.intensity import IntensityWindow
from scripts.networks import LateFusionRCNN, ResNet2d, TripletBackbone, TwoStageHead, fpn_3dce
from scripts.networks.export_graph import DetectionGraph
from scripts.networks.late_fusion import RGB_DEVIATION, RGB_MEAN
from scripts.tools.count_operations import REST, complexity


def body() -> ResNet2d:
    return ResNet2d((1, 1, 1, 1), width=8)


def narrow(num_slices: int = 9, num_classes: int = 1) -> LateFusionRCNN:
    torch.manual_seed(0)
    head = TwoStageHead(anchor_scale=2.0, fc_channels=32)
    return fpn_3dce(num_slices, num_classes, body=body(), fpn_channels=16, head=head)


@pytest.mark.parametrize(
    ("slices", "parameters", "macs"),
    [(3, 41_413_973, 64.487), (9, 41_545_045, 139.750), (27, 41_938_261, 365.538)],
)
def test_operations_and_parameters(slices: int, parameters: int, macs: float) -> None:
    """As counted from the description: 64.5, 139.8 and 365.5 G; 41.41, 41.55 and 41.94 M."""
    rows = complexity(lambda: fpn_3dce(slices))
    assert sum(row.parameters for row in rows) == parameters
    assert sum(row.macs for row in rows if row.component != REST) / 1e9 == pytest.approx(macs, abs=1e-3)
    assert sum(row.macs for row in rows) / 1e9 == pytest.approx(macs, rel=0.01)


@pytest.mark.parametrize("slices", [1, 5, 6, 12, 0, -3, True])
def test_other_numbers_of_slices_are_rejected(slices: int) -> None:
    with pytest.raises(ValueError, match="three times an odd number of slices"):
        TripletBackbone(body(), slices)


def test_another_slab_is_rejected() -> None:
    with pytest.raises(ValueError, match="reads 9 slices, got"):
        narrow().backbone(torch.zeros(1, 3, 32, 32))


def test_many_slices_are_consecutive_triplets_as_they_are() -> None:
    slabs = torch.arange(18.0).reshape(2, 9, 1, 1).expand(2, 9, 4, 6)
    images = TripletBackbone(body(), 9).as_images(slabs)
    assert images.shape == (6, 3, 4, 6)
    assert images[:, :, 0, 0].tolist() == [[first, first + 1, first + 2] for first in (0, 3, 6, 9, 12, 15)]


def test_three_slices_become_colours_from_last_to_first() -> None:
    hounsfield = torch.tensor([-1024.0, 13.0, 1050.0]).reshape(3, 1, 1)
    slab = IntensityWindow()(hounsfield)
    (image,) = TripletBackbone(body(), 3).as_images(torch.as_tensor(slab)[None].float())
    bright = [255.0, 127.5, 0.0]
    expected = [(value - mean) / by for value, mean, by in zip(bright, RGB_MEAN, RGB_DEVIATION, strict=True)]
    assert image.flatten().tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("slices", [3, 9])
def test_levels_are_those_of_each_triplet_alone(slices: int) -> None:
    backbone = TripletBackbone(body(), slices, out_channels=16).eval()
    slabs = torch.randn(2, slices, 64, 96)
    with torch.no_grad():
        levels = backbone(slabs)
        images = backbone.as_images(slabs)
        alone = list(backbone.fpn(dict(enumerate(backbone.body(images)))).values())  # type: ignore[arg-type]
    assert [tuple(level.shape[-2:]) for level in levels] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    triplets = slices // 3
    for together, single in zip(levels, alone, strict=True):
        for row in range(2):
            for index in range(triplets):
                part = together[row, 16 * index : 16 * (index + 1)]
                torch.testing.assert_close(part, single[row * triplets + index])


def changed(network: LateFusionRCNN, where: int) -> tuple[bool, bool]:
    """Whether the features of the first and of the second stage notice a change of one slice."""
    slabs = torch.randn(1, 9, 32, 32)
    other = slabs.clone()
    other[:, where] += 1
    with torch.no_grad():
        before, after = network.features(slabs), network.features(other)
    first, second = (not torch.equal(one[0], two[0]) for one, two in zip(before, after, strict=True))
    return first, second


def test_proposals_see_the_middle_triplet_only() -> None:
    network = narrow().eval()
    assert [changed(network, where) for where in (0, 2, 3, 4, 5, 6, 8)] == [
        (False, True), (False, True), (True, True), (True, True), (True, True), (False, True), (False, True),
    ]  # fmt: skip


def test_one_fusion_serves_all_levels() -> None:
    network = narrow()
    conv = network.fusion[0]
    assert tuple(conv.weight.shape) == (16, 48, 1, 1)
    assert conv.bias is not None
    with torch.no_grad():
        conv.weight.zero_()  # type: ignore[operator]
        conv.bias.fill_(-1.0)  # type: ignore[operator]
        _, fused = network.features(torch.randn(1, 9, 64, 64))
    assert len(fused) == 5
    assert not any(level.any() for level in fused), "a ReLU follows"


@pytest.mark.parametrize("slices", [3, 9])
def test_training_reaches_every_parameter(slices: int) -> None:
    network = narrow(slices).train()
    boxes: list[Tensor] = [torch.tensor([[8.0, 8.0, 40.0, 30.0]]), torch.zeros(0, 4)]
    targets = [{"boxes": box, "labels": torch.ones(len(box), dtype=torch.int64)} for box in boxes]
    losses = network([torch.randn(slices, 64, 96), torch.randn(slices, 50, 70)], targets)
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_a_slab_alone_and_in_a_batch() -> None:
    network = narrow().eval()
    slabs = torch.randn(2, 9, 64, 96)
    with torch.no_grad():
        together, alone = network(slabs), [network(slab[None])[0] for slab in slabs]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=0, atol=1e-3)


def test_the_graph_for_other_runtimes_is_the_same_detector() -> None:
    network = narrow().eval()
    slabs = torch.randn(1, 9, 64, 64)
    with torch.no_grad():
        (found,), (boxes, scores, _) = network(slabs), DetectionGraph(network)(slabs)
    count = len(found["scores"])
    assert count
    torch.testing.assert_close(boxes[0, :count], found["boxes"], rtol=0, atol=1e-4)
    torch.testing.assert_close(scores[0, :count], found["scores"], rtol=0, atol=1e-6)


def test_classes() -> None:
    assert narrow(3, 80).roi_heads.predictor.num_classes == 80
    with pytest.raises(ValueError, match="at least one class"):
        narrow(3, 0)
