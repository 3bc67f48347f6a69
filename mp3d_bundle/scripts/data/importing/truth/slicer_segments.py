"""What 3D Slicer writes into the header of a segmentation (``.seg.nrrd``): the names of its segments."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path


def segment_names(header: Mapping[str, str], path: Path) -> dict[int, dict[int, str]]:
    """The names of segments by layer and value.

    Args:
        header: Lines ``key:=value`` of the file.
        path: The file, for messages.

    Returns:
        None at all of a file of another program. Older versions of Slicer name neither: each segment is a layer of its
        own with the value 1.

    Raises:
        ValueError: If a layer or value is not a whole number, or two segments have the same.
    """
    found: dict[int, dict[int, str]] = defaultdict(dict)
    for number in itertools.count():
        key = f"Segment{number}"
        if f"{key}_ID" not in header:
            break
        layer, value = (
            _whole(header.get(f"{key}_{what}", default), f"{key}_{what} of {path}")
            for what, default in (("Layer", str(number)), ("LabelValue", "1"))
        )
        if value in found[layer]:
            raise ValueError(f"Expected one segment for a value, got two for {value} of layer {layer} in {path}.")
        found[layer][value] = header.get(f"{key}_Name") or header[f"{key}_ID"]
    return dict(found)


def _whole(text: str, where: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise ValueError(f"Expected a whole number, got {text!r:.40} as {where}.")
    return int(text)
