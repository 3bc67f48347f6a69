"""A recipe: everything that shapes what a network sees, kept with its weights.

The same weights fail at another scale, window or order of slices. Training writes the recipe of its own
validation into the weights file; every use of the weights takes it from there.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypedDict

from torch import nn

from .data.coco.colour_slabs import COLOURS
from .data.intensity import IntensityWindow
from .data.slabs.z_lattice import LATTICES

logger = logging.getLogger(__name__)

# Key of the recipe in the facts of a weights file.
KEY = "recipe"
# Pixel sizes that differ by less than this share count as equal.
_ALIKE = 1e-3
_LARGEST = 65_536


class Deviation(TypedDict):
    """A value of a recipe: that of the weights and the one that is used in its place."""

    weights: Any
    used: Any


@dataclass(frozen=True)
class Recipe:
    """What a network sees of a scan or a photograph; the defaults are the paper's.

    Attributes:
        num_slices: Slices of a slab.
        slice_spacing: mm between the slices of a slab; None for photographs.
        z_mode: How slices between the stored ones are made, see `scripts.data.slabs.z_lattice`; None for photographs.
        test_scale: Longer side in pixels to which images are brought.
        stored_size: Longer side in pixels of the stored images in training (the median).
        pixel_spacing: mm of a pixel as the network sees it, if that was the same for all images in training.
        window: HU (or grey levels of a photograph) that become 0 and 255.
        mean: Subtracted from those.
        std: What they are then divided by.
        colour_order: Colours in the order of the slices; None for CT.
        classes: Names of the classes, in the order of their labels from 1.
        crop_border: Whether images are first cut to the body in their middle slice, see `scripts.data.border`.
        longest_side: Side in pixels that images of one ``pixel_spacing`` are reduced to where they are larger.
        tags: Names of the tags that the network gives, in its order; none if it gives none, or they are not known.
    """

    num_slices: int = 9
    slice_spacing: float | None = 2.5
    z_mode: str | None = "corrected"
    test_scale: int = 512
    stored_size: int = 512
    pixel_spacing: float | None = None
    window: tuple[float, float] = (-1024.0, 1050.0)
    mean: float = 123.675
    std: float = 58.395
    colour_order: str | None = None
    classes: tuple[str, ...] = ("lesion",)
    crop_border: bool = False
    longest_side: int | None = None
    tags: tuple[str, ...] = ()

    @property
    def photographs(self) -> bool:
        """Whether the network sees photographs, not CT."""
        return self.colour_order is not None

    def plain(self) -> dict[str, Any]:
        """The recipe as plain values, for a file; values of `LATER` only where they are not the default."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {name: value for name, value in values.items() if name not in LATER or value != LATER[name]}

    def deviations(self, used: Recipe) -> dict[str, Deviation]:
        """In what ``used`` differs: by name, the value of the ``weights`` and the one ``used``."""
        wanted, done = LATER | self.plain(), LATER | used.plain()
        return {name: {"weights": wanted[name], "used": done[name]} for name in wanted if wanted[name] != done[name]}

    def class_note(self) -> str | None:
        """Notice for figures that do not distinguish classes; None for a network of one class."""
        if len(self.classes) == 1:
            return None
        few = ", ".join(self.classes[:3]) + (", ..." if len(self.classes) > 3 else "")
        return f"The network distinguishes {len(self.classes)} classes ({few}); figures of all count as one class."


# What files of earlier releases do not say, and what holds for their weights.
LATER: dict[str, Any] = {"crop_border": False, "longest_side": None, "tags": []}
PAPER = Recipe()
# The released code's reading of photographs; the scale is not stated there, see docs/pretraining.md.
PHOTOGRAPHS = Recipe(3, None, None, 640, 640, window=(0.0, 255.0), colour_order="BGR")


def read_recipe(content: Any, where: str) -> Recipe:
    """Read a recipe of a file.

    Raises:
        ValueError: If a value is missing or not allowed in a recipe; names it, and ``where`` it was found.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"Expected a recipe with its values by name, got {type(content).__name__} in {where}.")
    content = LATER | dict(content)
    missing = [field.name for field in fields(Recipe) if field.name not in content]
    if missing:
        raise ValueError(f"Expected {missing[0]} in the recipe of {where}, got none.")
    values = {field.name: content[field.name] for field in fields(Recipe)}
    wrong = next((name for name, value in values.items() if not _CHECKS[name](value)), None)
    if wrong:
        raise ValueError(
            f"Expected a {wrong} that can be used, got {str(values[wrong])[:100]} in the recipe of {where}."
        )
    low, high = values["window"]
    lists = {name: tuple(values[name]) for name in ("classes", "tags")}
    return Recipe(**{**values, "window": (float(low), float(high)), **lists})


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _positive(value: Any) -> bool:
    return _number(value) and 0 < value <= _LARGEST


def _size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _LARGEST


def _names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) <= _LARGEST and all(isinstance(name, str) for name in value)


_CHECKS = {
    "num_slices": lambda value: _size(value) and value % 2 == 1,
    "slice_spacing": lambda value: value is None or _positive(value),
    "z_mode": lambda value: value is None or (isinstance(value, str) and value in LATTICES),
    "test_scale": _size,
    "stored_size": _size,
    "pixel_spacing": lambda value: value is None or _positive(value),
    "window": lambda value: (
        isinstance(value, Sequence) and len(value) == 2 and all(map(_number, value)) and value[0] < value[1]
    ),
    "mean": _number,
    "std": _positive,
    "colour_order": lambda value: value is None or (isinstance(value, str) and sorted(value) == sorted(COLOURS)),
    "classes": lambda value: _names(value) and len(value) > 0,
    "crop_border": lambda value: isinstance(value, bool),
    "longest_side": lambda value: value is None or _size(value),
    "tags": _names,
}


def stored_recipe(
    info: Mapping[str, Any], where: str, *, network: nn.Module | None = None, assumed: Recipe = PAPER
) -> Recipe:
    """The recipe that a weights file gives.

    Files of earlier releases have none. Then slices and classes are those of the network, the pixel size is the one
    that was stored for inference, and the rest is ``assumed``, with a warning that lists it.

    Args:
        info: Facts of the file.
        where: The file, for messages.
        network: Its network, on any device.
        assumed: The rest if the file has no recipe.

    Raises:
        ValueError: If the file's recipe cannot be used.
    """
    if info.get(KEY) is not None:
        return read_recipe(info[KEY], where)
    inference = info.get("inference", {})
    found = replace(assumed, pixel_spacing=inference.get("pixel_spacing") if isinstance(inference, Mapping) else None)
    # Other networks may lack the attribute.
    if hasattr(network, "backbone") and hasattr(network, "num_classes"):
        found = replace(found, num_slices=slices_of(network), classes=class_names(classes_of(network)))
    known = ("num_slices", "classes", *(["pixel_spacing"] if found.pixel_spacing is not None else []))
    values = [f"{name} {value}" for name, value in found.plain().items() if name not in known and value is not None]
    logger.warning(
        "%s does not record what its network saw in training. Assumed: %s. If it was trained otherwise, give the "
        "values as options.",
        *(where, ", ".join(values)),
    )
    return found


def fit_for(recipe: Recipe, where: str, *, photographs: bool) -> Recipe:
    """The recipe for CT or for photographs: that of the file, or as much of it as holds for the other kind.

    Returns:
        The recipe; of a file of the other kind only slices and classes, with a warning.
    """
    if recipe.photographs == photographs:
        return recipe
    kinds = ("photographs", "CT") if recipe.photographs else ("CT", "photographs")
    logger.warning("%s was trained on %s and is used on %s.", where, *kinds)
    other = PHOTOGRAPHS if photographs else PAPER
    return replace(other, num_slices=recipe.num_slices, classes=recipe.classes)


def tell_deviations(weights: Recipe, used: Recipe, where: str) -> dict[str, Deviation]:
    """Log each value that is used in place of the weights' own.

    Returns:
        The deviations, as `Recipe.deviations` gives them.
    """
    found = weights.deviations(used)
    for name, values in found.items():
        logger.warning(
            "%s: %s %s in place of %s from the weights' recipe.", where, name, values["used"], values["weights"]
        )
    return found


def slices_of(network: Any) -> int:
    """Slices that a network of `scripts.networks` reads."""
    return int(network.backbone.num_slices)


def classes_of(network: Any) -> int:
    """Classes that a network of `scripts.networks` distinguishes, without background."""
    return int(getattr(network, "num_classes", 1))


def class_names(count: int, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Names of ``count`` classes: the given ones if there are as many that differ, otherwise "lesion" or numbers."""
    if names is not None and len(names) == len(set(names)) == count:
        return tuple(map(str, names))
    return PAPER.classes if count == 1 else tuple(f"class {number}" for number in range(1, count + 1))


def window_values(window: IntensityWindow) -> dict[str, Any]:
    """A window as values of a recipe."""
    return {"window": (window.low, window.high), "mean": window.mean, "std": window.std}


def pixels_of(records: Sequence[Mapping[str, Any]], scale: int, window: int | None = None) -> dict[str, Any]:
    """The values of a recipe about pixels, for a data set whose images are resized to ``scale`` pixels.

    Args:
        records: Labelled images, see `scripts.data.records`.
        scale: Longer side in pixels.
        window: Longest side of the part of each image that is resized, see `scripts.data.random_window`; None for
            whole images.

    Returns:
        ``stored_size``, and ``pixel_spacing`` if all images have pixels of one size as the network sees them; of
        windows it is the median, because whole images of other sizes follow.
    """
    if not len(records):
        return {"stored_size": scale}
    longest = [min(max(record["image_size"]), window or max(record["image_size"])) for record in records]
    found: dict[str, Any] = {"stored_size": int(sorted(longest)[len(longest) // 2])}
    if all(record.get("spacing") is not None for record in records):
        pairs = zip(records, longest, strict=True)
        seen = [edge * side / scale for record, side in pairs for edge in record["spacing"]]
        alike = max(seen) <= min(seen) * (1 + _ALIKE)
        if min(seen) > 0 and (alike or window is not None):
            # Rounded: the last digits come from the division.
            found["pixel_spacing"] = float(f"{seen[0] if alike else sorted(seen)[len(seen) // 2]:.6g}")
    return found
