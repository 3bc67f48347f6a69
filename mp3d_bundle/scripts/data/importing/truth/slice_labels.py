"""Boxes on single slices: Pascal VOC, COCO JSON and YOLO text.

A label names its slice by the SOPInstanceUID, by the file of the slice, or by a number. Pixels of Pascal VOC are whole
and inclusive, counted from 1 as in its own development kit unless a rule says from 0; those of COCO are continuous from
0; those of YOLO shares of the image.
"""

from __future__ import annotations

import codecs
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ....boxes import check_boxes, from_coco
from ....storage.printable import shown
from ....storage.safe_json import finite_numbers, read_json, text_number
from ..lesion_classes import IGNORE
from ..true_lesions import ScanTruth, TrueLesion
from .contours import plain_tag, read_xml
from .slice_places import ROUNDING, SlicePlaces, SliceRule

# Bytes of a text file by which its kind is told.
_START = 4096
_SIDES = ("width", "height")
# Numbers of a box, and what people write between those of a row.
_SHARES = 4
_BETWEEN = re.compile(r"[\s,;]+")


@dataclass(frozen=True)
class SliceLabels:
    """The labels of one slice, before its scan is known.

    Attributes:
        image: What they call the image: a path or a name, without ending.
        boxes: ``(N, 4)`` half-open edges in pixels of the image; shares of its size if ``relative``.
        names: What each is called.
        source: Where they were read.
        size: Width and height of the image as the labels know them, each None where they do not.
        relative: Whether boxes are shares of the image.
        regions: ``(K, 4)`` likewise, where nothing is known (crowds).
    """

    image: str
    boxes: np.ndarray
    names: tuple[str, ...]
    source: str
    size: tuple[int | None, int | None] = (None, None)
    relative: bool = False
    regions: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))

    def lesions_in(self, places: SlicePlaces, slice_name: str, rule: SliceRule) -> ScanTruth:
        """The lesions on a slice of a scan.

        Args:
            places: Slices of the scan.
            slice_name: Which slice it is: its UID, file or number.
            rule: How slices are counted and turned.

        Raises:
            ValueError: If there is no such slice, or the image has another size than it.
        """
        size = places.size(rule.frame)
        if any(own not in (None, side) for own, side in zip(self.size, size, strict=True)):
            got = " x ".join("?" if own is None else f"{own}" for own in self.size)
            raise ValueError(
                f"Expected labels of an image of {size[0]} x {size[1]} pixels as in {places.scan.path}, got one of "
                f"{got} in {self.source}: a picture that was turned, cut or resized?"
            )
        number = places.number_of(slice_name, rule)
        limits = np.array([*size, *size], dtype=np.float64)
        boxes = self.boxes * limits if self.relative else self.boxes
        beyond = float(np.max([boxes - limits, -boxes], initial=0.0))
        note = f"A box reaches {beyond:.1f} pixels beyond its image: cut at the edge ({self.source})."
        at, _ = places.place(number, np.array([0, 0, *size], dtype=np.float64), rule.frame)
        lesions, regions = (
            tuple(
                TrueLesion(name, np.array([at]), places.place(number, box, rule.frame)[1][None], "slices", self.source)
                for name, box in zip(names, self._inside(part, limits), strict=True)
            )
            for names, part in ((self.names, boxes), ([IGNORE[0]] * len(self.regions), self.regions))
        )
        notes = (*((note,) if beyond > ROUNDING else ()), *places.notes_on(slice_name, rule))
        return ScanTruth(lesions, notes, empty=() if lesions else (at,), regions=regions)

    def _inside(self, boxes: np.ndarray, limits: np.ndarray) -> np.ndarray:
        """Boxes ``(N, 4)`` cut to the image of which ``limits`` are the sides."""
        check_boxes(boxes, self.source)
        clipped = boxes.clip(0, limits)
        if ((clipped[:, 2:] - clipped[:, :2]) <= 0).any():
            raise ValueError(
                f"Expected boxes inside of their image of {limits[0]:g} x {limits[1]:g}, got others in {self.source}."
            )
        return clipped


def read_voc(path: Path, rule: SliceRule, root: Path) -> SliceLabels:
    """Read a Pascal VOC file.

    Args:
        path: The XML.
        rule: Says where pixels are counted from.
        root: Folder that names begin in.

    Raises:
        ValueError: If it is not such a file.
    """
    tree = read_xml(path)
    boxes, names = [], []
    for element in (child for child in tree if plain_tag(child) == "object"):
        values = {plain_tag(child): str(child.text or "").strip() for child in element}
        bounds = [child for child in element if plain_tag(child) == "bndbox"]
        if len(bounds) > 1:
            raise ValueError(f"Expected one bndbox in every object, got {len(bounds)} in {path}.")
        corners = {plain_tag(v): str(v.text or "") for child in bounds for v in child}
        try:
            x1, y1, x2, y2 = (text_number(corners[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
        except (KeyError, ValueError):
            raise ValueError(
                f"Expected xmin, ymin, xmax and ymax in every bndbox, got {shown(corners)} in {path}."
            ) from None
        shift = rule.pixels_from
        if min(x1, y1) < shift:
            raise ValueError(
                f"Expected pixels counted from {shift}, got {shown(corners)} in {path} (--pixels_from 0 counts from 0)."
            )
        boxes.append([x1 - shift, y1 - shift, x2 - shift + 1, y2 - shift + 1])
        names.append(values.get("name") or "unnamed")
    size = {plain_tag(v): str(v.text or "") for child in tree if plain_tag(child) == "size" for v in child}
    try:
        known = _sides({side: _whole(text) for side, text in size.items() if side in _SIDES})
    except ValueError:
        raise ValueError(f"Expected whole numbers as size, got {shown(size)} in {path}.") from None
    image = path.relative_to(root).with_suffix("").as_posix()
    return SliceLabels(image, _table(boxes), tuple(names), path.name, known)


def read_coco_slices(path: Path) -> list[SliceLabels]:
    """Read a COCO instances file whose images are slices; every image, those without a box included.

    Raises:
        ValueError: If it is not such a file; the annotation is named.
    """
    content = read_json(path, "labels in COCO style")
    tables = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(table), list) for table in tables):
        raise ValueError(f"Expected a JSON object with the lists {', '.join(tables)} in {path}.")
    try:
        categories = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        images = {entry["id"]: entry for entry in content["images"]}
        for known, table in ((images, "images"), (categories, "categories")):
            if len(known) < len(content[table]):
                raise ValueError(f"an id comes twice in {table}")
        of_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        for number, entry in enumerate(content["annotations"]):
            if entry["image_id"] not in images or entry["category_id"] not in categories:
                raise ValueError(f"annotation {number} names an image or a category that there is not")
            of_image[entry["image_id"]].append(entry)
        return [_coco_image(image, of_image[key], categories, path) for key, image in images.items()]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"Expected labels in COCO style, cannot use {path}: {type(error).__name__} {error}."
        ) from error


def _coco_image(
    image: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], categories: Mapping[Any, str], path: Path
) -> SliceLabels:
    plain = [entry for entry in entries if not entry.get("iscrowd")]
    boxes, regions = (
        from_coco(_table([finite_numbers(entry["bbox"], 4, "bbox", f"a box of {image['id']}") for entry in part]))
        for part in (plain, [entry for entry in entries if entry.get("iscrowd")])
    )
    size = _sides({side: int(image[side]) for side in _SIDES if side in image})
    return SliceLabels(
        _without_ending(str(image["file_name"])),
        boxes,
        tuple(categories[entry["category_id"]] for entry in plain),
        f"{path.name}, {image['file_name']}",
        size,
        regions=regions,
    )


def _whole(text: str) -> int:
    number = text_number(text)
    if not number.is_integer():
        raise ValueError("not a whole number")
    return int(number)


def _sides(known: Mapping[str, int]) -> tuple[int | None, int | None]:
    """Width and height of an image, as far as they are known."""
    return known.get(_SIDES[0]), known.get(_SIDES[1])


def _without_ending(name: str) -> str:
    """A path without the ending of a picture; UIDs have dots of their own."""
    for ending in (".png", ".jpg", ".jpeg", ".dcm", ".bmp", ".tif", ".tiff"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def read_yolo(path: Path, root: Path, names: Mapping[int, str]) -> SliceLabels:
    """Read a YOLO text file: rows of a class, and centre and size, or the points of an outline, as shares.

    Args:
        path: The file; an empty one means a slice without a lesion. Lines that begin with ``#`` are comments.
        root: Folder that names begin in.
        names: Names of all classes by number; none at all where these are not known.

    Raises:
        ValueError: If a row is not as expected; it is named.
    """
    boxes, found = [], []
    for number, line in enumerate(text_lines(path), start=1):
        words = _content(line).split()
        if not words:
            continue
        try:
            values = np.array([text_number(word) for word in words])[1:]
            kind = int(words[0])
            if kind < 0:
                raise ValueError("a class below 0")
            if names and kind not in names:
                raise ValueError(f"a class that is not among the {len(names)} that have names")
            if len(values) == 4:
                x, y, width, height = values
                box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
            elif len(values) >= 6 and len(values) % 2 == 0:
                points = values.reshape(-1, 2)
                box = [*points.min(axis=0), *points.max(axis=0)]
            else:
                raise ValueError(f"{len(values)} numbers")
            if not (np.isfinite(box).all() and min(box) >= -0.01 and max(box) <= 1.01):
                raise ValueError("numbers that are not shares of the image")
        except ValueError as error:
            raise ValueError(
                f"Expected a class and four shares of the image (or an outline), got {shown(line)} in line {number} of "
                f"{path}: {error}."
            ) from None
        boxes.append(box)
        found.append(names[kind] if names else str(kind))
    image = path.relative_to(root).with_suffix("").as_posix()
    return SliceLabels(image, _table(boxes), tuple(found), path.name, relative=True)


def may_be_yolo(path: Path) -> bool:
    """Whether a text file has no line, or begins with the number of a class or a row of numbers; a note does not.

    It may be a row that `read_yolo` does not take, or in a coding that it does not: labels are not left out for that.
    """
    start = path.read_bytes()[:_START]
    coded = "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-16-le"
    text = start.decode(coded if b"\0" in start else "utf-8-sig", errors="replace")
    line = next((content for line in text.splitlines() if (content := _content(line).strip())), "")
    words = _BETWEEN.split(line)
    numbers = len(words) >= _SHARES and all(map(_is_number, words))
    return not line or line.split()[0].removeprefix("-").isdigit() or numbers


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _content(line: str) -> str:
    """What a line says before a comment."""
    return line.partition("#")[0]


def text_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text; ValueError if it is not one."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected UTF-8 text, cannot read {path}.") from error


def _table(boxes: Sequence[Sequence[float]]) -> np.ndarray:
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)
