"""The files of a truth: what kind each is, by its content, and how it is read once its scan is known."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from ....storage.printable import shown_name
from ....storage.result_files import NUMBERED, file_names
from ....storage.safe_json import read_json
from ....storage.safe_xml import plain_tag, read_xml
from ...scans.dicom.dicom_files import ForeignFileError, may_be_dicom, read_dataset, read_text, uid_name
from ...scans.find_scans import without_suffix
from ...scans.scan_lists import files_below
from ...scans.volume_files.nifti import is_pair_voxels
from ..pattern_stars import files_like
from ..true_lesions import ScanTruth
from .box_lists import (
    BOX_FRAMES,
    BOX_LAYOUTS,
    ListedBoxes,
    ListedDiameters,
    NoBoxesError,
    read_box_csv,
    read_box_json,
    read_markup_lesions,
    read_own_json,
)
from .contours import READERS, read_lidc, read_structures
from .mask_files import MASK_FRAMES, MASK_SUFFIXES, read_mask
from .named_images import named_images
from .segmentations import read_segmentation
from .slice_labels import SliceLabels, may_be_yolo, read_coco_slices, read_voc, read_yolo
from .slice_places import SLICE_FRAMES, SlicePlaces, SliceRule
from .yolo_names import ClassNames, is_yolo_names

logger = logging.getLogger(__name__)

# What a file can be. `recist` is a CSV with the ends of diameters, `boxes` any other list of boxes.
KINDS = ("mask", "seg", "rtstruct", "boxes", "recist", "voc", "coco", "yolo", "markups", "lesions", "lidc")
LESION_RULES = ("parts", "values")
# Labels of single slices: many of them belong to one scan.
SLICE_KINDS = ("voc", "coco", "yolo")
# The class of label maps among segmentations, which pydicom does not name yet.
_LABEL_MAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"
# What our own results of a scan have next to their lesions, and what a person's review of them is called.
_OWN, _RECORD, _REVIEWS = "lesions.json", "finished.json", "lesions_reviewed*.json"


@dataclass(frozen=True)
class TruthRules:
    """How truth is read where files do not say it themselves.

    Attributes:
        lesions: ``"parts"``: every connected part of a label, segment or structure is a lesion; ``"values"``: every
            label, segment or structure is one.
        mask_frame: See `scripts.data.importing.truth.mask_files.read_mask`.
        box_frame: Of JSON and CSV boxes, see `scripts.data.importing.truth.box_lists`; None where there are none.
        box_layout: Of JSON boxes.
        slices: How labels of slices name theirs.
        readers: Of LIDC, how many have to agree.
    """

    lesions: str = "parts"
    mask_frame: str = "mm"
    box_frame: str | None = None
    box_layout: str = "corners"
    slices: SliceRule = field(default_factory=SliceRule)
    readers: int = READERS

    def __post_init__(self) -> None:
        """Check the words.

        Raises:
            ValueError: If one is not among those known.
        """
        for name, value, known in (
            ("lesions", self.lesions, LESION_RULES),
            ("mask_frame", self.mask_frame, MASK_FRAMES),
            ("box_frame", self.box_frame, (None, *BOX_FRAMES)),
            ("box_layout", self.box_layout, BOX_LAYOUTS),
            ("slice_frame", self.slices.frame, SLICE_FRAMES),
            ("slices_from", self.slices.first, (None, 0, 1)),
            ("pixels_from", self.slices.pixels_from, (0, 1)),
            ("readers", self.readers, (1, 2, 3, 4)),
        ):
            if value not in known:
                words = ", ".join(str(word) for word in known if word is not None)
                raise ValueError(f"Expected {words} as {name}, got {value!r}.")


@dataclass(frozen=True)
class Truth:
    """The truth in one file, or one entry of a file, about one scan.

    Attributes:
        path: The file.
        kind: One of `KINDS`.
        place: Its folder below the folder of the truth, ``""`` there; None for an entry of a file.
        image: What it calls its scan or slice: a name, a path without ending; ``""`` where it does not say.
        series: SeriesInstanceUID of its scan, ``""`` where it does not say.
        read: Reads the lesions of a scan; of the labels of a slice given its name.
        companions: Other files that shape it: the names of its classes.
        named: What its labels are called by as well; ``""`` for their own names alone.
        slices: SOPInstanceUIDs of the slices of its scan, where it names those and no series.
    """

    path: Path
    kind: str
    place: str | None
    image: str
    series: str
    read: Callable[[SlicePlaces, str], ScanTruth]
    companions: tuple[Path, ...] = ()
    named: str = ""
    slices: frozenset[str] = frozenset()

    def by_file(self) -> Truth:
        """The same truth with its labels called by its file as well: ``liver_lesions:1``."""
        return replace(self, read=partial(_read_by_file, self.read, _stem(self.path)), named=_stem(self.path))

    @property
    def slice_name(self) -> str:
        """What it calls the slice, of labels of one."""
        return self.image.rpartition("/")[2]

    @property
    def shown(self) -> str:
        """Its name in messages."""
        return f"{self.path}" if self.place is not None else f"{self.path} ({shown_name(self.image)})"


def _read_by_file(
    read: Callable[[SlicePlaces, str], ScanTruth], file: str, places: SlicePlaces, slice_name: str
) -> ScanTruth:
    truth = read(places, slice_name)
    return replace(truth, lesions=tuple(lesion.of_file(file) for lesion in truth.lesions))


def find_truth(
    root: Path, rules: TruthRules, *, pattern: str | None = None, kind: str | None = None
) -> tuple[list[Truth], list[Path]]:
    """Look through a folder, or one file, for truth.

    Args:
        root: Folder or file.
        rules: How files are read.
        pattern: Only files whose path below the folder is like it, such as ``*/tumour.nii.gz``, see `files_like`.
            Without it, of a folder of our own results only the reviews in it count, or else its ``lesions.json``.
        kind: Take all of them for this kind; by default the content decides.

    Returns:
        What was found, in sorted order, and the files that are not a truth.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If a file is not what it looks like.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"Expected one of {', '.join(KINDS)} as kind, got {kind!r}.")
    if not root.exists():
        raise FileNotFoundError(f"Expected the truth at {root}, but there is nothing.")
    given = root
    if root.is_file():
        files, root = [root], root.parent
    else:
        there = files_like(root, pattern) if pattern else files_below(root)
        files = [path for path in there if path.is_file() and not _hidden(path, root)]
        files = files if pattern else [path for path in files if not _is_byproduct(path)]
    found: list[Truth] = []
    left: list[Path] = []
    reasons: list[NoBoxesError] = []
    classes = ClassNames(root)
    for path in files:
        known = kind or _kind(path)
        if is_yolo_names(path) and known in ("yolo", None):
            continue
        if known is None:
            left.append(path)
        elif known:
            names, names_file = classes.of(path.parent) if known == "yolo" else ({}, None)
            companions = () if names_file is None else (names_file,)
            try:
                found += [replace(truth, companions=companions) for truth in _READERS[known](path, root, rules, names)]
            except NoBoxesError as error:
                if kind is not None:
                    raise
                left.append(path)
                reasons.append(error)
    classes.log()
    if not found and reasons:
        raise reasons[0]
    if not found:
        raise FileNotFoundError(
            f"Expected truth (masks, DICOM SEG or RTSTRUCT, boxes, VOC, COCO, YOLO, markups, LIDC, lesions.json) in "
            f"{given}, got none among {len(files)} files{f' like {pattern}' if pattern else ''}."
        )
    return found, left


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _is_byproduct(path: Path) -> bool:
    """Whether a file of our own results is neither its lesions nor a review of them, or lesions that were reviewed."""
    folder = path.parent
    if folder.name in dict(NUMBERED) and (folder.parent / _RECORD).is_file():
        return True
    if not (folder / _RECORD).is_file():
        return False
    if path.name == _OWN:
        return any(folder.glob(_REVIEWS))
    return path.name in (_RECORD, *file_names())


def _kind(path: Path) -> str | None:
    """What a file is, None where it is not known, ``""`` for a part of another one or of a CT next to its truth."""
    name = path.name.lower()
    if name.endswith(MASK_SUFFIXES):
        return "mask"
    if name.endswith(".csv"):
        return "boxes"
    if name.endswith(".xml"):
        tag = plain_tag(read_xml(path))
        return {"LidcReadMessage": "lidc", "annotation": "voc"}.get(tag)
    if name.endswith(".json"):
        return _json_kind(read_json(path, "truth"))
    if name.endswith(".txt"):
        return "yolo" if may_be_yolo(path) else None
    if is_pair_voxels(path):
        return ""
    if not may_be_dicom(path):
        return None
    try:
        header = read_dataset(path, tags=["SOPClassUID", "Modality"])
    except (ForeignFileError, OSError):
        return None
    storage = read_text(header, "SOPClassUID")
    known = {
        str(SegmentationStorage): "seg",
        _LABEL_MAP_SEGMENTATION: "seg",
        str(RTStructureSetStorage): "rtstruct",
    }
    return known.get(storage, "" if read_text(header, "Modality") == "CT" else None)


def _json_kind(content: Any) -> str | None:
    if isinstance(content, Mapping):
        if "markups" in content:
            return "markups"
        if {"images", "annotations", "categories"} <= set(content):
            return "coco"
        if {"schema_version", "lesions"} <= set(content):
            return "lesions"
        if "detections" in content and "schema_version" in content:
            return None
    return "boxes" if isinstance(content, (Mapping, list)) else None


def _place(path: Path, root: Path) -> str:
    place = path.parent.relative_to(root).as_posix()
    return "" if place == "." else place


def _stem(path: Path) -> str:
    """Name of a file without its ending, ``.mrk.json`` included."""
    name = without_suffix(Path(path.name))
    if name != path.name:
        return name
    return path.name[: -len(".mrk.json")] if path.name.endswith(".mrk.json") else path.stem


def _whole(kind: str, read: Callable[[Path, Any, TruthRules], ScanTruth]) -> Callable[..., list[Truth]]:
    """A reader of files of which each is the truth of one scan."""

    def of_file(path: Path, root: Path, rules: TruthRules, names: Mapping[int, str]) -> list[Truth]:
        def run(places: SlicePlaces, slice_name: str) -> ScanTruth:
            return read(path, places.scan, rules)

        series, slices = named_images(path, kind)
        return [Truth(path, kind, _place(path, root), _stem(path), series, run, slices=slices)]

    return of_file


def _boxes(path: Path, root: Path, rules: TruthRules, names: Mapping[int, str]) -> list[Truth]:
    if path.name.lower().endswith(".csv"):
        entries: list[Any] = list(read_box_csv(path, frame=rules.box_frame))
    else:
        content = read_json(path, "boxes")
        entries = list(read_box_json(content, path, frame=rules.box_frame, layout=rules.box_layout))
    return [_entry(path, entry, rules) for entry in entries]


def _entry(path: Path, entry: ListedBoxes | ListedDiameters, rules: TruthRules) -> Truth:
    def run(places: SlicePlaces, slice_name: str) -> ScanTruth:
        if isinstance(entry, ListedBoxes):
            return entry.lesions_in(places.scan)
        return entry.lesions_in(places, rules.slices)

    kind = "boxes" if isinstance(entry, ListedBoxes) else "recist"
    return Truth(path, kind, None, without_suffix(Path(entry.image)), uid_name(entry.image), run)


def _own(path: Path, root: Path, rules: TruthRules, names: Mapping[int, str]) -> list[Truth]:
    content = read_json(path, "lesions")
    entry = read_own_json(content, path)

    def run(places: SlicePlaces, slice_name: str) -> ScanTruth:
        return entry.lesions_in(places.scan)

    return [Truth(path, "lesions", _place(path, root), without_suffix(Path(entry.image)), uid_name(entry.image), run)]


def _slice(path: Path, kind: str, place: str | None, labels: SliceLabels, rules: TruthRules) -> Truth:
    def run(places: SlicePlaces, slice_name: str) -> ScanTruth:
        return labels.lesions_in(places, slice_name, rules.slices)

    return Truth(path, kind, place, labels.image, "", run)


def _voc(path: Path, root: Path, rules: TruthRules, names: Mapping[int, str]) -> list[Truth]:
    return [_slice(path, "voc", _place(path, root), read_voc(path, rules.slices, root), rules)]


def _coco(path: Path, root: Path, rules: TruthRules, names: Mapping[int, str]) -> list[Truth]:
    return [_slice(path, "coco", None, labels, rules) for labels in read_coco_slices(path)]


def _yolo(path: Path, root: Path, rules: TruthRules, names: Mapping[int, str]) -> list[Truth]:
    return [_slice(path, "yolo", _place(path, root), read_yolo(path, root, names), rules)]


def _mask(path: Path, scan: Any, rules: TruthRules) -> ScanTruth:
    return read_mask(path, scan, each_value=rules.lesions == "values", frame=rules.mask_frame)


def _seg(path: Path, scan: Any, rules: TruthRules) -> ScanTruth:
    return read_segmentation(path, scan, each_segment=rules.lesions == "values")


def _rtstruct(path: Path, scan: Any, rules: TruthRules) -> ScanTruth:
    return read_structures(path, scan, each_structure=rules.lesions == "values")


def _lidc(path: Path, scan: Any, rules: TruthRules) -> ScanTruth:
    return read_lidc(path, scan, readers=rules.readers)


def _markups(path: Path, scan: Any, rules: TruthRules) -> ScanTruth:
    return read_markup_lesions(path, scan)


_READERS: dict[str, Callable[..., list[Truth]]] = {
    "mask": _whole("mask", _mask),
    "seg": _whole("seg", _seg),
    "rtstruct": _whole("rtstruct", _rtstruct),
    "lidc": _whole("lidc", _lidc),
    "markups": _whole("markups", _markups),
    "boxes": _boxes,
    "recist": _boxes,
    "lesions": _own,
    "voc": _voc,
    "coco": _coco,
    "yolo": _yolo,
}
