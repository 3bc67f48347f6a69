"""Start a training from weights of another one (paper sections 2.2 and 3.4)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..weights import load_state, read_tensors

logger = logging.getLogger(__name__)

BODY = "backbone.body."
CONVERSIONS = "backbone.conversions."


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
    """The stored weights stretched over the new number of slices, their sum kept."""
    if stored is None:
        raise ValueError("Expected weights of the group transform to interpolate, the file holds none.")
    line = F.interpolate(stored.flatten(1)[:, None].float(), size=own.shape[1], mode="linear", align_corners=True)
    scale = stored.flatten(1).sum(1) / line[:, 0].sum(1)
    # Where positive and negative weights cancel, there is no sum to keep.
    scale = torch.where(scale.isfinite() & (scale.abs() < 10), scale, torch.ones_like(scale))
    return (line[:, 0] * scale[:, None]).reshape(own.shape).to(own)


# Ways to make the group transform of D slices from the one of a network with another number of slices.
TRANSFERS: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "fresh": _fresh,
    "centre": _centre,
    "interpolated": _interpolated,
}


@torch.no_grad()
def start_from(network: nn.Module, path: str | Path | None, *, transfer: str = "fresh") -> None:
    """Load the 3D body of a weights file into a network, and set up its group transform.

    As in the released code, the pyramid and the heads start fresh, and a group transform for the same number
    of slices is loaded. The body must fit tensor by tensor. The log says what was loaded, what was not, and
    how the group transform was made.

    Args:
        network: Detector with ``backbone.body`` and ``backbone.conversions``.
        path: File of :mod:`scripts.weights` (a backbone alone or a whole detector); None to start from scratch.
        transfer: What becomes of a group transform that the file does not hold for this number of slices:
            ``"fresh"`` (as in the released code), ``"centre"`` or ``"interpolated"`` (ours).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no body that fits, or ``transfer`` is none of the three.
    """
    if path is None:
        return
    if transfer not in TRANSFERS:
        raise ValueError(f"Expected a transfer of the group transform out of {sorted(TRANSFERS)}, got {transfer!r}.")
    content = read_tensors(path)
    state = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not any(str(name).startswith(BODY) for name in state):
        raise ValueError(f"Expected a weights file with a 3D body under {BODY}*, got none in {path}.")
    body = {name.removeprefix(BODY): tensor for name, tensor in state.items() if name.startswith(BODY)}
    load_state(network.get_submodule(BODY.rstrip(".")), body, str(path))
    made = loaded = 0
    for name, parameter in network.named_parameters():
        if not name.startswith(CONVERSIONS):
            continue
        stored = state.get(name)
        if stored is not None and stored.shape == parameter.shape:
            parameter.copy_(stored)
            loaded += 1
        else:
            # A convolution of another kind has nothing to pass on.
            usable = stored is not None and stored.ndim == parameter.ndim == 4
            parameter.copy_(TRANSFERS[transfer](parameter, stored if usable else None))
            made += 1
    left = sorted({name.split(".")[0] for name in state if not name.startswith((BODY, CONVERSIONS))})
    logger.info(
        "Started from %s: %d tensors of the 3D body loaded; group transforms: %d loaded, %d made %s; pyramid and "
        "heads start fresh%s.",
        path,
        len(body),
        loaded,
        made,
        transfer,
        f"; left alone in the file: {', '.join(left)} and the pyramid" if left else "",
    )
