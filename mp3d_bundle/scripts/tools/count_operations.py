"""Count parameters and operations of a network by component, like the paper.

    python -m scripts.complexity
    python -m scripts.complexity --num_slices 5 --conversion ctm
    python -m scripts.complexity --config_file "['configs/train.json','configs/variants/head_retinanet.yaml']"

Run from the bundle's folder. The paper's "GFLOPS" are multiply-accumulates of one 512 x 512 slab with 1000 proposals:
the products of convolutions and linear layers, one for each output value of a convolution with bias, one for each
output value of a ReLU, and one for each input value of a max-pool over slices and pixels. Normalisation, additions,
interpolation and RoIAlign are free (convention of the counter of the released code's framework). Further heads, such as
those of masks and tags, run on as many boxes as are reported at most. Nothing is computed: the network runs on the meta
device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from ..configuration.running_config import plain_config
from ..networks import (
    CenterCrop,
    FasterRCNN,
    FullBottleneck,
    GroupTransform,
    OneStageDetector,
    PseudoBasicBlock,
    PseudoBottleneck,
    mp3d_fpn,
)
from ..networks.backbones.densenet import DenseLayer, SlicePairs, Transition, TruncatedDenseNet
from ..networks.backbones.slab_backbone import SIZE_DIVISIBLE
from ..networks.heads.mask_head import MaskHead
from ..networks.heads.roi_heads import PyramidRoIAlign, RoIHeads, RoIs
from ..networks.heads.tag_head import TagHead
from ..networks.published.mulan import MulanHeads
from ..networks.published.multi_scale_booster import SharedDilations
from ..networks.published.retinanet_masks import AttentionGate
from ..networks.published.slice_attention import AttentionStage, NeighbourAttention
from ..weights import build_network

CONVERSIONS = {"gtm": GroupTransform, "ctm": CenterCrop}
PROPOSALS = 1000
# Name prefixes of each component's modules, in the order of the table; the first match is used.
COMPONENTS: dict[str, str | tuple[str, ...]] = {
    "stem": ("backbone.body.stem.", "backbone.body.conv0"),
    "layer1": "backbone.body.stages.0.",
    "layer2": "backbone.body.stages.1.",
    "layer3": "backbone.body.stages.2.",
    "layer4": "backbone.body.stages.3.",
    **{f"dense block {number}": f"backbone.body.denseblock{number}." for number in (1, 2, 3)},
    "transitions": "backbone.body.transition",
    "conversion to 2D": ("backbone.conversions.", "backbone.reductions."),
    "slice attention": "backbone.stages.",
    "unused matrices": "backbone.unused.",
    "fusion": ("fusion.", "backbone.fusion", "backbone.body.after."),
    "FPN lateral": ("backbone.fpn.inner_blocks.", "backbone.decoder.laterals."),
    "FPN output": "backbone.fpn.layer_blocks.",
    "RPN": "rpn.",
    "attention gates": "backbone.gates.",
    "dense masks": "mask_branch.",
    "mask head": ("roi_heads.mask_head.", "roi_heads.fields.masks."),
    "tag head": "roi_heads.tag_head.",
    "score refinement": "roi_heads.refine.",
    "RoI head": "roi_heads.",
    "class branch": "network.classification_head.",
    "box branch": "network.regression_head.",
}
NORMS = "norms"
REST = "ReLU, pool, bias"
# Modules that end in a functional ReLU: residual blocks, and these layers of TwoMLPHead.
_BLOCKS = (PseudoBottleneck, PseudoBasicBlock, FullBottleneck)
_RECTIFIED_LAYERS = ("box_head.fc6", "box_head.fc7")
# Parts whose outputs go through functions that are counted: a ReLU, and behind the dense stem a max-pool too.
_RECTIFIED_PARTS: dict[type[nn.Module], tuple[str, ...]] = {
    TruncatedDenseNet: ("norm0", "norm0"),
    DenseLayer: ("norm1", "norm2"),
    Transition: ("norm",),
    AttentionGate: ("level",),
    AttentionStage: ("expand_norm", "fuse_norm"),
    MaskHead: ("convs.0", "convs.1", "convs.2", "convs.3", "upsample"),
    TagHead: ("fc1", "fc2"),
}


@dataclass
class Row:
    """Parameters and multiply-accumulates of one component."""

    component: str
    parameters: int = 0
    macs: int = 0


def _component(name: str) -> str:
    name = name.replace("network.feature_extractor.", "backbone.")
    return next((component for component, prefix in COMPONENTS.items() if name.startswith(prefix)), "other")


def _rectified(network: nn.Module) -> Counter[str]:
    """How often the output of each module, by name, goes through a function that is counted."""
    return Counter(
        f"{name}.{part}"
        for name, module in network.named_modules()
        for kind, parts in _RECTIFIED_PARTS.items()
        if isinstance(module, kind)
        for part in parts
    )


def _counter(rows: dict[str, Row], name: str, functions: int) -> Callable[[nn.Module, Any, Any], None]:
    component = _component(name)

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            rows[component].macs += output.numel() * module.weight[0].numel()
            rows[REST].macs += 0 if module.bias is None else output.numel()
        elif isinstance(module, SharedDilations):  # its one kernel runs three times, past the hook of its layer
            rows[component].macs += sum(each.numel() for each in output) * module.conv.weight[0].numel()
        elif isinstance(module, nn.ConvTranspose2d):
            rows[component].macs += inputs[0].numel() * module.weight[0].numel()
            rows[REST].macs += output.numel()
        elif isinstance(module, SlicePairs):
            rows[component].macs += output.numel() * len(module.matrix)
        elif isinstance(module, NeighbourAttention):  # its linear layers are counted separately
            rows[component].macs += 2 * output.numel() * output.shape[1]
        elif isinstance(module, nn.Linear):
            rows[component].macs += output.numel() * module.in_features
        elif isinstance(module, (nn.MaxPool2d, nn.MaxPool3d)):
            rows[REST].macs += inputs[0].numel()
        if isinstance(module, (nn.ReLU, *_BLOCKS)) or name.endswith(_RECTIFIED_LAYERS):
            rows[REST].macs += output.numel()
        if functions:
            rows[REST].macs += functions * output.numel()

    return count


def _run(network: nn.Module, size: int) -> None:
    """Run all layers on one slab of ``size`` pixels, with the full number of proposals."""
    if not isinstance(network, (FasterRCNN, OneStageDetector)):
        raise ValueError(f"Expected a detector of scripts.networks, got {type(network).__name__}.")
    slab = torch.empty(1, network.backbone.num_slices, size, size)  # type: ignore[arg-type]
    if isinstance(network, OneStageDetector):
        network.network(slab)
        return
    first, second = network.features(slab)
    network.rpn.head(first)
    heads = network.roi_heads
    first_layer = next((layer for layer in heads.box_head.modules() if isinstance(layer, nn.Linear)), None)
    if first_layer is None:  # R-FCN's second stage takes means of bins and nothing else
        return
    heads.predictor(heads.box_head(torch.empty(PROPOSALS, first_layer.in_features)))
    _run_further(heads, second)


def _run_further(heads: RoIHeads, levels: Sequence[torch.Tensor]) -> None:
    """Run the further heads, with as many boxes as are reported at most."""
    found = heads.limits.per_image
    parts = [*heads.fields.values()]
    if isinstance(heads, MulanHeads):
        parts = [heads.mask_head, heads.tag_head]
        heads.refine(*(torch.empty(found, wide) for wide in heads.refine.widths))
    vectors = torch.empty(found, heads.predictor.cls_score.in_features)
    for part in parts:
        if isinstance(getattr(part, "pool", None), PyramidRoIAlign):
            part.pool = _Crops(part.pool.output_size)
        part(RoIs(vectors, [torch.empty(found, 4)], levels))


class _Crops(nn.Module):
    """Crops without reading the boxes, which have no values here."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, levels: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.empty(len(boxes[0]), levels[0].shape[1], self.side, self.side)


def complexity(build: Callable[[], nn.Module], size: int = 512) -> list[Row]:
    """Count a network.

    Args:
        build: Makes the network; called with torch's meta device as the default.
        size: Height and width of the slab in pixels.

    Returns:
        The components that the network has, then the norms and the rest; the total is their sum.

    Raises:
        ValueError: If the network is not a detector of ``scripts.networks``, or the size not a multiple of 32.
    """
    if size < 1 or size % SIZE_DIVISIBLE:
        raise ValueError(f"Expected a size that is a multiple of {SIZE_DIVISIBLE} pixels, got {size!r}.")
    rows = {name: Row(name) for name in (*COMPONENTS, "other", NORMS, REST)}
    with torch.device("meta"):
        network = build()
        functions = _rectified(network)
        for name, module in network.named_modules():
            own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
            rows[NORMS if isinstance(module, (nn.GroupNorm, nn.BatchNorm2d)) else _component(name)].parameters += own
            module.register_forward_hook(_counter(rows, name, functions[name]))
        _run(network, size)
    return [row for row in rows.values() if row.parameters or row.macs]


def table(rows: Sequence[Row]) -> str:
    """The rows and their total as text: parameters, and 10^9 multiply-accumulates."""
    lines = [f"{'component':<18}{'parameters':>13}{'GMAC':>11}"]
    total = Row("total", sum(row.parameters for row in rows), sum(row.macs for row in rows))
    lines += [f"{row.component:<18}{row.parameters:>13,}{row.macs / 1e9:>11.3f}" for row in [*rows, total]]
    lines[-1:] = ["-" * len(lines[0]), lines[-1]]
    return "\n".join(lines)


def _configured(config_file: str | Sequence[str], num_slices: int | None) -> Callable[[], nn.Module]:
    files = [config_file] if isinstance(config_file, str) else list(config_file)
    parser = ConfigParser()
    parser.read_config(files)
    if "network_def" not in parser:
        raise ValueError(f"Expected a config with a network_def, got none in {', '.join(files)}.")
    if num_slices is not None:
        parser["num_slices"] = num_slices
    definition = plain_config(parser, "network_def")
    return lambda: build_network(definition, ", ".join(files), device="meta")


def main(
    num_slices: int | None = None,
    conversion: str | None = None,
    config_file: str | Sequence[str] | None = None,
    size: int = 512,
) -> None:
    """Count parameters and multiply-accumulates of MP3D FPN, or of the network of a config.

    Args:
        num_slices: Slices of a slab; 9, or the config's number.
        conversion: gtm or ctm; not together with a config.
        config_file: A config with a network_def, or a list of a config and its overlays.
        size: Height and width of the slab in pixels.

    Raises:
        ValueError: If the options do not go together, or the config has no network of this bundle.
        OSError: If a config cannot be read.
    """
    if config_file is not None and conversion is not None:
        raise ValueError("Expected --conversion or --config_file, got both: use an overlay of configs/variants.")
    if config_file is not None:
        build = _configured(config_file, num_slices)
    else:
        kind = CONVERSIONS.get(conversion or "gtm")
        if kind is None:
            raise ValueError(f"Expected --conversion {' or '.join(CONVERSIONS)}, got {conversion!r}.")
        build = partial(mp3d_fpn, 9 if num_slices is None else num_slices, conversion=kind)
    print(table(complexity(build, size)))
