"""Recipes of a running config: the one that its transforms make, and the one of a weights file."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data.border import CropBorderd
from ..data.coco.colour_slabs import ColourSlabReader
from ..data.deeplesion.lesion_tags import LesionTags
from ..data.random_window import RandWindowd
from ..data.scaling import ScalePixelsd
from ..data.slabs.slab_reader import SlabReader
from ..data.transforms import IntensityWindowd, LoadSlabd, ResizeSlabd
from ..recipe import (
    PAPER,
    PHOTOGRAPHS,
    Recipe,
    class_names,
    classes_of,
    fit_for,
    pixels_of,
    stored_recipe,
    window_values,
)
from ..weights import build_network, read_stored

logger = logging.getLogger(__name__)


def training_recipe(
    preprocessing: Any, network: Any, records: Sequence[Mapping[str, Any]], tags: str | Path | None = None
) -> dict[str, Any]:
    """The recipe of a training, from what its config built: it goes into the weights file.

    Args:
        preprocessing: What the validation does to a record.
        network: The network.
        records: What is trained on.
        tags: File with the tags of its lesions, if any.

    Returns:
        Plain values of a `Recipe`.
    """
    used = recipe_in_use(preprocessing, PAPER)
    categories = records[0].get("categories") if len(records) else None
    names = class_names(classes_of(network), getattr(categories, "names", None))
    named = LesionTags(Path(tags)).names if tags else ()
    window = next((each.pixels for each in preprocessing.transforms if isinstance(each, RandWindowd)), None)
    pixels = pixels_of(records, used.test_scale, window)
    if used.pixel_spacing is not None or used.crop_border:
        pixels.pop("pixel_spacing", None)  # that is of whole images brought to the scale
    return replace(used, classes=names, tags=named, **pixels).plain()


def recipe_in_use(preprocessing: Any, recipe: Recipe) -> Recipe:
    """What transforms really make of a record, in the words of a recipe.

    Args:
        preprocessing: A composition of `scripts.data.transforms`; others are logged, as a recipe cannot hold them.
        recipe: For what no transform decides.
    """
    found: dict[str, Any] = {"crop_border": False}
    for transform in preprocessing.transforms:
        if isinstance(transform, LoadSlabd) and isinstance(transform.reader, SlabReader):
            reader = transform.reader
            found |= {"num_slices": reader.num_slices, "slice_spacing": reader.spacing, "z_mode": reader.mode}
            found["colour_order"] = None
        elif isinstance(transform, LoadSlabd) and isinstance(transform.reader, ColourSlabReader):
            found |= {"num_slices": transform.reader.num_slices, "colour_order": transform.reader.order}
            found |= {"slice_spacing": None, "z_mode": None}
        elif isinstance(transform, IntensityWindowd):
            found |= window_values(transform.window)
        elif isinstance(transform, ResizeSlabd):
            found |= {"test_scale": transform.scale, "pixel_spacing": transform.pixel_spacing, "longest_side": None}
        elif isinstance(transform, ScalePixelsd):
            found |= {"pixel_spacing": transform.pixel_spacing, "longest_side": transform.longest_side}
        elif isinstance(transform, CropBorderd):
            found["crop_border"] = True
        elif isinstance(transform, RandWindowd):
            continue  # which part of an image is shown, not how
        else:
            logger.warning("The weights' recipe says nothing of %s, which changes the input.", type(transform).__name__)
    return replace(recipe, **found)


def weights_recipe(checkpoint: str | Path, *, photographs: bool = False) -> Recipe:
    """The recipe of a weights file, for a config that is built around it.

    Args:
        checkpoint: File of :mod:`scripts.weights`, ``last.pt`` of a training run, or a bare state dict.
        photographs: Whether it shall be used on photographs and not on CT.

    Returns:
        The file's recipe; what `scripts.recipe.stored_recipe` assumes where it has none, and the paper's where there
        is no such file (yet).

    Raises:
        ValueError: If the file is damaged, or its recipe cannot be used.
    """
    assumed = PHOTOGRAPHS if photographs else PAPER
    if not Path(checkpoint).is_file():
        return assumed
    return fit_for(file_recipe(checkpoint, assumed), str(checkpoint), photographs=photographs)


def file_recipe(checkpoint: str | Path, assumed: Recipe = PAPER) -> Recipe:
    """The recipe that a weights file gives, whatever it shall be used on; see `weights_recipe`."""
    content = read_stored(checkpoint)
    definition = content["network"]
    network = build_network(definition, str(checkpoint), device="meta") if isinstance(definition, Mapping) else None
    return stored_recipe(content["info"], str(checkpoint), network=network, assumed=assumed)
