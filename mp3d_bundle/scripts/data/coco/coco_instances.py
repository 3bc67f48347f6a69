"""COCO's instances JSON: records of photographs for pre-training (paper section 2.2).

COCO numbers its 80 categories from 1 to 90 with gaps; labels count without gaps in the order of these numbers.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...boxes import from_coco
from ...instances import num_instances
from ...storage.contained_paths import plain_name
from ...storage.needed_files import need_folder
from ...storage.printable import shown, shown_name
from ...storage.safe_json import finite_numbers, read_json
from ..records import MAX_SIDE, ImageRecord, check_images, log_findings
from ..training_fraction import Subset

logger = logging.getLogger(__name__)

# What to do with images without a box to train on.
EMPTY_IMAGES = ("keep", "drop")
_TABLES = ("images", "annotations", "categories")
# Pixels. Far above any image, and its square still is a float32.
_BOUND = 1e9


@dataclass(frozen=True)
class Categories:
    """The classes of a data set; label 1 is the first of them.

    Attributes:
        ids: Their numbers in the labels, rising, perhaps with gaps.
        names: Their names.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]


class CocoRecord(ImageRecord):
    """A photograph. Its ``instances`` are the training targets: without crowds and boxes without area.

    Attributes:
        image_id: Number of the image in the labels.
        categories: Those of the data set.
        truth: Everything that was annotated, for COCO's own evaluation: ``bbox`` float64 ``(M, 4)`` (x, y, width,
            height), ``category_id`` int64, ``area`` float64 in square pixels and ``crowd`` bool, ``(M,)`` each.
    """

    image_id: int
    categories: Categories
    truth: dict[str, np.ndarray]


def load_instances(
    dataset_dir: str | Path,
    *,
    annotations: str | Path,
    images: str | Path,
    num_classes: int = 80,
    empty_images: str = "keep",
    missing_images: str = "raise",
    like: Sequence[CocoRecord] | None = None,
    subset: Subset | None = None,
) -> list[CocoRecord]:
    """Read an instances JSON.

    Args:
        dataset_dir: Folder of the data set.
        annotations: The JSON file; relative paths start at ``dataset_dir``.
        images: Folder of the images; relative paths start at ``dataset_dir``.
        num_classes: Categories that the file must have: those of the network.
        empty_images: ``"keep"`` images without a box, for evaluation, or ``"drop"`` them, as the released code
            does in training. Crowds alone do not count as boxes.
        missing_images: What to do about absent files: ``"raise"``, ``"drop"`` or ``"ignore"``.
        like: Records whose categories these must share, if any.
        subset: Draws a share of the images that are there; all of them if left out.

    Returns:
        One record per image in the file's order, see the head of this module.

    Raises:
        OSError: If the folder, the labels or images are missing, or a file is in the place of a folder.
        ValueError: If the labels are not as expected; the file and the entry are named.
    """
    if empty_images not in EMPTY_IMAGES:
        raise ValueError(f"Expected empty images to be one of {EMPTY_IMAGES}, got {empty_images!r}.")
    folder = Path(dataset_dir)
    need_folder(folder, "a data set folder at")
    path, images_dir = folder / annotations, folder / images
    if missing_images != "ignore":
        need_folder(images_dir, "the images in the folder")
    content = _read(path)
    categories = _categories(content["categories"], path)
    _check_categories(categories, num_classes, like, path)
    records = _images(content["images"], images_dir, categories, path)
    _annotate(records, content["annotations"], categories, path)
    kept = _sift(list(records.values()), empty_images, path)
    present = check_images(kept, missing_images, what="images", within=images_dir)
    return present if subset is None else subset(present)


def _read(path: Path) -> dict[str, list[Any]]:
    """The three tables of the file."""
    content = read_json(path, "labels in COCO's instances format")
    if not isinstance(content, dict) or not all(isinstance(content.get(table), list) for table in _TABLES):
        raise ValueError(f"Expected a JSON object with the lists {', '.join(_TABLES)} in {path}.")
    for table in ("images", "categories"):
        if not content[table]:
            raise ValueError(f"Expected at least one entry in the list {table}, got none in {path}.")
    return {table: content[table] for table in _TABLES}


def _fields(entry: Any, keys: Iterable[str], source: str) -> list[Any]:
    """The values of ``keys`` in one entry of a table."""
    if not isinstance(entry, dict):
        raise ValueError(f"Expected a JSON object, got {type(entry).__name__} as {source}.")
    for key in keys:
        if key not in entry:
            raise ValueError(f"Expected the key {key!r}, got {shown(sorted(entry))} in {source}.")
    return [entry[key] for key in keys]


def _whole(value: Any, key: str, source: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"Expected a whole number as {key}, got {shown(value)} in {source}.")
    return value


def _categories(table: list[Any], path: Path) -> Categories:
    names: dict[int, str] = {}
    for position, entry in enumerate(table):
        source = f"{path} category {position}"
        number, name = _fields(entry, ("id", "name"), source)
        if _whole(number, "id", source) in names:
            raise ValueError(f"Expected each category id once, got {number} again in {source}.")
        if not isinstance(name, (str, int, float)):
            raise ValueError(f"Expected a text as name, got {shown(name)} in {source}.")
        names[number] = str(name)
    ids = tuple(sorted(names))
    return Categories(ids, tuple(names[number] for number in ids))


def _check_categories(categories: Categories, num_classes: int, like: Sequence[CocoRecord] | None, path: Path) -> None:
    if len(categories.ids) != num_classes:
        raise ValueError(
            f"Expected {num_classes} categories, as many as the network has classes, got {len(categories.ids)} in "
            f"{path} (in a training --num_classes {len(categories.ids)} makes a network for them)."
        )
    if not like:
        return
    others = like[0]["categories"]
    pairs = zip(others.ids, others.names, categories.ids, categories.names, strict=True)
    for number, name, here, named in pairs:
        if (number, name) != (here, named):
            raise ValueError(
                f"Expected the same categories in both files, as labels count by them: {like[0]['source']} "
                f"has id {number} ({name}) where {path} has {here} ({named})."
            )


def _images(table: list[Any], images_dir: Path, categories: Categories, path: Path) -> dict[int, CocoRecord]:
    """Records without boxes by image id, in the file's order."""
    records: dict[int, CocoRecord] = {}
    names: set[str] = set()
    for position, entry in enumerate(table):
        source = f"{path} image {position}"
        number, name, height, width = _fields(entry, ("id", "file_name", "height", "width"), source)
        name = plain_name(name, f"{source}, file_name")
        source = f"{source} ({shown_name(name)})"
        if _whole(number, "id", source) in records:
            raise ValueError(f"Expected each image id once, got {number} again in {source}.")
        if name in names:
            raise ValueError(f"Expected each image once, got the file_name {shown_name(name)} again in {source}.")
        names.add(name)
        sides = (_whole(height, "height", source), _whole(width, "width", source))
        if not all(1 <= side <= MAX_SIDE for side in sides):
            raise ValueError(
                f"Expected an image of at least 1 x 1 pixels, got {height} x {width} (at most {MAX_SIDE} a side) in "
                f"{source}."
            )
        records[number] = {
            "image": str(images_dir / name),
            "file_name": name,
            "image_id": number,
            "source": source,
            "image_size": (height, width),
            "window": (0.0, 255.0),
            "categories": categories,
            "instances": {},
            "truth": {},
        }
    return records


def _annotate(records: dict[int, CocoRecord], table: list[Any], categories: Categories, path: Path) -> None:
    """Add ``instances`` and ``truth`` to every record."""
    labels = {number: label for label, number in enumerate(categories.ids, start=1)}
    rows: dict[int, list[tuple[list[float], int, float, int]]] = {number: [] for number in records}
    seen: set[int] = set()
    for position, entry in enumerate(table):
        source = f"{path} annotation {position}"
        number, image, category, bbox = _fields(entry, ("id", "image_id", "category_id", "bbox"), source)
        if _whole(number, "id", source) in seen:
            raise ValueError(f"Expected each annotation id once, got {number} again in {source}.")
        seen.add(number)
        if _whole(image, "image_id", source) not in records:
            raise ValueError(f"Expected the id of an image of this file, got image_id {image} in {source}.")
        if _whole(category, "category_id", source) not in labels:
            raise ValueError(f"Expected the id of a category of this file, got category_id {category} in {source}.")
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise ValueError(f"Expected 0 or 1 as iscrowd, got {shown(crowd)} in {source}.")
        corners, area = _checked_box(bbox, entry.get("area"), records[image], source)
        rows[image].append((corners, category, area, crowd))
    for number, found in rows.items():
        bbox = np.array([row[0] for row in found], dtype=np.float64).reshape(-1, 4)
        ids, area, crowd = (np.array([row[column] for row in found]) for column in (1, 2, 3))
        truth = {
            "bbox": bbox,
            "category_id": ids.astype(np.int64),
            "area": area.astype(np.float64),
            "crowd": crowd.astype(bool),
        }
        wanted = ~truth["crowd"] & (bbox[:, 2:] > 0).all(axis=1) & (truth["area"] > 0)
        records[number]["truth"] = truth
        records[number]["instances"] = {
            "boxes": from_coco(bbox[wanted]).astype(np.float32),
            "labels": np.array([labels[each] for each in truth["category_id"][wanted].tolist()], dtype=np.int64),
        }


def _checked_box(bbox: Any, area: Any, record: CocoRecord, source: str) -> tuple[list[float], float]:
    """A box as x, y, width, height, and its area; it may reach out of its image or be flat, as some of COCO's are."""
    x, y, width, height = finite_numbers(bbox, 4, "bbox", source, below=_BOUND)
    size = width * height if area is None else finite_numbers([area], 1, "area", source, below=_BOUND**2)[0]
    if width < 0 or height < 0 or size < 0:
        raise ValueError(f"Expected a bbox and an area that are not negative, got {bbox} and {area} in {source}.")
    rows, columns = record["image_size"]
    flat = width == 0 or height == 0
    if not flat and (x >= columns or y >= rows or x + width <= 0 or y + height <= 0):
        raise ValueError(
            f"Expected a bbox that overlaps its image {shown_name(record['file_name'])} of {columns} x {rows} pixels "
            f"(width x height), got {bbox} in {source}."
        )
    return [x, y, width, height], size


def _sift(records: list[CocoRecord], empty_images: str, path: Path) -> list[CocoRecord]:
    """Drop images without boxes if asked to, and log what the labels hold, one line a kind."""
    boxes = sum(num_instances(record["instances"]) for record in records)
    classes = set().union(*(record["instances"]["labels"].tolist() for record in records))
    logger.info(
        "%s: %d boxes of %d of %d categories on %d images.",
        *(path.name, boxes, len(classes), len(records[0]["categories"].ids), len(records)),
    )
    findings: Counter[str] = Counter()
    for record in records:
        found = record["instances"]["boxes"]
        crowd, (height, width) = record["truth"]["crowd"], record["image_size"]
        flat = len(crowd) - int(crowd.sum()) - len(found)
        findings["crowd regions, not used in training and ignored in evaluation"] += int(crowd.sum())
        findings["boxes without area, not used in training"] += flat
        out = (found < 0) | (found > np.array([width, height] * 2))
        findings["boxes that reach out of their image, clipped in training"] += int(out.any(axis=1).sum())
    kept = [record for record in records if empty_images == "keep" or num_instances(record["instances"])]
    without = sum(not num_instances(record["instances"]) for record in records)
    what = "kept" if empty_images == "keep" else "dropped as in the released code"
    findings[f"images without a box, {what}"] = without
    log_findings(path.name, findings)
    if not kept:
        raise ValueError(f"Expected boxes to train on, got none in {path}.")
    return kept
