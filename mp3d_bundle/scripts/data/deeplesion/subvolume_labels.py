"""Reading 3D labels of DeepLesion's sub-volumes in the formats in which they are public.

* ``manual``: the hand-labelled volumes, ``DeepLesion_manual_1K_test_release.pkl`` (Yan et al., IEEE TMI 2020): name to
  boxes ``(n, 6)`` in the volume frame; the parts ``val`` and ``test`` each a dict, or one part alone.
* ``harvester``: the Lesion Harvester files (Cai et al., IEEE TMI 2021): name, often ending in ``.annot``, to
  ``{slice: boxes}`` (each on one slice) or, in ``3D-Box.pkl``, to boxes, some of which end between two slices; see
  `volume_frames.from_harvester`.
* ``synthetic``: ``lesions_3d.json`` of a synthetic data set.

Each may be a pickle, read without running anything it names, or the same content as JSON. A name is that of a
sub-volume: ``000001_01_01_103-115`` is slices 103 to 115 of the series ``000001_01_01``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...storage.printable import shown, shown_name
from ...storage.safe_json import read_json
from ...storage.safe_pickle import read_plain_pickle
from .subvolume_frames import from_harvester, from_slab, to_harvester

FORMATS = ("auto", "manual", "harvester", "synthetic")
# All parts of a file.
ALL = "all"
# The file of the hand-labelled volumes has other names for its parts.
_PARTS = {"validation": "val"}
# The series is a folder name: it must not be hidden or lead out of the data set.
_NAME = re.compile(
    r"(?P<series>(?P<patient>(?!\.)[^_/\\\x00-\x1f\x7f-\x9f]+)(?:_[^_/\\\x00-\x1f\x7f-\x9f]+)*)"
    r"_(?P<first>[0-9]{1,5})-(?P<last>[0-9]{1,5})(?:\.annot|\.nii|\.nii\.gz)?"
)
# Largest coordinate, in pixels or slices.
_FARTHEST = 1e6


@dataclass(frozen=True)
class VolumeLabel:
    """The labels of one sub-volume.

    Attributes:
        name: ``000001_01_01_103-115``.
        series: ``000001_01_01``.
        patient: ``000001``.
        first: Number of the first slice in the series.
        last: Number of the last slice.
        source: File and name, for messages.
        true_boxes: ``(N, 6)`` float64 in the volume frame, or None if lesions are labelled on slices.
        key_boxes: ``(N, 6)`` likewise with ``z1 == z2``, or None if lesions are labelled in 3D.
        spacing: mm along x, y, z if the file has it, or None.
        ignored_boxes: Regions in which nothing is known, ``(K, 6)`` in the volume frame, or None without any.
        true_classes: The class of each lesion in 3D, or None where the file does not tell.
    """

    name: str
    series: str
    patient: str
    first: int
    last: int
    source: str
    true_boxes: np.ndarray | None = None
    key_boxes: np.ndarray | None = None
    spacing: tuple[float, float, float] | None = None
    ignored_boxes: np.ndarray | None = None
    true_classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class VolumeLabels:
    """Content of a label file.

    Attributes:
        format: One of `FORMATS`, found or given.
        volumes: In the file's order.
        part: The part that was chosen; None for all of the file.
    """

    format: str
    volumes: list[VolumeLabel]
    part: str | None = None


def read_volume_labels(path: str | Path, part: str = ALL, *, label_format: str = "auto") -> VolumeLabels:
    """Read a label file.

    Args:
        path: ``.pkl``, ``.pickle`` or ``.json``.
        part: ``"val"`` (or ``"validation"``), ``"test"``, ... of a file in parts, or `ALL`; a file without parts is
            read whole.
        label_format: One of `FORMATS`; ``"auto"`` distinguishes them by their content.

    Returns:
        The sub-volumes, including those without a lesion.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is damaged, in another format, or a box is invalid; file, volume and row are named.
    """
    path = Path(path)
    if label_format not in FORMATS:
        raise ValueError(f"Expected one of {', '.join(FORMATS)} as label_format, got {label_format!r}.")
    content = read_content(path)
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"Expected a dict of sub-volumes, got {_shown(content)} in {path}.")
    if label_format == "synthetic" or (label_format == "auto" and isinstance(content.get("volumes"), list)):
        if not isinstance(content.get("volumes"), list):
            raise ValueError(f"Expected a list of volumes as in lesions_3d.json, got none in {path}.")
        return VolumeLabels("synthetic", [_synthetic(entry, path) for entry in content["volumes"]])
    chosen, volumes = _choose_part(content, part, path)
    if label_format == "auto":
        label_format = _guess(volumes, path)
    read = _READERS[label_format]
    return VolumeLabels(label_format, [read(str(name), value, path) for name, value in volumes.items()], chosen)


def read_content(path: Path) -> Any:
    """The plain content of a ``.json``, ``.pkl`` or ``.pickle`` file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it has another extension or cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected a label file, found no file {path}.")
    if path.suffix.lower() in (".pkl", ".pickle"):
        return read_plain_pickle(path)
    if path.suffix.lower() != ".json":
        raise ValueError(f"Expected a file ending in .json, .pkl or .pickle, got {path}.")
    return read_json(path)


def parse_name(name: str, path: Path) -> VolumeLabel:
    """Parse the name of a sub-volume; the result does not have labels yet.

    Raises:
        ValueError: If it is not such a name, or its slices run backwards.
    """
    match = _NAME.fullmatch(name)
    if match is None or int(match["first"]) > int(match["last"]):
        raise ValueError(f"Expected the name of a sub-volume like 000001_01_01_103-115, got {shown(name)} in {path}.")
    first, last = int(match["first"]), int(match["last"])
    plain = f"{match['series']}_{first:03d}-{last:03d}"
    return VolumeLabel(plain, match["series"], match["patient"], first, last, f"{path}, {name}")


def _choose_part(content: Mapping[Any, Any], part: str, path: Path) -> tuple[str | None, Mapping[Any, Any]]:
    """The name of a part and its sub-volumes, or None and all of them."""
    if any(_NAME.fullmatch(str(name)) for name in content):
        return None, content
    if not all(isinstance(volumes, Mapping) for volumes in content.values()):
        name = next(iter(content))
        raise ValueError(f"Expected names of sub-volumes like 000001_01_01_103-115, got {shown(name)} in {path}.")
    if part == ALL:
        merged = {name: value for volumes in content.values() for name, value in volumes.items()}
        if len(merged) < sum(map(len, content.values())):
            raise ValueError(
                f"Expected every sub-volume in one part, got one in two of {shown(list(content))} in {path}."
            )
        return None, merged
    wanted = _PARTS.get(part, part)
    if wanted not in content:
        raise ValueError(
            f"Expected one of the parts {', '.join(map(shown_name, content))} or {ALL}, got {part!r} for {path}."
        )
    return wanted, content[wanted]


def _guess(volumes: Mapping[Any, Any], path: Path) -> str:
    """Detect the order of coordinates of 3D boxes: the one that puts all boxes within their sub-volumes."""
    if any(isinstance(value, Mapping) for value in volumes.values()):
        return "harvester"
    errors: dict[str, ValueError] = {}
    for name, read in _READERS.items():
        try:
            for volume, value in volumes.items():
                read(str(volume), value, path)
        except ValueError as error:
            errors[name] = error
    if len(errors) == len(_READERS):
        raise errors["harvester" if any(str(name).endswith(".annot") for name in volumes) else "manual"]
    boxes = sum(len(value) for value in volumes.values())
    if not errors and boxes:
        raise ValueError(f"Both formats are possible, add --label_format manual or harvester for {path}.")
    return "harvester" if "manual" in errors else "manual"


def _manual(name: str, value: Any, path: Path) -> VolumeLabel:
    label = parse_name(name, path)
    return _with(label, true_boxes=_checked(_rows(value, label), label, lambda boxes: boxes))


def _harvester(name: str, value: Any, path: Path) -> VolumeLabel:
    label = parse_name(name, path)
    # Rows are reported as in the file.
    as_stored = partial(to_harvester, first=label.first)
    if not isinstance(value, Mapping):
        return _with(label, true_boxes=_checked(from_harvester(_rows(value, label), label.first), label, as_stored))
    parts = [np.zeros((0, 6))]
    for number, rows in value.items():
        boxes = _rows(rows, label)
        if not str(number).isdecimal() or (boxes[:, 4:] != float(number)).any():
            raise ValueError(
                f"Expected boxes on slice {shown(number)} alone, got {shown(boxes.tolist())} in {label.source}."
            )
        parts.append(boxes)
    return _with(label, key_boxes=_checked(from_harvester(np.concatenate(parts), label.first), label, as_stored))


_READERS: dict[str, Callable[[str, Any, Path], VolumeLabel]] = {"manual": _manual, "harvester": _harvester}


def _synthetic(entry: Any, path: Path) -> VolumeLabel:
    try:
        first, last = (_whole(number) for number in entry["slice_range"])
        name = f"{entry['series']}_{first:03d}-{last:03d}"
        boxes, regions = _solid(entry["lesions"]), _solid(entry.get("ignored", ()))
        kinds = [lesion.get("class") for lesion in entry["lesions"]]
        x, y, z = (float(value) for value in entry["spacing"])
        if not all(0 < side < math.inf for side in (x, y, z)):
            raise ValueError("a spacing of no length")
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"Expected series, slice_range, spacing and lesions with box and slices, got {shown(entry)} in {path}."
        ) from error
    label = parse_name(name, path)
    solid = _checked(boxes, label, lambda rows: rows)
    ignored = _checked(regions, label, lambda rows: rows) if "ignored" in entry else None
    classes = None if None in kinds else tuple(map(str, kinds))
    return _with(label, true_boxes=solid, spacing=(x, y, z), ignored_boxes=ignored, true_classes=classes)


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {shown_name(value)}"


def _solid(lesions: Any) -> np.ndarray:
    """Entries with ``box`` and ``slices`` in the volume frame, ``(N, 6)``."""
    slices = [(_whole(low), _whole(high)) for low, high in (lesion["slices"] for lesion in lesions)]
    plane = [[float(value) for value in (x1, y1, x2, y2)] for x1, y1, x2, y2 in (lesion["box"] for lesion in lesions)]
    low, high = np.array(slices, dtype=np.float64).reshape(-1, 2).T
    return from_slab(np.array(plane, dtype=np.float64).reshape(-1, 4), low, high)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise ValueError("no whole number")
    return int(value)


def _with(label: VolumeLabel, **labels: Any) -> VolumeLabel:
    return VolumeLabel(**{**vars(label), **labels})


def _rows(value: Any, label: VolumeLabel) -> np.ndarray:
    """Boxes ``(N, 6)`` as stored in the file."""
    try:
        boxes: np.ndarray = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        boxes = np.zeros((1, 1))
    if boxes.ndim > 0 and boxes.size == 0:
        return boxes.reshape(0, 6)
    if boxes.ndim != 2 or boxes.shape[1] != 6:
        raise ValueError(f"Expected boxes of six numbers, got {_shown(value)} in {label.source}.")
    return boxes


def _checked(boxes: np.ndarray, label: VolumeLabel, as_stored: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Check boxes in the volume frame: finite, not empty, within the slices of their sub-volume."""
    with np.errstate(invalid="ignore"):
        good = (np.abs(boxes) <= _FARTHEST).all(axis=1) & (boxes[:, 3:] - boxes[:, :3] + 1 > 0).all(axis=1)
        good &= (boxes[:, 2] >= label.first) & (boxes[:, 5] <= label.last)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise ValueError(
            f"Expected boxes that end after they begin, within slices {label.first} to {label.last}, got "
            f"{as_stored(boxes[row : row + 1])[0].tolist()} as box {row} in {label.source}."
        )
    return boxes
