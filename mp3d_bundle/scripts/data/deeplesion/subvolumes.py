"""DeepLesion's sub-volumes as scans: their labels, spacings and slices."""

from __future__ import annotations

import logging
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch

from ...instances import true_rows
from ..importing.set_tables import read_set
from ..records import MISSING_IMAGES, Record
from ..scans.scan import Scan
from ..slabs.slab_reader import read_slice
from ..slabs.slice_store import images_folder, slice_names
from .columns import LABELS, SPLITS
from .patient_facts import facts_of_series
from .splits import read_labels
from .subvolume_frames import from_slab
from .subvolume_labels import ALL, VolumeLabel, read_volume_labels

logger = logging.getLogger(__name__)

# Sex and age of a patient.
_UNKNOWN = (math.nan, math.nan)


class SliceRun(TypedDict):
    """Consecutive slices in a folder of PNGs.

    Keys:
        slice_range: First and last slice number, inclusive.
        folder: Path of the series' PNGs.
        spacing: ``(x, y, z)`` mm, or None if neither known nor needed.
    """

    slice_range: tuple[int, int]
    folder: str
    spacing: tuple[float, float, float] | None


class VolumeRecord(SliceRun):
    """One sub-volume, without pixels.

    Keys, in addition to those of its slices:
        id: ``000001_01_01_103-115``.
        series: ``000001_01_01``.
        patient: ``000001``.
        source: The place of the labels, for messages.
        part: Of the label file, or None for all of it.
        slice_interval: z of the spacing, or None.
        true_boxes: ``(N, 6)`` float64 in the volume frame (see `subvolume_frames`), or None if lesions are not
            labelled in 3D.
        key_boxes: Likewise, on key slices.
        patient_facts: 1 for male, 0 for female, and years; NaN where it is not known, or was not asked for.
        ignored_boxes: Regions in which nothing is known, ``(K, 6)``; None without any.
        class_names: The classes of a data set of several, in its order; none of others.
        true_classes: ``(N,)`` class of each lesion in 3D; None in a data set of one class.
    """

    id: str
    series: str
    patient: str
    source: str
    part: str | None
    slice_interval: float | None
    true_boxes: np.ndarray | None
    key_boxes: np.ndarray | None
    patient_facts: tuple[float, float]
    ignored_boxes: np.ndarray | None
    class_names: tuple[str, ...]
    true_classes: np.ndarray | None


@dataclass(frozen=True)
class Annotations:
    """DeepLesion's own labels, for spacings and key slices, which 3D labels lack.

    Attributes:
        path: ``DL_info.csv`` or a COCO-style JSON of the same labels, or None if there are none.
        images_dir: Folder of the series folders.
    """

    path: Path | None
    images_dir: Path

    def key_slices(self, split: str = ALL) -> list[Record]:
        """The key slices of a split, or all.

        Raises:
            ValueError: If the labels do not have it.
        """
        if split == ALL:
            if self.path is None:
                return []
            return read_labels(self.path, self.images_dir)
        if self.path is None or self.path.suffix.lower() == ".json" or split not in SPLITS:
            raise ValueError(
                f"Expected a {LABELS} and one of {', '.join(SPLITS)} to choose a split of synthetic volumes, got "
                f"{self.path} and {split!r} ({ALL!r} takes them all)."
            )
        return read_labels(self.path, self.images_dir, split=split)

    def patient_facts(self) -> dict[str, tuple[float, float]]:
        """Sex and age by series, see `facts_of_series`; logged where the labels have none."""
        if self.path is None or self.path.suffix.lower() == ".json":
            logger.warning("%s has no sex and age of patients.", self.path or self.images_dir.parent)
            return {}
        return facts_of_series(self.path)


def load_volumes(
    labels: str | Path,
    dataset_dir: str | Path,
    *,
    split: str = "test",
    label_format: str = "auto",
    annotations: str | Path | None = None,
    spacing: Sequence[float] | None = None,
    missing_images: str = "raise",
    patients: bool = False,
) -> list[VolumeRecord]:
    """Load the sub-volumes of a label file, with the data set's information about them.

    The spacing of a sub-volume is the label file's own (synthetic), or that of a key slice in it, or
    ``spacing``. If the file labels lesions in 3D, the data set's key-slice boxes in the sub-volume become its
    ``key_boxes``.

    Args:
        labels: Label file, see `volume_labels`.
        dataset_dir: Folder with ``Images_png`` (or a store) and, if there are any, the data set's own labels.
        split: Part of a label file in parts; of a synthetic one, the split by ``DL_info.csv``; ``"all"`` for all.
            A file without parts is read whole.
        label_format: ``"auto"``, ``"manual"``, ``"harvester"`` or ``"synthetic"``.
        annotations: The data set's own labels, ``DL_info.csv`` or COCO-style JSON; relative paths start at
            ``dataset_dir``. By default ``DL_info.csv`` if it is there.
        spacing: ``(x, y, z)`` mm of sub-volumes without any other spacing.
        missing_images: What to do about sub-volumes with missing slices: ``"raise"``, ``"drop"`` them
            with a warning, or ``"ignore"`` (nothing is checked: use of the labels alone).
        patients: Whether to read sex and age of the patients from ``DL_info.csv``; other labels have none.

    Returns:
        The records, in the file's order.

    Raises:
        FileNotFoundError: If the labels or slices are missing.
        ValueError: If labels are not as expected, no sub-volume is left, or a spacing is not known.
    """
    if missing_images not in MISSING_IMAGES:
        raise ValueError(f"Expected missing images to be one of {MISSING_IMAGES}, got {missing_images!r}.")
    folder = Path(dataset_dir)
    images_dir = images_folder(folder)
    own = folder / (annotations or LABELS)
    if annotations is not None and not own.is_file():
        raise FileNotFoundError(f"Expected the data set's labels at {own}, but the file does not exist.")
    known = Annotations(own if own.is_file() else None, images_dir)
    read = read_volume_labels(labels, split, label_format=label_format)
    volumes, part = read.volumes, read.part
    by_table = read.format == "synthetic" and split != ALL
    series: dict[str, list[Record]] = defaultdict(list)
    for key in known.key_slices(split if by_table else ALL):
        series[key["series"]].append(key)
    if by_table:
        part = split
        chosen = {key["patient"] for keys in series.values() for key in keys}
        volumes = [volume for volume in volumes if volume.patient in chosen]
    if not volumes:
        raise ValueError(f"Expected at least one sub-volume of {split}, got none in {labels}.")
    given = checked_spacing(spacing)
    names = _class_names(read.volumes, folder)
    records: list[VolumeRecord] = [
        _record(volume, images_dir, series.get(volume.series, []), part, given) for volume in volumes
    ]
    if len(names) > 1:
        records = [
            {**record, "class_names": names, "true_classes": np.array(volume.true_classes or (), dtype=str)}
            for record, volume in zip(records, volumes, strict=True)
        ]
    if patients:
        facts = known.patient_facts()
        records = [{**record, "patient_facts": facts.get(record["series"], _UNKNOWN)} for record in records]
    present = check_slices(records, missing_images)
    if missing_images != "ignore":
        _need_spacing(present)
    logger.info("%s: %d sub-volumes with labels.", labels, len(present))
    return _complete_keys(present)


def _class_names(volumes: Sequence[VolumeLabel], folder: Path) -> tuple[str, ...]:
    """The classes of a data set in its order; none where a label file does not tell those of its lesions."""
    if any(volume.true_classes is None for volume in volumes):
        return ()
    about = read_set(folder)
    if about is not None:
        return tuple(map(str, about["classes"]))
    return tuple(sorted({name for volume in volumes for name in volume.true_classes or ()}))


def _complete_keys(records: list[VolumeRecord]) -> list[VolumeRecord]:
    """Key-slice boxes of all sub-volumes or of none: a sub-volume without a key slice may still have lesions."""
    without = [record for record in records if record["key_boxes"] is None]
    if not without or len(without) == len(records):
        return records
    logger.warning(
        "%d of %d sub-volumes, %s the first, have no key slice in the data set's labels: nothing is scored against "
        "key slices.",
        len(without),
        len(records),
        without[0]["id"],
    )
    return [{**record, "key_boxes": None} for record in records]


def checked_spacing(spacing: Sequence[float] | None) -> tuple[float, float, float] | None:
    """A spacing that was given, as three floats.

    Args:
        spacing: ``(x, y, z)`` mm, or None.

    Raises:
        ValueError: If it is not three lengths above zero.
    """
    if spacing is None:
        return None
    values = list(spacing) if isinstance(spacing, Sequence) and not isinstance(spacing, str) else [spacing]
    if len(values) != 3 or not all(isinstance(value, (int, float)) and 0 < value < math.inf for value in values):
        raise ValueError(f"Expected a spacing of three lengths in mm above zero (x, y, z), got {spacing!r}.")
    return float(values[0]), float(values[1]), float(values[2])


def _record(
    label: VolumeLabel,
    images_dir: Path,
    keys: Iterable[Record],
    part: str | None,
    given: tuple[float, float, float] | None,
) -> VolumeRecord:
    inside = [key for key in keys if label.first <= key["key_slice"] <= label.last]
    spacings = {(*key["spacing"], key["slice_interval"]) for key in inside}
    if label.spacing is None and len(spacings) > 1:
        raise ValueError(f"Expected one spacing of {label.source}, its key slices have {sorted(spacings)}.")
    spacing = label.spacing or next(iter(spacings), None) or given
    key_boxes = label.key_boxes
    if key_boxes is None and inside:
        # Noisy boxes are left out, as in the Lesion Harvester's files.
        kept = [true_rows(key["instances"]) & ~key["instances"]["noisy"] for key in inside]
        boxes = [key["instances"]["boxes"][rows] for key, rows in zip(inside, kept, strict=True)]
        slices = np.repeat([key["key_slice"] for key in inside], [len(of_slice) for of_slice in boxes])
        key_boxes = from_slab(np.concatenate(boxes), slices, slices)
    return {
        "id": label.name,
        "series": label.series,
        "patient": label.patient,
        "slice_range": (label.first, label.last),
        "folder": str(images_dir / label.series),
        "source": label.source,
        "part": part,
        "spacing": spacing,
        "slice_interval": None if spacing is None else spacing[2],
        "true_boxes": label.true_boxes,
        "key_boxes": key_boxes,
        "patient_facts": _UNKNOWN,
        "ignored_boxes": label.ignored_boxes,
        "class_names": (),
        "true_classes": None,
    }


def _need_spacing(records: Sequence[VolumeRecord]) -> None:
    for record in records:
        if record["spacing"] is None:
            raise ValueError(
                f"Expected the spacing of {record['source']} from a key slice of it in {LABELS}, found none: name "
                'the labels by --annotations FILE, or give --spacing "[x, y, z]" in mm.'
            )


def slice_paths(record: SliceRun) -> list[Path]:
    """The PNGs of a sub-volume, in the order of their numbers."""
    first, last = record["slice_range"]
    return [Path(record["folder"]) / f"{number:03d}.png" for number in range(first, last + 1)]


def check_slices(records: Sequence[VolumeRecord], missing: str = "raise") -> list[VolumeRecord]:
    """Check that every slice of every sub-volume is there, with one listing per series.

    Args:
        records: Volume records.
        missing: ``"raise"``, ``"drop"`` or ``"ignore"``, see `load_volumes`.

    Returns:
        The records whose slices are all there, or all of them for ``"ignore"``.

    Raises:
        FileNotFoundError: If slices are absent, or no sub-volume is whole.
    """
    if missing == "ignore":
        return list(records)
    listings: dict[str, set[str]] = {}
    present, absent = [], []
    for record in records:
        folder = record["folder"]
        if folder not in listings:
            names = slice_names(folder)
            listings[folder] = set(names or (os.listdir(folder) if os.path.isdir(folder) else ()))
        gap = next((path for path in slice_paths(record) if path.name not in listings[folder]), None)
        if gap is None:
            present.append(record)
        else:
            absent.append((record, gap))
    if absent and (missing == "raise" or not present):
        record, gap = absent[0]
        raise FileNotFoundError(
            f"Expected the slices of {record['source']}, but {gap} is not there; {len(absent)} of {len(records)} "
            "sub-volumes lack slices (missing_images='drop' continues with the others)."
        )
    if absent:
        logger.warning(
            "Sub-volumes dropped because their slices are not all there: %d of %d, the first of them %s.",
            len(absent),
            len(records),
            absent[0][0]["id"],
        )
    return present


def read_subvolume(record: SliceRun) -> Scan:
    """Read the slices of a sub-volume.

    Slices stay in the order of their numbers, as slabs are read in training; their position in the body is not
    stored, so the millimetres of the result start at the first pixel of the first slice.

    Args:
        record: A volume record with a spacing.

    Returns:
        The scan; slice ``k`` of it has the number ``first + k``.

    Raises:
        FileNotFoundError: If a slice does not exist.
        ValueError: If the record has no spacing, a slice is not a 16-bit grey PNG, or the slices differ in size.
    """
    paths = slice_paths(record)
    with ThreadPoolExecutor(max(1, min(torch.get_num_threads(), len(paths)))) as pool:
        slices = list(pool.map(read_slice, paths))
    for path, pixels in zip(paths, slices, strict=True):
        if pixels.shape != slices[0].shape:
            raise ValueError(
                f"Expected slices of {slices[0].shape} pixels like the first one of the sub-volume, got "
                f"{pixels.shape} in {path}."
            )
    hu = np.stack(slices)
    height, width = slices[0].shape
    if record["spacing"] is None:
        raise ValueError(f"Expected a spacing of the slices in {record['folder']}, got none.")
    affine = np.diag([*record["spacing"], 1.0])
    return Scan(hu, affine, np.eye(4), (width, height, len(hu)), Path(record["folder"]), tuple(paths))
