"""The classes of lesions by name, in results of a network that distinguishes several; others have none of this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..detections import LABELS, SliceBoxes
from .measurements import printable


def names_in_weights(model: Mapping[str, Any]) -> list[str]:
    """The names of the classes as weights give them, in the order of their labels; none where they give none."""
    return [str(name) for name in model.get("classes") or (model.get("recipe") or {}).get("classes") or ()]


def classes_for(found: SliceBoxes, model: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names of the classes of a network; None for one that does not distinguish any.

    Args:
        found: What it found; its field ``labels`` counts.
        model: The facts of its weights; the names are ``classes``, or those of the recipe. Without a name for each
            class, or with one for two of them, classes are called by their numbers.
    """
    if LABELS not in found.fields:
        return None
    names = [printable(name) for name in names_in_weights(model)]
    count = max(int(np.max(found.fields[LABELS], initial=0)), len(names), 2)
    if len(set(names)) == count:
        return tuple(names)
    return tuple(f"class {number}" for number in range(1, count + 1))


def classes_in(document: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The classes that a document was written with, see `classes_for`."""
    names = document["model"].get("classes")
    return None if names is None else tuple(names)


def describe_class(label: int | None, classes: Sequence[str] | None) -> dict[str, str]:
    """The class of a lesion or box as its entry has it; nothing where the network does not distinguish any."""
    return {} if label is None or classes is None else {"class": classes[label - 1]}


def class_text(entry: Mapping[str, Any]) -> str:
    """ ", tumour" of the entry of a lesion that has a class, else ""."""
    return f", {entry['class']}" if "class" in entry else ""
