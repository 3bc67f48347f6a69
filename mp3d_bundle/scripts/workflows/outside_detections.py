"""Truth and detections as other programs write them, as cases to score.

In two dimensions: COCO results JSON and CSV. In three: the files of `volume_predictions`, and for an imported set
folders of our own ``lesions.json`` and of nnDetection's ``CASE_boxes.pkl`` or ``.json``.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from ..data.deeplesion.dl_info import read_csv
from ..data.deeplesion.splits import box_padding, load_records
from ..data.deeplesion.subvolume_labels import read_content
from ..data.deeplesion.subvolumes import load_volumes
from ..data.importing.set_records import read_records, stored_boxes
from ..data.importing.set_tables import VOLUMES
from ..data.records import Record
from ..data.scans.scan_lists import files_below
from ..instances import IGNORED, true_rows
from ..metrics.cases import Case
from ..metrics.free_response.class_cases import named
from ..storage.printable import shown, shown_name
from .scoring.checked_results import check_in_images, check_result
from .scoring.coco_detections import coco_detections, place_in
from .scoring.coco_truth import coco_names, coco_tables, coco_truth
from .scoring.detected_categories import tell_unknown, with_known_categories
from .scoring.result_boxes import ResultBoxes, nndetection, own_result
from .scoring.table_detections import table_detections
from .volume_predictions import read_predictions

logger = logging.getLogger(__name__)


class _Found(TypedDict):
    """Detections of an image."""

    boxes: np.ndarray
    scores: np.ndarray


_NOTHING = _Found(boxes=np.zeros((0, 4)), scores=np.zeros(0))
_NNDET = ("_boxes.pkl", "_boxes.json")


@dataclass(frozen=True)
class OutsideDetections:
    """Detections of another program; a file is read once, the results in a folder where they are scored.

    Attributes:
        path: The file or folder.
        content: What a JSON file or a pickle holds; None of a table or a folder.
    """

    path: Path
    content: Any = None

    @classmethod
    def read(cls, path: Path) -> OutsideDetections:
        """Read a file.

        Args:
            path: File or folder.

        Raises:
            OSError: If the file does not exist.
            ValueError: If it cannot be read.
        """
        later = path.is_dir() or path.suffix.lower() == ".csv"
        return cls(path, None if later else read_content(path))

    @property
    def flat(self) -> bool:
        """Whether the boxes are in two dimensions: a list of COCO results, or a table."""
        suffix = self.path.suffix.lower()
        return (suffix == ".json" and isinstance(self.content, list)) or (suffix == ".csv" and not self.path.is_dir())


def in_coco_style(truth: Path) -> bool:
    """Whether labels of slices are COCO's, which have no splits."""
    return truth.suffix.lower() == ".json"


def flat_cases(
    truth: Path, predictions: OutsideDetections, split: str | None = None, category: str | None = None
) -> list[Case]:
    """Cases of images, see `scripts.metrics.cases`.

    Args:
        truth: COCO instances JSON, ``DL_info.csv``, or the folder of a data set.
        predictions: COCO results JSON, ``image_id`` being an id or a file name of the truth; or CSV with ``image``,
            ``x1 y1 x2 y2`` (pixels from 0, half-open), ``score`` and, for ``category``, ``category_id``, ``class`` or
            ``label``.
        split: Of a data set, test by default; a COCO file has none.
        category: Name or id of the only category that counts; all by default, as one, and each of its own where
            truth and detections tell classes.

    Raises:
        OSError: If a file is not there.
        ValueError: If one is not as expected, or detections are of images that the truth does not have, or outside.
    """
    coco = in_coco_style(truth)
    if category is not None and not coco:
        raise ValueError(f"Expected a truth in COCO style to choose a category, got {truth}.")
    if split is not None and coco:
        raise ValueError(f"Expected --split with a data set, got --split {split} with labels in COCO style: {truth}.")
    content = coco_tables(truth) if coco else {}
    cases, number = coco_truth(truth, content, category) if coco else (_table_truth(truth, split or "test"), None)
    sizes = {name: (case["height"], case["width"]) for key, case in cases.items() for name in (key, case["id"])}
    if predictions.content is None:
        rows = table_detections(predictions.path)
    else:
        rows = coco_detections(predictions.content, sizes, predictions.path)
    if category is not None:
        rows = with_known_categories(rows, content["categories"], predictions.path)
    called: dict[str, str] = {}
    for key, case in cases.items():
        if called.setdefault(case["id"], key) != key or (case["id"] != key and case["id"] in cases):
            raise ValueError(f"Expected its own name for each image of {truth}, got {shown_name(case['id'])} twice.")
    names: Sequence[str] = next(iter(cases.values())).get("class_names", ()) if cases else ()
    by_class = category is None and len(names) > 1 and all(kind is not None for _, kind, *_ in rows)
    kinds = _numbers_of(names, content.get("categories")) if by_class else {}
    tell_unknown([kind for _, kind, *_ in rows] if by_class else [], kinds, predictions.path)
    found: dict[str, list[tuple[list[float], float, str]]] = defaultdict(list)
    strange: list[str] = []
    for image, kind, box, score, place in rows:
        key = image if image in cases else called.get(image)
        if key is None:
            strange.append(f"{shown(image)} in {place_in(predictions.path, place)}")
        elif number is None or kind is None or kind == number:
            found[key].append((box, score, kinds.get(str(kind), "")))
    if strange:
        raise ValueError(
            f"Expected detections of the {len(cases)} images of {truth}, such as {shown_name(next(iter(called), ''))}, "
            f"got {len(strange)} of others: {strange[0]} is the first."
        )
    silent = [name for name in cases if name not in found]
    if silent:
        logger.warning("%d of %d images have no detection, %s the first.", len(silent), len(cases), silent[0])
    for name, case in cases.items():
        case["boxes"] = np.array([box for box, _, _ in found[name]], dtype=np.float64).reshape(-1, 4)
        case["scores"] = np.array([score for _, score, _ in found[name]], dtype=np.float64)
        if by_class:
            case["classes"] = np.array([kind for _, _, kind in found[name]], dtype=str)
    check_in_images(cases.values(), predictions.path)
    return list(cases.values())


def _table_truth(truth: Path, split: str) -> dict[str, Case]:
    """Images of a data set by their file names, without detections."""
    if truth.is_dir():
        records = load_records(truth, split, missing_images="ignore")
    else:
        records = read_csv(truth, truth.parent, split=None if split == "all" else split)
    padding = box_padding(truth if truth.is_dir() else truth.parent)
    return {record["file_name"]: {**_table_case(record), "box_padding": padding} for record in records}


def _table_case(record: Record) -> Case:
    known = record["instances"]
    rows = true_rows(known)
    case: Case = {
        "id": record["file_name"],
        "patient": record["patient"],
        **_NOTHING,
        "true_boxes": known["boxes"][rows].astype(np.float64),
        "height": record["image_size"][0],
        "width": record["image_size"][1],
        "slice_interval": record["slice_interval"],
        "spacing": record["spacing"],
        "noisy": known["noisy"][rows],
        "lesion_type": known["lesion_type"][rows],
    }
    if IGNORED in known:
        case["ignored_boxes"] = known["boxes"][~rows]
    names = getattr(dict(record).get("categories"), "names", ())
    if len(names) > 1:
        case["class_names"], case["true_classes"] = tuple(names), named(known["labels"][rows], names)
    return case


def _numbers_of(names: Sequence[str], categories: Sequence[Mapping[str, Any]] | None) -> dict[str, str]:
    """The class that a detection means by a number or a name; of a data set, without categories, they count from 1."""
    numbers = dict(enumerate(names, start=1)) if categories is None else coco_names(categories)
    return {**{name: name for name in names}, **{str(number): name for number, name in numbers.items()}}


def solid_cases(
    truth: Path, predictions: OutsideDetections, split: str, *, missing_is_empty: bool = False
) -> list[dict[str, Any]]:
    """Cases of volumes, see `scripts.metrics.volume.volume_matching`.

    Args:
        truth: The folder of a data set with ``lesions_3d.json``, or a label file of sub-volumes next to
            ``DL_info.csv``.
        predictions: A file as `read_predictions` takes it; or, for an imported set, a folder of results: ours, or
            nnDetection's.
        split: Of the data set, or part of the label file; ``"all"`` for everything.
        missing_is_empty: Whether a scan without results has no detection; if not, it is an error.

    Raises:
        OSError: If a file is not there.
        ValueError: If one is not as expected, or scans and results do not belong together.
    """
    folder, labels = (truth, truth / VOLUMES) if truth.is_dir() else (truth.parent, truth)
    known = read_content(labels) if truth.is_file() else None
    if isinstance(known, Mapping) and "annotations" in known:
        raise ValueError(
            f"Expected a list of COCO results or a CSV to score on labels in COCO style ({truth}), got "
            f"{predictions.path}."
        )
    records = load_volumes(labels, folder, split=split, missing_images="ignore")
    if predictions.path.is_dir():
        found = _results(folder, predictions.path, missing_is_empty=missing_is_empty)
        lost = [record["series"] for record in records if record["series"] not in found]
        if lost:
            raise ValueError(f"Expected results for every scan, got none for {len(lost)}, {lost[0]} the first.")
        return [{**record, **found[record["series"]]} for record in records]
    by_name = read_predictions(predictions.path, [record["id"] for record in records], predictions.content)
    return [{**record, **by_name[record["id"]]} for record in records]


def _results(folder: Path, results: Path, *, missing_is_empty: bool) -> dict[str, dict[str, np.ndarray]]:
    """Detections of each series of a set from a folder of results, in the volume frame."""
    records = read_records(folder)
    if not records:
        raise ValueError(f"Expected an imported set to score a folder of results on, {folder} has no records of scans.")
    there = files_below(results)
    own = {path: path.parent.relative_to(results).as_posix() for path in there if path.name == "lesions.json"}
    other = {path: path.name[: -len(ending)] for ending in _NNDET for path in there if path.name.endswith(ending)}
    if not own and not other:
        raise ValueError(f"Expected lesions.json or CASE_boxes.pkl in {results}, got neither.")
    found: dict[str, dict[str, np.ndarray]] = {}
    cut: list[ResultBoxes] = []
    for path, name in {**own, **other}.items():
        result = own_result(path, name) if path in own else nndetection(path, name)
        series = _series(records, result.names, path)
        _check_same_files(records[series], result.digest, path)
        check_result(result.boxes, result.scores, records[series]["stored_shape"], path)
        if series in found:
            raise ValueError(f"Expected one result for every scan, got a second one of {series} in {path}.")
        found[series] = {
            "boxes": stored_boxes(records[series], result.boxes, result.sizes_mm),
            "scores": result.scores,
        }
        if result.classes is not None:
            found[series]["classes"] = result.classes
        if result.cut_at > 0:
            cut.append(result)
    if cut:
        logger.warning(
            "%d of %d results hold no lesion with a score below %g: curves end there, and figures at more false "
            "positives are too low. Detect with --score_threshold %g to score: it keeps every lesion; a lower one also "
            "links weaker boxes, to other lesions.",
            *(len(cut), len(own), max(result.cut_at for result in cut), min(result.linked_from for result in cut)),
        )
    empty = {"boxes": np.zeros((0, 6)), "scores": np.zeros(0), "classes": np.zeros(0, dtype=str)}
    return {**({series: empty for series in records} if missing_is_empty else {}), **found}


def _series(records: Mapping[str, Mapping[str, Any]], names: Sequence[str], path: Path) -> str:
    """The series of a scan that a result calls by one of some names."""
    for name in filter(None, names):
        exact = [series for series, record in records.items() if record["scan"] == name]
        found = exact or [series for series, record in records.items() if record["scan"].rpartition("/")[2] == name]
        if len(found) == 1:
            return found[0]
    raise ValueError(
        f"Expected the result of one scan of the set, got {' or '.join(map(shown_name, names))} in {path}."
    )


def _check_same_files(record: Mapping[str, Any], digest: Any, path: Path) -> None:
    """Reject a result of other files than the scan of the set that is called the same; sets of old do not know them."""
    known = record.get("sha256")
    if digest is not None and known is not None and digest != known:
        raise ValueError(
            f"Expected the result of the scan {record['scan']} (SHA-256 {known[:12]}) of the set, got that of other "
            f"files ({shown(digest)[:14]}) in {path}."
        )
