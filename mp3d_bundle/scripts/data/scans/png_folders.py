"""Folders of 16-bit PNG slices in DeepLesion's form: ``000001_01_01/103.png``, HU + 32768.

A PNG has neither spacing nor position. The spacing comes from DeepLesion's labels next to the folder, or is given.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..deeplesion.dl_info import read_csv
from ..deeplesion.subvolumes import SliceRun, checked_spacing, read_subvolume
from ..records import Record
from .scan import Scan

# Numbers are filled up to three digits and no more: 0001.png is not the name of a slice.
_SLICE = re.compile(r"(\d{3}|[1-9]\d{3,})\.png")
LABELS = "DL_info*.csv"


def find_runs(folder: Path) -> list[tuple[int, int]]:
    """First and last number of each run of consecutive slices in a folder; a series may hold several sub-volumes."""
    names = (_SLICE.fullmatch(entry.name) for entry in folder.iterdir())
    numbers = sorted({int(name[1]) for name in names if name})
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def read_run(
    folder: Path,
    run: tuple[int, int],
    *,
    annotations: str | Path | None = None,
    spacing: Sequence[float] | None = None,
) -> Scan:
    """Read a run of slices as a scan.

    Args:
        folder: The series folder; its name is the name of the series.
        run: First and last slice number, inclusive.
        annotations: DeepLesion's labels (``DL_info.csv``); by default files with such names in the folder and the two
            above it.
        spacing: ``(x, y, z)`` mm if the labels do not contain these slices.

    Returns:
        The scan; slice ``k`` of it is the PNG with number ``first + k``.

    Raises:
        FileNotFoundError: If the labels are missing, or slices of the labels are missing between others.
        ValueError: If the spacing is not known or not one, or a slice is not a 16-bit grey PNG or of another size.
    """
    first, last = run
    given = checked_spacing(spacing)
    labels = _labels(folder, annotations)
    keys = [key for path in labels for key in _by_series(path, path.stat().st_mtime_ns).get(folder.name, [])]
    _check_holes(folder, keys)
    inside = [key for key in keys if first <= key["key_slice"] <= last]
    found = {(*key["spacing"], key["slice_interval"]) for key in inside}
    if len(found) > 1:
        raise ValueError(f"Expected one spacing of slices {first} to {last} of {folder}, labels say {sorted(found)}.")
    known = next(iter(found), None) or given
    if known is None:
        where = ", ".join(str(path) for path in labels) or f"{LABELS} (none was found)"
        raise ValueError(
            f"Expected the spacing of slices {first} to {last} of {folder} from a key slice in {where}: name the "
            'labels by --annotations FILE, or give --spacing "[x, y, z]" in mm.'
        )
    record: SliceRun = {"folder": str(folder), "slice_range": run, "spacing": known}
    shown = " x ".join(f"{edge:g}" for edge in known)
    notes = (
        f"PNG slices {first} to {last}: slice k of the results is the PNG with number {first} + k.",
        f"PNG slices store no spacing: {shown} mm {'from DeepLesion labels' if found else 'as given'}.",
        "PNG slices store no position: they are assumed to run from head to feet, as DeepLesion's do, and millimetres "
        "start at the first pixel of the last slice.",
    )
    return replace(_towards_the_head(read_subvolume(record)), notes=notes)


def _towards_the_head(scan: Scan) -> Scan:
    """Turn slices numbered from head to feet into a scan whose slices rise towards the head."""
    turn = np.diag([1.0, 1.0, -1.0, 1.0])
    turn[2, 3] = len(scan.hu) - 1
    return replace(
        scan, hu=np.ascontiguousarray(scan.hu[::-1]), stored_from_canonical=scan.stored_from_canonical @ turn
    )


def need_labels(annotations: str | Path) -> Path:
    """The path of labels that were named.

    Raises:
        FileNotFoundError: If the file does not exist.
    """
    path = Path(annotations)
    if not path.is_file():
        raise FileNotFoundError(f"Expected DeepLesion's labels at {path}, but the file does not exist.")
    return path


def _labels(folder: Path, annotations: str | Path | None) -> list[Path]:
    if annotations is not None:
        return [need_labels(annotations)]
    here = folder.absolute()
    return [path for place in (here, *here.parents[:2]) for path in sorted(place.glob(LABELS)) if path.is_file()]


@functools.lru_cache(maxsize=4)
def _by_series(path: Path, changed: int) -> dict[str, list[Record]]:
    """Key slices by series; kept for the next series of the same data set, as long as the file is not ``changed``."""
    series = defaultdict(list)
    for record in read_csv(path, path.parent):
        series[record["series"]].append(record)
    return series


def _check_holes(folder: Path, keys: Sequence[Record]) -> None:
    """Reject a sub-volume with missing slices between others, and name them."""
    runs = find_runs(folder)
    for low, high in sorted({key["slice_range"] for key in keys if key["slice_range"] is not None}):
        there = [number for first, last in runs for number in range(max(first, low), min(last, high) + 1)]
        missing = sorted(set(range(there[0], there[-1] + 1)) - set(there)) if there else []
        if missing:
            names = ", ".join(f"{number:03d}.png" for number in missing)
            raise FileNotFoundError(f"Expected slices {low} to {high} of {folder}, {names} missing between others.")
