"""DeepLesion's labels in COCO style: one JSON file per split, as MVP-Net's authors published them.

Boxes are 0-based ``x, y, width, height``, one less in x and y than in ``DL_info.csv``. The files' ``area``
is x times height instead of width times height, in every box: it is not read. Patient and series come from
the file name; slice range and lesion type are not in these files.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ...boxes import from_coco
from ...storage.contained_paths import plain_name
from ...storage.printable import shown, shown_name
from ...storage.safe_json import finite_numbers, read_json
from ..records import DISPLAY_WINDOW, KeySlice, Record, log_findings, make_records


def read_coco(path: str | Path, images_dir: str | Path, *, keep_noisy: bool = True) -> list[Record]:
    """Read a COCO-style label file.

    Args:
        path: The JSON file.
        images_dir: Folder of the series folders (``Images_png``).
        keep_noisy: Whether boxes marked as noisy are kept, as the released code does.

    Returns:
        One record per image, in the file's order; images without boxes are kept. See `scripts.data.records`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not such a file, an image occurs twice, or a box or a value in it is invalid; the image
            is named.
    """
    path = Path(path)
    images, annotations, category = _load(path)
    findings: Counter[str] = Counter()
    slices: dict[Any, KeySlice] = {}
    names: dict[str, Any] = {}
    for position, image in enumerate(images):
        source = f"{path} image {position}"
        source = f"{source} ({shown_name(_get(image, 'file_name', source))})"
        number = _id(image, "id", source)
        if number in slices:
            raise ValueError(f"Expected each image id once, got {number} again for {source}.")
        slices[number] = _key_slice(image, source, findings)
        # Otherwise its boxes would be split over two images, and an evaluation would see only one.
        if (first := names.setdefault(slices[number].file_name, number)) != number:
            raise ValueError(f"Expected each key slice once, got that of image id {first} again for {source}.")
    wrong_areas = 0
    for position, annotation in enumerate(annotations):
        source = f"{path} annotation {position}"
        number = _id(annotation, "image_id", source)
        if number not in slices:
            raise ValueError(f"Expected the id of an image of this file, got image_id {shown(number)} in {source}.")
        source = f"{source} ({slices[number].file_name})"
        if _get(annotation, "category_id", source) != category:
            raise ValueError(
                f"Expected category {shown(category)}, got {shown(annotation['category_id'])} in {source}."
            )
        bbox = finite_numbers(_get(annotation, "bbox", source), 4, "bbox", source)
        noisy = bool(annotation.get("noisy", 0))
        slices[number].add(slices[number].checked(from_coco(np.array(bbox)), source), noisy=noisy, lesion_type=-1)
        area = annotation.get("area")
        wrong_areas += isinstance(area, (int, float)) and abs(area - bbox[2] * bbox[3]) > 0.01 * bbox[2] * bbox[3]
    log_findings(path.name, findings, logging.WARNING)
    log_findings(path.name, Counter({"boxes whose stored area is not width times height, not used": wrong_areas}))
    return make_records(slices.values(), images_dir, keep_noisy=keep_noisy, name=path.name)


def _load(path: Path) -> tuple[list[dict], list[dict], Any]:
    """The images, the annotations and the only category's id of the file."""
    content = read_json(path, "labels in COCO style")
    tables = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(table), list) for table in tables):
        raise ValueError(f"Expected a JSON object with the lists {', '.join(tables)} in {path}.")
    if not content["images"]:
        raise ValueError(f"Expected at least one image, got an empty list in {path}.")
    if len(content["categories"]) != 1:
        raise ValueError(f"Expected one category (Lesion), got {len(content['categories'])} in {path}.")
    return content["images"], content["annotations"], _get(content["categories"][0], "id", f"{path} category")


def _key_slice(image: dict, source: str, findings: Counter[str]) -> KeySlice:
    """Read one entry of ``images``."""
    height, width, spacing = (
        finite_numbers([_get(image, key, source)], 1, key, source)[0] for key in ("height", "width", "spacing")
    )
    if height < 1 or width < 1 or spacing <= 0:
        raise ValueError(
            f"Expected a size and a spacing above zero, got {height} x {width} and {spacing} mm in {source}."
        )
    interval = image.get("slice_intv")
    if interval is None or interval != interval:
        findings["images without a slice interval, read as 1 mm as in the released code"] += 1
        interval = 1.0
    (interval,) = finite_numbers([interval], 1, "slice_intv", source)
    if interval <= 0:
        raise ValueError(f"Expected a slice interval in mm above zero, got {interval} in {source}.")
    low, high = finite_numbers(image.get("windows", DISPLAY_WINDOW), 2, "windows", source)
    if not isinstance(image["file_name"], str):
        raise ValueError(f"Expected a text as file_name, got {shown(image['file_name'])} in {source}.")
    key_slice = KeySlice(
        file_name=plain_name(image["file_name"], f"{source}, file_name"),
        source=source,
        image_size=(int(height), int(width)),
        spacing=(spacing, spacing),
        slice_interval=interval,
        slice_range=None,
        window=(low, high),
    )
    if "slice_no" in image and image["slice_no"] != int(key_slice.slice_name):
        findings["images whose slice_no is not the number in their file name, which is used"] += 1
    return key_slice


def _get(entry: Any, key: str, source: str) -> Any:
    if not isinstance(entry, dict):
        raise ValueError(f"Expected a JSON object, got {shown(entry)} in {source}.")
    if key not in entry:
        raise ValueError(f"Expected the key {key!r}, got {shown(sorted(entry))} in {source}.")
    return entry[key]


def _id(entry: Any, key: str, source: str) -> int | str:
    number = _get(entry, key, source)
    if not isinstance(number, (int, str)):
        raise ValueError(f"Expected a number or a text as {key}, got {shown(number)} in {source}.")
    return number
