"""A whole CT in one canonical orientation, with the way back to its file and to millimetres.

However a scan is stored (axes permuted or flipped, NIfTI, NRRD, MetaImage or DICOM), `read_scan` gives the
same array: axis 0 towards the head, axis 1 (rows) towards the back, axis 2 (columns) towards the left of
the patient, so that ``scan.hu[z]`` is an axial slice as radiologists look at it and as DeepLesion stores it.

Three frames meet here:

* *canonical edges*: ``x, y, z`` = column, row, slice of ``scan.hu`` as continuous coordinates with half-open
  edges: voxel ``i`` covers ``[i, i + 1)``, its centre is at ``i + 0.5`` (the slab frame, plus z);
* *stored edges*: the same convention on the axes ``i, j, k`` of the file, ``i`` being the fastest one;
* *LPS*: millimetres, towards the patient's left, back and head (DICOM's and ITK's world; NIfTI's RAS with
  the first two signs changed).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel.orientations as orientations
import numpy as np

from .dicom.dicom_series import read_series
from .gantry_tilt import measure_skew, shift_back
from .hounsfield_check import to_hounsfield
from .reading_rules import DEFAULT_RULES, ReadingRules
from .uneven_spacing import to_places, to_slices
from .volume_files.metaimage import read_metaimage
from .volume_files.nifti import read_nifti
from .volume_files.nrrd import read_nrrd
from .volume_files.stored_image import StoredImage, check_geometry, check_spacing

NIFTI_SUFFIXES = (".nii", ".nii.gz")
NRRD_SUFFIXES, META_SUFFIXES = (".nrrd", ".nhdr"), (".mha", ".mhd")
ITK_SUFFIXES = (*NRRD_SUFFIXES, *META_SUFFIXES)
_READERS = ((NIFTI_SUFFIXES, read_nifti), (NRRD_SUFFIXES, read_nrrd), (META_SUFFIXES, read_metaimage))
# What no reader means to raise.
_UNFORESEEN = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    TypeError,
)


@dataclass(frozen=True)
class Scan:
    """A CT in canonical orientation.

    Attributes:
        hu: ``(Z, H, W)`` int16 Hounsfield units; padding such as -3024 is kept.
        affine: ``(4, 4)`` float64, voxel-centre index ``(x, y, z)`` of ``hu`` to LPS millimetres.
        stored_from_canonical: ``(4, 4)`` float64, voxel-centre index ``(x, y, z)`` of ``hu`` to index
            ``(i, j, k)`` of the stored array: a signed permutation with offsets, and for a tilted gantry the
            shift from slice to slice that was taken out.
        stored_shape: ``(I, J, K)`` of the stored array.
        path: What was read: a file, or the folder of a DICOM series.
        files: The files it consists of, in stored order.
        notes: What a user should know about how the input was understood, one sentence each.
        series: SeriesInstanceUID of a DICOM series, ``"none"`` if it has none; None for other files.
        places: ``(K,)`` float64 where slices are unevenly spaced: the place of each stored slice on the even ``k`` that
            ``stored_from_canonical`` leads to. None where that is ``k`` itself.
        sha256: Of the bytes of the files one after the other, in hexadecimal; None where it was not taken.
        headers: Of a DICOM series the bytes of each file before its pixels, None for one where they are not known;
            empty for other files.
    """

    hu: np.ndarray
    affine: np.ndarray
    stored_from_canonical: np.ndarray
    stored_shape: tuple[int, int, int]
    path: Path
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    series: str | None = None
    places: np.ndarray | None = None
    sha256: str | None = None
    headers: tuple[bytes | None, ...] = field(default=(), repr=False)

    def evenly(self) -> Scan:
        """The same scan as if its slices had been stored on even places: what a grid with one spacing can express."""
        if self.places is None:
            return self
        i, j, _ = self.stored_shape
        return replace(self, places=None, stored_shape=(i, j, round(self.places[-1]) + 1))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxel centres in mm along ``x, y, z`` of ``hu``."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def slice_axis(self) -> int:
        """The stored axis (0, 1 or 2 for ``i, j, k``) that runs along the patient."""
        # The stored slice depends on z alone; with a tilted gantry the stored row or column may depend on z, too.
        linear = np.abs(self.stored_from_canonical[:3, :3])
        return int(np.argmax(linear[:, 2] / np.linalg.norm(linear, axis=1)))

    def points_to_lps(self, points: np.ndarray) -> np.ndarray:
        """Convert ``(N, 3)`` canonical edge coordinates to LPS millimetres, float64."""
        return _transform(self.affine, np.asarray(points, dtype=np.float64) - 0.5)

    def boxes_to_lps(self, boxes: np.ndarray) -> np.ndarray:
        """The LPS bounds of boxes.

        Args:
            boxes: ``(N, 6)`` canonical edges ``x1, y1, z1, x2, y2, z2``.

        Returns:
            ``(N, 6)`` float64 millimetres, low corner first. Where the scan is turned against the body axes
            these bounds enclose the turned box.
        """
        return _bounds(self.points_to_lps(_corners(boxes)))

    def boxes_to_stored(self, boxes: np.ndarray) -> np.ndarray:
        """Convert ``(N, 6)`` canonical-edge boxes to ``i1, j1, k1, i2, j2, k2`` stored edges, float64."""
        stored = _bounds(_transform(self.stored_from_canonical, _corners(boxes) - 0.5) + 0.5)
        if self.places is not None:
            stored[:, [2, 5]] = to_slices(stored[:, [2, 5]] - 0.5, self.places) + 0.5
        return stored

    def boxes_from_stored(self, boxes: np.ndarray) -> np.ndarray:
        """Convert ``(N, 6)`` stored-edge boxes ``i1, j1, k1, i2, j2, k2`` to canonical edges, float64."""
        boxes = np.array(boxes, dtype=np.float64).reshape(-1, 6)
        if self.places is not None:
            boxes[:, [2, 5]] = to_places(boxes[:, [2, 5]] - 0.5, self.places) + 0.5
        return _bounds(_transform(np.linalg.inv(self.stored_from_canonical), _corners(boxes) - 0.5) + 0.5)


def _transform(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ affine[:3, :3].T + affine[:3, 3]


def _corners(boxes: np.ndarray) -> np.ndarray:
    """The eight corners of each of ``(N, 6)`` boxes, ``(8 N, 3)``, box by box."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 6)
    picks = np.array([[x, y, z] for x in (0, 3) for y in (1, 4) for z in (2, 5)])
    return boxes[:, picks].reshape(-1, 3)


def _bounds(corners: np.ndarray) -> np.ndarray:
    """The bounds ``(N, 6)`` of every eight of ``(8 N, 3)`` corners."""
    corners = corners.reshape(-1, 8, 3)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def read_scan(path: str | Path, rules: ReadingRules = DEFAULT_RULES) -> Scan:
    """Read a CT from a NIfTI, NRRD or MetaImage file or from the folder of one DICOM series.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd`` file, or a folder.
        rules: How strictly it is read.

    Returns:
        The scan in canonical orientation.

    Raises:
        FileNotFoundError: If nothing is at ``path``.
        OSError: If the file is damaged or cut short.
        ValueError: If it is not a CT volume: another number of dimensions, spacing that is not positive, NaN
            voxels, 8-bit or colour or MR values, a volume turned too far, a DICOM folder with several
            series, a missing slice, or another modality. The message says what was expected and what came.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"Expected a CT (NIfTI, NRRD, MHA file or DICOM folder), nothing is at {path}.")
    if path.is_dir():
        return canonical(read_series(path), path, rules)
    if not path.is_file():
        # A pipe would keep the reader waiting for a writer.
        raise ValueError(f"Expected a file or a folder, got something else (a pipe or a device) at {path}.")
    name = path.name.lower()
    for suffixes, read in _READERS:
        if name.endswith(suffixes):
            try:
                return canonical(read(path, rules), path, rules)
            except _UNFORESEEN as error:
                # Whatever a header made the libraries stumble over: one line, as for any damage.
                reason = " ".join(str(error).split()) or "no more is known"
                raise OSError(
                    f"Expected a CT volume, could not read {path} ({type(error).__name__}: {reason})."
                ) from error
    known = ", ".join((*NIFTI_SUFFIXES, *ITK_SUFFIXES))
    raise ValueError(f"Expected a file ending in {known} or the folder of a DICOM series, got {path}.")


def canonical(stored: StoredImage, path: Path, rules: ReadingRules = DEFAULT_RULES) -> Scan:
    """Turn a stored volume into canonical orientation and Hounsfield units.

    Args:
        stored: The volume as its file holds it.
        path: What messages and results call it.
        rules: How strictly it is read.

    Raises:
        ValueError: If the volume is turned too far or sheared within its slices, a spacing is not positive, or
            the values are not Hounsfield units.
    """
    check_spacing(tuple(np.linalg.norm(stored.affine[:3, :3], axis=0)), path)
    if not rules.any_geometry:
        check_geometry(stored.affine, stored.values.shape, path)
    turn = orientations.io_orientation(stored.affine)
    i, j, k = stored.values.shape
    stored_from_canonical = orientations.inv_ornt_aff(turn, (i, j, k))
    skew = measure_skew(stored.affine @ stored_from_canonical, path)
    values, told = to_hounsfield(stored, path, rules.hu_offset)
    oriented = orientations.apply_orientation(values, turn)
    hu = np.ascontiguousarray(oriented.transpose(2, 1, 0))
    if any(skew.shift):
        hu, from_straight = shift_back(hu, skew.shift)
        stored_from_canonical = stored_from_canonical @ from_straight
    return Scan(
        hu=hu,
        affine=stored.affine @ stored_from_canonical,
        stored_from_canonical=stored_from_canonical,
        stored_shape=(i, j, k if stored.places is None else len(stored.places)),
        path=path,
        files=stored.files,
        notes=(*stored.notes, *told, *skew.notes),
        series=stored.series,
        places=stored.places,
        sha256=stored.sha256,
        headers=stored.headers,
    )
