"""Start a 2D baseline from torchvision's ImageNet weights (paper section 3.2; the released code's choice)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.hub import load_state_dict_from_url
from torchvision.models import ResNet50_Weights

from ..networks import ResNet2d
from ..networks.backbones.resnet2d import from_torchvision
from ..storage.atomic_files import sha256
from ..weights import load_state, read_tensors

logger = logging.getLogger(__name__)

DOWNLOAD = "download"
# The first set of weights: those of the paper's time and of the released code, not the later, stronger recipe.
WEIGHTS = ResNet50_Weights.IMAGENET1K_V1
# First digits of its SHA-256; torchvision puts them into the name of the file.
_HASH = WEIGHTS.url.rsplit("-", 1)[-1].removesuffix(".pth")


def start_from_imagenet(network: nn.Module, source: str | Path | None) -> None:
    """Load ImageNet weights into the 2D body of a detector; everything else starts at random.

    Args:
        network: Detector with a :class:`ResNet2d` of ResNet-50's size under ``backbone.body``.
        source: ``"download"`` to let torchvision fetch its ResNet-50 (IMAGENET1K_V1) once, or a file with the
            ``state_dict`` of torchvision's ResNet-50; None to leave the network as it is.

    Raises:
        FileNotFoundError: If the file does not exist.
        OSError: If the weights cannot be downloaded; the message says what to do without a network.
        ValueError: If the network has no 2D body, or the weights do not fit it tensor by tensor.
    """
    if source is None:
        return
    body = getattr(getattr(network, "backbone", None), "body", None)
    if not isinstance(body, ResNet2d):
        raise ValueError(
            "Expected a network with a 2D body for ImageNet weights (overlays fpn_3dce_* and retinanet_3), got "
            f"{type(network).__name__} with {type(body).__name__}. A 3D body starts from COCO: init_coco."
        )
    state = _download() if source == DOWNLOAD else _read(source)
    where = WEIGHTS.url if source == DOWNLOAD else str(source)
    load_state(body, {**_counters(body), **from_torchvision(state)}, where)
    if source != DOWNLOAD and not sha256(source).startswith(_HASH):
        logger.warning("%s is not torchvision's %s: its SHA-256 does not begin with %s.", where, WEIGHTS, _HASH)
    logger.info("Started from the ImageNet weights of %s: the 2D body loaded; all other parts start fresh.", where)


def _counters(body: nn.Module) -> dict[str, Tensor]:
    """Zero for the batches that each batch norm has seen: files from before PyTorch 0.4.1 do not hold this number."""
    names = [name for name in body.state_dict() if name.endswith(".num_batches_tracked")]
    return {name: torch.zeros((), dtype=torch.int64) for name in names}


def _download() -> Mapping[str, Tensor]:
    try:
        return load_state_dict_from_url(WEIGHTS.url, map_location="cpu", check_hash=True, weights_only=True)
    except (URLError, TimeoutError, ConnectionError, RuntimeError) as error:
        reason, name = getattr(error, "reason", error), WEIGHTS.url.rsplit("/", 1)[-1]
        raise OSError(
            f"Could not download torchvision's ImageNet weights ({reason}). Without a network, get {name} elsewhere "
            "and give --imagenet FILE, or leave init_imagenet.yaml out to start from scratch."
        ) from error


def _read(path: str | Path) -> Mapping[str, Tensor]:
    content = read_tensors(path)
    if not isinstance(content, Mapping) or "conv1.weight" not in content:
        raise ValueError(f"Expected the state_dict of torchvision's ResNet-50 with the key conv1.weight in {path}.")
    return content
