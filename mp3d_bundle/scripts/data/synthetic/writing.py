"""Files of a synthetic data set: PNG slices, tables, NIfTI scans, and the folder that appears at once or not at all."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np

from ..deeplesion.columns import COLUMNS, SYNTHETIC

# DeepLesion stores HU + 32768 in 16-bit PNGs.
HU_OFFSET = 32768


@contextlib.contextmanager
def new_folder(target: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to fill that is renamed to ``target`` when the block succeeds, and removed otherwise.

    Args:
        target: Path of the result.
        overwrite: Replace an earlier result of this generator.

    Yields:
        The folder to write into, next to ``target``.

    Raises:
        FileExistsError: If ``target`` has content and must not be replaced.
    """
    if target.is_file():
        raise FileExistsError(f"Expected a folder to write to, got the file {target}.")
    if target.is_dir() and any(target.iterdir()):
        if not overwrite:
            raise FileExistsError(f"Expected a new or empty folder, {target} has content; --overwrite replaces it.")
        if not (target / SYNTHETIC).is_file():
            raise FileExistsError(f"Expected an earlier synthetic data set to overwrite, {target} has no {SYNTHETIC}.")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        yield partial
        partial.chmod(0o755)
        retired = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
        if target.exists():
            os.replace(target, retired)
        os.replace(partial, target)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_slices(folder: Path, numbers: Iterable[int], volume: np.ndarray) -> None:
    """Write slices as ``folder/NNN.png``.

    Args:
        folder: Folder of the series; created if missing.
        numbers: Slice numbers, from 1.
        volume: ``(n, H, W)`` int16 HU.

    Raises:
        OSError: If a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, plane in zip(numbers, volume, strict=True):
        path = folder / f"{number:03d}.png"
        stored = (plane.astype(np.int32) + HU_OFFSET).astype(np.uint16)
        # Not imwrite: on a full disk it writes a part of the file and reports success.
        path.write_bytes(cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())


def write_table(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write rows as ``DL_info.csv``: official columns and order, LF endings, lists quoted."""
    with path.open("w", newline="", encoding="ascii") as file:
        writer = csv.DictWriter(file, list[str](COLUMNS), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, content: object, indent: int | None = None) -> None:
    """Write ``content`` as JSON with a stable order of keys."""
    path.write_text(json.dumps(content, indent=indent, sort_keys=True) + "\n", encoding="ascii")


def lps_affine(spacing: float, interval: float, *, size: int, slices: int) -> np.ndarray:
    """Affine ``(4, 4)`` of a scan, voxel indices (column, row, slice) to LPS mm, isocentre in the middle."""
    affine = np.diag([spacing, spacing, interval, 1.0])
    affine[:3, 3] = -0.5 * np.array([(size - 1) * spacing, (size - 1) * spacing, (slices - 1) * interval])
    return affine


def write_scan(path: Path, volume: np.ndarray, affine: np.ndarray) -> None:
    """Write a scan as NIfTI.

    Args:
        path: Target, ending in ``.nii.gz``.
        volume: ``(Z, H, W)`` int16 HU, slices from feet to head.
        affine: ``(4, 4)`` voxel (column, row, slice) to LPS mm.
    """
    # NIfTI's world is RAS: x and y point the other way.
    image = nib.Nifti1Image(np.ascontiguousarray(volume.transpose(2, 1, 0)), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    image.header.set_data_dtype(np.int16)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
