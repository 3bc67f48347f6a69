"""Volumes as stored in a file, before any change of axes or values, and the shared parts of their readers.

A reader gives a `StoredImage`: the values in the file's own axis order, and one affine from that order's voxel
indices to millimetres. There is one for each format: `nifti`, `nrrd`, `metaimage`, and `dicom` for a folder of
slices. What makes a CT of it (orientation, Hounsfield units) is `scripts.data.scans.scan`.
"""

# itk creates its names on first use: type checkers cannot see them.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import itk
import numpy as np

from ....storage.object_stores import url_of

# NIfTI's world is RAS; ours, like DICOM's and ITK's, is LPS.
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Edges of voxels, lengths of volumes and distances from the origin that CTs of people have, in mm.
SMALLEST_EDGE, LARGEST_EDGE, LARGEST_EXTENT, FARTHEST = 0.01, 50.0, 10_000.0, 20_000.0

# Headers cannot claim more than this, unless a user says otherwise: 3,000 slices of 512 x 512 in float32 fit.
MAX_GIGABYTES = 4.0


@dataclass(frozen=True)
class ReadingRules:
    """How strictly scans are read.

    Attributes:
        hu_offset: Added to the values to get Hounsfield units, on top of the file's own slope and
            intercept. If given, even as 0, the values count as Hounsfield units with any distribution.
        any_geometry: Accept voxel sizes, extents and positions that no CT of a person has.
        max_gigabytes: Largest number of GiB of voxels that the header of one file may claim.
    """

    hu_offset: float | None = None
    any_geometry: bool = False
    max_gigabytes: float = MAX_GIGABYTES

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: If one has the wrong type.
        """
        if self.hu_offset is not None and not _finite(self.hu_offset):
            raise ValueError(f"Expected a number of Hounsfield units as hu_offset, got {self.hu_offset!r}.")
        if not isinstance(self.any_geometry, bool):
            raise ValueError(f"Expected True or False as any_geometry, got {self.any_geometry!r}.")
        if not _finite(self.max_gigabytes) or self.max_gigabytes <= 0:
            raise ValueError(f"Expected a positive number as max_gigabytes, got {self.max_gigabytes!r}.")


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


DEFAULT_RULES = ReadingRules()


class Note(str):
    """A sentence for results, with its form for the log.

    Results leave the machine they were made on, and DICOM files are often named after the patient.

    Args:
        text: The sentence without names of files and values of patients.
        log: The same sentence with them.
    """

    log: str

    def __new__(cls, text: str, log: str) -> Note:
        """The note, which is its text."""
        note = super().__new__(cls, text)
        note.log = log
        return note

    def __getnewargs__(self) -> tuple[str, str]:
        """Both forms: sources of scans, with their notes, go to other processes."""
        return str(self), self.log


def log_text(note: str) -> str:
    """The log form of a note; a plain text is returned unchanged."""
    return note.log if isinstance(note, Note) else note


@dataclass(frozen=True)
class StoredImage:
    """A volume in the axis order of its file.

    Attributes:
        values: ``(I, J, K)`` array, any real dtype, index ``i`` being the fastest in the file (NIfTI's first
            axis, ITK's x, a DICOM column).
        affine: ``(4, 4)`` float64, voxel-centre index ``(i, j, k)`` to LPS millimetres.
        slope: Hounsfield units per stored value.
        intercept: Hounsfield units at the stored value 0.
        files: The files that were read, in order; of a DICOM series that of each slice.
        notes: Notes for the user about how the file was read, one sentence each.
        series: SeriesInstanceUID of a DICOM series, ``"none"`` if it has none; None for other files.
        places: ``(N,)`` float64, where the file's own slices lie on axis ``k`` of ``values``; None if they are the
            slices.
        sha256: Of the bytes of the files one after the other, in hexadecimal; None if it was not computed.
        headers: For a DICOM series the bytes of each file before its pixels, None for a file where they are unknown, of
            a frame those that a file of its own would have; empty for other files.
        frames: Of Enhanced CT the number of each slice in its file, from 1, None for a file of one slice; else empty.
    """

    values: np.ndarray
    affine: np.ndarray
    files: tuple[Path, ...]
    slope: float = 1.0
    intercept: float = 0.0
    notes: tuple[str, ...] = ()
    series: str | None = None
    places: np.ndarray | None = None
    sha256: str | None = None
    headers: tuple[bytes | None, ...] = ()
    frames: tuple[int | None, ...] = ()


def shown(path: object) -> str:
    """A path or URL, or a text with one, on one line: names may hold line breaks, and bytes that are not UTF-8."""
    url = url_of(path) if isinstance(path, Path) else None
    text = (url or str(path)).encode("utf-8", "backslashreplace").decode()
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _check_encoding(path: Path) -> None:
    """Reject a name that ITK cannot open."""
    if str(path).encode("utf-8", "replace").decode() != str(path):
        raise ValueError(f"Expected a name in UTF-8, got {shown(path)}: rename the file or its folder.")


def check_spacing(spacing: tuple[float, ...], where: Path | str) -> None:
    """Check that every voxel edge is a positive number of millimetres.

    Raises:
        ValueError: If one is zero, negative, NaN or infinite.
    """
    if not all(np.isfinite(edge) and edge > 0 for edge in spacing):
        shown = " x ".join(f"{edge:g}" for edge in spacing)
        raise ValueError(f"Expected three positive voxel spacings in mm, got {shown} in {where}.")


def check_geometry(affine: np.ndarray, shape: tuple[int, int, int], where: Path) -> None:
    """Check that a volume has a size and position that a CT of a person can have.

    Args:
        affine: ``(4, 4)``, voxel-centre index to mm.
        shape: Voxels along each axis of the index.
        where: Its name in messages.

    Raises:
        ValueError: If edges of voxels are not from 0.01 to 50 mm, an axis is longer than 10 m, or a corner is
            further than 20 m from the origin.
    """
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    override = f"in {where} (--any_geometry True accepts it)."
    if not all(SMALLEST_EDGE <= edge <= LARGEST_EDGE for edge in edges):
        shown = " x ".join(f"{edge:g}" for edge in edges)
        raise ValueError(f"Expected voxels of {SMALLEST_EDGE:g} to {LARGEST_EDGE:g} mm, got {shown} mm {override}")
    extent = max(edges * shape)
    if extent > LARGEST_EXTENT:
        raise ValueError(f"Expected a volume of at most {LARGEST_EXTENT:g} mm, got one of {extent:g} mm {override}")
    last = affine[:3, :3] @ (np.array(shape) - 1) + affine[:3, 3]
    far = float(np.abs([affine[:3, 3], last]).max())
    if not far <= FARTHEST:
        raise ValueError(f"Expected a place within {FARTHEST:g} mm of the origin, got {far:g} mm {override}")


def check_shape(shape: tuple[int, ...], where: Path) -> tuple[int, int, int]:
    """``shape`` without trailing axes of length 1.

    Raises:
        ValueError: Unless three axes with voxels are left.
    """
    kept = shape
    while len(kept) > 3 and kept[-1] == 1:
        kept = kept[:-1]
    if len(kept) != 3 or min(kept) < 1:
        raise ValueError(f"Expected a volume of 3 dimensions, got {len(kept)} (shape {shape}) in {where}.")
    return kept[0], kept[1], kept[2]


def read_itk_pixels(path: Path) -> tuple[itk.Image, np.ndarray]:
    """Read one image file with ITK as float32 (exact for every HU value).

    Returns:
        The ITK image, and its values ``(I, J, K)`` with ITK's x first; ``K`` is 1 for a single slice. ITK
        has applied the rescale slope and intercept of a DICOM file.

    Raises:
        ValueError: If the name is not UTF-8.
        OSError: If ITK cannot read the file.
    """
    _check_encoding(path)
    try:
        reader = itk.ImageFileReader[itk.Image[itk.F, 3]].New(FileName=str(path))
        reader.Update()
    except RuntimeError as error:
        raise OSError(f"Expected a complete image file, ITK cannot read {path} (cut short or damaged?).") from error
    image = reader.GetOutput()
    return image, itk.array_from_image(image).T
