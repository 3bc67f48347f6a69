"""The work behind ``python -m scripts.prepare``: a data set once into a store of int16 slices."""

from __future__ import annotations

import logging
import math
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ..data.deeplesion.columns import SPLITS
from ..data.deeplesion.splits import load_records
from ..data.importing.set_tables import FOLDS
from ..data.slabs.slab_reader import read_slice
from ..data.slabs.slice_store import (
    CONTENT,
    PIXELS,
    PNG_IMAGES,
    STORED_IMAGES,
    is_complete,
    png_names,
    source_of,
    stored_series,
    write_series,
)
from ..storage.atomic_files import replacing, write_json
from ..storage.needed_files import need_folder
from ..storage.output_folder import NEEDED_BYTES, FolderLock, check_output_folder, has_other_content
from ..storage.safe_json import read_json

logger = logging.getLogger(__name__)

# Labels and descriptions of a data set.
_TABLES = (".csv", ".json", ".txt")
# Says of which data set a store is.
OWNER = "store.json"


@dataclass(frozen=True)
class _Job:
    """A series to store.

    Attributes:
        source: Its PNGs.
        target: Its folder in the store.
        names: Of its PNGs, by slice number.
        kept: Numbers of the slices to store.
    """

    source: Path
    target: Path
    names: Mapping[int, str]
    kept: tuple[int, ...]


def main(dataset_dir: str, store: str, *, reach_mm: float = 0.0, workers: int = 2) -> None:
    """Copy a data set once into a store of int16 slices, which training reads without decoding.

    Train and evaluate with --dataset_dir STORE: every number stays the same. The same command resumes one that
    was stopped, and checks what is there. docs/training.md describes it.

    Args:
        dataset_dir: Folder with Images_png and labels: DeepLesion, a synthetic set, or one of `scripts import`.
        store: Folder to create.
        reach_mm: Keep only slices as near as this to a key slice: 10 is enough for nine slices at 2.5 mm. 0 keeps all.
        workers: Series that are read at the same time.

    Raises:
        FileExistsError: If the store is that of another data set.
        BlockingIOError: If another process works on the store.
        ValueError: If a slice cannot be used, or an argument is out of its range; what is done already is kept.
        OSError: If a file cannot be read or written.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    source, target = Path(dataset_dir), Path(store)
    _check(source, target, reach_mm=reach_mm, workers=workers)
    jobs = list(_jobs(source, target, reach_mm))
    if not jobs:
        raise ValueError(f"Expected slices in {source / PNG_IMAGES}, found none.")
    _check_owner(source, target)
    _need_space(jobs, target)
    with FolderLock(target, "a preparation of a store"):
        done = _fill(source, target, jobs, workers)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file() and not path.is_symlink())
    slices = sum(len(job.kept) for job in jobs)
    print(
        f"{target}: {slices} slices of {len(jobs)} series, {done} of them written now, {size / 2**30:.2f} GiB. "
        f"Train and evaluate with --dataset_dir {shlex.quote(str(target))}"
    )


def _fill(source: Path, target: Path, jobs: list[_Job], workers: int) -> int:
    """Bring a store to what its data set holds; how many series were written."""
    write_json({"dataset_dir": str(source.resolve())}, target / OWNER)
    # A store has its labels last: a part of one is not taken for a data set.
    for path in _tables(source):
        (target / path.name).unlink(missing_ok=True)
    done = 0
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(_store, jobs)
        try:
            for written in tqdm(results, total=len(jobs), desc="series", unit="series"):
                done += written
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    _remove_others(target, {job.target.name for job in jobs})
    _copy_tables(source, target)
    return done


def _check(source: Path, target: Path, *, reach_mm: float, workers: int) -> None:
    need_folder(source, "a data set folder at")
    if not (source / PNG_IMAGES).is_dir():
        raise FileNotFoundError(f"Expected a data set with the folder {PNG_IMAGES} in {source}, found none.")
    if (target / PNG_IMAGES).exists() or target.resolve() == source.resolve():
        raise ValueError(f"Expected another folder than a data set as store, got {target}.")
    if has_other_content(target, OWNER) and not (target / STORED_IMAGES).is_dir():
        raise FileExistsError(f"Expected a new or empty folder, or a store, got {target} with other content.")
    if not (math.isfinite(reach_mm) and reach_mm >= 0):
        raise ValueError(f"Expected a reach in mm of at least 0, got {reach_mm!r}.")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"Expected at least 1 worker, got {workers!r}.")


def _check_owner(source: Path, target: Path) -> None:
    """Reject a store of another data set; one whose set was moved, or of no known set, is told by its slices."""
    series = [path.parent for path in sorted((target / STORED_IMAGES).glob(f"*/{CONTENT}"))]
    if not series:
        return
    content = read_json(target / OWNER, "the data set of a store") if (target / OWNER).is_file() else None
    owner = content.get("dataset_dir") if isinstance(content, dict) else None
    here = str(source.resolve())
    moved = not isinstance(owner, str) or not Path(owner).is_dir()
    if owner == here or (moved and any(_made_of(folder, source / PNG_IMAGES / folder.name) for folder in series)):
        return
    whose = f"that of {owner}" if owner else f"one with {len(series)} series of unknown slices, {series[0].name} first"
    raise FileExistsError(
        f"Expected a store of the data set {here} or a new folder, got {whose} in {target}: give another --store, or "
        "remove that folder first."
    )


def _made_of(stored: Path, pngs: Path) -> bool:
    """Whether a series of a store was made of these PNGs, by their names, sizes and times."""
    try:
        found = stored_series(stored)
        return found is not None and found.source == source_of(pngs, [found.names[number] for number in found.rows])
    except (OSError, ValueError):
        return False


def _jobs(source: Path, target: Path, reach_mm: float) -> Iterator[_Job]:
    """Every series with slices to keep, in the order of names."""
    images = source / PNG_IMAGES
    near = _near_keys(source, reach_mm) if reach_mm else None
    for name in sorted(entry.name for entry in os.scandir(images) if entry.is_dir()):
        names = png_names(images / name)
        wanted = set(names) if near is None else near.get(name, set())
        if kept := tuple(number for number in names if number in wanted):
            yield _Job(images / name, target / STORED_IMAGES / name, names, kept)


def _need_space(jobs: list[_Job], target: Path) -> None:
    """Check that the slices that are not stored yet have space, if all are as large as the first one."""
    first = read_slice(jobs[0].source / jobs[0].names[jobs[0].kept[0]])
    missing = sum(len(job.kept) for job in jobs if not (job.target / PIXELS).is_file())
    check_output_folder(target, needed_bytes=NEEDED_BYTES + missing * first.nbytes)


def _near_keys(source: Path, reach_mm: float) -> dict[str, set[int]]:
    """Of each series, the numbers of the slices within the reach of a key slice of any split."""
    found: dict[str, set[int]] = {}
    folds = sorted((source / FOLDS).glob("*")) if (source / FOLDS).is_dir() else []
    for folder in (source, *folds):
        for split in SPLITS:
            try:
                records = load_records(folder, split, missing_images="ignore")
            except FileNotFoundError:
                # Labels in JSON have a file for each split, and need not have all.
                continue
            for record in records:
                steps = math.ceil(reach_mm / record["slice_interval"] - 1e-6)
                key = record["key_slice"]
                found.setdefault(record["series"], set()).update(range(key - steps, key + steps + 1))
    if not found:
        raise FileNotFoundError(f"Expected labels with key slices in {source}, found none.")
    return found


def _store(job: _Job) -> bool:
    """Store a series if it is not there yet; whether it was written."""
    source = source_of(job.source, [job.names[number] for number in job.kept])
    if is_complete(job.target, job.names, source):
        return False
    write_series(job.target, job.names, job.kept, partial(_read, job.source), source)
    return True


def _read(folder: Path, name: str) -> np.ndarray:
    return read_slice(folder / name)


def _remove_others(target: Path, series: set[str]) -> None:
    """Remove series that the data set no longer has."""
    for folder in (target / STORED_IMAGES).iterdir():
        if folder.is_dir() and folder.name not in series:
            shutil.rmtree(folder)


def _copy_tables(source: Path, target: Path) -> None:
    """Copy labels and descriptions, those of the folds as well."""
    shutil.rmtree(target / FOLDS, ignore_errors=True)
    folds = sorted((source / FOLDS).glob("*")) if (source / FOLDS).is_dir() else []
    for fold in folds:
        place = target / FOLDS / fold.name
        place.mkdir(parents=True)
        (place / STORED_IMAGES).symlink_to(Path("..", "..", STORED_IMAGES), target_is_directory=True)
    for folder in (*folds, source):
        for path in _tables(folder):
            with replacing(target / folder.relative_to(source) / path.name) as part:
                shutil.copyfile(path, part)


def _tables(folder: Path) -> list[Path]:
    """Labels and descriptions in a folder."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in _TABLES)
