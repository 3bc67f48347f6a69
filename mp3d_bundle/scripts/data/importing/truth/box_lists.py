"""Boxes in 3D and measured diameters as lists: JSON, CSV, our own ``lesions.json``, and 3D Slicer's markups.

Numbers alone do not give their frame: for a JSON or CSV list it must be named. ``lesions.json`` and markups
name their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ....boxes import RECIST_PADDING
from ....storage.atomic_files import hash_files
from ....storage.printable import shown
from ....storage.safe_json import text_number
from ...scans.markup_boxes import bounds_of_corners, boxes_in_scan, cut_boxes, read_named_markups
from ...scans.scan import Scan
from ..set_tables import read_table
from ..true_lesions import ScanTruth, TrueLesion, solid_lesion
from .reviews import check_voxels_moved, decision_of, sizes_of
from .slice_places import ROUNDING, SlicePlaces, SliceRule

BOX_FRAMES = ("voxel", "voxel_inclusive", "lps", "ras")
BOX_LAYOUTS = ("corners", "centre_size", "corner_size", "xyxyzz")
_CORNERS = ("x1", "y1", "z1", "x2", "y2", "z2")
_CENTRE = ("x", "y", "z", "w", "h", "d")
_LUNA = ("coordx", "coordy", "coordz", "diameter_mm")
_RECIST = ("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4")
_IMAGE = ("image", "scan", "file", "file_name", "seriesuid", "series")
_LABEL = ("label", "class", "name", "category")
# No voxel and no millimetre of a scan is farther away.
_FARTHEST = 1e5
# From the last voxel of a box to its edge.
_LAST = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
_MIRROR = np.array([-1.0, -1.0, 1.0])


class NoBoxesError(ValueError):
    """A JSON or CSV file of another kind: what a program or a data set stores next to its labels."""


@dataclass(frozen=True)
class ListedBoxes:
    """Boxes of one scan from a list.

    Attributes:
        image: What the list calls the scan.
        boxes: ``(N, 6)`` corners ``x1, y1, z1, x2, y2, z2`` in ``frame``.
        names: What each is called.
        source: Where they were read.
        frame: One of `BOX_FRAMES`: edges of the stored voxels (voxel ``i`` covers ``[i, i + 1)``), first and last
            stored voxel, or millimetres towards the left, back and head, or right, front and head.
        unsure: ``(M, 6)`` likewise, of what is neither a lesion nor certainly none.
        sizes_mm: ``(N + M, 3)`` the sides of these boxes along the axes of the scan, NaN where unknown; None where the
            list has none.
        sha256: Of the files of the scan, where the list names it: voxels of one scan mean nothing in another.
    """

    image: str
    boxes: np.ndarray
    names: tuple[str, ...]
    source: str
    frame: str
    unsure: np.ndarray = field(default_factory=lambda: np.zeros((0, 6)))
    sizes_mm: np.ndarray | None = None
    sha256: str | None = None

    def lesions_in(self, scan: Scan) -> ScanTruth:
        """The lesions, and regions to ignore where it is unsure.

        Raises:
            ValueError: If the list is of another scan, or a box is outside the scan.
        """
        if self.sha256 is not None and (digest := scan.sha256 or hash_files(scan.files)) != self.sha256:
            raise ValueError(
                f"Expected lesions of {scan.path} (SHA-256 {digest[:12]}), got those of other files "
                f"({shown(self.sha256[:12])}) in {self.source}."
            )
        sizes = np.full((len(self.boxes) + len(self.unsure), 3), np.nan) if self.sizes_mm is None else self.sizes_mm
        own, of_others = np.split(sizes, [len(self.boxes)])
        solid, stored, notes = _in_scan(self.boxes, scan, self.frame, self.source, own)
        lesions = self._lesions(self.names, solid, stored, scan)
        others, stored, more = _in_scan(self.unsure, scan, self.frame, self.source, of_others)
        regions = self._lesions(["uncertain"] * len(others), others, stored, scan)
        told = f"{self.source}: {len(others)} lesion(s) undecided or uncertain: regions to ignore."
        notes = (*notes, *more, *((told,) if len(others) else ()))
        return ScanTruth(tuple(lesions), notes, regions=tuple(regions))

    def _lesions(self, names: Sequence[str], solid: np.ndarray, stored: np.ndarray, scan: Scan) -> Iterator[TrueLesion]:
        """Lesions of boxes as `_in_scan` returns them."""
        for name, box, edges in zip(names, solid, stored, strict=True):
            lesion = solid_lesion(name, box, len(scan.hu), self.source)
            same = not np.isnan(edges).any()
            yield replace(lesion, boxes=_on_slices(edges, scan, lesion.slices)) if same else lesion


def _on_slices(edges: np.ndarray, scan: Scan, slices: np.ndarray) -> np.ndarray:
    """A box of stored edges ``(6,)`` on canonical slices ``(K,)``: ``(K, 4)`` slab-frame boxes, cut at the scan."""
    planes = np.zeros((len(slices), 6))
    planes[:, 2] = planes[:, 5] = slices + 0.5
    flat, axis = np.repeat(edges[None], len(slices), axis=0), scan.slice_axis
    flat[:, [axis, axis + 3]] = scan.boxes_to_stored(planes)[:, [axis, axis + 3]]
    height, width = scan.hu.shape[1:]
    return scan.boxes_from_stored(flat)[:, [0, 1, 3, 4]].clip(0, [width, height, width, height])


def _in_scan(
    boxes: np.ndarray, scan: Scan, frame: str, source: str, sizes_mm: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Boxes ``(N, 6)`` as canonical edges, clipped to the scan, and a note if that cuts some.

    Between them ``(N, 6)`` edges of those that are the same on every stored slice of a tilted gantry, and so others on
    those of the scan; NaN of all other boxes.
    """
    stored = np.full((len(boxes), 6), np.nan)
    if not len(boxes):
        return np.zeros((0, 6)), stored, ()
    if frame in ("lps", "ras"):
        corners = _corner_points(boxes) * (_MIRROR if frame == "ras" else np.ones(3))
        clipped = boxes_in_scan(scan, corners, source)
        return clipped, stored, _cut_notes(bounds_of_corners(scan, corners) - clipped, source)
    edges = boxes + (_LAST if frame == "voxel_inclusive" else 0.0)
    found = scan.boxes_from_stored(edges, sizes_mm)
    clipped = cut_boxes(found, scan.hu.shape[::-1])
    excess = found - clipped
    if scan.sheared:
        # The straight stack is larger than its slices: a box that is the same on all of these ends at their edges.
        same = (found == scan.boxes_from_stored(edges)).all(axis=1)
        cut = cut_boxes(edges, scan.stored_shape)
        there = (cut[:, 3:] > cut[:, :3]).all(axis=1, keepdims=True)
        inner = np.where(there, cut_boxes(scan.boxes_from_stored(cut), scan.hu.shape[::-1]), 0.0)
        clipped[same], excess[same], stored[same] = inner[same], (edges - cut)[same], cut[same]
    outside = np.flatnonzero((clipped[:, 3:] <= clipped[:, :3]).any(axis=1))
    if len(outside):
        raise ValueError(
            f"Expected boxes inside of a scan of {scan.stored_shape} voxels, got {boxes[outside[0]].tolist()} in "
            f"{source}."
        )
    return clipped, stored, _cut_notes(excess, source)


def _cut_notes(excess: np.ndarray, source: str) -> tuple[str, ...]:
    """Note on boxes that were cut at the edge of the scan by more than rounding: ``(N, 6)`` voxels, by edge."""
    beyond = np.abs(excess).max(axis=1, initial=0.0)
    count = int((beyond > ROUNDING).sum())
    told = (
        f"{count} box(es) reach up to {beyond.max(initial=0.0):.1f} voxels beyond the scan: cut at its edge ({source})."
    )
    return (told,) if count else ()


def _corner_points(boxes: np.ndarray) -> np.ndarray:
    picks = np.array([[x, y, z] for x in (0, 3) for y in (1, 4) for z in (2, 5)])
    return boxes[:, picks]


@dataclass(frozen=True)
class ListedDiameters:
    """Measured diameters of one scan: each the four ends of two of them on a slice.

    Attributes:
        image: What the list calls the scan.
        ends: ``(N, 8)`` ``x1, y1, ..., x4, y4`` in pixels of the slice, edges from 0.
        slices: Name or number of the slice of each.
        names: What each is called.
        source: Where they were read.
    """

    image: str
    ends: np.ndarray
    slices: tuple[str, ...]
    names: tuple[str, ...]
    source: str

    def lesions_in(self, places: SlicePlaces, rule: SliceRule) -> ScanTruth:
        """The lesions: the bounds of the ends and 5 pixels more on every side, as in DeepLesion.

        Raises:
            ValueError: If the scan has no such slice, an end is outside of it, or all ends are in one place.
        """
        lesions = []
        limits = np.array(places.size(rule.frame), dtype=np.float64)
        for ends, slice_, name in zip(self.ends, self.slices, self.names, strict=True):
            points = ends.reshape(-1, 2)
            if (points < 0).any() or (points > limits).any():
                raise ValueError(
                    f"Expected ends of diameters inside of slices of {limits[0]:g} x {limits[1]:g} pixels, got "
                    f"{ends.tolist()} in {self.source}."
                )
            if not np.ptp(points, axis=0).any():
                raise ValueError(
                    f"Expected diameters with a length, got four ends in one place, {points[0].tolist()}, in "
                    f"{self.source}."
                )
            low, high = points.min(axis=0) - RECIST_PADDING, points.max(axis=0) + RECIST_PADDING
            number, box = places.place(places.number_of(slice_, rule), np.array([*low, *high]), rule.frame)
            lesions.append(TrueLesion(name, np.array([number]), box[None], "slices", self.source))
        notes = [note for slice_ in self.slices for note in places.notes_on(slice_, rule)]
        return ScanTruth(tuple(lesions), tuple(dict.fromkeys(notes)))


def read_box_json(content: Any, path: Path, *, frame: str | None, layout: str = "corners") -> list[ListedBoxes]:
    """Boxes of a JSON list.

    Args:
        content: What the file holds: entries with ``image``, ``box`` (or ``boxes``) and, if there are several kinds,
            ``label`` (or ``labels``), in a list, under the names of splits, or one alone; or a dict from the name of a
            scan to its boxes.
        path: The file, for messages.
        frame: One of `BOX_FRAMES`.
        layout: The numbers of a box: ``x1 y1 z1 x2 y2 z2``, ``cx cy cz w h d``, ``x y z w h d``, or
            ``x1 y1 x2 y2 z1 z2`` (nnDetection's).

    Raises:
        NoBoxesError: If the content is of another kind.
        ValueError: If the frame is not given, or a box or label cannot be used.
    """
    entries = _entries(content, path)
    return [_listed(image, boxes, labels, f"{path.name}, {image}", frame, layout) for image, boxes, labels in entries]


def _entries(content: Any, path: Path) -> list[tuple[str, Any, Any]]:
    """Image, boxes and labels of each entry."""
    if isinstance(content, Mapping) and "image" in content:
        content = [content]
    if isinstance(content, Mapping) and content:
        lists = [value for value in content.values() if isinstance(value, list)]
        tables = [value for value in lists if value and all(isinstance(entry, Mapping) for entry in value)]
        # A data list may hold more next to its entries: its name, or files without labels.
        if tables and not any(isinstance(entry, list) for value in lists for entry in value):
            content = [entry for value in tables for entry in value]
        elif len(lists) == len(content) and all(isinstance(box, list) for value in lists for box in value):
            return [(str(name), value, None) for name, value in content.items()]
    if not isinstance(content, list) or not all(isinstance(entry, Mapping) and "image" in entry for entry in content):
        raise NoBoxesError(
            f"Expected entries with 'image' and 'box', or boxes by the name of a scan, got others in {path}."
        )
    found = []
    for entry in content:
        boxes = entry.get("box", entry.get("boxes"))
        if boxes is None:
            # A list of images and their masks has none at all.
            listed = any("box" in one or "boxes" in one for one in content)
            raise (ValueError if listed else NoBoxesError)(
                f"Expected 'box' in every entry ([] for a scan without a lesion), got {shown(entry)} in {path}."
            )
        found.append((str(entry["image"]), boxes, entry.get("label", entry.get("labels"))))
    return found


def _listed(image: str, boxes: Any, labels: Any, source: str, frame: str | None, layout: str) -> ListedBoxes:
    if frame is None:
        raise ValueError(
            f"Expected --box_frame, as numbers do not give their frame: one of {', '.join(BOX_FRAMES)} ({source})."
        )
    try:
        rows = np.array(boxes, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        rows = np.zeros((1, 1))
    rows = rows.reshape(0, 6) if rows.size == 0 else np.atleast_2d(rows)
    if rows.ndim != 2 or rows.shape[1] != 6 or not (np.abs(rows) <= _FARTHEST).all():
        raise ValueError(
            f"Expected boxes of six finite numbers (none beyond {_FARTHEST:g}), got {shown(boxes)} in {source}."
        )
    corners = _as_corners(rows, layout)
    sides = corners[:, 3:] - corners[:, :3] + (1 if frame == "voxel_inclusive" else 0)
    if (sides <= 0).any():
        row = int(np.flatnonzero((sides <= 0).any(axis=1))[0])
        raise ValueError(
            f"Expected boxes that end after they begin, laid out as {layout}, got {rows[row].tolist()} in {source}."
        )
    several = isinstance(labels, Sequence) and not isinstance(labels, str)
    names = [str(label) for label in labels] if several else ["lesion" if labels is None else str(labels)] * len(rows)
    if len(names) != len(rows):
        raise ValueError(f"Expected a label for each of {len(rows)} boxes, got {len(names)} in {source}.")
    return ListedBoxes(image, corners, tuple(names), source, frame)


def _as_corners(rows: np.ndarray, layout: str) -> np.ndarray:
    if layout not in BOX_LAYOUTS:
        raise ValueError(f"Expected one of {', '.join(BOX_LAYOUTS)} as box_layout, got {layout!r}.")
    if layout == "centre_size":
        return np.column_stack([rows[:, :3] - rows[:, 3:] / 2, rows[:, :3] + rows[:, 3:] / 2])
    if layout == "corner_size":
        return np.column_stack([rows[:, :3], rows[:, :3] + rows[:, 3:]])
    return rows[:, [0, 1, 4, 2, 3, 5]] if layout == "xyxyzz" else rows


def read_own_json(content: Mapping[str, Any], path: Path) -> ListedBoxes:
    """The lesions of a ``lesions.json`` of this bundle, after a person has removed, added, moved or reviewed some.

    Of reviewed lesions the accepted ones are true; what is uncertain or undecided is a region to ignore.

    Raises:
        ValueError: If it is not such a file, or a box was moved in millimetres alone, see `check_voxels_moved`.
    """
    lesions, about = content.get("lesions"), content.get("input")
    if not isinstance(lesions, list) or not isinstance(about, Mapping):
        raise ValueError(f"Expected 'input' and 'lesions' as in lesions.json, got {shown(sorted(content))} in {path}.")
    digest = about.get("sha256")
    if digest is not None and not isinstance(digest, str):
        raise ValueError(f"Expected the SHA-256 of the scan as text, got {shown(digest)} in {path}.")
    sure, others = [], []
    for number, lesion in enumerate(lesions, start=1):
        if not isinstance(lesion, Mapping) or "box_voxel" not in lesion:
            raise ValueError(f"Expected box_voxel in every lesion, got none in lesion {number} of {path}.")
        check_voxels_moved(lesion, about.get("index_to_lps_mm"), f"lesion {number} of {path}")
        decision = decision_of(lesion, f"lesion {number} of {path}")
        if decision in (None, "accepted"):
            sure.append(lesion)
        elif decision != "rejected":
            others.append(lesion)
    image = str(about.get("name", ""))
    # Many files have the same name, so errors give the whole path. It stays out of the set: folders may name patients.
    unsure = _listed(image, [lesion["box_voxel"] for lesion in others], None, f"{path}", "voxel", "corners").boxes
    names = [str(lesion.get("class", "lesion")) for lesion in sure]
    found = _listed(image, [lesion["box_voxel"] for lesion in sure], names, f"{path}", "voxel", "corners")
    sizes = sizes_of([*sure, *others])
    return replace(found, unsure=unsure, sizes_mm=sizes, sha256=digest, source=path.name)


def read_markup_lesions(path: Path, scan: Scan) -> ScanTruth:
    """The box ROIs of a markups file of 3D Slicer or MONAI Label with their names, see `read_named_markups`."""
    names, corners = read_named_markups(path)
    boxes = boxes_in_scan(scan, corners, path.name)
    lesions = [
        solid_lesion(name or "lesion", box, len(scan.hu), path.name) for name, box in zip(names, boxes, strict=True)
    ]
    return ScanTruth(tuple(lesions), _cut_notes(bounds_of_corners(scan, corners) - boxes, path.name))


def read_box_csv(path: Path, *, frame: str | None) -> list[ListedBoxes | ListedDiameters]:
    """Boxes or diameters of a CSV file; a scan whose row has empty numbers is one without a lesion.

    Args:
        path: A table with a header: ``image`` (or ``seriesuid``) and ``x1 y1 z1 x2 y2 z2``, ``x y z w h d`` (centre
            and size), ``coordX coordY coordZ diameter_mm`` (LUNA16), or ``slice`` and ``x1 y1`` to ``x4 y4`` (the ends
            of two diameters, edges of pixels from 0); and, if there are several kinds, ``label``.
        frame: One of `BOX_FRAMES`, for boxes.

    Raises:
        NoBoxesError: If columns are missing.
        ValueError: If a row cannot be used; it is named.
    """
    columns, rows = read_table(path)
    image = next((columns[name] for name in _IMAGE if name in columns), None)
    kinds = {"recist": ("slice", *_RECIST), "corners": _CORNERS, "luna": _LUNA, "centre_size": _CENTRE}
    there = [kind for kind, names in kinds.items() if set(names) <= set(columns)]
    kind = there[0] if there else None
    if image is None or kind is None:
        wanted = "; or ".join(" ".join(names) for names in kinds.values())
        raise NoBoxesError(f"Expected the columns image and {wanted}, got {', '.join(columns)} in {path}.")
    if len(there) > 1:
        both = " and as ".join(" ".join(kinds[one]) for one in there)
        raise ValueError(f"Expected boxes given in one way, got them as {both} in {path}.")
    label = next((columns[name] for name in _LABEL if name in columns), None)
    numbers = [columns[name] for name in kinds[kind] if name != "slice"]
    of_image: dict[str, list[tuple[list[float], str, str]]] = defaultdict(list)
    for line, row in rows:
        if not str(row.get(image) or "").strip():
            raise ValueError(f"Expected the name of a scan in every row, got none in line {line} of {path}.")
        found = of_image[str(row[image]).strip()]
        texts = [str(row.get(name) or "").strip() for name in numbers]
        if any(texts):
            slice_ = str(row.get(columns.get("slice", "")) or "").strip()
            name = str(row.get(label) or "lesion").strip() if label else "lesion"
            found.append((_row_numbers(texts, f"line {line} of {path}"), name, slice_))
    return [_of_rows(name, found, kind, frame, path) for name, found in of_image.items()]


def _row_numbers(texts: Sequence[str], where: str) -> list[float]:
    try:
        return [text_number(text) for text in texts]
    except ValueError:
        raise ValueError(f"Expected {len(texts)} numbers, got {shown(texts)} in {where}.") from None


def _of_rows(
    image: str, rows: Sequence[tuple[list[float], str, str]], kind: str, frame: str | None, path: Path
) -> ListedBoxes | ListedDiameters:
    source = f"{path.name}, {image}"
    numbers, names = [row for row, _, _ in rows], tuple(name for _, name, _ in rows)
    if kind == "recist":
        ends = np.array(numbers, dtype=np.float64).reshape(-1, 8)
        if not np.isfinite(ends).all():
            raise ValueError(f"Expected finite ends of diameters, got others in {source}.")
        return ListedDiameters(image, ends, tuple(slice_ for _, _, slice_ in rows), names, source)
    if kind == "luna":
        if frame not in ("lps", "ras"):
            raise ValueError(f"Expected --box_frame lps (LUNA16) or ras for coordinates in mm, got {frame} ({source}).")
        numbers, kind = [[*row[:3], row[3], row[3], row[3]] for row in numbers], "centre_size"
    return _listed(image, numbers, list(names), source, frame, kind)
