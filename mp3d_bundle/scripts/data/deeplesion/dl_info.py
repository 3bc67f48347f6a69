"""Reading ``DL_info.csv``.

The file has 18 columns, several of them lists in one cell, and one row per lesion; rows of a key slice need
not follow each other. Boxes are 1-based and become 0-based (slab frame) here. Yan et al., "DeepLesion",
Journal of Medical Imaging 5(3), 2018, describes the columns.

Other data sets may go further: a row without a box, measurement and diameters is a key slice without a lesion,
the column ``Lesion_class`` holds the class of each, from 1, and a row with 1 in the column ``Ignored`` is a region in
which nothing is known: neither a lesion nor background.
"""

from __future__ import annotations

import csv
import difflib
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from ...box_frames import from_deeplesion
from ...instances import Instances
from ...storage.contained_paths import plain_name
from ...storage.printable import shown, shown_name
from ...storage.safe_json import text_number
from ..records import DISPLAY_WINDOW, KeySlice, Record, log_findings, make_records
from .columns import CLASS_COLUMN, COLUMNS, IGNORED_COLUMN, SPLITS

logger = logging.getLogger(__name__)

# Columns about the lesion; all of them are empty in the row of a key slice without one.
_OF_LESION = ("Bounding_boxes", "Measurement_coordinates", "Lesion_diameters_Pixel_")
_LARGEST_CLASS = 1000

_NO_AGE = "rows without Patient_age, which is not used"

# Largest whole number in these labels.
_LARGEST = 1e9

# Boxes and key slices of each split of the complete file.
COMPLETE_ROWS = 32_735
COMPLETE = {"train": (22_919, 22_496), "validation": (4_889, 4_793), "test": (4_927, 4_831)}


@dataclass(frozen=True)
class _Row:
    """One row of the file: its key slice and its lesion; a key slice without one has no box."""

    key_slice: KeySlice
    box: np.ndarray | None
    noisy: bool
    lesion_type: int
    split: int
    label: int = 1
    ignored: bool = False
    details: Mapping[str, np.ndarray] = field(default_factory=dict)


class Details(Protocol):
    """Reads further fields of the lesion of a row, such as its measurement or its tags."""

    @property
    def empty(self) -> Instances[np.ndarray]:
        """The fields of no lesion."""
        ...

    def __call__(self, cells: Mapping[str, str], row: int, box: np.ndarray, source: str, /) -> Instances[np.ndarray]:
        """The fields of one lesion, without the axis of lesions; ``row`` counts the file's from 0."""
        ...


def read_csv(
    path: str | Path,
    images_dir: str | Path,
    *,
    split: str | None = None,
    keep_noisy: bool = True,
    by_class: bool = False,
    details: Sequence[Details] = (),
) -> list[Record]:
    """Read ``DL_info.csv``, whole or in part; further columns are ignored.

    All rows are checked, for any split.

    Args:
        path: The file.
        images_dir: Folder of the series folders (``Images_png``).
        split: ``"train"``, ``"validation"``, ``"test"``, or None for all rows.
        keep_noisy: Whether boxes marked as noisy are kept, as the released code does.
        by_class: Whether labels are the classes of the column `CLASS_COLUMN`; if not, all lesions are of one class.
        details: Read further fields of the lesions.

    Returns:
        One record per key slice in the order of its first row, see `scripts.data.records`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is empty or not such a file, or a row is invalid; the row and its file name are
            named.
    """
    path = Path(path)
    if split is not None and split not in SPLITS:
        raise ValueError(f"Expected one of the splits {', '.join(SPLITS)}, got {split!r}.")
    findings: Counter[str] = Counter()
    found = read_cells(path)
    rows = [_parse(cells, source, findings, by_class=by_class) for source, cells in found]
    # Other data sets than DeepLesion know of no age at all.
    if findings[_NO_AGE] == len(rows):
        del findings[_NO_AGE]
    _check_splits(rows, path)
    if details:
        rows = [_with_details(row, details, number, found[number]) for number, row in enumerate(rows)]
    chosen = [row for row in rows if split is None or row.split == SPLITS[split]]
    if not chosen:
        others = ", ".join(name for name, number in SPLITS.items() if any(row.split == number for row in rows))
        raise ValueError(f"Expected rows of the split {split}, got only {others} in {path}.")
    name = path.name if split is None else f"{path.name}, {split}"
    log_findings(path.name, findings, logging.WARNING)
    return make_records(_group(chosen, name), images_dir, keep_noisy=keep_noisy, name=name)


def _with_details(row: _Row, details: Sequence[Details], number: int, found: tuple[str, Mapping[str, str]]) -> _Row:
    """A row with the further fields of its lesion."""
    source, cells = found
    key_slice = replace(row.key_slice, empty={name: none for one in details for name, none in one.empty.items()})
    if row.box is None or row.ignored:
        return replace(row, key_slice=key_slice)
    fields = {name: value for one in details for name, value in one(cells, number, row.box, source).items()}
    return replace(row, key_slice=key_slice, details=fields)


def read_cells(path: Path) -> list[tuple[str, dict[str, str]]]:
    """The rows of the file as text by column, each with its position for messages.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is empty or not such a file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected DeepLesion's labels at {path}, but the file does not exist.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file)
            header = [name.strip() for name in next(lines, [])]
            _check_header(header, path)
            rows = []
            for cells in lines:
                if not any(cell.strip() for cell in cells):
                    continue
                source = f"{path} row {lines.line_num} ({shown_name(cells[0])})"
                if len(cells) != len(header):
                    raise ValueError(f"Expected {len(header)} cells, got {len(cells)} in {source}.")
                by_name = {name: _clean(cell) for name, cell in zip(header, cells, strict=True)}
                rows.append((f"{path} row {lines.line_num} ({shown_name(by_name['File_name'])})", by_name))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"Expected DeepLesion's labels as UTF-8 text, got something else in {path}: {error}"
        ) from error
    if not rows:
        raise ValueError(f"Expected at least one row below the header, got none in {path}.")
    return rows


def _clean(cell: str) -> str:
    """A cell's text; empty for the placeholders that spreadsheet programs write for a missing value."""
    text = cell.strip()
    return "" if text.lower() in ("nan", "none", "null") else text


def _check_header(header: list[str], path: Path) -> None:
    if not header:
        raise ValueError(f"Expected DeepLesion's labels (DL_info.csv), got an empty file at {path}.")
    for column in COLUMNS:
        if header.count(column) > 1:
            raise ValueError(f"Expected the column {column!r} once, got it {header.count(column)} times in {path}.")
        if column not in header:
            others = {name.lower(): name for name in header if name not in COLUMNS}
            near = difflib.get_close_matches(column.lower(), others, n=1)
            hint = f" The nearest is {others[near[0]]!r}." if near else ""
            raise ValueError(f"Expected the column {column!r} of DL_info.csv, but it is not in {path}.{hint}")


def _parse(cells: Mapping[str, str], source: str, findings: Counter[str], *, by_class: bool) -> _Row:
    """Read one row; odd but harmless values are counted in ``findings``."""
    key_slice = _parse_key_slice(cells, source, findings)
    split = _whole(cells["Train_Val_Test"], "Train_Val_Test", source)
    if split not in SPLITS.values():
        raise ValueError(f"Expected 1, 2 or 3 (train, validation, test) as Train_Val_Test, got {split} in {source}.")
    lesion_type = _whole(cells["Coarse_lesion_type"] or "-1", "Coarse_lesion_type", source)
    if lesion_type != -1 and not 1 <= lesion_type <= 8:
        raise ValueError(f"Expected -1 or 1 to 8 as Coarse_lesion_type, got {lesion_type} in {source}.")
    noisy = _whole(cells["Possibly_noisy"] or "0", "Possibly_noisy", source)
    if noisy not in (0, 1):
        raise ValueError(f"Expected 0 or 1 as Possibly_noisy, got {noisy} in {source}.")
    if not cells["Patient_age"]:
        findings[_NO_AGE] += 1
    ignored = _whole(cells.get(IGNORED_COLUMN) or "0", IGNORED_COLUMN, source)
    if ignored not in (0, 1):
        raise ValueError(f"Expected 0 or 1 as {IGNORED_COLUMN}, got {ignored} in {source}.")
    # A row with a lost box must not become a slice without a lesion.
    if not ignored and not any(cells[column] for column in _OF_LESION):
        return _Row(key_slice, None, False, -1, split)
    corners = np.array(_numbers(cells["Bounding_boxes"], 4, "Bounding_boxes", source))
    box = key_slice.checked(from_deeplesion(corners), source)
    label = _parse_class(cells, source) if by_class and not ignored else 1
    return _Row(key_slice, box, bool(noisy), lesion_type, split, label, bool(ignored))


def _parse_class(cells: Mapping[str, str], source: str) -> int:
    """The class of a lesion, from 1."""
    if not cells.get(CLASS_COLUMN):
        raise ValueError(f"Expected the class of every lesion as {CLASS_COLUMN}, got none in {source}.")
    label = _whole(cells[CLASS_COLUMN], CLASS_COLUMN, source)
    if not 1 <= label <= _LARGEST_CLASS:
        raise ValueError(f"Expected a class from 1 to {_LARGEST_CLASS} as {CLASS_COLUMN}, got {label} in {source}.")
    return label


def _parse_key_slice(cells: Mapping[str, str], source: str, findings: Counter[str]) -> KeySlice:
    """Read the key slice of a row."""
    height, width = (
        _whole(text, "Image_size", source) for text in _split(cells["Image_size"], 2, "Image_size", source)
    )
    if height < 1 or width < 1:
        raise ValueError(f"Expected an Image_size above zero, got {shown(cells['Image_size'])} in {source}.")
    x, y, interval = _parse_spacing(cells["Spacing_mm_px_"], source, findings)
    key_slice = KeySlice(
        file_name=plain_name(cells["File_name"], f"{source}, File_name"),
        source=source,
        image_size=(height, width),
        spacing=(x, y),
        slice_interval=interval,
        slice_range=None,
        window=DISPLAY_WINDOW,
        has_regions=IGNORED_COLUMN in cells,
    )
    number = int(key_slice.slice_name)
    if cells["Key_slice_index"] and _whole(cells["Key_slice_index"], "Key_slice_index", source) != number:
        findings["rows whose Key_slice_index is not the number in File_name, which is used"] += 1
    if cells["Slice_range"]:
        first, last = (
            _whole(text, "Slice_range", source) for text in _split(cells["Slice_range"], 2, "Slice_range", source)
        )
        if first <= number <= last:
            key_slice.slice_range = (first, last)
        else:
            findings["rows whose Slice_range does not contain their key slice, treated as unknown"] += 1
    low, high = _numbers(cells["DICOM_windows"], 2, "DICOM_windows", source) if cells["DICOM_windows"] else (0.0, 0.0)
    if -math.inf < low < high < math.inf:
        key_slice.window = (low, high)
    else:
        findings["rows without usable DICOM_windows, shown from -175 to 275 HU"] += 1
    return key_slice


def _parse_spacing(cell: str, source: str, findings: Counter[str]) -> tuple[float, float, float]:
    """Pixel spacing in x and y and the slice interval, in mm; a missing interval becomes 1 mm."""
    texts = _split(cell, None, "Spacing_mm_px_", source)
    if len(texts) == 2 or (len(texts) == 3 and texts[2].lower() in ("", "nan")):
        findings["rows without a slice interval, read as 1 mm as in the released code"] += 1
        texts = [*texts[:2], "1"]
    x, y, interval = _numbers(",".join(texts), 3, "Spacing_mm_px_", source)
    if not (0 < x < math.inf and 0 < y < math.inf and 0 < interval < math.inf):
        raise ValueError(f"Expected spacings in mm above zero as Spacing_mm_px_, got {shown(cell)} in {source}.")
    return x, y, interval


def _split(cell: str, count: int | None, column: str, source: str) -> list[str]:
    """The texts of a list in one cell."""
    texts = [text.strip() for text in cell.split(",")]
    if count is not None and len(texts) != count:
        raise ValueError(f"Expected {count} numbers as {column}, got {shown(cell)} in {source}.")
    return texts


def _numbers(cell: str, count: int, column: str, source: str) -> list[float]:
    """The numbers of a list in one cell; NaN is let through; callers must reject it."""
    try:
        return [text_number(text) for text in _split(cell, count, column, source)]
    except ValueError:
        raise ValueError(f"Expected {count} numbers as {column}, got {shown(cell)} in {source}.") from None


def _whole(text: str, column: str, source: str) -> int:
    """A whole number, also if written as a decimal number."""
    try:
        number = text_number(text)
    except ValueError:
        number = math.nan
    if not number.is_integer() or abs(number) > _LARGEST:
        raise ValueError(f"Expected a whole number as {column}, got {shown(text)} in {source}.")
    return int(number)


def _group(rows: list[_Row], name: str) -> list[KeySlice]:
    """Collect the boxes of each key slice, in the order of the rows."""
    slices: dict[str, KeySlice] = {}
    seen: set[tuple] = set()
    notes: Counter[str] = Counter()
    without: dict[str, str] = {}
    for row in rows:
        key_slice = slices.setdefault(row.key_slice.file_name, row.key_slice)
        shared = ("image_size", "spacing", "slice_interval", "slice_range")
        if any(getattr(key_slice, what) != getattr(row.key_slice, what) for what in shared):
            notes["rows that contradict the first row of their key slice, which is used"] += 1
        if row.box is None:
            without.setdefault(key_slice.file_name, row.key_slice.source)
            continue
        lesion = (key_slice.file_name, *row.box.tolist())
        notes["rows that repeat the box of another row, kept"] += lesion in seen
        seen.add(lesion)
        key_slice.add(
            row.box,
            noisy=row.noisy,
            lesion_type=row.lesion_type,
            label=row.label,
            ignored=row.ignored,
            details=row.details,
        )
    log_findings(name, notes, logging.WARNING)
    for file_name, source in without.items():
        if not all(slices[file_name].ignored):
            raise ValueError(f"Expected a key slice with lesions or a row without a box, got both: {source}.")
    log_findings(name, Counter({"key slices without a lesion (rows without a box)": len(without)}))
    return list(slices.values())


def _check_splits(rows: list[_Row], path: Path) -> None:
    """Check the splits: counts, if the file is the complete one, and that they do not share patients."""
    splits = defaultdict(set)
    for row in rows:
        splits[row.key_slice.patient].add(row.split)
    shared = sorted(patient for patient, numbers in splits.items() if len(numbers) > 1)
    if shared:
        logger.warning("%s: %d patients are in more than one split, the first is %s.", path, len(shared), shared[0])
    if len(rows) != COMPLETE_ROWS:
        return
    for name, number in SPLITS.items():
        of_split = [row for row in rows if row.split == number]
        counts = len(of_split), len({row.key_slice.file_name for row in of_split})
        if counts != COMPLETE[name]:
            logger.warning(
                "%s: expected %d boxes on %d key slices in the split %s of the complete file, got %d on %d.",
                path,
                *COMPLETE[name],
                name,
                *counts,
            )
