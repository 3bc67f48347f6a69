"""The 2D network of the baselines is torchvision's ResNet, tensor by tensor."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import resnet50

from scripts.networks import FixedBatchNorm2d, ResNet2d
from scripts.networks.backbones.resnet2d import from_torchvision


def test_same_function_as_torchvisions_resnet50() -> None:
    torch.manual_seed(0)
    source = resnet50().eval()
    for module in source.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    body = ResNet2d(norm=FixedBatchNorm2d)
    body.load_state_dict(from_torchvision(source.state_dict()))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        found = body.train()(images)
        x = source.maxpool(source.relu(source.bn1(source.conv1(images))))
        for level, stage in zip(found, (source.layer1, source.layer2, source.layer3, source.layer4), strict=True):
            x = stage(x)
            torch.testing.assert_close(level, x)


def test_the_classifier_is_left_out_and_nothing_else() -> None:
    state = resnet50().state_dict()
    assert set(from_torchvision(state)) == set(ResNet2d(norm=FixedBatchNorm2d).state_dict())


def test_fixed_norms_keep_their_statistics_and_learn_their_affine() -> None:
    body = ResNet2d((1, 1, 1, 1), width=8, norm=FixedBatchNorm2d).train()
    before = {name: buffer.clone() for name, buffer in body.named_buffers()}
    assert before
    body(torch.randn(2, 3, 64, 64) * 3 + 1)[-1].sum().backward()
    for name, buffer in body.named_buffers():
        assert torch.equal(buffer, before[name]), name
    norms = [module for module in body.modules() if isinstance(module, FixedBatchNorm2d)]
    assert all(norm.weight.grad is not None and not norm.training for norm in norms)


def test_group_norm_is_the_default_and_depends_on_nothing_but_the_image() -> None:
    body = ResNet2d((1, 1, 1, 1), width=8)
    assert not [module for module in body.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    images = torch.randn(2, 3, 64, 64)
    for together, alone in zip(body(images), body(images[:1]), strict=True):
        torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layers", [(3, 4, 6), (1,)])
def test_four_stages(layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="four stages"):
        ResNet2d(layers)
