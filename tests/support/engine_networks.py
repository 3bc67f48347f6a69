"""Small networks of every kind for tests of engines, and how far two results of one slab are apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from scripts.engines.engine import EngineChoice
from scripts.networks import (
    ResNet2d,
    ResNet3d,
    TwoStageHead,
    a3d,
    align_shift,
    fpn_3dce,
    mp3d_fpn,
    mp3d_retinanet,
    multi_scale_booster,
    mvp_net,
    rfcn,
    slice_attention,
    temporal_shift,
    three_dce,
)
from scripts.tools.export_detector import nearest_gaps

HEAD = TwoStageHead(fc_channels=32, test_per_level=60, proposals=100)


def small_body() -> ResNet3d:
    """A body that runs in milliseconds."""
    return ResNet3d(layers=(1, 1, 1, 1), width=8)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mp3d_fpn": lambda: mp3d_fpn(3, body=small_body(), fpn_channels=16, head=HEAD),
    "mp3d_retinanet": lambda: mp3d_retinanet(3, body=small_body(), fpn_channels=16),
    "fpn_3dce": lambda: fpn_3dce(9, body=ResNet2d(width=8), fpn_channels=16, head=HEAD),
    "three_dce": lambda: three_dce(9, width=8, rpn_channels=16, fc_channels=32),
    "rfcn": lambda: rfcn(width=8, rpn_channels=16, fc_channels=32),
}
# Full-size bodies: most published systems have one size.
LARGE_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mvp_net": lambda: mvp_net(3, channels=32, fc_channels=32),
    "multi_scale_booster": lambda: multi_scale_booster(3),
    "align_shift": lambda: align_shift(3),
    "a3d": lambda: a3d(3),
    "temporal_shift": lambda: temporal_shift(3),
    "slice_attention": lambda: slice_attention(3),
}


def spread(network: nn.Module, amount: float) -> nn.Module:
    """The network with scores that are spread, so that rounding cannot change the order of boxes."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(("rpn.head.", "roi_heads.box_head.", "roi_heads.predictor.")):
                parameter.add_(torch.randn_like(parameter) * amount)
    return network.eval()


def make(name: str) -> nn.Module:
    """One of the networks, always with the same weights."""
    torch.manual_seed(0)
    # Untrained bodies without normalisation give large features, which large weights would make huge.
    return spread({**NETWORKS, **LARGE_NETWORKS}[name](), 0.05 if name.startswith("mp3d") else 0.01)


def slabs(network: nn.Module, *size: int) -> Tensor:
    """Noise ``(B, D, H, W)`` for a network, from ``(B, H, W)``."""
    slices = int(network.backbone.num_slices)  # type: ignore[union-attr, arg-type]
    return torch.randn((size[0], slices, *size[1:]), generator=torch.Generator().manual_seed(2))


@torch.inference_mode()
def found(network: nn.Module, images: Tensor) -> list[dict[str, Tensor]]:
    """Detections of each slab."""
    return network(images)


def check_engine(engine: str, version: str, name: str) -> None:
    """One of the networks gives with an engine what it gives with PyTorch."""
    network = make(name)
    # One batch and size as in the example of the conversion, the others not.
    images = [slabs(network, 2, 96, 128), slabs(network, 1, 75, 130), slabs(network, 3, 160, 64)]
    own = [found(network, each) for each in images]
    assert EngineChoice(engine).attach(network) == (f"{engine} {version}", "float32")
    for before, each in zip(own, images, strict=True):
        pixels, scores = gaps(before, found(network, each))
        assert pixels < 1e-3
        assert scores < 1e-4


def gaps(own: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> tuple[float, float]:
    """Largest difference in pixels and in score; at least one box in each slab."""
    assert all(len(one["scores"]) for one in own)
    each = [nearest_gaps((a["boxes"], a["scores"]), (b["boxes"], b["scores"])) for a, b in zip(own, other, strict=True)]
    return max(one[0] for one in each), max(one[1] for one in each)
