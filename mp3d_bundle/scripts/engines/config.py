"""The running config seen from inside: unknown keys and plain copies."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from .given import take_as_typed
from .options import TEXTS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def current_parser() -> ConfigParser | None:
    """The config parser that is building the caller, or None outside of a config.

    MONAI gives a config no way to refer to itself as a whole, neither to the files it came from nor to
    the overrides of the command line; but whatever is built from a config is built by its parser, which
    is therefore on the call stack.
    """
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, ConfigParser):
            return owner
        frame = frame.f_back
    return None


def plain_config(parser: ConfigParser, key: str) -> Any:
    """One item of a config with every reference and expression replaced by its value.

    Args:
        parser: Parser of the config.
        key: Id of the item, for example "network_def".

    Returns:
        Plain data (JSON types); objects that are described by ``_target_`` stay descriptions.

    Raises:
        ValueError: If a value is no plain data.
    """
    node = parser[key]
    if isinstance(node, dict):
        return {name: plain_config(parser, f"{key}::{name}") for name in node}
    if isinstance(node, list):
        return [plain_config(parser, f"{key}::{index}") for index in range(len(node))]
    if isinstance(node, str) and node.startswith("@"):
        return plain_config(parser, node[1:])
    value = parser.get_parsed_content(key) if isinstance(node, str) else node
    if value is not None and not isinstance(value, (str, int, float, bool)):
        raise ValueError(f"Expected plain data in {key}, got {type(value).__name__} from {node!r}.")
    return value


def _entry_configs() -> dict[str, dict[str, Any]]:
    """The bundle's own configs by file name."""
    files = sorted(CONFIGS.glob("*.json"))
    return {file.name: _nested(json.loads(file.read_text())) for file in files if file.name != "metadata.json"}


def _nested(config: dict[str, Any]) -> dict[str, Any]:
    """An overlay's keys such as ``train#dataset#data`` as the nested keys that they stand for."""
    nested: dict[str, Any] = {}
    for name, value in config.items():
        *path, last = name.split("#")
        node = nested
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return nested


def _elsewhere(config: Mapping[str, Any], entries: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield a complaint for each key of the command line that only configs know of which this one is not made.

    ``training --checkpoint FILE`` would train from scratch without a word: the key belongs to the evaluation. Keys of
    files are left alone: an overlay serves training and evaluation, and some of its keys only one of them.
    """
    given = {word.removeprefix("--").partition("=")[0] for word in sys.argv if word.startswith("--")}
    used = {name for name, entry in entries.items() if set(entry) <= set(config)}
    known = {key for name in used for key in entries[name]}
    for key in sorted(given & set(config)):
        owners = [name for name, entry in entries.items() if key in entry]
        if used and owners and key not in known:
            unread = f"nothing in {' or '.join(sorted(used))} reads it"
            yield f"config key {key} belongs to {' and '.join(owners)}, and {unread}"


def _strays(config: dict[str, Any], known: list[dict[str, Any]], prefix: str = "") -> Iterator[str]:
    """Check one level against the bundle's own configs; yield a complaint for each key that fits nowhere."""
    names = {name for base in known for name in base}
    for name, value in config.items():
        if name.startswith("_"):
            continue
        if name not in names:
            similar = difflib.get_close_matches(name, names, n=1)
            hint = f" (did you mean {prefix}{similar[0]}?)" if similar else ""
            yield f"unknown config key {prefix}{name}{hint}"
            continue
        bases = [base[name] for base in known if name in base]
        yield from _mistyped(f"{prefix}{name}", value, bases)
        # What stands under a _target_ are arguments: Python itself refuses unknown ones.
        if isinstance(value, dict) and "_target_" not in value:
            yield from _strays(value, [base for base in bases if isinstance(base, dict)], f"{prefix}{name}#")


def _mistyped(name: str, value: Any, bases: list[Any]) -> Iterator[str]:
    if isinstance(value, str) and value[:1] in ("$", "@"):
        return
    # What one config computes, another one gives: the number of slices, for example.
    bases = [base for base in bases if not (isinstance(base, str) and base[:1] in ("$", "@"))] or bases
    for kinds, words in (((bool,), "True or False"), ((int,), "a whole number"), ((int, float), "a number")):
        if all(type(base) in kinds for base in bases):
            if type(value) not in kinds:
                yield f"expected {words} for config key {name}, got {value!r}"
            return


def check_config(parser: ConfigParser | None = None) -> None:
    """Refuse config keys that the bundle does not know, and numbers and switches of the wrong type.

    Paths and other texts are put into the config as the user typed them, see `scripts.engines.given`.

    MONAI takes a misspelt override (``--dataset_dirr``) or overlay key without a word. Every key of the
    merged config must therefore exist in one of the bundle's own ``configs/*.json``, and one given on the command
    line in those of which the config is made; keys that begin with an underscore are free for own use, and
    arguments under a ``_target_`` are left to Python.

    Args:
        parser: Parser of the config; by default the one that calls this function.

    Raises:
        ValueError: Names the first unknown or mistyped key, or a device that is not there.
    """
    parser = parser or current_parser()
    if parser is None:
        raise ValueError("Expected to be called from a config, or with its parser.")
    take_as_typed(parser, TEXTS)
    config, entries = dict(parser.get()), _entry_configs()
    for complaint in (*_strays(config, list(entries.values())), *_elsewhere(config, entries)):
        raise ValueError(f"{complaint[0].upper()}{complaint[1:]}.")
    _check_device(parser.get("device"))


def _check_device(device: Any) -> None:
    """Refuse a device that PyTorch does not know or this machine lacks; PyTorch's own message is about drivers."""
    if not isinstance(device, str) or device.startswith(("$", "@")):
        return
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"Expected a device such as cpu, cuda or cuda:1, got {device!r}.") from error
    known = torch.cuda.device_count()
    if wanted.type == "cuda" and (wanted.index or 0) >= known:
        raise ValueError(
            f"Expected a device of this machine, got {device} where PyTorch finds {known} CUDA GPUs; "
            "without --device the best one is taken."
        )
