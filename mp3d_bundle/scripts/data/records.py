"""Records: what the label readers return, and the checks and summaries that they share."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, TypeVar

import numpy as np
import torch

from ..boxes import check_boxes
from ..instances import IGNORED, Instances
from ..storage.contained_paths import check_contained
from ..storage.printable import shown
from .slabs.slice_store import slice_names

logger = logging.getLogger(__name__)


class ImageRecord(TypedDict):
    """An image of a data set and its labels, without pixels.

    Attributes:
        image: Path of the file.
        file_name: Its name in the labels, unique in the data set.
        source: Place of the label, for messages.
        image_size: ``(height, width)`` in pixels.
        window: ``(low, high)`` HU or grey levels, for display.
        instances: ``boxes`` float32 ``(N, 4)`` in the slab frame, as labelled, not clipped; ``labels`` int64 ``(N,)``
            from 1 on (0 is the background); and any further fields, see `scripts.instances`.
    """

    image: str
    file_name: str
    source: str
    image_size: tuple[int, int]
    window: tuple[float, float]
    instances: Instances[np.ndarray]


class Record(ImageRecord):
    """A key slice. Its boxes have ``noisy`` bool ``(N,)`` and ``lesion_type`` int64 ``(N,)``, 1 to 8 or -1 (unknown).

    Attributes:
        series: ``000001_01_01``; the image is ``000001_01_01_109.png``.
        patient: ``000001``.
        key_slice: Number of the slice in the series.
        slice_range: First and last slice number of its sub-volume, inclusive, or None.
        slice_interval: In mm.
        spacing: ``(x, y)`` in mm.
    """

    series: str
    patient: str
    key_slice: int
    slice_range: tuple[int, int] | None
    slice_interval: float
    spacing: tuple[float, float]


class SamplePlace(TypedDict, total=False):
    """What a sample may have.

    Attributes:
        origin: float32 ``(2,)``, original pixels (x, y) at the upper left corner of ``image``, if its border was cut.
        visible_truth: What counts of the record's lesions, in pixels of the file, if ``image`` is a part of its image.
        thickness: mm between the slices of ``image``; photographs have none.
        seed: Of the random choice of boxes in training, by the seed of the run, the epoch and the sample alone.
    """

    origin: torch.Tensor
    visible_truth: Instances[torch.Tensor]
    thickness: float
    seed: int


class Sample(SamplePlace):
    """A record after the transforms; other keys of the record are kept.

    Attributes:
        image: ``(D, H, W)``, HU or network values.
        instances: Those of the record as tensors, boxes in pixels of ``image``.
        scale_factor: float32 ``(2,)``, pixels of ``image`` / original pixels in x and y.
        file_name: As in the record.
        spacing: Likewise; photographs have none.
        record: The record itself, untouched.
    """

    image: torch.Tensor
    instances: Instances[torch.Tensor]
    scale_factor: torch.Tensor
    file_name: str
    spacing: tuple[float, float]
    record: ImageRecord


RecordT = TypeVar("RecordT", bound=ImageRecord)

# For display where the labels have no usable window: the most common window of the data set.
DISPLAY_WINDOW = (-175.0, 275.0)

# What to do about key slices without a PNG.
MISSING_IMAGES = ("raise", "drop", "ignore")

# Slabs of the paper reach this far from the key slice: four slices at 2.5 mm.
_SLAB_REACH_MM = 10.0

# Longest side of an image in pixels.
MAX_SIDE = 1 << 20

# The series is a folder name: it must not be hidden or lead out of the data set.
_FILE_NAME = re.compile(
    r"(?P<series>(?P<patient>(?!\.)[^_/\\\x00-\x1f\x7f-\x9f]+)(?:_[^_/\\\x00-\x1f\x7f-\x9f]+)*)"
    r"_(?P<slice>[0-9]{1,9})\.png"
)


@dataclass
class KeySlice:
    """A labelled key slice while its label file is being read; boxes are collected one by one.

    Attributes:
        file_name: ``000001_01_01_109.png`` (also with a slash before the slice number).
        source: File and row of its first label, for messages.
        image_size: ``(height, width)`` in pixels.
        spacing: ``(x, y)`` in mm.
        slice_interval: Distance of neighbouring slices in mm.
        slice_range: First and last slice number of the sub-volume, inclusive, or None.
        window: ``(low, high)`` HU for display.
        boxes: Slab-frame boxes as labelled.
        noisy: Of each box, whether its label is marked as noisy.
        lesion_types: Of each box, 1 to 8 or -1.
        labels: Of each box, its class from 1.
        ignored: Of each box, whether it is a region to ignore instead of a lesion.
        details: Of each box, further fields by name, without the axis of the boxes.
        empty: Those fields of no box, which every record of a data set has.
        has_regions: Whether the data set knows of regions to ignore, so that its records have the field for them.
    """

    file_name: str
    source: str
    image_size: tuple[int, int]
    spacing: tuple[float, float]
    slice_interval: float
    slice_range: tuple[int, int] | None
    window: tuple[float, float]
    boxes: list[np.ndarray] = field(default_factory=list)
    noisy: list[bool] = field(default_factory=list)
    lesion_types: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    ignored: list[bool] = field(default_factory=list)
    details: list[Mapping[str, np.ndarray]] = field(default_factory=list)
    empty: Mapping[str, np.ndarray] = field(default_factory=dict)
    has_regions: bool = False

    def __post_init__(self) -> None:
        self.file_name = self.file_name.replace("/", "_").replace("\\", "_")
        match = _FILE_NAME.fullmatch(self.file_name)
        if match is None:
            raise ValueError(
                f"Expected a file name like 000001_01_01_109.png, got {shown(self.file_name)} in {self.source}."
            )
        if not all(1 <= side <= MAX_SIDE for side in self.image_size):
            raise ValueError(
                f"Expected an image of at most {MAX_SIDE} x {MAX_SIDE} pixels, got {self.image_size} in {self.source}."
            )
        self.series, self.patient, self.slice_name = match["series"], match["patient"], match["slice"]

    def checked(self, box: np.ndarray, source: str) -> np.ndarray:
        """Check a slab-frame box ``(4,)`` of this image; it may reach out of the image, but must overlap it.

        Returns:
            The box in float32.

        Raises:
            ValueError: If the box is not finite, is inverted or empty, or is wholly outside the image.
        """
        # Sums of decimal numbers differ in the last bits between label files; six decimals are exact for both.
        box = np.round(np.asarray(box, dtype=np.float64), 6)
        check_boxes(box[None], source)
        # All images of DeepLesion are square: nothing shows which side its sizes name first, so either will do.
        side = max(self.image_size)
        if box[2] <= 0 or box[3] <= 0 or box[0] >= side or box[1] >= side:
            raise ValueError(
                f"Expected a box that overlaps its image of {self.image_size} pixels, got {box.tolist()} "
                f"(0-based) in {source}."
            )
        return box.astype(np.float32)

    def add(
        self,
        box: np.ndarray,
        *,
        noisy: bool,
        lesion_type: int,
        label: int = 1,
        ignored: bool = False,
        details: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Add a box that `checked` returned, with a value for each field of ``empty``; of a region none is known."""
        if ignored:
            details = {name: values[0] for name, values in unknown(self.empty, 1).items()}
        self.boxes.append(box)
        self.noisy.append(noisy)
        self.lesion_types.append(lesion_type)
        self.labels.append(label)
        self.ignored.append(ignored)
        self.details.append(details or {})

    def record(self, images_dir: Path, kept: Sequence[int]) -> Record:
        """The record of this key slice with the ``kept`` boxes."""
        return {
            "image": str(images_dir / self.series / f"{self.slice_name}.png"),
            "file_name": self.file_name,
            "series": self.series,
            "patient": self.patient,
            "key_slice": int(self.slice_name),
            "source": self.source,
            "slice_range": self.slice_range,
            "slice_interval": self.slice_interval,
            "spacing": self.spacing,
            "image_size": self.image_size,
            "window": self.window,
            "instances": {
                "boxes": np.array([self.boxes[i] for i in kept], dtype=np.float32).reshape(-1, 4),
                "labels": np.array([self.labels[i] for i in kept], dtype=np.int64),
                "noisy": np.array([self.noisy[i] for i in kept], dtype=bool),
                "lesion_type": np.array([self.lesion_types[i] for i in kept], dtype=np.int64),
                **({IGNORED: np.array([self.ignored[i] for i in kept], dtype=bool)} if self.has_regions else {}),
                **{
                    name: np.stack([self.details[i][name] for i in kept]).astype(none.dtype) if len(kept) else none
                    for name, none in self.empty.items()
                },
            },
        }


def unknown(fields: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Rows of which nothing is known, for some fields ``(N, ...)``: NaN where there can be one, else 0."""
    return {
        name: np.full(
            (count, *values.shape[1:]), np.nan if np.issubdtype(values.dtype, np.floating) else 0, values.dtype
        )
        for name, values in fields.items()
    }


def make_records(slices: Iterable[KeySlice], images_dir: str | Path, *, keep_noisy: bool, name: str) -> list[Record]:
    """Turn key slices into records in the same order, and log what the labels hold, one line a kind.

    Args:
        slices: The key slices with all their boxes.
        images_dir: Folder of the series folders (``Images_png``).
        keep_noisy: Whether noisy boxes stay; if not, images that lose all their boxes go with them.
        name: Name of the labels in the log.
    """
    slices, folder = list(slices), Path(images_dir)
    records, emptied = [], 0
    for key_slice in slices:
        kept = [i for i, noisy in enumerate(key_slice.noisy) if keep_noisy or not noisy]
        lesions = [i for i, ignored in enumerate(key_slice.ignored) if not ignored]
        if not lesions or set(lesions) & set(kept):
            records.append(key_slice.record(folder, kept))
        else:
            emptied += 1
    patients = {key_slice.patient for key_slice in slices}
    regions = sum(sum(key_slice.ignored) for key_slice in slices)
    labelled = sum(len(key_slice.boxes) for key_slice in slices) - regions
    boxes, keys = "box" if labelled == 1 else "boxes", "key slice" if len(slices) == 1 else "key slices"
    people = "patient" if len(patients) == 1 else "patients"
    logger.info("%s: %d %s on %d %s of %d %s.", name, labelled, boxes, len(slices), keys, len(patients), people)
    findings = _describe(slices)
    findings["regions to ignore: neither a lesion nor background there"] = regions
    noisy = sum(sum(key_slice.noisy) for key_slice in slices)
    if keep_noisy:
        findings["boxes marked as noisy, kept as in the released code (keep_noisy=False drops them)"] = noisy
    else:
        findings[f"boxes marked as noisy, dropped together with {emptied} key slices left without a box"] = noisy
    log_findings(name, findings)
    return records


def log_findings(name: str, findings: Counter[str], level: int = logging.INFO) -> None:
    """Log one line for each kind of finding that occurred."""
    for what, count in findings.items():
        if count:
            logger.log(level, "%s: %s: %d.", name, what, count)


def _describe(slices: list[KeySlice]) -> Counter[str]:
    """Count what is unusual in the labels."""
    findings: Counter[str] = Counter()
    intervals, ranges = defaultdict(set), defaultdict(set)
    sizes: Counter[str] = Counter()
    for key_slice in slices:
        height, width = key_slice.image_size
        if key_slice.boxes:
            boxes = np.stack(key_slice.boxes)
            out = (boxes < 0).any(axis=1) | (boxes[:, 2] > width) | (boxes[:, 3] > height)
            findings[
                "boxes that reach out of their image, kept as labelled and clipped by the training transforms"
            ] += int(out.sum())
        if key_slice.image_size != (512, 512):
            sizes[f"{height} x {width}"] += 1
        intervals[key_slice.series].add(key_slice.slice_interval)
        if key_slice.slice_range is not None:
            first, last = key_slice.slice_range
            ranges[key_slice.series].add(key_slice.slice_range)
            shorter = min(int(key_slice.slice_name) - first, last - int(key_slice.slice_name))
            if shorter * key_slice.slice_interval < _SLAB_REACH_MM - 1e-6:
                findings["key slices with less than 10 mm stored on a side, where slabs repeat the last slice"] += 1
    if sizes:
        few = ", ".join(f"{size} ({count})" for size, count in sizes.most_common(3)) + (
            ", ..." if len(sizes) > 3 else ""
        )
        findings[f"key slices of other sizes in pixels than 512 x 512, {few}"] = sizes.total()
    # 0.59998 and 0.6 differ by noise, 5 and 1 are different scans.
    changes = sum(max(values) > 1.01 * min(values) for values in intervals.values())
    findings["series whose slice interval changes, each key slice keeping its own"] = changes
    several = sum(len(values) > 1 for values in ranges.values())
    findings["series of several sub-volumes, between which slices may be missing"] = several
    return findings


def _listing(folder: str, within: Path | None) -> dict[str, bool]:
    """Names in a folder, each with whether it is certainly a regular file of that folder."""
    if not os.path.isdir(folder):
        return {}
    if (stored := slice_names(folder)) is not None:
        return dict.fromkeys(stored, True)
    inside = within is None or Path(folder).resolve().is_relative_to(within.resolve())
    with os.scandir(folder) as entries:
        return {entry.name: inside and entry.is_file(follow_symlinks=False) for entry in entries}


def check_images(
    records: list[RecordT], missing: str = "raise", *, what: str = "key slices", within: Path | None = None
) -> list[RecordT]:
    """Check that the image of every record is there, with one listing per folder.

    Args:
        records: Records of one data set.
        missing: What to do about absent images: ``"raise"``, ``"drop"`` the records with a warning (a partial
            download), or ``"ignore"`` (nothing is checked: use of the labels alone).
        what: Name of the records in messages.
        within: Folder that links must not leave, if any.

    Returns:
        The records whose image is there, or all of them for ``"ignore"``.

    Raises:
        FileNotFoundError: If images are missing.
        ValueError: If ``missing`` is not one of the three, or an image is not a regular file.
    """
    if missing not in MISSING_IMAGES:
        raise ValueError(f"Expected missing images to be one of {MISSING_IMAGES}, got {missing!r}.")
    if missing == "ignore":
        return records
    listings: dict[str, dict[str, bool]] = {}
    present, absent = [], []
    for record in records:
        folder, name = os.path.split(record["image"])
        if folder not in listings:
            listings[folder] = _listing(folder, within)
        plain = listings[folder].get(name)
        (absent if plain is None else present).append(record)
        if plain is False:
            check_contained(record["image"], within or Path(record["image"]).resolve().parent, record["source"])
    if absent and (missing == "raise" or not present):
        raise FileNotFoundError(
            f"Expected the image of {absent[0]['source']} at {absent[0]['image']}, but it is not there; "
            f"{len(absent)} of {len(records)} {what} have no image "
            "(missing_images='drop' continues with the others)."
        )
    if absent:
        logger.warning(
            "%s dropped because their image is not there: %d of %d, the first of them %s.",
            what.capitalize(),
            len(absent),
            len(records),
            absent[0]["image"],
        )
    return present
