"""The tables of a set: DeepLesion's own labels, folds, lesions in 3D, and ``set.json``, which is written last."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...box_frames import to_deeplesion
from ...storage.atomic_files import cell_text, replacing, write_json
from ...storage.safe_json import read_json
from ..deeplesion.columns import CLASS_COLUMN, COLUMNS, IGNORED_COLUMN, LABELS, SPLITS

SET_VERSION = 1
SET_FILE, VOLUMES, FOLDS = "set.json", "lesions_3d.json", "folds"
# A fold is a set of its own whose images are those of the whole.
_IMAGES = "Images_png"


def label_rows(
    records: Mapping[str, Mapping[str, Any]], splits: Mapping[str, int], classes: Sequence[str]
) -> list[dict[str, str]]:
    """Rows of ``DL_info.csv``: one for each lesion on a key slice, and one without a box for a key slice without any.

    Each region to ignore has a row too.

    Args:
        records: Of each series.
        splits: Of each patient, by its key in the records.
        classes: Names in the order of their labels.
    """
    rows = []
    for series, record in records.items():
        slices, height, width = record["shape"]
        for key in record["keys"]:
            common = {
                **dict.fromkeys((*COLUMNS, CLASS_COLUMN), ""),
                "File_name": f"{series}_{key['slice']:03d}.png",
                **dict(zip(("Patient_index", "Study_index", "Series_ID"), series.split("_"), strict=True)),
                "Key_slice_index": str(key["slice"]),
                "Possibly_noisy": "0",
                "Slice_range": f"1, {slices}",
                "Spacing_mm_px_": _join(record["spacing"]),
                "Image_size": f"{height}, {width}",
                "DICOM_windows": _join(key["window"]),
                "Patient_gender": record.get("sex", ""),
                "Patient_age": f"{record['age']:g}" if "age" in record else "",
                "Train_Val_Test": str(splits[record["patient"]]),
            }
            lesions = zip(key["boxes"], key["classes"], key["doubtful"], strict=True)
            found = [
                {
                    **common,
                    "Bounding_boxes": _join(to_deeplesion(np.array(box))),
                    "Coarse_lesion_type": "-1",
                    "Possibly_noisy": str(int(doubtful)),
                    CLASS_COLUMN: str(classes.index(name) + 1),
                }
                for box, name, doubtful in lesions
            ]
            found += [
                {**common, "Bounding_boxes": _join(to_deeplesion(np.array(box))), IGNORED_COLUMN: "1"}
                for box in key.get("ignored", ())
            ]
            rows += found or [common]
    return rows


def _join(values: Sequence[float] | np.ndarray) -> str:
    return ", ".join(f"{float(value):.10g}" for value in values)


def volume_labels(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Lesions in 3D of every scan, as ``lesions_3d.json`` has them; None where some are known on single slices only."""
    if any(lesion["form"] == "slices" for record in records.values() for lesion in record["lesions"]):
        return None
    volumes = [
        {
            "series": series,
            "slice_range": [1, record["shape"][0]],
            "spacing": record["spacing"],
            "lesions": [{name: lesion[name] for name in ("box", "slices", "class")} for lesion in record["lesions"]],
            **({"ignored": [{name: one[name] for name in ("box", "slices")} for one in regions]} if regions else {}),
        }
        for series, record in records.items()
        for regions in [record.get("regions", ())]
    ]
    return {"about": "Lesions of the scans of this set in 3D.", "volumes": volumes}


def write_set(
    folder: Path,
    records: Mapping[str, Mapping[str, Any]],
    splits: Sequence[Mapping[str, int]],
    about: Mapping[str, Any],
) -> None:
    """Write the tables of a set whose scans are all there.

    Args:
        folder: The set.
        records: Of each series.
        splits: Of each patient; first those of the set itself, then those of each fold, which becomes a set in
            ``folds/1`` and so on, with a link to the images.
        about: What ``set.json`` holds next to its version and splits: ``classes``, ``options`` and the like.

    Raises:
        OSError: If a file cannot be written.
        ValueError: If no scan has a key slice.
    """
    if not any(record["keys"] for record in records.values()):
        odd = next((" ".join(record["odd"]) for record in records.values() if record["odd"]), "")
        raise ValueError(
            f"Expected a lesion, or a slice that is known to have none, in some scan, got neither in {len(records)} "
            f"scan(s){f'. In one: {odd}' if odd else '.'}"
        )
    (folder / SET_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder / FOLDS, ignore_errors=True)
    for number, fold in enumerate(splits[1:], start=1):
        place = folder / FOLDS / str(number)
        place.mkdir(parents=True)
        (place / _IMAGES).symlink_to(Path("..", "..", _IMAGES), target_is_directory=True)
        _write_one(place, records, fold, about)
    _write_one(folder, records, splits[0], about)


def _write_one(
    folder: Path, records: Mapping[str, Mapping[str, Any]], splits: Mapping[str, int], about: Mapping[str, Any]
) -> None:
    rows = label_rows(records, splits, about["classes"])
    write_rows(folder / LABELS, rows)
    volumes = volume_labels(records)
    if volumes is None:
        (folder / VOLUMES).unlink(missing_ok=True)
    else:
        write_json(volumes, folder / VOLUMES)
    there = {row["Train_Val_Test"] for row in rows}
    names = [name for name, number in SPLITS.items() if str(number) in there]
    write_about(folder, names, about)


def write_about(folder: Path, splits: Sequence[str], about: Mapping[str, Any]) -> None:
    """Write ``set.json``: the splits that have images, and what else is known; ``classes`` are needed.

    Raises:
        OSError: If it cannot be written.
    """
    write_json({"format": "mp3d set", "version": SET_VERSION, "splits": list(splits), **about}, folder / SET_FILE)


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write rows as ``DL_info.csv`` with a column for the class, and one for regions if there are any; or nothing.

    Raises:
        OSError: If it cannot be written.
    """
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        more = [IGNORED_COLUMN] if any(IGNORED_COLUMN in row for row in rows) else []
        writer = csv.DictWriter(file, [*COLUMNS, CLASS_COLUMN, *more], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_table(path: Path) -> tuple[dict[str, str], list[tuple[int, dict[str, Any]]]]:
    """A table with a header, as people write it.

    Returns:
        Names of the columns as they stand in the rows, by what they are in lower case; and every row with its line.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not UTF-8 text, or not a table.
    """
    (_, columns), *rows = table_rows(path)
    return columns, rows


def table_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """What `read_table` returns, one at a time: line 1 with the names of the columns, then every row with its line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            # Strictly, as a quote that is not closed would take the lines after it into one field.
            reader = csv.DictReader(file, strict=True)
            names = list(reader.fieldnames or ())
            plain = [str(name).strip().lower() for name in names]
            # Columns without a name are not used.
            if twice := sorted({name for name in plain if name and plain.count(name) > 1}):
                raise ValueError(f"Expected every column once, got {', '.join(twice)} twice in line 1 of {path}.")
            yield 1, dict(zip(plain, names, strict=True))
            for row in reader:
                more = row.get(None) or ()  # pyright: ignore[reportCallIssue, reportArgumentType]
                fields = len(names) + len(more) - sum(value is None for value in row.values())
                if fields != len(names):
                    raise ValueError(
                        f"Expected {len(names)} fields in every row, got {fields} in line {reader.line_num} of {path}: "
                        f"{'a comma too many' if more else 'a row that is cut short'}?"
                    )
                yield reader.line_num, {name: cell_text(cell) for name, cell in row.items()}
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"Expected a table as UTF-8 text, cannot read {path}: {error}.") from error


def class_names(folder: str | Path) -> tuple[str, ...]:
    """Names of the classes of a data set; none if it has no ``set.json``.

    Raises:
        ValueError: See `read_set`.
    """
    return tuple(str(name) for name in (read_set(Path(folder)) or {}).get("classes", ()))


def read_set(folder: Path) -> dict[str, Any] | None:
    """Content of ``set.json`` of a data set; None if it has none.

    Raises:
        ValueError: If it is not such a file, or of a version that is not known.
    """
    path = folder / SET_FILE
    if not path.is_file():
        return None
    content = read_json(path, "the description of a set")
    if not isinstance(content, dict) or content.get("format") != "mp3d set":
        raise ValueError(f"Expected the description of an imported set, got something else in {path}.")
    if content.get("version") == SET_VERSION:
        lists = all(isinstance(content.get(name), list) and content[name] for name in ("classes", "splits"))
        if not lists:
            raise ValueError(f"Expected lists of classes and splits, got others in {path}.")
    else:
        raise ValueError(f"Expected a set of version {SET_VERSION}, got {content.get('version')!r} in {path}.")
    return content
