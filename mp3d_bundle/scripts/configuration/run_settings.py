"""What a training run was set to, in a form that a checkpoint can hold and a continuation can be compared with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import ignite.distributed as idist

from .typed_options import current_parser

_SAMPLER, _LOADERS = "train#sampler#_target_", ("train#dataloader#_target_", "validate#dataloader#_target_")
# Paths, speed, memory and logging: none of these changes the weights by more than rounding. The network has a check of
# its own, and handlers, wrappers and shares of the validation differ with the number of processes.
_FREE = {
    *("bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "tensorboard", "missing_images"),
    *("model_name", "notice", "log_interval", "val_interval", "max_epochs", "batch_size"),
    *("precision", "recomputed_stages"),
    *("device", "amp", "amp_dtype", "num_workers", "pin_memory", "persistent_workers", "prefetch_factor"),
    *("checkpoint_interval", "images_per_pass", "worker_init_fn", "device_transforms", "deferred", _SAMPLER, *_LOADERS),
    *("network_def", "network", "handlers", "train_handlers", "val_handlers", "validate#dataloader#sampler"),
    *(
        "rank_zero_handlers",
        "_meta_",
        "_desc_",
        "_shared_",
        "imports",
        "initialize",
        "fine_tuning",
        "finalize",
        "training",
        "run",
    ),
}
# Files to learn from; they may lie elsewhere when a run resumes.
_FILES = ("pretrained", "train_annotations", "train_images", "val_annotations", "val_images")
_BATCH = "batch_size x processes"
_SHOWN = 4
# Longest chain of references.
_DEPTH = 5


def run_settings() -> dict[str, Any]:
    """The settings of the running config that decide which weights a training makes, by the id of each item.

    Left out are places, pace and words, and what may change with the number of processes. The batch is that of all
    processes together, files are known by their name, and ``max_epochs`` is among the settings only where the
    schedule is computed from it.

    Returns:
        Plain values; expressions stay texts.

    Raises:
        ValueError: If this is not called from a config.
    """
    parser = current_parser()
    if parser is None:
        raise ValueError("Expected to be called from a config.")
    config: Mapping[str, Any] = parser.get()
    settings = dict(_leaves({name: value for name, value in config.items() if name not in _FREE}))
    for name in _FILES:
        if name in config:
            file = parser.get_parsed_content(name)
            settings[name] = None if file is None else PurePath(str(file)).name
    if "imagenet" in config:
        # Downloaded or from a file, they are the same weights.
        settings["imagenet"] = config["imagenet"] is not None
    # What the loader takes counts, wherever it is set.
    for name in ("train#dataloader#batch_size", "batch_size"):
        if name in parser:
            settings[_BATCH] = parser.get_parsed_content(name) * idist.get_world_size()
            break
    texts = [str(value) for name, value in settings.items() if not name.endswith("#max_epochs")]
    if any(re.search(r"@(\w+(#|::))*max_epochs\b", text) for text in texts):
        name = "train#trainer#max_epochs"
        settings["max_epochs"] = parser.get_parsed_content(name if name in parser else "max_epochs")
    return settings


def _leaves(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value below an item of a config, with its id."""
    nested = isinstance(node, (list, tuple)) and any(isinstance(value, (dict, list, tuple)) for value in node)
    if not isinstance(node, Mapping) and not nested:
        yield place, _plain(node)
        return
    for name, value in node.items() if isinstance(node, Mapping) else enumerate(node):
        inner = f"{place}#{name}" if place else str(name)
        if not {str(name), inner} & _FREE:
            yield from _leaves(value, inner)


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    # The text of any other object may hold its address, which no two processes share.
    return value if value is None or isinstance(value, (str, int, float, bool)) else type(value).__name__


def differences(stored: Mapping[str, Any], own: Mapping[str, Any], epochs_done: int) -> str:
    """Say in which settings a run is another one than that which left a checkpoint.

    Args:
        stored: Settings of the checkpoint.
        own: Settings of the run that would resume from it.
        epochs_done: Epochs behind the checkpoint. Milestones of the learning rate that lie ahead may move.

    Returns:
        ``"seed 1 and not 0"``, with the checkpoint's value last, each after a comma; "" where nothing differs.
    """
    # Older checkpoints hold MONAI's sampler of the same order, which cannot begin anywhere.
    stored = {name: value for name, value in stored.items() if name != _SAMPLER}
    stored, own = _at_one_depth(stored, own), _at_one_depth(own, stored)
    # A top-level item that only one config has matters only through what refers to it, which differs too.
    common = {name.partition("#")[0] for name in stored} & {name.partition("#")[0] for name in own}
    names = [name for name in {**stored, **own} if name.partition("#")[0] in common]
    shown = [
        f"{name} {own.get(name, 'absent')!r} and not {stored.get(name, 'absent')!r}"
        for name in names
        if _behind(name, own.get(name, "absent"), epochs_done) != _behind(name, stored.get(name, "absent"), epochs_done)
        and _written_out(own, name) != _written_out(stored, name)
    ]
    more = len(shown) - _SHOWN
    return ", ".join([*shown[:_SHOWN], *([f"and {more} more"] if more > 0 else [])])


def _written_out(settings: Mapping[str, Any], name: str) -> Any:
    """A setting with values for references, so that the same one counts as such whichever key it is taken from.

    One that is None is like one that is absent, as older checkpoints lack the options that came later.
    """
    value = settings.get(name)
    for _ in range(_DEPTH):
        if not isinstance(value, str) or "@" not in value:
            break
        value = re.sub(r"@[\w#:]+", lambda found: str(_referred(settings, found[0])), value)
    return str(value)


def _referred(settings: Mapping[str, Any], reference: str) -> Any:
    name = reference[1:].replace("::", "#")
    # A setting whose last part is unique is named by it alone: ``max_epochs`` of ``train#trainer#max_epochs``.
    return settings.get(name, settings.get(name.rpartition("#")[2], f"<{name.rpartition('#')[2]}>"))


def _at_one_depth(settings: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, where an item of several leaves that the other run gives as one value is one value too."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        whole = next((name[: at.start()] for at in re.finditer("#", name) if name[: at.start()] in other), None)
        if whole is None:
            found[name] = value
        elif name == f"{whole}#_target_" or whole not in found:
            found[whole] = f"computed by {value}" if name == f"{whole}#_target_" else "several values"
    return found


def _behind(name: str, value: Any, epochs_done: int) -> Any:
    """A setting as far as it has had an effect yet."""
    numbers = isinstance(value, list) and all(isinstance(item, (int, float)) for item in value)
    if name.rpartition("#")[2] != "milestones" or not numbers:
        return value
    return sorted(item for item in value if item <= epochs_done)
