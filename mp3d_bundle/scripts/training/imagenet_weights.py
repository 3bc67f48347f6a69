"""Start a network from torchvision's ImageNet weights (paper section 3.2, and the recipes of the other systems)."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.hub import load_state_dict_from_url
from torchvision.models import DenseNet121_Weights, ResNet50_Weights, VGG16_Weights

from ..data.intensity import IntensityWindow
from ..networks import ResNet2d
from ..networks.backbones.densenet import TruncatedDenseNet
from ..networks.backbones.resnet2d import from_torchvision
from ..networks.published.mvp_net import ChannelAffine
from ..networks.published.three_dce import TripletVgg
from ..storage.atomic_files import sha256
from ..weights import load_state, read_tensors

logger = logging.getLogger(__name__)

DOWNLOAD = "download"
# torchvision's deviations of red, green and blue: its networks read pixels of 0 to 1 divided by them.
_DEVIATIONS = (0.229, 0.224, 0.225)
_EPSILON = 1e-5
# The tensors of torchvision's DenseNet that the truncated one has too.
_DENSE = re.compile(r"(conv0|norm0|denseblock\d\.denselayer\d+\.(norm|conv)[12]|transition\d\.(norm|conv))\.")


@dataclass(frozen=True)
class _Source:
    """Weights of torchvision for a kind of body.

    Attributes:
        name: Of torchvision's network.
        weights: The first set, that of the papers' time, not the later, stronger recipe.
        key: A tensor by which a file is known.
        translate: Makes the state of a body from them; takes the body, the tensors and the deviation of its input.
    """

    name: str
    weights: Any
    key: str
    translate: Callable[[nn.Module, Mapping[str, Tensor], float], dict[str, Tensor]]

    @property
    def digits(self) -> str:
        """First digits of the SHA-256; torchvision puts them into the name of the file."""
        return self.weights.url.rsplit("-", 1)[-1].removesuffix(".pth")


def start_from_imagenet(
    network: nn.Module, source: str | Path | None, *, window: IntensityWindow | None = None
) -> None:
    """Load ImageNet weights into the body of a detector; everything else starts at random.

    The weights go in as the systems' authors load them. Bodies without batch statistics (those of 3DCE and MVP-Net)
    expect pixels on the scale of their authors' files, so that their first convolution is scaled to it.

    Args:
        network: Detector with a body of ResNet-50's size (:class:`ResNet2d`), of DenseNet-121 without its last block,
            or of VGG-16, under ``backbone.body``.
        source: ``"download"`` to let torchvision fetch its weights (IMAGENET1K_V1) once, or a file with their
            ``state_dict``; None to leave the network as it is.
        window: How the network's input is made; the paper's by default.

    Raises:
        FileNotFoundError: If the file does not exist.
        OSError: If the weights cannot be downloaded; the message says what to do without a network.
        ValueError: If the network has no such body, or the weights do not fit it tensor by tensor.
    """
    if source is None:
        return
    body = getattr(getattr(network, "backbone", None), "body", None)
    kind = _source_for(network, body)
    if kind is None or body is None:
        raise ValueError(
            "Expected a network with a 2D body or one of DenseNet for ImageNet weights (overlays fpn_3dce_*, "
            f"retinanet_3 and those of the other systems), got {type(network).__name__} with {type(body).__name__}. A "
            "3D body starts from COCO: init_coco."
        )
    state = _download(kind) if source == DOWNLOAD else _read(source, kind)
    where = kind.weights.url if source == DOWNLOAD else str(source)
    deviation = (window or IntensityWindow()).std
    load_state(body, {**_counters(body), **kind.translate(body, state, deviation)}, where)
    if source != DOWNLOAD and not sha256(source).startswith(kind.digits):
        logger.warning(
            "%s is not torchvision's %s: its SHA-256 does not begin with %s.", where, kind.weights, kind.digits
        )
    logger.info("Started from the ImageNet weights of %s: the body loaded; all other parts start fresh.", where)


def _source_for(network: nn.Module, body: nn.Module | None) -> _Source | None:
    if isinstance(body, ResNet2d):
        affine = any(isinstance(module, ChannelAffine) for module in body.modules())
        return _Source("ResNet-50", ResNet50_Weights.IMAGENET1K_V1, "conv1.weight", _affine if affine else _residual)
    if isinstance(body, TruncatedDenseNet):
        return _Source("DenseNet-121", DenseNet121_Weights.IMAGENET1K_V1, "features.conv0.weight", _dense)
    if isinstance(getattr(network, "backbone", None), TripletVgg):
        return _Source("VGG-16", VGG16_Weights.IMAGENET1K_V1, "features.0.weight", _plain)
    return None


def _residual(body: nn.Module, state: Mapping[str, Tensor], deviation: float) -> dict[str, Tensor]:
    del body, deviation
    return from_torchvision(state)


def _affine(body: nn.Module, state: Mapping[str, Tensor], deviation: float) -> dict[str, Tensor]:
    """Statistics folded into scales and shifts; MVP-Net renders pixels of 0 to 255 itself, whatever its input is."""
    del body, deviation
    renamed = from_torchvision(state)
    made = {name: tensor for name, tensor in renamed.items() if not re.search(r"\.(running_\w+|num_batches\w+)$", name)}
    for name in [name.removesuffix(".running_var") for name in renamed if name.endswith(".running_var")]:
        scale = renamed[f"{name}.weight"] / (renamed[f"{name}.running_var"] + _EPSILON).sqrt()
        made[f"{name}.bias"] = renamed[f"{name}.bias"] - renamed[f"{name}.running_mean"] * scale
        made[f"{name}.weight"] = scale
    return {**made, "stem.conv.weight": _scaled(made["stem.conv.weight"], 1.0)}


def _dense(body: nn.Module, state: Mapping[str, Tensor], deviation: float) -> dict[str, Tensor]:
    """What mixes slices keeps its own start; a body of single slices takes the middle input channel."""
    del deviation
    own = body.state_dict()
    named = {
        re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", name.removeprefix("features.")): state[name] for name in state
    }
    made = {name: named[name] for name in own if _DENSE.match(name) and name in named}
    if made["conv0.weight"].shape[1] == 3 and own["conv0.weight"].shape[1] == 1:
        made["conv0.weight"] = made["conv0.weight"][:, 1:2]
    return {**{name: tensor for name, tensor in own.items() if not _DENSE.match(name)}, **made}


def _plain(body: nn.Module, state: Mapping[str, Tensor], deviation: float) -> dict[str, Tensor]:
    """Convolutions in their order, as the body has one pooling less."""
    numbers = sorted(int(found[1]) for name in state if (found := re.fullmatch(r"features\.(\d+)\.weight", name)))
    places = [name for name, module in body.named_children() if isinstance(module, nn.Conv2d)]
    made = {
        f"{place}.{part}": state[f"features.{number}.{part}"]
        for place, number in zip(places, numbers, strict=False)
        for part in ("weight", "bias")
        if f"features.{number}.{part}" in state
    }
    return {**made, "0.weight": _scaled(made["0.weight"], deviation)}


def _scaled(weight: Tensor, deviation: float) -> Tensor:
    """A first convolution for pixels of 0 to 255 divided by a deviation, ``(C, 3, k, k)``."""
    return weight * (deviation / 255 / torch.tensor(_DEVIATIONS)).reshape(1, 3, 1, 1)


def _counters(body: nn.Module) -> dict[str, Tensor]:
    """Zero for the batches that each batch norm has seen: files from before PyTorch 0.4.1 do not hold this number."""
    names = [name for name in body.state_dict() if name.endswith(".num_batches_tracked")]
    return {name: torch.zeros((), dtype=torch.int64) for name in names}


def _download(kind: _Source) -> Mapping[str, Tensor]:
    url = kind.weights.url
    try:
        return load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (URLError, TimeoutError, ConnectionError, RuntimeError) as error:
        reason, name = getattr(error, "reason", error), url.rsplit("/", 1)[-1]
        raise OSError(
            f"Could not download torchvision's ImageNet weights ({reason}). Without a network, get {name} elsewhere "
            "and give --imagenet FILE, or leave init_imagenet.yaml or --imagenet out to start from scratch."
        ) from error


def _read(path: str | Path, kind: _Source) -> Mapping[str, Tensor]:
    content = read_tensors(path)
    if not isinstance(content, Mapping) or kind.key not in content:
        raise ValueError(f"Expected the state_dict of torchvision's {kind.name} with the key {kind.key} in {path}.")
    return content
