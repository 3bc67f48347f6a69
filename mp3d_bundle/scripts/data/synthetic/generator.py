"""Make a synthetic data set: sample the patients, render them in worker processes, write the folder."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ...storage.atomic_files import check_local
from ..deeplesion.columns import LABELS, SYNTHETIC
from ..synthetic_presets import Settings, check_run, resolve
from .annotations import key_rows, lesion_labels, slice_rows
from .cohort import WHOLE, Patient, draw_cohort
from .irregularities import Piece, irregular_pieces
from .rendering import render
from .series import draw_series, draw_whole_series
from .whole_scans import make_scan
from .writing import new_folder, write_json, write_slices, write_table

logger = logging.getLogger(__name__)

# Increased whenever the same seed and settings give other bytes.
GENERATOR_VERSION = 3
_TITLE = "Synthetic CT-like data, no patients: results on it say nothing about accuracy on DeepLesion."


@dataclass(frozen=True)
class _Job:
    patient: Patient
    settings: Settings
    folder: Path


def generate(
    output: str | Path,
    preset: str | Settings = "small",
    *,
    seed: int = 0,
    workers: int = 2,
    overwrite: bool = False,
    **overrides: object,
) -> Path:
    """Write a synthetic data set in DeepLesion's format.

    The folder holds ``Images_png/<series>/<slice>.png`` (16 bit, HU + 32768), ``DL_info.csv``,
    ``lesions_3d.json`` (all lesions with their extent along z), ``synthetic.json`` (settings, seed,
    generator version) and, if requested, ``scans/scan_NNN.nii.gz`` with their truth. The same seed and
    settings give the same bytes for any number of workers.

    Args:
        output: Folder to create.
        preset: Name of a preset or settings.
        seed: Seed of everything, at least 0.
        workers: Processes; 1 works in this one.
        overwrite: Replace an earlier synthetic data set.
        **overrides: Single settings by name, see ``Settings``.

    Returns:
        The folder.

    Raises:
        ValueError: If a setting is unknown or impossible.
        FileExistsError: If the folder has content and must not be replaced.
        OSError: If writing fails, or the folder is a URL; nothing is left behind.
    """
    settings = resolve(preset, overrides)
    check_run(seed, workers)
    check_local(output)
    target = Path(output).resolve()
    cohort_seed, order_seed, scan_seed = np.random.SeedSequence(seed).spawn(3)
    patients = draw_cohort(cohort_seed, settings)
    with new_folder(target, overwrite) as folder:
        rows: list[dict[str, str]] = []
        labels: list[dict[str, object]] = []
        jobs = [_Job(patient, settings, folder / "Images_png") for patient in patients]
        for new_rows, new_labels in tqdm(_work(jobs, workers), total=len(jobs), desc="patients", unit="patient"):
            rows += new_rows
            labels += new_labels
        # DeepLesion's rows are not sorted by slice, and those of one slice need not be neighbours.
        order = np.random.default_rng(order_seed).permutation(len(rows))
        write_table(folder / LABELS, [rows[index] for index in order])
        write_json(folder / "lesions_3d.json", {"about": _TITLE, "volumes": labels})
        for number, child in enumerate(scan_seed.spawn(settings.num_scans), start=1):
            make_scan(np.random.default_rng(child), settings, folder / "scans" / f"scan_{number:03d}.nii.gz")
        write_json(folder / SYNTHETIC, description(settings, seed), indent=2)
    logger.info("%s: %d lesions in %d sub-volumes of %d patients", target, len(rows), len(labels), len(patients))
    return target


def description(settings: Settings, seed: int) -> dict[str, object]:
    """Content of ``synthetic.json``: equal descriptions mean equal data sets."""
    return {
        "about": _TITLE,
        "generator_version": GENERATOR_VERSION,
        "seed": seed,
        "settings": dataclasses.asdict(settings),
    }


def _work(jobs: list[_Job], workers: int) -> Iterator[tuple[list[dict[str, str]], list[dict[str, object]]]]:
    """Results in the order of the jobs."""
    if workers == 1:
        yield from map(_make_patient, jobs)
        return
    # Forking a process that runs threads can deadlock; spawned workers import the package again.
    spawn = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        try:
            yield from pool.map(_make_patient, jobs, chunksize=4)
        except BrokenProcessPool as error:
            raise OSError("Expected all worker processes to finish, one died (out of memory?).") from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _make_patient(job: _Job) -> tuple[list[dict[str, str]], list[dict[str, object]]]:
    """Draw, render and write one patient; rows of DL_info.csv and three-dimensional labels."""
    rng = np.random.default_rng(job.patient.seed)
    rows: list[dict[str, str]] = []
    labels: list[dict[str, object]] = []
    for piece in _pieces(job, rng):
        series = piece.series
        for first, last in series.blocks:
            volume = render(rng, job.settings, series=series, z=series.grid.heights(first, last))
            write_slices(job.folder / piece.identity.folder, range(first, last + 1), volume)
        found = (slice_rows if series.labelled else key_rows)(series, piece.identity, job.settings.padding)
        rows += [row | piece.edits for row in found]
        labels += lesion_labels(series, piece.identity)
    return rows, labels


def _pieces(job: _Job, rng: np.random.Generator) -> Iterator[Piece]:
    patient = job.patient
    # One torso for all series of a patient.
    body_seed = int(rng.integers(2**63))
    for identity, keys in zip(patient.series, patient.keys, strict=True):
        if patient.case is None:
            yield Piece(identity, draw_series(rng, job.settings, keys=keys, body_seed=body_seed))
        elif patient.case == WHOLE:
            yield Piece(identity, draw_whole_series(rng, job.settings, body_seed=body_seed))
        else:
            yield from irregular_pieces(
                patient.case, rng, settings=job.settings, identity=identity, body_seed=body_seed
            )
