"""Weights files: tensors, the definition of the network they fit, and what they are.

A file holds a dict ``{"model": state_dict, "network": definition, "info": {...}}``. The definition is the
config fragment that builds the network (``_target_`` and arguments), so that a narrow or deeper network needs
no further options. Files are read as tensors and plain values only; a definition may name nothing but what
``scripts.networks`` offers, so that a file from a stranger runs no code of theirs.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from . import networks
from .files import replacing, sha256

logger = logging.getLogger(__name__)

# Exact names: MONAI would also follow "scripts.networks.backbone.nn.…" to any module that a file of ours imports.
_TARGETS = [f"scripts.networks.{name}" for name in networks.__all__]
_MODES = ["default", "callable"]
# Parts of a detector that a backbone file holds: the 3D body and its conversion to 2D.
BACKBONE_PARTS = ("backbone.body.", "backbone.conversions.")
# Training frameworks leave numpy scalars among a checkpoint's facts (a best score, a time). They are plain values; both
# names of the module are in use, before and after numpy 2.
_NUMPY_SCALARS: list[Any] = [
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *{type(np.dtype(code)) for code in "?bhilqBHILQefd"},
]


def save_weights(path: str | Path, network: nn.Module, definition: Mapping[str, Any], info: Mapping[str, Any]) -> Path:
    """Write a weights file atomically.

    Args:
        path: Target file.
        network: Its ``state_dict`` is written, on the CPU.
        definition: Config fragment that builds the network; ``scripts.networks`` targets and plain values only.
        info: What these weights are: ``name``, ``notice`` (shown with every result), training facts. Plain values only.

    Returns:
        The path.

    Raises:
        ValueError: If the definition names anything else.
        OSError: If the file cannot be written; an older file of that name is then untouched.
    """
    path = Path(path)
    check_definition(definition, str(path))
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    write_atomically({"model": state, "network": dict(definition), "info": dict(info)}, path)
    return path


def write_atomically(content: Any, path: Path) -> None:
    """``torch.save``, whole or not at all. Equal content gives equal bytes, whichever process writes it.

    Raises:
        OSError: If the file cannot be written.
    """
    with replacing(path) as part, part.open("wb") as file:
        try:
            # Given a path, PyTorch would write the temporary name into the file.
            torch.save(_canonical(content), file)
        except RuntimeError as error:  # torch reports a full disk as a RuntimeError of its zip writer
            raise OSError(str(error)) from error


def _canonical(content: Any) -> Any:
    """The content with equal texts made one object: a pickle writes those once, and equal others again."""
    if isinstance(content, str):
        return sys.intern(str(content))
    if type(content) in (dict, OrderedDict):
        return type(content)((_canonical(name), _canonical(value)) for name, value in content.items())
    if type(content) in (list, tuple):
        return type(content)(_canonical(value) for value in content)
    if isinstance(content, Tensor) and content.layout == torch.strided:
        plain = content.detach().contiguous()
        # A view would take all of what it looks at into the file.
        return plain if plain.untyped_storage().nbytes() == plain.numel() * plain.element_size() else plain.clone()
    return content


def read_tensors(path: str | Path) -> Any:
    """Read a PyTorch file as tensors and plain values, never as pickled code.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, is no PyTorch file, or holds anything but tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a weights file, found no file {path}. See models/README.md for how to get one."
        )
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file can make the reader fail in any way
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            reason = f"it holds an object of {refused[1]}, and making one would run code that the file chooses"
        else:
            # A text file's first bytes are taken for unknown instructions: the message is then their number alone.
            first = (str(error).splitlines() or [""])[0]
            reason = first if " " in first else "it is none, or it is damaged"
        raise ValueError(
            f"Expected a PyTorch file with tensors and plain values only, cannot read {path}: {reason}."
        ) from error


def check_definition(definition: Any, where: str) -> None:
    """Refuse a network definition that names anything but what ``scripts.networks`` offers, or holds an expression.

    Raises:
        ValueError: Naming the offending entry and ``where`` it stands.
    """
    if isinstance(definition, Mapping):
        if "_target_" in definition and definition["_target_"] not in _TARGETS:
            raise ValueError(
                f"Expected network definitions to name members of scripts.networks, got {definition['_target_']!r} "
                f"in {where}."
            )
        for key, value in definition.items():
            plain = key in ("_target_", "_desc_") or (key == "_mode_" and value in _MODES)
            if not isinstance(key, str) or (key.startswith("_") and not plain):
                raise ValueError(
                    f"Expected plain arguments in a network definition, got {key!r}: {value!r} in {where}."
                )
            check_definition(value, where)
    elif isinstance(definition, (list, tuple)):
        for value in definition:
            check_definition(value, where)
    elif isinstance(definition, str) and definition[:1] in ("$", "@", "%"):
        raise ValueError(f"Expected plain values in a network definition, got {definition!r} in {where}.")
    elif not isinstance(definition, (str, int, float, bool, type(None))):
        raise ValueError(f"Expected plain values in a network definition, got {type(definition).__name__} in {where}.")


def build_network(definition: Mapping[str, Any], where: str = "the network definition") -> nn.Module:
    """Build the network of a definition.

    Raises:
        ValueError: If the definition names anything but members of ``scripts.networks``, or does not build.
    """
    if not isinstance(definition, Mapping):
        raise ValueError(f"Expected a network definition, got {type(definition).__name__} in {where}.")
    check_definition(definition, where)
    try:
        network = ConfigParser({"network": dict(definition)}).get_parsed_content("network")
    except RuntimeError as error:  # MONAI's wrapper around whatever the constructor raised
        cause = error.__cause__ or error
        raise ValueError(
            f"Expected a definition that builds a network, got one that fails in {where}: {cause}"
        ) from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"Expected a definition that builds a network, got {type(network).__name__} from {where}.")
    return network


def load_network(path: str | Path, device: str | torch.device = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """Build the network of a weights file and load it, every tensor accounted for.

    Args:
        path: File written by :func:`save_weights`.
        device: Where to put the network.

    Returns:
        The network in evaluation mode, and the file's ``info`` with ``path`` and ``sha256`` added.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a file, or its tensors do not fit its definition.
    """
    content = _read_weights(path)
    if content["info"].get("part") == "backbone":
        raise ValueError(f"Expected the weights of a whole detector, got those of a backbone alone in {path}.")
    network = build_network(content["network"], str(path))
    load_state(network, content["model"], str(path))
    return network.eval().to(device), {**content["info"], "path": str(path), "sha256": sha256(path)}


def _read_weights(path: str | Path) -> dict[str, Any]:
    content = read_tensors(path)
    if not isinstance(content, dict) or "model" not in content or "network" not in content:
        held = sorted(map(str, content))[:6] if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"Expected a weights file with the keys 'model' and 'network', got {held} in {path}.")
    model, info = content["model"], content.get("info", {})
    if not isinstance(model, Mapping) or not all(isinstance(value, Tensor) for value in model.values()):
        raise ValueError(f"Expected a dict of tensors under 'model', got {type(model).__name__} in {path}.")
    if not isinstance(info, dict):
        raise ValueError(f"Expected a dict under 'info', got {type(info).__name__} in {path}.")
    return {"model": model, "network": content["network"], "info": info}


def load_state(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load a state dict strictly, with an error that a person can act on.

    Raises:
        ValueError: Listing the first missing, left-over and misshapen tensors, and ``where`` they come from.
    """
    _check_state(network.state_dict(), state, where)
    network.load_state_dict(dict(state))


def _check_state(own: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> None:
    missing = [name for name in own if name not in state]
    left_over = [name for name in state if name not in own]
    misshapen = [
        f"{name}: expected {tuple(own[name].shape)}, got {tuple(state[name].shape)}"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    if missing or left_over or misshapen:
        parts = [
            f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for kind, names in (("missing", missing), ("left over", left_over), ("of another shape", misshapen))
            if names
        ]
        raise ValueError(
            f"Expected weights of this network, but in {where} tensors are {'; '.join(parts)}. "
            "Architecture or number of slices differ."
        )


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors, in hexadecimal: the same for the same weights, whatever else a file says of them."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        # As bytes: NumPy has no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
