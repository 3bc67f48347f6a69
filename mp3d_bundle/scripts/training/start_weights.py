"""Start a training from weights of another one (paper sections 2.2 and 3.4)."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks import ResNet2d
from ..weights import load_state, read_stored
from .resuming.checkpoints import BEST

logger = logging.getLogger(__name__)

BODY = "backbone.body."
CONVERSIONS = "backbone.conversions."
# MONAI's one-stage detector keeps its backbone here.
_ONE_STAGE = "network.feature_extractor."
PARTS = ("body", "all")
# Layers that have an output for each class, and heads that not every network has: they may start anew.
_BY_CLASS = ("roi_heads.predictor.", "roi_heads.refine.", "network.classification_head.cls_logits.")
_OF_CLASSES = (*_BY_CLASS, "roi_heads.fields.", "roi_heads.tag_head.")


def _fresh(own: Tensor, stored: Tensor | None) -> Tensor:
    """PyTorch's default for the convolution, uniform within 1 / sqrt(D): what the released code is left with."""
    bound = own[0].numel() ** -0.5
    return torch.empty_like(own).uniform_(-bound, bound)


def _centre(own: Tensor, stored: Tensor | None) -> Tensor:
    """All weight on the target slice: the network starts as one with CTM."""
    weights = torch.zeros_like(own)
    weights[:, own.shape[1] // 2] = 1.0
    return weights


def _interpolated(own: Tensor, stored: Tensor | None) -> Tensor:
    """The stored weights spread over the new number of slices so that each channel's sum is kept.

    So feature maps that are alike in all slices become what they became with the old number of slices.
    """
    if stored is None:
        raise ValueError("Expected weights of the group transform to interpolate, the file holds none.")
    line = stored.flatten(1).float()
    held, wanted = line.shape[1], own.shape[1]
    # How the smaller number of slices is stretched to the larger one, linearly: each column sums to 1.
    few, many = sorted((held, wanted))
    stretch = F.interpolate(torch.eye(few)[:, None], size=many, mode="linear", align_corners=False)[:, 0]
    # Each stored weight is shared out whole.
    shares = stretch / stretch.sum(1, keepdim=True) if wanted >= held else stretch.T
    return (line @ shares).reshape(own.shape).to(own)


# Ways to make the group transform of D slices from the one of a network with another number of slices.
TRANSFERS: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "fresh": _fresh,
    "centre": _centre,
    "interpolated": _interpolated,
}

_HOW = {
    "fresh": "by the layer's own start, as in the released code",
    "centre": "all weight on the target slice",
    "interpolated": "those of the file spread over the slices, their sum kept",
}


@torch.no_grad()
def start_from(
    network: nn.Module,
    path: str | Path | None,
    *,
    transfer: str = "fresh",
    parts: str = "body",
    classes: Sequence[str] = (),
    output: str | Path | None = None,
) -> None:
    """Load the body of a weights file into a network, and set up its group transform; or load the whole detector.

    As in the released code, the pyramid and the heads start fresh, and a group transform for the same number
    of slices is loaded. The body must fit tensor by tensor; a 2D body takes one of the same kind. The log says what
    was loaded, what was not, and how the group transform was made.

    Args:
        network: Detector with ``backbone.body``, and ``backbone.conversions`` if it has a group transform.
        path: File of :mod:`scripts.weights` (a backbone alone or a whole detector); None to start from scratch.
        transfer: What becomes of a group transform that the file does not hold for this number of slices:
            ``"fresh"`` (as in the released code), ``"centre"`` or ``"interpolated"`` (ours).
        parts: ``"body"``; or ``"all"`` for every tensor of a detector of the same kind. Layers for another number of
            classes, and further heads that the file does not hold, then start fresh, and the log names them.
        classes: Names of the classes of this training. Where they are several, and the file counts some of them
            otherwise, the layers of the classes start fresh too; where it knows none of them but as many, they meet in
            their order.
        output: Folder of this training's own weights.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it holds no body that fits, ``transfer`` or ``parts`` is not one of those named, or this
            training would replace the file.
    """
    if transfer not in TRANSFERS:
        raise ValueError(f"Expected a transfer of the group transform out of {sorted(TRANSFERS)}, got {transfer!r}.")
    if parts not in PARTS:
        raise ValueError(f"Expected the parts {' or '.join(PARTS)}, got {parts!r}.")
    if path is None:
        return
    if output is not None and (own_weights := Path(output, BEST)).exists() and own_weights.samefile(path):
        raise ValueError(
            f"Expected start weights that this training does not replace by its own, got {path}: choose another "
            "--output_dir."
        )
    if parts == "all":
        _start_whole(network, path, transfer, classes)
        return
    own = network.get_submodule(BODY.rstrip("."))
    state = _read(path)
    body = {name.removeprefix(BODY): tensor for name, tensor in state.items() if name.startswith(BODY)}
    if isinstance(own, ResNet2d) and any(tensor.ndim == 5 for tensor in body.values()):
        raise ValueError(
            f"Expected a network with a 3D body for the weights of {path}, got one with a 2D body. Those start from "
            "ImageNet (init_imagenet in the place of init_coco, --imagenet FILE in that of --pretrained)."
        )
    made = {name: tensor for name, tensor in own.state_dict().items() if _is_new_matrix(name, tensor, body)}
    load_state(own, {**body, **made}, str(path))
    # A one-stage detector keeps its backbone elsewhere and gives it by this name.
    parameters = network.get_submodule("backbone").named_parameters(prefix="backbone")
    conversions = {name: each for name, each in parameters if name.startswith(CONVERSIONS)}
    loaded = sum(_load_conversion(weights, state.get(name), transfer) for name, weights in conversions.items())
    count = len(body.keys() - made.keys())
    logger.info("Started from %s: %d tensors of the body loaded, every one.", path, count)
    if made:
        logger.info("%d matrices over pairs of slices start as the identity.", len(made))
    if conversions:
        logger.info("%s", _told(state, conversions, loaded=loaded, transfer=transfer))
    left = [f"{part} ({count} tensors)" for part, count in _left(state).items()]
    logger.info(
        "Not loaded from %s: %s. The pyramid and the heads of this network start fresh.",
        path,
        ", ".join(left) or "nothing, it holds no more",
    )


def _start_whole(network: nn.Module, path: str | Path, transfer: str, classes: Sequence[str]) -> None:
    """Load every tensor of a detector's file, but for what depends on the classes and the number of slices."""
    stored = read_stored(path)
    state = stored["model"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"Expected a weights file of a whole detector, got something else in {path}.")
    own = network.state_dict()
    fresh = _BY_CLASS if _counts_otherwise(stored["info"], classes, path) else ()
    anew = [
        name
        for name in own
        if name.startswith(_OF_CLASSES) and (name.startswith(fresh) or not _fits(own[name], state.get(name)))
    ]
    left = [str(name) for name in state if str(name).startswith(_OF_CLASSES) and name not in own]
    slices = [
        name
        for name in own
        if not _fits(own[name], state.get(name)) and (".conversions." in name or name.endswith(".pairs.matrix"))
    ]
    kept = {str(name): tensor for name, tensor in state.items() if name not in left}
    load_state(network, {**kept, **{name: own[name] for name in [*anew, *slices]}}, str(path))
    parameters = dict(network.named_parameters())
    for name in slices:
        if ".conversions." in name:
            _load_conversion(parameters[name], state.get(name), transfer)
    logger.info("Started from %s: %d of %d tensors loaded.", path, len(own) - len(anew) - len(slices), len(own))
    for names, what in (
        (anew, "start anew, being for other classes or not in the file"),
        (slices, f"are made for this number of slices ({transfer})"),
        (left, "of the file are not in this network"),
    ):
        if names:
            logger.info("%d tensors %s: %s.", len(names), what, ", ".join(names))


def _counts_otherwise(info: Mapping[str, Any], classes: Sequence[str], path: str | Path) -> bool:
    """Whether a file's classes have names of this training in other places; the log says how both meet."""
    recipe = info.get("recipe") if isinstance(info, Mapping) else None
    held = tuple(recipe.get("classes") or ()) if isinstance(recipe, Mapping) else ()
    if len(classes) < 2 or len(held) < 2 or held == tuple(classes):
        return False
    if set(held) & set(classes):
        logger.warning(
            "%s knows the classes %s, this training %s: the layers of the classes start anew.",
            *(path, ", ".join(held), ", ".join(classes)),
        )
        return True
    if len(held) == len(classes):
        logger.warning("%s: its classes %s are taken for %s, in this order.", path, ", ".join(held), ", ".join(classes))
    return False


def _fits(own: Tensor, stored: Tensor | None) -> bool:
    return stored is not None and stored.shape == own.shape


def _is_new_matrix(name: str, own: Tensor, stored: Mapping[str, Tensor]) -> bool:
    """Whether a tensor of a body is a matrix over slices that its file has not, or for another number of slices."""
    return name.endswith(".pairs.matrix") and (name not in stored or stored[name].shape != own.shape)


def _read(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file by their names in a two-stage detector."""
    state = read_stored(path)["model"]
    names = {str(name) for name in state} if isinstance(state, Mapping) else set()
    if isinstance(state, Mapping) and any(name.startswith((BODY, _ONE_STAGE + "body.")) for name in names):
        return {re.sub(f"^{re.escape(_ONE_STAGE)}", "backbone.", str(name)): state[name] for name in state}
    advice = ""
    if "state_dict" in names or any(name.startswith("backbone.layer") for name in names):
        advice = " It looks like one of the authors' files: translate it with python -m scripts.convert_checkpoint."
    elif "conv1.weight" in names:
        advice = " It looks like torchvision's: --imagenet takes it, for a network with a 2D body."
    raise ValueError(f"Expected a weights file with a body under {BODY}*, got none in {path}.{advice}")


def _load_conversion(parameter: Tensor, stored: Tensor | None, transfer: str) -> bool:
    """Load a group transform's weights where they fit, and make them otherwise; returns which was done."""
    if stored is not None and stored.shape == parameter.shape:
        parameter.copy_(stored)
        return True
    # A convolution of another kind has nothing to pass on.
    usable = stored is not None and stored.ndim == parameter.ndim == 4
    parameter.copy_(TRANSFERS[transfer](parameter, stored if usable else None))
    return False


def _told(state: Mapping[str, Tensor], conversions: Mapping[str, Tensor], *, loaded: int, transfer: str) -> str:
    name, own = next(iter(conversions.items()))
    stored = state.get(name)
    held = "none in the file" if stored is None else f"for {stored[0].numel()} slices in the file"
    made = len(conversions) - loaded
    how = f": {transfer}, {_HOW[transfer]}" if made else ""
    return f"Group transforms for {own[0].numel()} slices, {held}: {loaded} loaded, {made} made{how}."


def _left(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Parts of a weights file that are not loaded, and how many tensors each has."""
    classes = state.get("roi_heads.predictor.cls_score.weight")
    names = {
        "backbone": "pyramid",
        "roi_heads": "RoI head" if classes is None else f"RoI head for {len(classes) - 1} classes",
        "rpn": "RPN",
        "network": "one-stage head",
    }
    others = [str(name).split(".")[0] for name in state if not str(name).startswith((BODY, CONVERSIONS))]
    return {names.get(part, part): count for part, count in sorted(Counter(others).items())}
