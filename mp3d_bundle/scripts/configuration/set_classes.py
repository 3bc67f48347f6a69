"""The classes of an imported set in the config of a training: the network distinguishes as many."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Mapping
from pydoc import locate
from typing import Any

from monai.bundle import ConfigParser

from ..data.importing.set_tables import class_names
from .read_keys import item
from .typed_options import MARKS

logger = logging.getLogger(__name__)

# What reads a split of a data set.
LOADER = "scripts.data.deeplesion.splits.load_records"
_COUNT = "num_classes"
_ONE_CLASS = "to take them for one class, give --train#dataset#data#by_class False"


def set_classes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes that a training tells apart on its set.

    Args:
        config: A config, nested, with its texts as they were typed.

    Returns:
        At least two names; none where the set is not an imported one, has one class, or all are taken for one.
    """
    data, folder = item(config, "train::dataset::data"), config.get("dataset_dir")
    if not isinstance(data, Mapping) or data.get("_target_") != LOADER or data.get("by_class") is False:
        return ()
    if not isinstance(folder, str) or folder.startswith(MARKS) or not os.path.isdir(folder):
        return ()
    names = class_names(folder)
    return names if len(names) > 1 else ()


def adopt_classes(parser: ConfigParser) -> None:
    """Make the network of a training one for the classes of its set, where the config does not say for how many.

    Args:
        parser: Parser of the config; it is changed in place.

    Raises:
        ValueError: If the config says another number than the set has, or the network tells no classes apart.
    """
    config: Any = parser.get()
    names = set_classes(config)
    network = config.get("network_def")
    if not names or not isinstance(network, dict):
        return
    known = f"{config['dataset_dir']} has {len(names)} classes ({', '.join(names)})"
    given = network.get(_COUNT)
    if isinstance(given, str) and given.startswith(MARKS):
        return  # computed: the loss still rejects labels that are too high
    if given is None:
        target = str(network.get("_target_"))
        if not _takes_count(locate(target)):
            raise ValueError(f"Expected a network of several classes, as {known}, got {target}: {_ONE_CLASS}.")
        network[_COUNT] = len(names)
        logger.info("%s: the network distinguishes as many.", known)
    elif given != len(names):
        raise ValueError(f"Expected network_def#{_COUNT} {len(names)}, as {known}, got {given!r}; {_ONE_CLASS}.")


def _takes_count(made: Any) -> bool:
    known = inspect.signature(made).parameters if callable(made) else {}
    return _COUNT in known or any(each.kind is each.VAR_KEYWORD for each in known.values())
