"""Recipes of the compared systems: whether one fits the network that the config has."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from pydoc import locate
from typing import Any

from ..data.intensity import IntensityWindow
from ..networks import ResNet3d
from .read_keys import item

logger = logging.getLogger(__name__)

# An overlay `recipe_NAME.yaml` names by such a key the networks that its authors train so.
_PREFIX, _END = "_recipe_", "_"
# An overlay `narrow_NAME.yaml` names by such a key the arguments that it gives the network.
_NARROW = "_narrow_"
_WINDOW = ("low", "high", "mean", "std")


def recipe_complaints(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the recipe of a config, and log what may be wanted.

    A recipe that trains another network than its authors' is a fair experiment, so it is only logged. What that
    network cannot read is an error.

    Args:
        config: See `.read_keys.normal`.
    """
    network = config.get("network_def")
    target = network.get("_target_") if isinstance(network, Mapping) else None
    if not isinstance(network, Mapping) or not isinstance(target, str):
        return
    yield from _imagenet_in_3d(config, network)
    yield from _unlike_windows(config, network, target)
    for key in (each for each in config if each.startswith(_NARROW)):
        name = key[1 : -len(_END)]
        if lost := [argument for argument in config[key] if argument not in network]:
            yield f"config key network_def#{lost[0]} of {name} is lost: put {name} behind the overlay of the network"
        if unknown := sorted(_unknown_arguments(network, target)):
            yield f"config key network_def#{unknown[0]} of {name} is not read: {target} has no such argument"
    recipes = {name[1 : -len(_END)]: value for name, value in config.items() if _is_recipe(name)}
    if len(recipes) > 1:
        yield f"expected one recipe, got {' and '.join(recipes)}, of which each replaces parts of the others"
    for recipe, networks in recipes.items():
        if target in networks:
            continue
        said = f"{recipe} is the recipe of {', '.join(networks)}"
        if unknown := sorted(_unknown_arguments(network, target)):
            yield f"config key network_def#{unknown[0]} is not read: {said}, and {target} has no such argument"
        if config.get("z_mode") == "native":
            yield (
                f"config key z_mode is native: {said}, which know the distance of stored slices, and {target} does "
                "not: give --z_mode corrected"
            )
        logger.warning("Training %s by another network's recipe: %s.", target, said)
    if config.get("mask_targets") == "grabcut" and recipes and not _makes_masks(config):
        yield (
            f"config key mask_targets is grabcut, but the transforms of {next(iter(recipes))} make no such masks: give "
            "--mask_targets ellipses"
        )


def _is_recipe(name: str) -> bool:
    return name.startswith(_PREFIX) and name.endswith(_END)


def _makes_masks(config: Mapping[str, Any]) -> bool:
    transforms = item(config, "train::preprocessing::transforms")
    return any("GrabCutMasksd" in str(each) for each in transforms or ())


def _imagenet_in_3d(config: Mapping[str, Any], network: Mapping[str, Any]) -> Iterator[str]:
    """ImageNet's weights are of 2D bodies; its overlay also gives the body batch norms, which a 3D one has not."""
    body = network.get("body")
    target = body.get("_target_") if isinstance(body, Mapping) else None
    made = locate(target) if isinstance(target, str) else None
    if config.get("imagenet") is not None and isinstance(made, type) and issubclass(made, ResNet3d):
        yield (
            f"config key imagenet is {config['imagenet']}, but ImageNet weights are of 2D bodies and {target} is a 3D "
            "one: leave out init_imagenet.yaml or --imagenet and start from COCO by init_coco.yaml (--pretrained "
            "FILE), or add the overlay of a 2D network such as fpn_3dce_9.yaml"
        )


def _unlike_windows(config: Mapping[str, Any], network: Mapping[str, Any], target: str) -> Iterator[str]:
    """A network that converts its input back to HU must do so by the window that made it."""
    made = locate(target)
    known = inspect.signature(made).parameters if callable(made) else {}
    window = config.get("window")
    if "window" not in known or not isinstance(window, Mapping):
        return
    usual = inspect.signature(IntensityWindow).parameters
    given = [window.get(name, usual[name].default) for name in _WINDOW]
    read = network.get("window", known["window"].default)
    numbers = isinstance(read, (list, tuple)) and all(isinstance(each, (int, float)) for each in [*given, *read])
    if numbers and list(read) != given:
        yield (
            f"expected network_def#window to be that of the slabs, {given}, got {list(read)}: put the overlay of the "
            "network in front of its recipe"
        )


def _unknown_arguments(network: Mapping[str, Any], target: str) -> set[str]:
    made = locate(target)
    known = inspect.signature(made).parameters if callable(made) else None
    if known is None or any(each.kind is each.VAR_KEYWORD for each in known.values()):
        return set()
    return {name for name in network if not name.startswith("_") and name not in known}
