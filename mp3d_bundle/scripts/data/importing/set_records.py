"""What a set keeps of one scan: its slices as PNG, and a record of its labels and of what was seen in it.

A record is written last, so that a scan with a record is complete: that is what makes an import resume.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import cv2
import nibabel.orientations as orientations
import numpy as np

from ...storage.atomic_files import hash_files, write_json
from ...storage.safe_json import read_json
from ..deeplesion.subvolume_frames import from_edges
from ..records import DISPLAY_WINDOW
from ..scans.scan import Scan
from ..synthetic.writing import write_slices
from .true_lesions import KEY_SLICES, ScanTruth, TrueLesion, background_slices, key_slices
from .truth_matching import listed

logger = logging.getLogger(__name__)

RECORD_VERSION = 1
IMAGES, RECORDS = "Images_png", "scans"
# The last chunk of a PNG and its checksum.
_PNG_END = b"IEND\xae\x42\x60\x82"
# DeepLesion's most frequent window for lungs, and below which median a lesion's surroundings are lung.
LUNG_WINDOW = (-1500.0, 500.0)
_LUNG_HU = -400
# HU of the histogram: 32 to a bin.
HISTOGRAM = (-1024, 2048, 32)
# The overview: black below, white above, and its longer side in pixels.
_FRONT_WINDOW, _FRONT_SIDE = (-150.0, 850.0), 380
# Slices without a lesion keep this far from one, as far as a slab of nine slices at 2.5 mm reaches.
APART_MM = 10.0


@dataclass(frozen=True)
class KeyRule:
    """Which slices become key slices.

    Attributes:
        which: See `key_slices`.
        negatives: Slices without a lesion from each scan at most.
        complete: Whether a scan's truth has every lesion of it, so that other slices show none.
    """

    which: str = "middle"
    negatives: int = 4
    complete: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: If one cannot be.
        """
        if self.which not in KEY_SLICES:
            raise ValueError(f"Expected one of {', '.join(KEY_SLICES)} as key_slices, got {self.which!r}.")
        if isinstance(self.negatives, bool) or not isinstance(self.negatives, int) or self.negatives < 0:
            raise ValueError(f"Expected a number of slices from 0 up as negatives, got {self.negatives!r}.")


def number_of(place: int, slices: int) -> int:
    """Number in the set of a canonical slice: DeepLesion counts from 1, from the head to the feet."""
    return slices - place


def write_scan_slices(folder: Path, series: str, scan: Scan) -> None:
    """Write all slices of a scan as ``Images_png/SERIES/NNN.png``, head first; the folder appears when it is complete.

    Raises:
        OSError: If a file cannot be written.
    """
    target = folder / IMAGES / series
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{series}.partial-", dir=target.parent))
    try:
        write_slices(partial, range(1, len(scan.hu) + 1), scan.hu[::-1])
        partial.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def has_all_slices(folder: Path, series: str, count: int) -> bool:
    """Whether all slices of a scan are there, each a file with the end of a PNG."""
    try:
        for number in range(1, count + 1):
            with (folder / IMAGES / series / f"{number:03d}.png").open("rb") as file:
                file.seek(-len(_PNG_END), os.SEEK_END)
                if file.read() != _PNG_END:
                    return False
    except OSError:
        return False
    return True


def remove_scan(folder: Path, series: str) -> None:
    """Remove a scan from a set, its record first."""
    (folder / RECORDS / f"{series}.json").unlink(missing_ok=True)
    shutil.rmtree(folder / IMAGES / series, ignore_errors=True)


class _PlainKeyRecord(TypedDict):
    """A key slice of a set: its number, a row for each lesion on it, and the window to show it in."""

    slice: int
    boxes: list[list[float]]
    classes: list[str]
    doubtful: list[bool]
    window: list[float]


class KeyRecord(_PlainKeyRecord, total=False):
    """The same with boxes of regions to ignore, where the slice has any."""

    ignored: list[list[float]]


# "class" cannot be the name of an attribute.
LesionRecord = TypedDict(
    "LesionRecord",
    {
        "class": str,
        "form": str,
        "box": list[float],
        "slices": list[int],
        "widest": int,
        "widest_box": list[float] | None,
        "size_mm": list[float],
        "outline": list[list[list[float]]],
    },
)


class _PlainScanRecord(TypedDict):
    """What a record holds of a scan and its truth, see `describe_scan`."""

    version: int
    shape: list[int]
    spacing: list[float]
    orientation: str
    stored_shape: list[int]
    stored_from_canonical: list[list[float]]
    places: list[float] | None
    files: int
    sha256: str
    voxels_sha256: str
    hu: list[int]
    front: str
    notes: list[str]
    odd: list[str]
    keys: list[KeyRecord]
    lesions: list[LesionRecord]


class ScanRecord(_PlainScanRecord, total=False):
    """The same with regions to ignore in 3D, where the scan has any."""

    regions: list[LesionRecord]


def describe_scan(scan: Scan, truth: ScanTruth, rule: KeyRule) -> ScanRecord:
    """What a record holds of a scan and its truth, plain values.

    Args:
        scan: The scan.
        truth: Its lesions, called by their classes.
        rule: Which slices become key slices.

    Returns:
        Slices by their numbers in the set. ``keys``: key slices with rows of ``boxes`` (slab frame), ``classes`` and
        ``doubtful``; ``lesions``: each in 3D; and facts of the scan for the report. Where there are regions to ignore,
        key slices have their boxes as ``ignored``, and ``regions`` is like ``lesions``.
    """
    slices = len(scan.hu)
    keys = {number for lesion in truth.lesions for number in key_slices(lesion, scan.spacing[2], rule.which)}
    clear = set(truth.empty) - keys
    if rule.complete or not truth.lesions:
        apart = int(np.ceil(APART_MM / scan.spacing[2]))
        clear |= set(background_slices(truth, slices, count=rule.negatives, apart=apart)) - keys
    record: ScanRecord = {
        "version": RECORD_VERSION,
        "shape": [slices, *scan.hu.shape[1:]],
        "spacing": [round(edge, 6) for edge in scan.spacing],
        "orientation": _orientation(scan),
        "stored_shape": list(scan.stored_shape),
        "stored_from_canonical": scan.stored_from_canonical.tolist(),
        "places": None if scan.places is None else scan.places.tolist(),
        "files": len(set(scan.files)),
        "sha256": scan.sha256 or hash_files(scan.files),
        "voxels_sha256": _hash_voxels(scan.hu),
        "hu": _histogram(scan.hu),
        "front": _front(scan),
        "notes": [str(note) for note in scan.notes],
        "odd": [*truth.notes, *_odd(scan, truth)],
        "keys": [_key(scan, truth, place) for place in sorted(keys | clear, reverse=True)],
        "lesions": [_describe(scan, lesion) for lesion in truth.lesions],
    }
    if truth.regions:
        record["regions"] = [_describe(scan, region) for region in truth.regions]
    return record


def check_copies(records: Iterable[Mapping[str, Any]], splits: Sequence[Mapping[str, int]]) -> None:
    """Reject one scan under two patients that would be trained on and tested on; elsewhere log it.

    Args:
        records: Of all scans of a set.
        splits: The split of every patient; one mapping for the set and one for each fold.

    Raises:
        ValueError: If a copy is in another split; all such copies are named.
    """
    seen: dict[str, Mapping[str, Any]] = {}
    apart = []
    for record in records:
        # Records written by earlier versions do not have it.
        first = seen.setdefault(record.get("voxels_sha256", record["scan"]), record)
        if (mine := record["patient"]) != (other := first["patient"]):
            line = f"{record['scan']} has the same voxels as {first['scan']}, of another patient"
            logger.warning("%s.", line)
            if any(split[mine] != split[other] for split in splits):
                apart.append(line)
    if apart:
        raise ValueError(
            f"Expected different scans in different splits, got copies: {listed(apart)}. Remove one of each, or say by "
            "--patients whose they are."
        )


def stored_boxes(record: Mapping[str, Any], boxes: np.ndarray, sizes_mm: np.ndarray | None = None) -> np.ndarray:
    """Boxes of a scan's file as boxes of the set.

    Args:
        record: Of the scan.
        boxes: ``(N, 6)`` edges of stored voxels ``i1, j1, k1, i2, j2, k2``.
        sizes_mm: See `Scan.boxes_from_stored`.

    Returns:
        ``(N, 6)`` in the volume frame, slices by their numbers in the set.
    """
    slices, height, width = record["shape"]
    scan = Scan(
        hu=np.broadcast_to(np.int16(0), (slices, height, width)),
        affine=np.diag([*record["spacing"], 1.0]),
        stored_from_canonical=np.array(record["stored_from_canonical"]),
        stored_shape=tuple(record["stored_shape"]),
        path=Path(record["scan"]),
        files=(),
        places=None if record["places"] is None else np.array(record["places"]),
    )
    found = scan.boxes_from_stored(boxes, sizes_mm)
    # Slices of the set are numbered from the head.
    found[:, [2, 5]] = slices - found[:, [5, 2]]
    return from_edges(found, 1, slices)


def _orientation(scan: Scan) -> str:
    """Where the axes of the file point to, as ``LPS``."""
    stored = scan.affine @ np.linalg.inv(scan.stored_from_canonical)
    codes = orientations.ornt2axcodes(orientations.io_orientation(stored), (("R", "L"), ("A", "P"), ("I", "S")))
    return "".join(str(code) for code in codes)


def _hash_voxels(hu: np.ndarray) -> str:
    """SHA-256 of the voxels, head to feet: a copy under another name has the same, whatever its header says."""
    digest = hashlib.sha256(f"{hu.shape} {hu.dtype.str}".encode())
    for plane in hu[::-1]:
        digest.update(plane.tobytes())
    return digest.hexdigest()


def _histogram(hu: np.ndarray) -> list[int]:
    low, high, width = HISTOGRAM
    places = (hu[:: max(1, len(hu) // 32)].clip(low, high - 1).astype(np.int32) - low) // width
    return np.bincount(places.ravel(), minlength=(high - low) // width).tolist()


def _front(scan: Scan) -> str:
    """The scan from the front, head up, as base64 JPEG: the largest value along every line of sight."""
    low, high = _FRONT_WINDOW
    planes = scan.hu.max(axis=1)[::-1].astype(np.float32)
    grey = np.clip((planes - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
    across, _, along = scan.spacing
    sides = np.array([grey.shape[1] * across, grey.shape[0] * along]) * (
        _FRONT_SIDE / max(grey.shape[1] * across, grey.shape[0] * along)
    )
    width, height = np.maximum(sides.round(), 8).astype(int).tolist()
    _, content = cv2.imencode(".jpg", cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA))
    return base64.b64encode(content.tobytes()).decode()


def _key(scan: Scan, truth: ScanTruth, place: int) -> KeyRecord:
    """A key slice and every lesion that is on it."""
    boxes = [(lesion, box) for lesion in truth.lesions if (box := lesion.box_on(place)) is not None]
    regions = [box for region in truth.regions if (box := region.box_on(place)) is not None]
    key: KeyRecord = {
        "slice": number_of(place, len(scan.hu)),
        "boxes": [_numbers(box) for _, box in boxes],
        "classes": [lesion.name for lesion, _ in boxes],
        "doubtful": [lesion.doubtful for lesion, _ in boxes],
        "window": list(_window(scan.hu[place], [box for _, box in boxes])),
    }
    if regions:
        key["ignored"] = [_numbers(box) for box in regions]
    return key


def _window(plane: np.ndarray, boxes: list[np.ndarray]) -> tuple[float, float]:
    """The display window of a slice: that of lungs where most of what is around its lesions is air."""
    around = []
    for box in boxes:
        reach = max(box[2] - box[0], box[3] - box[1]) / 2
        x1, y1 = (max(0, int(edge - reach)) for edge in box[:2])
        around.append(plane[y1 : int(box[3] + reach) + 1, x1 : int(box[2] + reach) + 1].ravel())
    lung = bool(around) and float(np.median(np.concatenate(around))) < _LUNG_HU
    return LUNG_WINDOW if lung else DISPLAY_WINDOW


def _describe(scan: Scan, lesion: TrueLesion) -> LesionRecord:
    widest = lesion.widest
    box = lesion.box_on(widest)
    sides = np.zeros(2) if box is None else box[2:] - box[:2]
    height = lesion.slices[-1] - lesion.slices[0] + 1
    return {
        "class": lesion.name,
        "form": lesion.form,
        "box": _numbers(lesion.bounds),
        "slices": sorted(number_of(int(lesion.slices[at]), len(scan.hu)) for at in (0, -1)),
        "widest": number_of(widest, len(scan.hu)),
        "widest_box": None if box is None else _numbers(box),
        "size_mm": _numbers(np.array([*(sides * scan.spacing[:2]), height * scan.spacing[2]])),
        "outline": [np.round(line, 2).tolist() for line in lesion.outlines.get(widest, ())],
    }


def _odd(scan: Scan, truth: ScanTruth) -> list[str]:
    """What a person should look at."""
    found = []
    height, width = scan.hu.shape[1:]
    extent = np.array([width, height, len(scan.hu)]) * scan.spacing
    for lesion in truth.lesions:
        x1, y1, x2, y2 = lesion.bounds
        where = f"slice {number_of(lesion.widest, len(scan.hu))}"
        if (np.array([x2 - x1, y2 - y1]) * scan.spacing[:2] > 0.6 * extent[:2]).all():
            found.append(f"A lesion as large as the body ({where}): an organ, or a mask upside down?")
        if x1 <= 0 or y1 <= 0 or x2 >= width or y2 >= height:
            found.append(f"A lesion touches the edge of the image ({where}).")
        inside = scan.hu[lesion.widest, int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))]
        if inside.size and float(np.median(inside)) < -950:
            found.append(f"A lesion of air (median {float(np.median(inside)):.0f} HU, {where}): is it in its place?")
        if min(x2 - x1, y2 - y1) < 3:
            found.append(f"A lesion less than 3 pixels wide ({where}).")
    return list(dict.fromkeys(found))


def _numbers(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) + 0.0 for value in values]


def write_record(folder: Path, series: str, content: Mapping[str, Any]) -> None:
    """Write the record of a scan.

    Raises:
        OSError: If it cannot be written.
    """
    write_json({"series": series, **content}, folder / RECORDS / f"{series}.json")


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of a set by series, in their order; those of another version are left out.

    Raises:
        ValueError: If one is not such a file.
    """
    found = {}
    for path in sorted((folder / RECORDS).glob("*.json")):
        content = read_json(path, "the record of a scan")
        if not isinstance(content, dict) or content.get("series") != path.stem:
            raise ValueError(
                f"Expected the record of the scan {path.stem} of an imported set, got something else in {path}."
            )
        if content.get("version") == RECORD_VERSION and (folder / IMAGES / path.stem).is_dir():
            found[path.stem] = content
    return found
