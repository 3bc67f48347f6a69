"""The running config seen from inside: unknown keys and plain copies."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigExpression, ConfigParser

from ..data.deeplesion.dl_info import SPLITS
from ..data.importing.set_tables import read_set
from ..metrics.matching import RULES as FROC_RULES
from ..metrics.matching import FrocRule
from .option_rules import RULES, TEXTS, is_group, misfits
from .overlay_order import overlay_complaints
from .read_keys import SEPARATOR, changes, ids_read, item, normal, unread
from .recipe_checks import recipe_complaints
from .set_classes import LOADER, adopt_classes
from .tracking import adopt_tracking
from .typed_options import (
    MARKS,
    config_files,
    current_parser,
    current_workflow,
    given_options,
    ids_asked,
    take_as_typed,
    take_none,
)

logger = logging.getLogger(__name__)

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_RECORDS = f"train{SEPARATOR}dataset{SEPARATOR}data"
# Options of `evaluate_volumes.json` that say how lesions are detected; a file of predictions needs none of them.
_OF_A_DETECTOR = (
    *("checkpoint", "num_slices", "slice_spacing", "pixel_spacing", "image_size", "box_threshold", "sw_batch_size"),
    *("amp", "amp_dtype", "crop_border", "longest_side", "native_slices"),
)


def plain_config(parser: ConfigParser, key: str) -> Any:
    """One item of a config with every reference and expression replaced by its value.

    Args:
        parser: Parser of the config.
        key: Id of the item, for example "network_def".

    Returns:
        Plain data (JSON types); objects that are described by ``_target_`` stay descriptions.

    Raises:
        ValueError: If a value is not plain data.
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


def _expression_value(parser: ConfigParser, value: Any) -> Any:
    """The value of an expression that refers to nothing; anything else as it is."""
    if not isinstance(value, str) or not value.startswith("$") or "@" in value or not parser.ref_resolver.items:
        return value
    return ConfigExpression(value, globals=parser.globals).evaluate()


def _complaints(parser: ConfigParser) -> Iterator[str]:
    """Yield what is wrong with the keys and values of a config."""
    config: dict[str, Any] = normal(parser.get())
    entries: dict[str, dict[str, Any]] = normal(_entry_configs())
    used = [name for name, entry in entries.items() if "run" in entry and set(entry) <= set(config)]
    given = [name.replace("#", SEPARATOR) for name in given_options()]
    # A config that is not made of the bundle's own may have any keys.
    if used:
        workflow = current_workflow()
        own = [name for file in used for name in entries[file] if entries[file][name] == entries[file]["run"]]
        roots = ("initialize", "finalize", *own)
        if workflow is not None:
            if item(config, workflow.run_id.replace("#", SEPARATOR)) is None:
                yield f"expected a workflow of {' and '.join(used)} to run ({', '.join(own)}), got {workflow.run_id}"
            roots = (workflow.init_id, workflow.run_id, workflow.final_id, *ids_asked())
        yield from unread(config, entries, used=used, roots=roots, given=given)
    # A group that lost a key has no key that changed.
    groups = [name for entry in entries.values() for name in _groups(entry) if item(config, name) is not None]
    for name in dict.fromkeys([*given, *groups, *changes(config, list(entries.values()))]):
        bases = [base for entry in entries.values() if (base := item(entry, name)) is not None]
        value = _expression_value(parser, item(config, name))
        yield from misfits(name.replace(SEPARATOR, "#"), value, bases)
    yield from overlay_complaints([(file, ConfigParser.load_config_file(file)) for file in config_files()])
    yield from recipe_complaints(config)
    yield from _misnamed_rule(config)
    yield from _empty_splits(config)
    yield from _without_effect(parser, config, [*given, *changes(config, [entries[name] for name in used])])


def _groups(node: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """Ids of the groups of plain options in a config; arguments under a ``_target_`` are left to Python."""
    for name, value in node.items():
        here = f"{place}{SEPARATOR}{name}" if place else name
        if is_group(value):
            yield here
        elif isinstance(value, Mapping) and "_target_" not in value and not name.startswith("_"):
            yield from _groups(value, here)


def _misnamed_rule(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a complaint if the FROC has a known rule's name and other numbers, so that it would be taken for that."""
    node = config.get("froc_rule")
    given = {name: value for name, value in node.items() if name != "_target_"} if isinstance(node, Mapping) else {}
    defaults = {each.name: each.default for each in fields(FrocRule)}
    known = FROC_RULES.get(str(given.get("name")))
    for name, value in {} if known is None else asdict(known).items():
        if (other := given.get(name, defaults[name])) != value:
            yield (
                f"config key froc_rule#name is {given['name']}, the rule with {name} {value}, got {other}: take the "
                "rule's own overlay (configs/variants/froc_*.yaml), or give another name"
            )
            return


def _empty_splits(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a complaint if an imported set has nothing to train on, or nothing to score: the run would do nothing."""
    folder = config.get("dataset_dir")
    if not isinstance(folder, str) or folder.startswith(MARKS) or not os.path.isdir(folder):
        return
    for place, split, advice in (
        ("train::dataset::data", "train", "import it with a larger share for training"),
        ("dataset::data", config.get("split"), "give --split"),
    ):
        data = item(config, place)
        reads = isinstance(data, Mapping) and data.get("_target_") == LOADER and data.get("annotations") is None
        about = read_set(Path(folder)) if reads and split in SPLITS else None
        if about is not None and split not in about["splits"]:
            yield f"expected patients for {split} in {folder}, it has them for {', '.join(about['splits'])}: {advice}"


def _without_effect(parser: ConfigParser, config: Mapping[str, Any], chosen: Collection[str]) -> Iterator[str]:
    """Yield a complaint for each chosen option that only has an effect together with another one."""
    if config.get("pretrained") is None:
        for name in ("pretrained_transfer", "pretrained_parts"):
            if name in chosen:
                yield f"config key {name} has no effect without --pretrained FILE"
        if "frozen_stages" in chosen and config.get("frozen_stages") != 0 and config.get("imagenet") is None:
            yield "config key frozen_stages would keep random weights: give --pretrained FILE or --imagenet"
    if "subset_seed" in chosen and config.get("train_fraction") == 1:
        yield "config key subset_seed has no effect on all of the training images: give a --train_fraction below 1"
    records = item(config, _RECORDS)
    # GrabCut makes its masks of the measurements that any records have.
    options = ("tags",) if config.get("mask_targets") == "grabcut" else ("tags", "mask_targets")
    for name in options if isinstance(records, Mapping) else ():
        if name in chosen and config.get(name) is not None and name not in ids_read(config, [_RECORDS]):
            yield f"config key {name} has no effect: {records.get('_target_')} reads the lesions without it"
    outputs, pictures = config.get("outputs"), [name for name in ("overlays", "slice_overlays") if name in chosen]
    if isinstance(outputs, str) and not outputs.startswith(MARKS):
        outputs = [name.strip() for name in outputs.split(",")]
    if pictures and isinstance(outputs, (list, tuple)) and "overlays" not in outputs:
        yield f"config key {pictures[0]} has no effect without overlays among the --outputs"
    if config.get("predictions") is not None and (unused := [name for name in _OF_A_DETECTOR if name in chosen]):
        yield f"config key {unused[0]} has no effect with --predictions, which are scored without a detector"
    if "amp_dtype" in chosen and parser.ref_resolver.items and parser.get_parsed_content("amp") in (False, "false"):
        yield "config key amp_dtype has no effect while amp is False, its default without a GPU: give --amp True"


def _warn_of_size(parser: ConfigParser) -> None:
    """Warn of an image size that is given where the size of a pixel decides, which may be the weights' own."""
    given = given_options()
    # Of an evaluation the weights' own pixel size gives way to another scale.
    names = ("image_size", "test_scale") if "pixel_spacing" in given else ("image_size",)
    sizes = [name for name in names if name in given]
    if not sizes or not parser.ref_resolver.items or "pixel_spacing" not in parser:
        return
    if (spacing := parser.get_parsed_content("pixel_spacing")) is not None:
        logger.warning(
            "Config key %s has no effect with a pixel_spacing of %g mm, to which images are brought whatever their "
            "size: give --pixel_spacing None as well.",
            *(sizes[0], spacing),
        )


def check_config(parser: ConfigParser | None = None) -> None:
    """Reject config keys that nothing reads, and values that an option cannot have.

    MONAI takes a misspelt override (``--dataset_dirr``), or one of another workflow (``training --checkpoint FILE``),
    silently. Every key that is set, wherever it comes from, must therefore be reached from what the run
    evaluates, see `.read_keys`, and hold what `.option_rules` says. Keys that begin with an
    underscore are free for own use, keys that an overlay lists under ``_shared_`` are for another workflow, and
    arguments under a ``_target_`` are left to Python. Paths and other texts are put into the config as the user typed
    them, see `scripts.configuration.typed_options`.

    Args:
        parser: Parser of the config; by default the one that calls this function.

    Raises:
        ValueError: Names the first key at fault, a device that is not there, or processes that would all do the same.
    """
    parser = parser or current_parser()
    if parser is None:
        raise ValueError("Expected to be called from a config, or with its parser.")
    take_as_typed(parser, TEXTS)
    take_none(parser, [name for name, rule in RULES.items() if rule.fits(None)])
    adopt_tracking(parser)
    adopt_classes(parser)
    for complaint in _complaints(parser):
        raise ValueError(f"{complaint[0].upper()}{complaint[1:]}.")
    _warn_of_size(parser)
    _check_device(parser.get("device"))
    _check_processes(parser.get("initialize"))


def _check_processes(initialize: Any) -> None:
    """Reject several processes of a launcher that the config does not join: each would do all the work."""
    joined = any(word in str(initialize) for word in ("init_process_group", "idist.initialize"))
    processes = os.environ.get("WORLD_SIZE", "1") if "RANK" in os.environ else "1"
    if processes != "1" and not joined:
        raise ValueError(
            f"Expected one process, got {processes} from torchrun, which would all do the same over one another. A "
            "training shares its work after configs/multi_gpu_train.json in --config_file, an evaluation of key slices "
            "after configs/multi_gpu_evaluate.json; anything else runs in one."
        )
    # Workers that are started again find the addresses of those before them in the store that the agents keep.
    keeps = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if joined and keeps and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0" and os.environ.get("RANK") == "0":
        logger.warning(
            "Set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment of torchrun: without it, workers that are "
            "started again may not find each other (docs/cluster.md)."
        )


def _check_device(device: Any) -> None:
    """Reject a device that PyTorch does not know or this machine lacks; PyTorch's own message is about drivers."""
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
