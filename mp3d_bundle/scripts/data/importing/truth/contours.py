"""Outlines drawn on slices: DICOM structure sets (RTSTRUCT) and the readings of LIDC-IDRI."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pydicom
from scipy import ndimage

from ....storage.dicom_errors import ODD_CONTENT
from ....storage.safe_xml import plain_tag, read_xml
from ...scans.dicom.dicom_files import read_dataset, read_text
from ...scans.scan import Scan
from ..true_lesions import ScanTruth, TrueLesion
from .label_grids import LabelGrid, polygon_mask
from .slice_places import SlicePlaces, slice_ranks

# Points of one outline may be off its slice by this share of the distance of slices.
_FLAT = 0.25
# Outlines nearer to each other than this, in mm, are on one plane.
_SAME_PLANE = 0.05
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
# Types of structures that outline the whole patient, or things that do not belong to the patient.
_NEVER = ("EXTERNAL", "SUPPORT", "FIXATION", "BOLUS")
# Between outlines of a structure drawn on every so many slices, no more slices or mm than these are filled.
_FILLED_SLICES, _FILLED_MM = 2, 10.0
# LIDC outlines with fewer points mark a place: a nodule under 3 mm, or none.
_OUTLINE_POINTS = 3
_MOST_READERS = 4
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
    except ODD_CONTENT as error:
        if str(path) in str(error):
            raise
        reason = " ".join(ascii(str(error)).split())[:200] or type(error).__name__
        raise ValueError(f"Expected a DICOM structure set, cannot use {path}: {reason}.") from error


def _structures(dataset: pydicom.Dataset, path: Path, scan: Scan, each_structure: bool) -> ScanTruth:
    names = {int(roi.ROINumber): read_text(roi, "ROIName") for roi in dataset.get("StructureSetROISequence") or ()}
    found: list[ScanTruth] = []
    notes, others = [], list[str]()
    unsure: set[int] = set()
    kinds = {
        int(one.get("ReferencedROINumber", -1)): read_text(one, "RTROIInterpretedType").upper()
        for one in dataset.get("RTROIObservationsSequence") or ()
    }
    for roi in dataset.get("ROIContourSequence") or ():
        number = int(roi.get("ReferencedROINumber", -1))
        name = names.get(number) or f"structure {number}"
        if kinds.get(number) in _NEVER:
            others.append(f"Left out structure {name}, which is {kinds[number]} and no lesion ({path.name}).")
            continue
        lines: list[np.ndarray] = []
        for contour in roi.get("ContourSequence") or ():
            points = _points(contour, scan, f"{name} of {path}")
            if str(contour.get("ContourGeometricType", "")).upper() in _CLOSED:
                lines.append(_on_slice(points, scan, f"{name} of {path}"))
            else:
                notes.append(f"Structure {name} has an outline that is not closed: left out ({path.name}).")
                unsure |= {int(place) for place in np.floor(points[:, 2] + 1e-6) if 0 <= place < len(scan.hu)}
        if lines:
            found.append(_structure(lines, scan, name, path, each_structure))
    if others and not found:
        raise ValueError(f"Expected outlines of lesions, got none but those of the patient or of devices in {path}.")
    if notes and not found:
        raise ValueError(f"Expected closed outlines, got only points or open lines in {path}: where is its lesion?")
    lesions = tuple(lesion for truth in found for lesion in truth.lesions)
    told = tuple(dict.fromkeys([*others, *notes, *(note for truth in found for note in truth.notes)]))
    return ScanTruth(lesions, told, tuple(sorted(unsure)))


def _points(contour: pydicom.Dataset, scan: Scan, where: str) -> np.ndarray:
    """Points ``(N, 3)`` of an outline in voxels of the scan (edges)."""
    try:
        points = np.array([float(value) for value in contour.ContourData], dtype=np.float64).reshape(-1, 3)
    except ODD_CONTENT:
        points = np.empty((0, 3))
    if not len(points) or not np.isfinite(points).all():
        raise ValueError(f"Expected the points of an outline, three numbers each, got others in {where}.")
    inverse = np.linalg.inv(scan.affine)
    return points @ inverse[:3, :3].T + inverse[:3, 3] + 0.5


def _on_slice(points: np.ndarray, scan: Scan, where: str) -> np.ndarray:
    """The points of a closed outline, which must be within the scan, on one plane along its slices."""
    if np.abs(points[:, 2] - points[:, 2].mean()).max() > _FLAT:
        raise ValueError(f"Expected outlines on slices of {scan.path}, got one across them in {where}.")
    # A plane belongs to the slice it is in: none is farther than half a slice from the middle of its slice.
    slices, height, width = scan.hu.shape
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    inside = (high > 0).all() and (low < (width, height)).all()
    if not inside or not 0 <= np.floor(points[:, 2].mean() + 1e-6) < slices:
        raise ValueError(f"Expected outlines inside of the scan {scan.path}, got one outside of it in {where}.")
    return points


def _planes(lines: list[np.ndarray], spacing: float) -> list[tuple[int, list[np.ndarray]]]:
    """Slice and outlines ``(N, 2)`` of each plane, from the feet; an outline that comes twice counts once."""
    planes: list[tuple[int, list[np.ndarray]]] = []
    seen: set[frozenset[tuple[float, ...]]] = set()
    last = -np.inf
    for line in sorted(lines, key=lambda points: float(points[:, 2].mean())):
        height = float(line[:, 2].mean())
        if (height - last) * spacing > _SAME_PLANE:
            planes.append((int(np.floor(height + 1e-6)), []))
            seen, last = set(), height
        # The same points from another start, or the other way round, are the same outline.
        points = frozenset(tuple(point) for point in np.round(line[:, :2], 3).tolist())
        if points not in seen:
            seen.add(points)
            planes[-1][1].append(line[:, :2])
    return planes


def _structure(lines: list[np.ndarray], scan: Scan, name: str, path: Path, each_structure: bool) -> ScanTruth:
    """Lesions of the outlines of one structure.

    Within a plane, where two outlines overlap is outside (a hole); what several planes within one slice enclose is
    united.
    """
    # An outline is drawn on a stored slice, and holds for all slices that this is nearest to.
    ranks = slice_ranks(scan)
    planes = [(int(ranks[number]), outlines) for number, outlines in _planes(lines, scan.spacing[2])]
    height, width = scan.hu.shape[1:]
    first, last = planes[0][0], planes[-1][0]
    values = np.zeros((width, height, last - first + 1), dtype=np.int32)
    for number, outlines in planes:
        mask, (column, row) = polygon_mask(outlines)
        x, y = max(column, 0), max(row, 0)
        inside = mask[y - row : max(height - row, 0), x - column : max(width - column, 0)]
        values[x : x + inside.shape[1], y : y + inside.shape[0], number - first] |= inside.T
    if not values.any():
        raise ValueError(f"Expected outlines inside of the scan {scan.path}, {name} of {path} is outside of it.")
    distance = scan.spacing[2] * (len(ranks) - 1) / max(1, ranks[-1])
    step = _fill_between(values, sorted({number - first for number, _ in planes}), distance)
    slices = np.flatnonzero((ranks >= first) & (ranks <= last))
    shift = np.eye(4)
    shift[2, 3] = slices[0]
    grid = LabelGrid(values[..., ranks[slices] - first], scan.affine @ shift, path.name, lambda _: name, each_structure)
    truth = grid.lesions_in(scan)
    if not step:
        return truth
    note = (
        f"Structure {name} is drawn on every slice {step} apart: those between took the nearest outline ({path.name})."
    )
    return replace(truth, notes=(*truth.notes, note))


def _fill_between(values: np.ndarray, drawn: list[int], spacing: float) -> int:
    """Fill what is drawn on every second slice, for example, in place.

    Args:
        values: ``(I, J, K)``, 1 where an outline is.
        drawn: The slices with outlines, rising.
        spacing: Distance of slices in mm.

    Returns:
        The distance in slices that the outlines regularly have, 0 where nothing was filled. Between outlines farther
        apart than that, or that do not overlap, nothing is: they are of different lesions. Two slices or 10 mm are the
        most that is filled, more than two slices only where three outlines follow each other at this distance.
    """
    steps = np.diff(drawn)
    step = int(steps.min()) if len(steps) else 1
    regular = step <= _FILLED_SLICES + 1 or (steps[1:] + steps[:-1] == 2 * step).any()
    if step == 1 or not regular or step * spacing > _FILLED_MM + 1e-6:
        return 0
    filled = False
    for low, high in itertools.pairwise(drawn):
        if high - low != step:
            continue
        below, above = values[..., low] > 0, values[..., high] > 0
        parts = np.zeros(below.shape, dtype=np.int32)
        ndimage.label(below | above, np.ones((3, 3)), output=parts)
        # Of each part of the two outlines together, whether both are in it.
        shared = np.setdiff1d(np.intersect1d(parts[below], parts[above]), [0])
        filled |= bool(len(shared))
        for n in range(low + 1, high):
            nearest = below if n - low <= high - n else above
            values[..., n] |= nearest & np.isin(parts, shared)
    return step if filled else 0


@dataclass(frozen=True)
class _Reading:
    """What one reader outlined as one nodule: by slice the box around all of its outlines there, and these."""

    reader: int
    planes: dict[int, tuple[np.ndarray, list[np.ndarray]]]


def read_lidc(path: Path, scan: Scan, *, readers: int = READERS) -> ScanTruth:
    """Read the nodules of an LIDC-IDRI reading (XML): those of at least 3 mm that enough readers outlined.

    LIDC outlines run through the first pixels outside of a nodule (Armato et al., Medical Physics 38(2), 2011): the
    box is the area within, of all outlines that a reader drew of it on a slice; a hole (``inclusion`` FALSE) is within
    one of them and does not change it. On each slice the box is the median of the readers' edges; a slice counts that
    at least half of the readers of the nodule outlined.

    Args:
        path: The file.
        scan: Its CT, of DICOM slices: outlines name them by their UIDs.
        readers: How many have to agree; equal readings are one. Nodules of fewer are regions to ignore, as in LUNA16.
            Slices with other marks count as neither with nor without a lesion.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not such a file, the scan has no slice UIDs, or an outline is outside of it.
    """
    root = read_xml(path)
    places = SlicePlaces.of(scan)
    if not places.by_uid:
        raise ValueError(f"Expected DICOM slices, which {path} names by their UIDs, got {scan.path} without such.")
    readings: list[_Reading] = []
    missing = small = hollow = 0
    unsure: set[int] = set()
    nodules, copies = _nodules(root, path)
    for reader, nodule in nodules:
        planes: dict[int, tuple[np.ndarray, list[np.ndarray]]] = {}
        marks = _marks(nodule)
        for roi in marks:
            number = places.by_uid.get(_text(roi, "imageSOP_UID"))
            points = _edge(roi, path)
            if number is None:
                missing += 1
                continue
            low, high = points.min(axis=0) + 1, points.max(axis=0)
            _check_inside(low, high, places, path)
            slice_, box = places.on_slice(number, np.array([*low, *high], dtype=np.float64))
            unsure.add(slice_)
            if len(points) < _OUTLINE_POINTS:
                continue
            if (high > low).all():
                others, lines = planes.get(slice_, (box, []))
                united = np.concatenate([np.minimum(box[:2], others[:2]), np.maximum(box[2:], others[2:])])
                planes[slice_] = (united, [*lines, places.points_on_slice(number, points + 0.5)])
            else:
                hollow += 1
        if planes:
            readings.append(_Reading(reader, planes))
        elif marks and len(_edge(marks[0], path)) < _OUTLINE_POINTS:
            small += 1
    if missing and not unsure:
        raise ValueError(
            f"Expected outlines on slices of {scan.path}, got {missing} on slices that it does not have and no other "
            f"in {path}: the reading of another scan?"
        )
    lesions, doubtful = _agreed(readings, readers, path.name)
    notes = [
        (copies, "reading(s) whose outlines are those of another one, point for point"),
        (missing, "outline(s) on slices that the scan does not have"),
        (hollow, "outline(s) without a pixel within"),
        (small, "mark(s) of nodules under 3 mm, which have no outline"),
        (sum(1 for _ in _all(root, "nonNodule")), "mark(s) that the readers call no nodule"),
    ]
    told = _told(notes, len(doubtful), readers, path.name)
    return ScanTruth(tuple(lesions), told, tuple(sorted(unsure)), regions=tuple(doubtful))


def _told(left_out: Sequence[tuple[int, str]], doubtful: int, readers: int, name: str) -> tuple[str, ...]:
    """Sentences about what of a reading does not count as a lesion."""
    told = [f"Left out {count} {what} ({name})." for count, what in left_out if count]
    few = f"{doubtful} nodule(s) that fewer than {readers} readers outlined: regions to ignore ({name})."
    return (*told, *([few] if doubtful else []))


def _nodules(root: ElementTree.Element, path: Path) -> tuple[list[tuple[int, ElementTree.Element]], int]:
    """The nodules with the number of their reader; and how many readings repeat another: no two readers draw alike."""
    sessions = _all(root, "readingSession")
    if not 1 <= len(sessions) <= _MOST_READERS:
        raise ValueError(f"Expected the readings of 1 to {_MOST_READERS} readers, got {len(sessions)} in {path}.")
    found: dict[object, list[ElementTree.Element]] = {}
    for session in sessions:
        nodules = _all(session, "unblindedReadNodule")
        drawn = [(_text(roi, "imageSOP_UID"), _edge(roi, path)) for nodule in nodules for roi in _marks(nodule)]
        # Single points may well be alike.
        outlined = any(len(points) > 1 for _, points in drawn)
        found.setdefault(tuple((uid, points.tobytes()) for uid, points in drawn) if outlined else session, nodules)
    numbered = [(reader, nodule) for reader, nodules in enumerate(found.values()) for nodule in nodules]
    return numbered, len(sessions) - len(found)


def _marks(nodule: ElementTree.Element) -> list[ElementTree.Element]:
    """What was drawn around a nodule, without the holes."""
    return [roi for roi in _all(nodule, "roi") if _text(roi, "inclusion").upper() != "FALSE"]


def _check_inside(low: np.ndarray, high: np.ndarray, places: SlicePlaces, path: Path) -> None:
    """Reject what an outline encloses, half-open edges ``(2,)``, if that is not within a stored slice."""
    if (low < 0).any() or (high > places.size("stored")).any():
        raise ValueError(
            f"Expected outlines inside of the scan {places.scan.path}, got one from {(low - 1).tolist()} to "
            f"{high.tolist()} in {path}."
        )


def _agreed(readings: Sequence[_Reading], readers: int, source: str) -> tuple[list[TrueLesion], list[TrueLesion]]:
    """Nodules that enough readers outlined, and the others."""
    groups: list[list[_Reading]] = []
    for reading in readings:
        same = [group for group in groups if any(_overlap(reading, other) for other in group)]
        groups = [group for group in groups if not any(group is one for one in same)]
        groups.append([*(one for group in same for one in group), reading])
    lesions: list[TrueLesion] = []
    doubtful: list[TrueLesion] = []
    for group in groups:
        count = len({reading.reader for reading in group})
        slices = sorted({number for reading in group for number in reading.planes})
        drawn = {number: [reading.planes[number] for reading in group if number in reading.planes] for number in slices}
        kept = [number for number in slices if 2 * len(drawn[number]) >= count]
        if kept:
            boxes = np.array([np.median([box for box, _ in drawn[number]], axis=0) for number in kept])
            lines = {number: [line for _, some in drawn[number] for line in some] for number in kept}
            nodule = TrueLesion("nodule", np.array(kept), boxes, "outline", source, lines)
            (lesions if count >= readers else doubtful).append(nodule)
    return lesions, doubtful


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
    edges = [edge for edge in roi if plain_tag(edge) == "edgeMap"]
    if not edges:
        raise ValueError(f"Expected the points of an outline (edgeMap), got none in a roi of {path}.")
    try:
        return np.array([[int(_text(edge, tag)) for tag in ("xCoord", "yCoord")] for edge in edges], dtype=np.int64)
    except (ValueError, OverflowError):
        raise ValueError(f"Expected whole numbers of pixels as xCoord and yCoord, got others in {path}.") from None


def lidc_series(path: Path) -> str:
    """The SeriesInstanceUID that an LIDC reading names, or ``""``."""
    root = read_xml(path)
    found = [child for child in root.iter() if plain_tag(child).lower() == "seriesinstanceuid"]
    return str(found[0].text or "").strip() if found else ""
