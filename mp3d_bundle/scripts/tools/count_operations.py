"""Parameters and operations of a network, component by component, as the paper counts them.

    python -m scripts.complexity
    python -m scripts.complexity --num_slices 5 --conversion ctm
    python -m scripts.complexity --config_file "['configs/train.json','configs/variants/head_retinanet.yaml']"

Run from the bundle's folder. The paper's "GFLOPS" are multiply-accumulates of one 512 x 512 slab with 1000 proposals:
the products of convolutions and linear layers, one for each output value of a convolution with bias, one for each
output value of a ReLU, and one for each input value of a max-pool over slices and pixels. Normalisation, additions,
interpolation and RoIAlign are free (convention of the counter of the released code's framework). Nothing is computed:
the network runs on the meta device.
"""

from __future__ import annotations

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
from ..networks.backbones.slab_backbone import SIZE_DIVISIBLE
from ..networks.published.multi_scale_booster import SharedDilations
from ..weights import build_network

CONVERSIONS = {"gtm": GroupTransform, "ctm": CenterCrop}
PROPOSALS = 1000
# What the names of a component's modules begin with, in the order of the table.
COMPONENTS = {
    "stem": "backbone.body.stem.",
    "layer1": "backbone.body.stages.0.",
    "layer2": "backbone.body.stages.1.",
    "layer3": "backbone.body.stages.2.",
    "layer4": "backbone.body.stages.3.",
    "conversion to 2D": "backbone.conversions.",
    "fusion": "fusion.",
    "FPN lateral": "backbone.fpn.inner_blocks.",
    "FPN output": "backbone.fpn.layer_blocks.",
    "RPN": "rpn.",
    "RoI head": "roi_heads.",
    "class branch": "network.classification_head.",
    "box branch": "network.regression_head.",
}
NORMS = "norms"
REST = "ReLU, pool, bias"
# Modules that end in a ReLU that is not a module of its own: residual blocks, and these layers of TwoMLPHead.
_BLOCKS = (PseudoBottleneck, PseudoBasicBlock, FullBottleneck)
_RECTIFIED_LAYERS = ("box_head.fc6", "box_head.fc7")


@dataclass
class Row:
    """Parameters and multiply-accumulates of one component."""

    component: str
    parameters: int = 0
    macs: int = 0


def _component(name: str) -> str:
    name = name.replace("network.feature_extractor.", "backbone.")
    return next((component for component, prefix in COMPONENTS.items() if name.startswith(prefix)), "other")


def _counter(rows: dict[str, Row], name: str) -> Callable[[nn.Module, Any, Any], None]:
    component = _component(name)

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            rows[component].macs += output.numel() * module.weight[0].numel()
            rows[REST].macs += 0 if module.bias is None else output.numel()
        elif isinstance(module, SharedDilations):  # its one kernel runs three times, past the hook of its layer
            rows[component].macs += sum(each.numel() for each in output) * module.conv.weight[0].numel()
        elif isinstance(module, nn.Linear):
            rows[component].macs += output.numel() * module.in_features
        elif isinstance(module, (nn.MaxPool2d, nn.MaxPool3d)):
            rows[REST].macs += inputs[0].numel()
        if isinstance(module, (nn.ReLU, *_BLOCKS)) or name.endswith(_RECTIFIED_LAYERS):
            rows[REST].macs += output.numel()

    return count


def _run(network: nn.Module, size: int) -> None:
    """Run all layers on one slab of ``size`` pixels, with the full number of proposals."""
    if not isinstance(network, (FasterRCNN, OneStageDetector)):
        raise ValueError(f"Expected a detector of scripts.networks, got {type(network).__name__}.")
    slab = torch.empty(1, network.backbone.num_slices, size, size)  # type: ignore[arg-type]
    if isinstance(network, OneStageDetector):
        network.network(slab)
        return
    first, _ = network.features(slab)
    network.rpn.head(first)
    heads = network.roi_heads
    first_layer = next(layer for layer in heads.box_head.modules() if isinstance(layer, nn.Linear))
    heads.predictor(heads.box_head(torch.empty(PROPOSALS, first_layer.in_features)))


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
        for name, module in network.named_modules():
            own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
            rows[NORMS if isinstance(module, (nn.GroupNorm, nn.BatchNorm2d)) else _component(name)].parameters += own
            module.register_forward_hook(_counter(rows, name))
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
        num_slices: Slices of a slab; 9, or what the config says.
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
