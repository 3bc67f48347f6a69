"""Outlines drawn on slices: DICOM structure sets (RTSTRUCT) and the readings of LIDC-IDRI."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pydicom

from ....storage.safe_xml import plain_tag, read_xml
from ...scans.dicom.dicom_files import read_dataset, read_text
from ...scans.scan import Scan
from ..true_lesions import ScanTruth, TrueLesion
from .label_grids import LabelGrid, polygon_mask
from .slice_places import SlicePlaces

# Points of one outline may be off its slice by this share of the distance of slices.
_FLAT = 0.25
# LIDC outlines with fewer points mark a place: a nodule under 3 mm, or none.
_OUTLINE_POINTS = 3
# Of four readers; LUNA16 takes nodules that three of them outlined.
READERS = 3


def read_structures(path: Path, scan: Scan, *, each_structure: bool) -> ScanTruth:
    """Read the lesions of a DICOM structure set; a structure's name is what its lesions are called.

    Args:
        path: The file.
        scan: The scan it belongs to.
        each_structure: Whether each structure is a lesion; if not, each connected part of one is.

    Raises:
        OSError: If it cannot be read.
        ValueError: If an outline is not on a slice of the scan.
    """
    dataset = read_dataset(path)
    try:
        return _structures(dataset, path, scan, each_structure)
    except (AttributeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"Expected a DICOM structure set, cannot use {path}: {reason}.") from error


def _structures(dataset: pydicom.Dataset, path: Path, scan: Scan, each_structure: bool) -> ScanTruth:
    names = {int(roi.ROINumber): read_text(roi, "ROIName") for roi in dataset.get("StructureSetROISequence") or ()}
    found: list[ScanTruth] = []
    notes = []
    for roi in dataset.get("ROIContourSequence") or ():
        number = int(roi.get("ReferencedROINumber", -1))
        name = names.get(number) or f"structure {number}"
        planes: dict[int, list[np.ndarray]] = defaultdict(list)
        for contour in roi.get("ContourSequence") or ():
            line = _line(contour, scan, f"{name} of {path}")
            if line is None:
                notes.append(f"Structure {name} has an outline that is not closed: left out ({path.name}).")
            else:
                planes[line[0]].append(line[1])
        if planes:
            found.append(_structure(planes, scan, name, path, each_structure))
    lesions = tuple(lesion for truth in found for lesion in truth.lesions)
    return ScanTruth(lesions, tuple(dict.fromkeys([*notes, *(note for truth in found for note in truth.notes)])))


def _line(contour: pydicom.Dataset, scan: Scan, where: str) -> tuple[int, np.ndarray] | None:
    """Slice and points ``(N, 2)`` of an outline in pixels, None for a point or an open line."""
    if str(contour.get("ContourGeometricType", "")).upper() not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
        return None
    try:
        points = np.array([float(value) for value in contour.ContourData], dtype=np.float64).reshape(-1, 3)
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"Expected the points of an outline, three numbers each, got others in {where}.") from None
    inverse = np.linalg.inv(scan.affine)
    places = points @ inverse[:3, :3].T + inverse[:3, 3] + 0.5
    middle = float(places[:, 2].mean())
    if np.abs(places[:, 2] - middle).max() > _FLAT:
        raise ValueError(f"Expected outlines on slices of {scan.path}, got one across them in {where}.")
    number = int(np.floor(middle + 1e-6))
    if not 0 <= number < len(scan.hu):
        raise ValueError(f"Expected outlines inside of the scan {scan.path}, got one outside of it in {where}.")
    return number, places[:, :2]


def _structure(
    planes: dict[int, list[np.ndarray]], scan: Scan, name: str, path: Path, each_structure: bool
) -> ScanTruth:
    """Lesions of the outlines of one structure by slice."""
    notes = []
    numbers = sorted(planes)
    steps = np.diff(numbers)
    if len(steps) and int(steps.min()) > 1:
        # Drawn on every second slice, for example: those between belong to it as well.
        step = int(steps.min())
        for low, high in itertools.pairwise(numbers):
            if high - low == step:
                planes |= {n: planes[low if n - low <= high - n else high] for n in range(low + 1, high)}
        notes.append(
            f"Structure {name} is drawn on every slice {step} apart: those between took the nearest outline "
            f"({path.name})."
        )
    height, width = scan.hu.shape[1:]
    first, last = min(planes), max(planes)
    values = np.zeros((width, height, last - first + 1), dtype=np.int32)
    for number, lines in planes.items():
        mask, (column, row) = polygon_mask(lines)
        x, y = max(column, 0), max(row, 0)
        inside = mask[y - row : max(height - row, 0), x - column : max(width - column, 0)]
        values[x : x + inside.shape[1], y : y + inside.shape[0], number - first] = inside.T
    if not values.any():
        raise ValueError(f"Expected outlines inside of the scan {scan.path}, {name} of {path} is outside of it.")
    shift = np.eye(4)
    shift[2, 3] = first
    grid = LabelGrid(values, scan.affine @ shift, path.name, lambda _: name, each_structure)
    return replace(grid.lesions_in(scan), notes=tuple(notes))


@dataclass(frozen=True)
class _Reading:
    """What one reader outlined as one nodule: box and outline by slice."""

    reader: int
    planes: dict[int, tuple[np.ndarray, np.ndarray]]


def read_lidc(path: Path, scan: Scan, *, readers: int = READERS) -> ScanTruth:
    """Read the nodules of an LIDC-IDRI reading (XML): those of at least 3 mm that enough readers outlined.

    LIDC outlines run through the first pixels outside of a nodule (Armato et al., Medical Physics 38(2), 2011): the
    box is the area within. On each slice the box is the median of the readers' edges; a slice counts that at least
    half of the readers of the nodule outlined.

    Args:
        path: The file.
        scan: Its CT, of DICOM slices: outlines name them by their UIDs.
        readers: How many have to agree. Slices with other marks count as neither with nor without a lesion.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not such a file, or the scan has no slice UIDs.
    """
    root = read_xml(path)
    places = SlicePlaces.of(scan)
    if not places.by_uid:
        raise ValueError(f"Expected DICOM slices, which {path} names by their UIDs, got {scan.path} without such.")
    readings: list[_Reading] = []
    missing = small = 0
    unsure: set[int] = set()
    for reader, session in enumerate(_all(root, "readingSession")):
        for nodule in _all(session, "unblindedReadNodule"):
            planes = {}
            marks = [roi for roi in _all(nodule, "roi") if _text(roi, "inclusion").upper() != "FALSE"]
            for roi in marks:
                number = places.by_uid.get(_text(roi, "imageSOP_UID"))
                points = _edge(roi, path)
                if number is None:
                    missing += 1
                    continue
                low, high = points.min(axis=0) + 1, points.max(axis=0)
                slice_, box = places.on_slice(number, np.array([*low, *high], dtype=np.float64))
                unsure.add(slice_)
                if len(points) >= _OUTLINE_POINTS and (high > low).all():
                    planes[slice_] = (box, places.points_on_slice(number, points + 0.5))
            if planes:
                readings.append(_Reading(reader, planes))
            elif marks and len(_edge(marks[0], path)) < _OUTLINE_POINTS:
                small += 1
    lesions, few = _agreed(readings, readers, path.name)
    notes = [
        (missing, "outline(s) on slices that the scan does not have"),
        (small, "mark(s) of nodules under 3 mm, which have no outline"),
        (few, f"nodule(s) that fewer than {readers} readers outlined"),
        (sum(1 for _ in _all(root, "nonNodule")), "mark(s) that the readers call no nodule"),
    ]
    told = tuple(f"Left out {count} {what} ({path.name})." for count, what in notes if count)
    return ScanTruth(tuple(lesions), told, tuple(sorted(unsure)))


def _agreed(readings: Sequence[_Reading], readers: int, source: str) -> tuple[list[TrueLesion], int]:
    """Nodules that enough readers outlined, and how many others there are."""
    groups: list[list[_Reading]] = []
    for reading in readings:
        same = [group for group in groups if any(_overlap(reading, other) for other in group)]
        groups = [group for group in groups if group not in same]
        groups.append([*(one for group in same for one in group), reading])
    lesions, few = [], 0
    for group in groups:
        count = len({reading.reader for reading in group})
        if count < readers:
            few += 1
            continue
        slices = sorted({number for reading in group for number in reading.planes})
        drawn = {number: [reading.planes[number] for reading in group if number in reading.planes] for number in slices}
        kept = [number for number in slices if 2 * len(drawn[number]) >= count]
        if kept:
            boxes = np.array([np.median([box for box, _ in drawn[number]], axis=0) for number in kept])
            lines = {number: [line for _, line in drawn[number]] for number in kept}
            lesions.append(TrueLesion("nodule", np.array(kept), boxes, "outline", source, lines))
    return lesions, few


def _overlap(first: _Reading, second: _Reading) -> bool:
    for number in first.planes.keys() & second.planes.keys():
        (a, _), (b, _) = first.planes[number], second.planes[number]
        if (np.minimum(a[2:], b[2:]) > np.maximum(a[:2], b[:2])).all():
            return True
    return False


def _all(element: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    return [child for child in element.iter() if plain_tag(child) == tag]


def _text(element: ElementTree.Element, tag: str) -> str:
    return next((str(child.text or "").strip() for child in element if plain_tag(child) == tag), "")


def _edge(roi: ElementTree.Element, path: Path) -> np.ndarray:
    """Points ``(N, 2)`` of an outline: whole pixels, from 0."""
    try:
        pairs = [
            (int(_text(edge, "xCoord")), int(_text(edge, "yCoord"))) for edge in roi if plain_tag(edge) == "edgeMap"
        ]
    except ValueError:
        raise ValueError(f"Expected whole numbers as xCoord and yCoord, got others in {path}.") from None
    if not pairs:
        raise ValueError(f"Expected the points of an outline (edgeMap), got none in a roi of {path}.")
    return np.array(pairs, dtype=np.int64)


def lidc_series(path: Path) -> str:
    """The SeriesInstanceUID that an LIDC reading names, or ``""``."""
    root = read_xml(path)
    found = [child for child in root.iter() if plain_tag(child).lower() == "seriesinstanceuid"]
    return str(found[0].text or "").strip() if found else ""
