"""Lesions in COCO's instances format as the truth that detections are scored on."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...boxes import from_coco
from ...data.importing.lesion_classes import IGNORE
from ...metrics.cases import Case
from ...storage.printable import shown_name
from ...storage.safe_json import finite_numbers, read_json
from .detected_categories import one_category

logger = logging.getLogger(__name__)


def coco_names(categories: Sequence[Mapping[str, Any]]) -> dict[Any, str]:
    """Names of the categories by their ids; none where a name or an id is missing or comes twice."""
    found = {str(entry.get("id")): str(entry.get("name")) for entry in categories}
    return found if len(set(found.values())) == len(categories) else {}


def coco_tables(path: Path) -> dict[str, list[Mapping[str, Any]]]:
    """The lists of a COCO file: images, annotations and categories.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not as expected.
    """
    content = read_json(path, "labels in COCO style")
    tables = ("images", "annotations", "categories")
    good = isinstance(content, dict) and all(
        isinstance(content.get(name), list) and all(isinstance(entry, Mapping) for entry in content[name])
        for name in tables
    )
    if not good or not content["images"]:
        raise ValueError(f"Expected a JSON object with the lists {', '.join(tables)} in {path}.")
    known = [str(entry.get("id")) for entry in content["categories"]]
    for row, entry in enumerate(content["annotations"]):
        if str(entry.get("category_id")) not in known:
            raise ValueError(
                f"Expected a category_id out of {', '.join(known)}, got {entry.get('category_id')!r}: "
                f"annotation {row} of {path}."
            )
    if len(set(known)) < len(known):
        raise ValueError(f"Expected an id of its own for each category, got {', '.join(known)} in {path}.")
    return content


def coco_truth(
    path: Path, content: Mapping[str, Sequence[Mapping[str, Any]]], category: str | None
) -> tuple[dict[str, Case], Any]:
    """Images of a COCO file, without detections, by their ids as text; and the id of the category, None for all.

    Ids are compared as texts, as a file may have them as numbers in one list and as texts in another.

    Raises:
        ValueError: If it is not as expected, or a box has no area in its image.
    """
    number = None if category is None else one_category(content["categories"], str(category), f"for {path}")
    # As in an import: what is called so is a region to ignore, whichever category counts.
    unknown = [
        str(entry.get("id")) for entry in content["categories"] if str(entry.get("name")).strip().lower() in IGNORE
    ]
    known = [entry for entry in content["categories"] if str(entry.get("id")) not in unknown]
    names = coco_names(known) if number is None else {}
    try:
        boxes, kinds, crowds = _coco_boxes(content["annotations"], number, names, unknown, path)
        cases: dict[str, Case] = {
            str(image["id"]): {
                "id": str(image.get("file_name", image["id"])),
                "patient": str(image.get("patient", image.get("file_name", image["id"]))),
                "boxes": np.zeros((0, 4)),
                "scores": np.zeros(0),
                "true_boxes": _from_rows(boxes[str(image["id"])]),
                "width": finite_numbers([image["width"]], 1, "width", f"image {row} of {path}")[0],
                "height": finite_numbers([image["height"]], 1, "height", f"image {row} of {path}")[0],
            }
            for row, image in enumerate(content["images"])
        }
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"Expected labels in COCO style, cannot use {path}: {type(error).__name__} {error}."
        ) from error
    strange = sorted({*boxes, *crowds} - set(cases))
    if strange or len(cases) < len(content["images"]):
        raise ValueError(
            f"Expected every image once and annotations of these alone in {path}, got others: {strange[:3]}."
        )
    if len(names) > 1:
        for key, case in cases.items():
            case["class_names"], case["true_classes"] = tuple(names.values()), np.array(kinds[key], dtype=str)
    if crowds:
        for key, case in cases.items():
            case["ignored_boxes"] = _from_rows(crowds[key])
        count = sum(len(rows) for rows in crowds.values())
        logger.info("%s: %d crowds and boxes of a category called ignore are regions to ignore.", path, count)
    _check_inside(cases.values(), path)
    nameless = sum("patient" not in image for image in content["images"])
    if nameless:
        logger.warning(
            "%s: %d of %d images name no patient (key patient of an image): the intervals take each of them for one.",
            *(path, nameless, len(cases)),
        )
    return cases, number


def _coco_boxes(
    annotations: Sequence[Mapping[str, Any]], number: Any, names: Mapping[Any, str], unknown: Sequence[str], path: Path
) -> tuple[dict[str, list[Any]], dict[str, list[str]], dict[str, list[Any]]]:
    """By images the boxes of a category, or of all where it is None, their names, and the regions to ignore."""
    boxes: dict[str, list[Any]] = defaultdict(list)
    kinds: dict[str, list[str]] = defaultdict(list)
    crowds: dict[str, list[Any]] = defaultdict(list)
    for row, entry in enumerate(annotations):
        kind, image = str(entry["category_id"]), str(entry["image_id"])
        region = kind in unknown
        if region or number is None or kind == str(number):
            box = finite_numbers(entry["bbox"], 4, "bbox", f"annotation {row} of {path}")
            if region or entry.get("iscrowd"):
                crowds[image].append(box)
            else:
                boxes[image].append(box)
                kinds[image].append(names.get(kind, ""))
    return boxes, kinds, crowds


def _from_rows(rows: Sequence[Sequence[float]]) -> np.ndarray:
    return from_coco(np.array(rows, dtype=np.float64).reshape(-1, 4))


def _check_inside(cases: Iterable[Case], path: Path) -> None:
    """Reject lesions and regions without area in their image: the rules of matching leave them out silently."""
    for case in cases:
        size = np.array([case["width"], case["height"]])
        boxes = np.concatenate([case["true_boxes"], case.get("ignored_boxes", np.zeros((0, 4)))])
        low, high = boxes[:, :2], boxes[:, 2:]
        wrong = ((high <= low) | (high <= 0) | (low >= size)).any(axis=1)
        if wrong.any():
            raise ValueError(
                f"Expected lesions with an area in their image of {size[0]:g} x {size[1]:g} pixels, got "
                f"{boxes[wrong][0].tolist()} (x1, y1, x2, y2) in {shown_name(case['id'])}, {path}."
            )
