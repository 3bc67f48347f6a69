"""Weights files: tensors, the definition of the network they fit, and what they are.

A file holds a dict ``{"model": state_dict, "network": definition, "info": {...}}``. The definition is the
config fragment that builds the network (``_target_`` and arguments), so that a narrow or deeper network needs
no further options. Files are read as tensors and plain values only. A definition may only name members of
``scripts.networks``, so that a file from a stranger cannot run code.
"""

from __future__ import annotations

import hashlib
import logging
import reprlib
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from . import networks
from .storage.atomic_files import replacing, sha256
from .storage.torch_files import read_tensors

logger = logging.getLogger(__name__)

# Exact names: MONAI would also follow "scripts.networks.two_stage.nn.…" to any module that a file imports.
_TARGETS = [f"scripts.networks.{name}" for name in networks.__all__]
_MODES = ["default", "callable"]
# Parts of a detector that a backbone file holds: the 3D body and its conversion to 2D.
BACKBONE_PARTS = ("backbone.body.", "backbone.conversions.")
# Far above any network of the paper and its successors, and low enough that building the network on the meta device
# (shapes without memory) takes seconds.
_MOST_NUMBER, _MOST_BLOCKS, _MOST_ENTRIES, _MOST_LEVELS, _LONGEST_TEXT = 65_536, 1024, 256, 16, 200
# Half precision converts to the network's own type without loss; other types were cast or are damaged.
_HALF = (torch.float16, torch.bfloat16)


class WeightsFile(TypedDict):
    """Content of a weights file, see the head of this module."""

    model: Mapping[str, Tensor]
    network: Any
    info: dict[str, Any]


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
    """``torch.save``, whole or not at all. Equal content gives equal bytes in every process.

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
    """The content with equal texts as one object: a pickle writes an object once, but equal objects twice."""
    if isinstance(content, str):
        return sys.intern(str(content))
    if type(content) in (dict, OrderedDict):
        return type(content)((_canonical(name), _canonical(value)) for name, value in content.items())
    if type(content) in (list, tuple):
        return type(content)(_canonical(value) for value in content)
    if isinstance(content, Tensor) and content.layout == torch.strided:
        plain = content.detach().contiguous()
        # A view would write the whole tensor behind it into the file.
        return plain if plain.untyped_storage().nbytes() == plain.numel() * plain.element_size() else plain.clone()
    return content


def check_definition(definition: Any, where: str) -> None:
    """Reject a network definition that names anything but members of ``scripts.networks``, or holds an expression.

    Numbers, lists and nesting beyond those of any real network are rejected too, so that a file cannot exhaust memory.

    Raises:
        ValueError: Naming the offending entry and ``where`` it was found.
    """
    entries = sum(1 for _ in _entries(definition, where))
    if entries > _MOST_ENTRIES:
        raise ValueError(f"Expected a network definition of at most {_MOST_ENTRIES} entries, got {entries} in {where}.")


def _entries(node: Any, where: str, level: int = 0) -> Iterator[Any]:
    """Every entry below a node of a definition, each checked."""
    wrong = ""
    if level > _MOST_LEVELS:
        raise ValueError(f"Expected a network definition at most {_MOST_LEVELS} levels deep, got more in {where}.")
    if isinstance(node, Mapping):
        _check_keys(node, where)
    elif isinstance(node, (list, tuple)):
        whole = sum(abs(value) for value in node if type(value) is int)
        if len(node) > _MOST_ENTRIES or whole > _MOST_BLOCKS:
            wrong = f"lists that add up to at most {_MOST_BLOCKS}"
    elif isinstance(node, str):
        if node[:1] in ("$", "@", "%") or len(node) > _LONGEST_TEXT:
            wrong = "plain values"
    elif isinstance(node, (int, float)):
        if not -_MOST_NUMBER <= node <= _MOST_NUMBER:
            wrong = f"numbers up to {_MOST_NUMBER}"
    elif node is not None:
        raise ValueError(f"Expected plain values in a network definition, got {type(node).__name__} in {where}.")
    if wrong:
        raise ValueError(f"Expected {wrong} in a network definition, got {shown(node)} in {where}.")
    for value in node.values() if isinstance(node, Mapping) else node if isinstance(node, (list, tuple)) else ():
        yield value
        yield from _entries(value, where, level + 1)


def _check_keys(node: Mapping[Any, Any], where: str) -> None:
    if "_target_" in node and node["_target_"] not in _TARGETS:
        raise ValueError(
            f"Expected network definitions to name members of scripts.networks, got {shown(node['_target_'])} "
            f"in {where}."
        )
    for key, value in node.items():
        plain = key in ("_target_", "_desc_") or (key == "_mode_" and value in _MODES)
        if not isinstance(key, str) or (key.startswith("_") and not plain):
            raise ValueError(
                f"Expected plain arguments in a network definition, got {shown(key)}: {shown(value)} in {where}."
            )


def shown(value: Any) -> str:
    """A value from a file, shortened for a message of one line."""
    return reprlib.repr(value)


def build_network(
    definition: Mapping[str, Any],
    where: str = "the network definition",
    *,
    state: Mapping[str, Tensor] | None = None,
    device: str = "cpu",
) -> nn.Module:
    """Build the network of a definition.

    Args:
        definition: See :func:`check_definition`.
        where: Source, for messages.
        state: Tensors that must fit; compared by name, shape and type before any memory is taken.
        device: ``"meta"`` for a network with shapes and without memory.

    Raises:
        ValueError: If the definition names anything but members of ``scripts.networks``, or does not build, or the
            tensors do not fit.
    """
    if not isinstance(definition, Mapping):
        raise ValueError(f"Expected a network definition, got {type(definition).__name__} in {where}.")
    check_definition(definition, where)
    if state is not None:
        _check_state(build_network(definition, where, device="meta").state_dict(), state, where)
    try:
        with torch.device(device):
            network = ConfigParser({"network": dict(definition)}).get_parsed_content("network")
    except (RuntimeError, ArithmeticError, TypeError, RecursionError, MemoryError) as error:
        cause = error.__cause__ or error  # MONAI wraps what the constructor raised
        reason = " ".join(str(cause).split())[:_LONGEST_TEXT]
        raise ValueError(
            f"Expected a definition that builds a network, got one that fails in {where}: "
            f"{reason or type(cause).__name__}"
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
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not such a file, or its tensors do not fit its definition.
    """
    content = read_detector(path)
    network = build_network(content["network"], str(path), state=content["model"])
    load_state(network, content["model"], str(path))
    return network.eval().to(device), {**content["info"], "path": str(path), "sha256": sha256(path)}


def read_weights(path: str | Path) -> WeightsFile:
    """Read a weights file; whether its tensors fit its network is not looked at.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is damaged, or not a weights file.
    """
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


def read_detector(path: str | Path) -> WeightsFile:
    """`read_weights` of a whole detector.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is damaged, not a weights file, or holds a backbone alone.
    """
    content = read_weights(path)
    if content["info"].get("part") == "backbone":
        raise ValueError(f"Expected the weights of a whole detector, got those of a backbone alone in {path}.")
    return content


def read_stored(path: str | Path) -> WeightsFile:
    """Read whatever holds weights: a weights file, ``last.pt`` of a training run, or a bare state dict.

    Returns:
        What the file has, unchecked; ``network`` is None and ``info`` empty where it has none.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is damaged, or not a dict.
    """
    content = read_tensors(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"Expected weights of a network, got {type(content).__name__} in {path}.")
    definition, info = content.get("network", content.get("definition")), content.get("info")
    return {
        "model": content.get("model", content),
        "network": definition,
        "info": dict(info) if isinstance(info, Mapping) else {},
    }


def load_state(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load a state dict strictly, with an error that a person can act on.

    Tensors must have the network's own types; weights stored in half precision are accepted too, with a log line.

    Raises:
        ValueError: Listing the first missing, left-over and misshapen tensors, those of another type and those with
            values that are not finite, and ``where`` they come from.
    """
    check_values(network.state_dict(), state, where)
    network.load_state_dict(dict(state))


def check_values(own: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> None:
    """Check a state dict against the network's own tensors, which may be without memory.

    Raises:
        ValueError: As `load_state`.
    """
    _check_state(own, state, where)
    broken = [name for name in own if state[name].is_floating_point() and not bool(state[name].isfinite().all())]
    if broken:
        raise ValueError(
            f"Expected finite weights, but in {where} {len(broken)} tensors have NaN or infinity ({_few(broken)})."
        )
    halved = [name for name in own if state[name].dtype != own[name].dtype]
    if halved:
        logger.warning(
            "%s: %d tensors are stored in half precision (%s): scores differ a little from those of the full weights.",
            *(where, len(halved), state[halved[0]].dtype),
        )


def _check_state(own: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> None:
    missing = [name for name in own if name not in state]
    left_over = [name for name in state if name not in own]
    misshapen = [
        f"{name}: expected {tuple(own[name].shape)}, got {tuple(state[name].shape)}"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    mistyped = [
        f"{name}: expected {own[name].dtype}, got {state[name].dtype}"
        for name in own
        if name in state and not _fits(own[name].dtype, state[name].dtype)
    ]
    if mistyped and not (missing or left_over or misshapen):
        raise ValueError(
            f"Expected weights of this network, but in {where} {len(mistyped)} tensors are of another type "
            f"({_few(mistyped)}): they were cast, or belong to something else."
        )
    if missing or left_over or misshapen:
        parts = [
            f"{len(names)} {kind} ({_few(names)})"
            for kind, names in (("missing", missing), ("left over", left_over), ("of another shape", misshapen))
            if names
        ]
        raise ValueError(
            f"Expected weights of this network, but in {where} tensors are {'; '.join(parts)}. "
            "Architecture or number of slices differ."
        )


def _fits(own: torch.dtype, stored: torch.dtype) -> bool:
    return stored == own or (own == torch.float32 and stored in _HALF)


def _few(names: Sequence[str]) -> str:
    """The first three of some names from a file."""
    return ", ".join([*(str(name)[:_LONGEST_TEXT] for name in names[:3]), *(["..."] if len(names) > 3 else [])])


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors, in hexadecimal: the same for the same weights, independent of the rest of the file."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        # As bytes: NumPy has no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
