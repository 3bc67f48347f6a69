"""A whole CT in one canonical orientation, with conversions to its file and to millimetres.

For every way to store a scan (axes permuted or flipped, NIfTI, NRRD, MetaImage or DICOM), `read_scan` gives the
same array: axis 0 towards the head, axis 1 (rows) towards the back, axis 2 (columns) towards the left of
the patient, so that ``scan.hu[z]`` is an axial slice as radiologists look at it and as DeepLesion stores it.

Three frames meet here:

* *canonical edges*: ``x, y, z`` = column, row, slice of ``scan.hu`` as continuous coordinates with half-open
  edges: voxel ``i`` covers ``[i, i + 1)``, its centre is at ``i + 0.5`` (the slab frame, plus z);
* *stored edges*: the same convention on the axes ``i, j, k`` of the file, ``i`` being the fastest one;
* *LPS*: millimetres, towards the patient's left, back and head (DICOM's and ITK's world; NIfTI's RAS with
  the first two signs changed).

Sheared and oblique stacks: undo gantry tilt, warn about oblique volumes, reject the rest.

With a tilted gantry the table moves at an angle to the slices, so that each slice is shifted in its own plane
against the one below. Here the slices stay as they were acquired, as in DeepLesion, and are only shifted back: by
linear interpolation within the slice, by the exact fraction of a pixel. The result is a right-angled volume that
is turned against the body axes by the tilt; its matrix to millimetres is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel.orientations as orientations
import numpy as np

from ...storage.printable import one_line
from .dicom.dicom_files import starts_as_dicom
from .dicom.dicom_series import read_file, read_series
from .hounsfield_check import to_hounsfield
from .uneven_spacing import to_places, to_slices
from .volume_files.metaimage import read_metaimage
from .volume_files.nifti import PAIR_SUFFIX, read_nifti
from .volume_files.nrrd import read_nrrd
from .volume_files.stored_image import DEFAULT_RULES, ReadingRules, StoredImage, check_geometry, check_spacing

NIFTI_SUFFIXES = (".nii", ".nii.gz", PAIR_SUFFIX)
NRRD_SUFFIXES, META_SUFFIXES = (".nrrd", ".nhdr"), (".mha", ".mhd")
ITK_SUFFIXES = (*NRRD_SUFFIXES, *META_SUFFIXES)
_READERS = ((NIFTI_SUFFIXES, read_nifti), (NRRD_SUFFIXES, read_nrrd), (META_SUFFIXES, read_metaimage))
# Errors that no reader raises on purpose.
_UNFORESEEN = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    TypeError,
)
# Up to this angle an axis counts as straight: boxes are found on the slices as stored, and millimetres
# still go through the exact affine.
STRAIGHT_DEGREES = 1.0
# Beyond this angle slices are no longer axial enough for a network trained on axial ones.
MAX_TURN_DEGREES = 35.0
# Of a matrix between whole voxels.
_ROUNDING = 1e-9
# Voxels by which a box of a result may be off through the rounding of its numbers.
_SAME_BOX = 0.05
# Fill value outside the shifted slices: air.
_OUTSIDE_HU = -1024


@dataclass(frozen=True)
class Scan:
    """A CT in canonical orientation.

    Attributes:
        hu: ``(Z, H, W)`` int16 Hounsfield units; padding such as -3024 is kept.
        affine: ``(4, 4)`` float64, voxel-centre index ``(x, y, z)`` of ``hu`` to LPS millimetres.
        stored_from_canonical: ``(4, 4)`` float64, voxel-centre index ``(x, y, z)`` of ``hu`` to index
            ``(i, j, k)`` of the stored array: a signed permutation with offsets, and for a tilted gantry the
            shift from slice to slice that was undone.
        stored_shape: ``(I, J, K)`` of the stored array.
        path: The file that was read, or the folder of a DICOM series.
        files: The files it consists of, in stored order; of a DICOM series the file of each slice, so that one of
            several frames comes more than once.
        notes: Notes for the user about how the input was read, one sentence each.
        series: SeriesInstanceUID of a DICOM series, ``"none"`` if it has none; None for other files.
        places: ``(K,)`` float64 for unevenly spaced slices: the position of each stored slice on the even ``k`` of
            ``stored_from_canonical``. None if that is ``k`` itself.
        sha256: Of the bytes of the files one after the other, in hexadecimal; None if it was not computed.
        headers: For a DICOM series the bytes of each file before its pixels, None for a file where they are unknown, of
            a frame those that a file of its own would have; empty for other files.
        frames: Of Enhanced CT the number of each slice in its file, from 1, None for a file of one slice; else empty.
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
    frames: tuple[int | None, ...] = field(default=(), repr=False)

    def evenly(self) -> Scan:
        """The same scan with its slices on even positions, as a grid with one spacing can express it."""
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

    @property
    def sheared(self) -> bool:
        """Whether slices were shifted back over each other: a box of ``hu`` lies elsewhere in each stored slice."""
        return int((np.abs(self.stored_from_canonical[:3, :3]) > _ROUNDING).sum()) > 3

    def points_to_lps(self, points: np.ndarray) -> np.ndarray:
        """Convert ``(N, 3)`` canonical edge coordinates to LPS millimetres, float64."""
        return _transform(self.affine, np.asarray(points, dtype=np.float64) - 0.5)

    def boxes_to_lps(self, boxes: np.ndarray) -> np.ndarray:
        """The LPS bounds of boxes.

        Args:
            boxes: ``(N, 6)`` canonical edges ``x1, y1, z1, x2, y2, z2``.

        Returns:
            ``(N, 6)`` float64 millimetres, low corner first. If the scan is turned against the body axes,
            these bounds enclose the turned box.
        """
        return _bounds(self.points_to_lps(_corners(boxes)))

    def boxes_to_stored(self, boxes: np.ndarray) -> np.ndarray:
        """Convert ``(N, 6)`` canonical-edge boxes to ``i1, j1, k1, i2, j2, k2`` stored edges, float64."""
        stored = _bounds(_transform(self.stored_from_canonical, _corners(boxes) - 0.5) + 0.5)
        if self.places is not None:
            stored[:, [2, 5]] = to_slices(stored[:, [2, 5]] - 0.5, self.places) + 0.5
        return stored

    def boxes_from_stored(self, boxes: np.ndarray, sizes_mm: np.ndarray | None = None) -> np.ndarray:
        """Convert ``(N, 6)`` stored-edge boxes ``i1, j1, k1, i2, j2, k2`` to canonical edges, float64.

        With a tilted gantry a box of one frame is a leaning one in the other, and its bounds there are larger.

        Args:
            boxes: The boxes.
            sizes_mm: ``(N, 3)`` sides along ``x, y, z`` of the boxes that these are the bounds of, NaN where unknown:
                where both fit together, exactly these come back, else what encloses the leaning boxes.
        """
        boxes = np.array(boxes, dtype=np.float64).reshape(-1, 6)
        even = boxes.copy()
        if self.places is not None:
            even[:, [2, 5]] = to_places(boxes[:, [2, 5]] - 0.5, self.places) + 0.5
        found = _bounds(_transform(np.linalg.inv(self.stored_from_canonical), _corners(even) - 0.5) + 0.5)
        if sizes_mm is None or not self.sheared:
            return found
        middle, half = (found[:, :3] + found[:, 3:]) / 2, np.asarray(sizes_mm) / self.spacing / 2
        own = np.concatenate([middle - half, middle + half], axis=1)
        fits = np.abs(self.boxes_to_stored(own) - boxes).max(axis=1, keepdims=True) <= _SAME_BOX
        return np.where(fits, own, found)


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
    """Read a CT from a NIfTI, NRRD or MetaImage file, from the folder of one DICOM series, or from its only file.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd`` file, a folder, or an Enhanced CT.
        rules: How strictly it is read.

    Returns:
        The scan in canonical orientation.

    Raises:
        FileNotFoundError: If nothing is at ``path``.
        OSError: If the file is damaged or cut short.
        ValueError: If it is not a CT volume: another number of dimensions, spacing that is not positive, NaN
            voxels, 8-bit or colour or MR values, a volume turned too far, a DICOM folder with several
            series, a missing slice, or another modality. The message names what was expected and what came.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"Expected a CT (NIfTI, NRRD, MHA file or DICOM folder), nothing is at {path}.")
    if path.is_dir():
        return canonical(read_series(path), path, rules)
    if not path.is_file():
        # Reading a pipe would wait for a writer.
        raise ValueError(f"Expected a file or a folder, got something else (a pipe or a device) at {path}.")
    name = path.name.lower()
    for suffixes, read in _READERS:
        if name.endswith(suffixes):
            try:
                return canonical(read(path, rules), path, rules)
            except _UNFORESEEN as error:
                # Any failure of a library on a header becomes one line, like other damage.
                kind, reason = type(error).__name__, one_line(error)
                text = reason if reason == kind else f"{kind}: {reason}"
                raise OSError(f"Expected a CT volume, could not read {path} ({text}).") from error
    with path.open("rb") as file:
        dicom = starts_as_dicom(file)
    if dicom:
        frames = read_file(path)
        if frames is None:
            raise ValueError(f"Expected the folder of a DICOM series, got one DICOM file {path}: give its folder.")
        return canonical(frames, path, rules)
    known = ", ".join((*NIFTI_SUFFIXES, *ITK_SUFFIXES))
    raise ValueError(f"Expected a file ending in {known} or the folder of a DICOM series, got {path}.")


def canonical(stored: StoredImage, path: Path, rules: ReadingRules = DEFAULT_RULES) -> Scan:
    """Convert a stored volume to canonical orientation and Hounsfield units.

    Args:
        stored: The volume as its file holds it.
        path: Its name in messages and results.
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
        frames=stored.frames,
    )


@dataclass(frozen=True)
class Skew:
    """How far a stack in canonical order is sheared and oblique.

    Attributes:
        shift: Pixels (x, y) by which each slice is shifted in its plane against the one below; zeros if the
            stack counts as straight.
        tilt: Angle in degrees between the stack and the normal of its slices.
        turn: Largest angle in degrees between an axis of the slices, or their normal, and the body axis next to it.
    """

    shift: tuple[float, float]
    tilt: float
    turn: float

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, one sentence each."""
        found = []
        if self.tilt > STRAIGHT_DEGREES:
            found.append(
                f"The stack is sheared by {self.tilt:.1f} degrees (gantry tilt): its slices were shifted back in "
                "their planes."
            )
        if self.turn > STRAIGHT_DEGREES:
            found.append(
                f"The slices are turned by {self.turn:.1f} degrees against the body axes: boxes are found on the "
                "slices as stored, and boxes in millimetres enclose them."
            )
        return tuple(found)


def measure_skew(affine: np.ndarray, path: Path) -> Skew:
    """How far a stack is sheared and turned.

    Args:
        affine: ``(4, 4)``, index (x, y, z) in canonical order to LPS mm.
        path: Its name in messages.

    Raises:
        ValueError: If a spacing is not positive, rows and columns are not at right angles, or slices are turned by
            more than ``MAX_TURN_DEGREES``.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    check_spacing(tuple(spacing), path)
    along_x, along_y, along_z = (affine[:3, :3] / spacing).T
    in_plane = _degrees_off_right_angle(along_x, along_y)
    if in_plane > STRAIGHT_DEGREES:
        raise ValueError(
            f"Expected rows and columns at right angles, got slices sheared by {in_plane:.1f} degrees in their plane "
            f"in {path}: resample the scan to a right-angled grid first."
        )
    normal = np.cross(along_x, along_y)
    normal /= np.linalg.norm(normal)
    tilt = math.degrees(math.acos(min(1.0, abs(float(along_z @ normal)))))
    cosines = [abs(float(axis[place])) for place, axis in enumerate((along_x, along_y, normal))]
    turn = math.degrees(math.acos(min(1.0, min(cosines))))
    if turn > MAX_TURN_DEGREES:
        raise ValueError(
            f"Expected slices along the body axes, got a volume turned by {turn:.1f} degrees (at most "
            f"{MAX_TURN_DEGREES:g} are taken) in {path}: resample it to axial slices first."
        )
    if tilt > MAX_TURN_DEGREES:
        raise ValueError(
            f"Expected slices stacked at right angles or with a tilted gantry, got a stack sheared by {tilt:.1f} "
            f"degrees (at most {MAX_TURN_DEGREES:g} are taken) in {path}."
        )
    shift_x, shift_y = (
        float(along_z @ axis * spacing[2] / edge) for axis, edge in ((along_x, spacing[0]), (along_y, spacing[1]))
    )
    return Skew((shift_x, shift_y) if tilt > STRAIGHT_DEGREES else (0.0, 0.0), tilt, turn)


def _degrees_off_right_angle(first: np.ndarray, second: np.ndarray) -> float:
    return math.degrees(math.asin(min(1.0, abs(float(first @ second)))))


def shift_back(hu: np.ndarray, shift: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Shift the slices of a sheared stack back over each other.

    Args:
        hu: ``(Z, H, W)`` int16 HU.
        shift: Pixels (x, y) by which each slice is shifted against the one below, from `measure_skew`.

    Returns:
        The straight stack ``(Z, H', W')`` int16, wide enough for all of every slice, and ``(4, 4)`` float64, its
        index (x, y, z) to that of ``hu``.
    """
    depth, height, width = hu.shape
    moves = np.arange(depth)[:, None] * np.array(shift)
    low = np.floor(moves.min(axis=0))
    # One more pixel on the far side for the fraction.
    grown = (np.ceil(moves.max(axis=0)) - low).astype(int)
    straight = np.full((depth, height + grown[1], width + grown[0]), _OUTSIDE_HU, dtype=np.int16)
    for plane, out, (move_x, move_y) in zip(hu, straight, (moves - low).tolist(), strict=True):
        rows, columns = int(move_y), int(move_x)
        moved = _blend(_blend(plane.astype(np.float32), move_y - rows, axis=0), move_x - columns, axis=1)
        out[rows : rows + moved.shape[0], columns : columns + moved.shape[1]] = np.rint(moved)
    matrix = np.eye(4)
    matrix[:2, 2] = -np.array(shift)
    matrix[:2, 3] = low
    return straight, matrix


def _blend(plane: np.ndarray, fraction: float, *, axis: int) -> np.ndarray:
    """A plane shifted by a fraction of a pixel along an axis, one pixel longer; unchanged for a fraction of 0."""
    if fraction == 0.0:
        return plane
    near = np.pad(plane, [(0, 1) if axis == side else (0, 0) for side in (0, 1)], constant_values=_OUTSIDE_HU)
    far = np.pad(plane, [(1, 0) if axis == side else (0, 0) for side in (0, 1)], constant_values=_OUTSIDE_HU)
    return near + np.float32(fraction) * (far - near)
