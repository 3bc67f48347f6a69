"""Masks: NIfTI, NRRD and MetaImage files of labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ...scans.scan import META_SUFFIXES, NIFTI_SUFFIXES, NRRD_SUFFIXES, Scan
from ...scans.volume_files.metaimage import read_metaimage
from ...scans.volume_files.nifti import read_nifti
from ...scans.volume_files.nrrd import read_nrrd_layers
from ...scans.volume_files.stored_image import ReadingRules, StoredImage
from ..true_lesions import ScanTruth
from .label_grids import LabelGrid
from .slicer_segments import segment_names

MASK_SUFFIXES = (*NIFTI_SUFFIXES, *NRRD_SUFFIXES, *META_SUFFIXES)
MASK_FRAMES = ("mm", "voxel")
# Labels may be anywhere; their overlap with the scan is checked.
_RULES = ReadingRules(any_geometry=True)
# Whole numbers that went through a slope are off by less.
_WHOLE = 1e-3


def read_mask(path: Path, scan: Scan, *, each_value: bool, frame: str) -> ScanTruth:
    """Read the lesions of a mask.

    Args:
        path: NIfTI, NRRD or MetaImage file of whole numbers, 0 where there is nothing; a segmentation of 3D Slicer has
            the names of its segments in its header, and may have several layers.
        scan: The scan it belongs to.
        each_value: Whether each value is a lesion; if not, each connected part of a value is one.
        frame: ``"mm"``: the mask's own geometry says where it is; ``"voxel"``: its voxels are those of the scan's file.

    Raises:
        OSError: If the file is damaged.
        ValueError: If it is not a mask, has no geometry (none, or the identity unlike its scan, where ``frame`` is
            ``"mm"``), or is outside of the scan.
    """
    grids = _grids(path, scan, each_value=each_value, frame=frame)
    truth = ScanTruth.joined([grid.lesions_in(scan) for grid in grids])
    if any((grid.values != 0).any() for grid in grids) and not truth.lesions:
        raise ValueError(f"Expected a mask inside of its scan {scan.path}, {path} is outside of it.")
    if any(_ends_inside(grid, scan) for grid in grids):
        note = (
            f"Labels reach an edge of the mask that is inside of the scan: a lesion may be cut off there ({path.name})."
        )
        return replace(truth, notes=(*truth.notes, note))
    return truth


def _grids(path: Path, scan: Scan, *, each_value: bool, frame: str) -> list[LabelGrid]:
    """The labels of a file, those of each layer of a segmentation of 3D Slicer."""
    if path.name.lower().endswith(NRRD_SUFFIXES):
        layers, header = read_nrrd_layers(path, _RULES)
        names = segment_names(header, path)
        if len(layers) > 1 and not names:
            raise ValueError(f"Expected one number per voxel, got {len(layers)} (a colour image?) in {path}.")
    else:
        read = read_nifti if path.name.lower().endswith(NIFTI_SUFFIXES) else read_metaimage
        layers, names = [read(path, _RULES)], {}
    affine = _affine(layers[0], scan, path, frame)
    return [
        LabelGrid(_labels(stored, path), affine, path.name, partial(_named, names.get(layer, {})), each_value)
        for layer, stored in enumerate(layers)
    ]


def _named(names: Mapping[int, str], value: int) -> str:
    return names.get(value, str(value))


def _affine(stored: StoredImage, scan: Scan, path: Path, frame: str) -> np.ndarray:
    """Voxel-centre index of a mask to LPS mm.

    Raises:
        ValueError: If the mask does not say where it is, or has not the voxels of its scan where that is to say it.
    """
    own = scan.affine @ np.linalg.inv(scan.stored_from_canonical)
    if frame == "voxel":
        if stored.values.shape != scan.stored_shape or scan.places is not None:
            raise ValueError(
                f"Expected a mask with the voxels of its scan, {scan.stored_shape}, got {stored.values.shape} in "
                f"{path}."
            )
        return own
    if any("no orientation" in note for note in stored.notes):
        raise ValueError(
            f"Expected a mask with its position, {path} has none (--mask_frame voxel reads its voxels as those "
            "of the scan's file)."
        )
    if _is_unit(stored.affine) and not _is_unit(own):
        # What programs write that save the voxels alone.
        raise ValueError(
            f"Expected a mask with its position, {path} has 1 mm voxels that begin at 0, 0, 0, unlike its scan: was it "
            "saved without the scan's matrix (--mask_frame voxel reads its voxels as those of the scan's file)?"
        )
    return stored.affine


def _is_unit(affine: np.ndarray) -> bool:
    """Whether a matrix is the identity, in LPS or RAS."""
    return np.allclose(np.abs(affine), np.eye(4), rtol=0, atol=1e-6)


def _ends_inside(grid: LabelGrid, scan: Scan) -> bool:
    """Whether the scan holds voxels next to labels where the mask holds none any more."""
    to_scan = np.linalg.inv(scan.affine) @ grid.affine
    extent = np.array(scan.hu.shape[::-1])
    for axis, length in enumerate(grid.values.shape):
        for last, beyond in ((0, -1), (length - 1, length)):
            at = np.insert(np.argwhere(np.take(grid.values, last, axis=axis)), axis, beyond, axis=1)
            places = at @ to_scan[:3, :3].T + to_scan[:3, 3]
            if ((places > -0.5) & (places < extent - 0.5)).all(axis=1).any():
                return True
    return False


def _labels(stored: StoredImage, path: Path) -> np.ndarray:
    """The values as whole numbers, int32."""
    values = stored.values
    if values.dtype.kind not in "iub" or (stored.slope, stored.intercept) != (1.0, 0.0):
        with np.errstate(invalid="ignore"):
            values = values.astype(np.float64) * stored.slope + stored.intercept
        whole = np.rint(values)
        with np.errstate(invalid="ignore"):
            off = ~(np.abs(values - whole) <= _WHOLE)
        if off.any():
            raise ValueError(
                f"Expected whole numbers in a mask, got {float(values[off][0]):g} in {path}: probabilities, or an "
                "image?"
            )
        values = whole
    if values.min() < 0 or values.max() > np.iinfo(np.int32).max:
        raise ValueError(
            f"Expected labels from 0 up in a mask, got values from {values.min():g} to {values.max():g} in {path}: an "
            "image?"
        )
    return values.astype(np.int32)
