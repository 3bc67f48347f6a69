"""Volumes as a file stores them, before anything is turned or rounded: NIfTI, NRRD and MetaImage.

A reader here gives a `StoredImage`: the values in the file's own axis order, and one affine from that
order's voxel indices to millimetres. What makes a CT of it (orientation, Hounsfield units) is
`scripts.data.scan`; a folder of DICOM slices is read by `scripts.data.dicom`.
"""

# itk makes its names when they are first used, and nibabel types its arrays loosely: no checker can see them.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import itk
import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from .itk_headers import data_files, read_header, tells_spacing

# NIfTI's world is RAS; ours, like DICOM's and ITK's, is LPS.
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# NIfTI's codes of units of length: name, and millimetres.
_UNITS = {0: ("unknown", 1.0), 1: ("meter", 1000.0), 2: ("mm", 1.0), 3: ("micron", 0.001)}
# Header and stored matrix of one NIfTI file may differ by rounding, not by more than this fraction.
_SPACING_AGREES = 0.01


@dataclass(frozen=True)
class StoredImage:
    """A volume in the axis order of its file.

    Attributes:
        values: ``(I, J, K)`` array, any real dtype, index ``i`` being the fastest in the file (NIfTI's first
            axis, ITK's x, a DICOM column).
        affine: ``(4, 4)`` float64, voxel-centre index ``(i, j, k)`` to LPS millimetres.
        slope: Hounsfield units per stored value.
        intercept: Hounsfield units at the stored value 0.
        files: The files that were read, in order.
        notes: What a user should know about how the file was understood, one sentence each.
    """

    values: np.ndarray
    affine: np.ndarray
    files: tuple[Path, ...]
    slope: float = 1.0
    intercept: float = 0.0
    notes: tuple[str, ...] = ()


def shown(path: object) -> str:
    """A path or a text with one as it can be printed: names need not be UTF-8."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _check_encoding(path: Path) -> None:
    """Refuse a name that ITK cannot be given."""
    if shown(path) != str(path):
        raise ValueError(f"Expected a name in UTF-8, got {shown(path)}: rename the file or its folder.")


def check_spacing(spacing: tuple[float, ...], where: Path) -> None:
    """Check that every voxel edge is a positive number of millimetres.

    Raises:
        ValueError: If one is zero, negative, NaN or infinite.
    """
    if not all(np.isfinite(edge) and edge > 0 for edge in spacing):
        shown = " x ".join(f"{edge:g}" for edge in spacing)
        raise ValueError(f"Expected three positive voxel spacings in mm, got {shown} in {where}.")


def _three_dimensional(shape: tuple[int, ...], where: Path) -> tuple[int, int, int]:
    """``shape`` without trailing axes of length 1; ValueError unless three axes with voxels are left."""
    kept = shape
    while len(kept) > 3 and kept[-1] == 1:
        kept = kept[:-1]
    if len(kept) != 3 or min(kept) < 1:
        raise ValueError(f"Expected a volume of 3 dimensions, got {len(kept)} (shape {shape}) in {where}.")
    return kept[0], kept[1], kept[2]


def _check_nifti_header(path: Path) -> None:
    """Check the spacings as the file gives them: nibabel mends zero and negative ones while it loads."""
    with nibabel.openers.ImageOpener(str(path)) as file:
        start = file.read(max(nibabel.Nifti1Header.sizeof_hdr, nibabel.Nifti2Header.sizeof_hdr))
    for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header):
        if kind.may_contain_header(start):
            header = kind(start[: kind.sizeof_hdr], check=False)
            check_spacing(tuple(float(edge) for edge in header["pixdim"][1:4]), path)
            return
    raise OSError("no NIfTI header")


def _nifti_affine(image: nibabel.Nifti1Image, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The affine (index to LPS mm) of a NIfTI image and notes on how it was found."""
    header = image.header
    # The lowest three bits; nibabel stops at a code that it does not know.
    code = int(header["xyzt_units"]) % 8
    unit, millimetres = _UNITS.get(code, ("", 1.0))
    matrix = np.asarray(image.affine, dtype=np.float64)
    affine = LPS_FROM_RAS @ matrix
    affine[:3] *= millimetres
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    check_spacing(tuple(lengths), path)
    notes = []
    if int(header["qform_code"]) == 0 and int(header["sform_code"]) == 0:
        notes.append("The NIfTI header holds no orientation: its axes were taken to point left, to the front and up.")
    zooms = header.get_zooms()[:3]
    if not np.allclose(lengths, zooms, rtol=_SPACING_AGREES):
        shown = " and ".join(" x ".join(f"{edge:g}" for edge in three) for three in (zooms, lengths))
        notes.append(f"The NIfTI spacings and its matrix disagree ({shown}): the matrix was taken.")
    if not unit:
        notes.append(f"The NIfTI header gives lengths in a unit that there is not (code {code}): taken as mm.")
    elif unit not in ("mm", "unknown"):
        notes.append(f"The NIfTI header gives lengths in {unit}: converted to mm.")
    return affine, tuple(notes)


def read_nifti(path: Path) -> StoredImage:
    """Read a ``.nii`` or ``.nii.gz`` file (any NIfTI-1 or -2 orientation and dtype; scaling is not applied yet).

    Raises:
        ValueError: If the file is not three-dimensional (a fourth axis of length 1 is accepted), holds
            colours or complex numbers, or a spacing is not positive.
        OSError: If the file cannot be read as NIfTI or is cut short.
    """
    try:
        _check_nifti_header(path)
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Image):
            raise ValueError(f"Expected a NIfTI file, got {type(image).__name__} in {path}.")
        shape = _three_dimensional(image.shape, path)
        dtype = image.get_data_dtype()
        if dtype.kind not in "iuf":
            raise ValueError(f"Expected one real number per voxel, got data type {dtype} (a colour image?) in {path}.")
        affine, notes = _nifti_affine(image, path)
        values = np.asanyarray(image.dataobj.get_unscaled()).reshape(shape, order="F")
    except (ImageFileError, HeaderDataError, EOFError, OSError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"Expected a complete NIfTI file, could not read {path} ({reason}).") from error
    slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)
    return StoredImage(values, affine, (path,), slope, intercept, notes)


def read_itk(path: Path) -> StoredImage:
    """Read an NRRD (``.nrrd``, ``.nhdr``) or MetaImage (``.mha``, ``.mhd``) file.

    Raises:
        ValueError: If the file is not three-dimensional, has several values per voxel, a spacing is not
            positive, or the name is not UTF-8.
        OSError: If ITK cannot read the file.
    """
    _check_encoding(path)
    try:
        io = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
        if io is None:
            raise OSError(f"Expected an NRRD or MetaImage file, ITK does not recognise {path}.")
        io.SetFileName(str(path))
        io.ReadImageInformation()
    except RuntimeError as error:
        raise OSError(f"Expected an NRRD or MetaImage file, ITK cannot read the header of {path}.") from error
    axes = range(io.GetNumberOfDimensions())
    _three_dimensional(tuple(int(io.GetDimensions(axis)) for axis in axes), path)
    check_spacing(tuple(float(io.GetSpacing(axis)) for axis in list(axes)[:3]), path)
    if io.GetNumberOfComponents() != 1:
        raise ValueError(
            f"Expected one number per voxel, got {io.GetNumberOfComponents()} (a colour image?) in {path}."
        )
    image, values = read_itk_pixels(path)
    if io.GetComponentTypeAsString(io.GetComponentType()) in ("char", "unsigned_char"):
        values = values.astype(np.uint8)
    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.array(list(image.GetSpacing()))
    affine[:3, 3] = list(image.GetOrigin())
    header = read_header(path)
    notes = () if tells_spacing(header) else ("The header gives no voxel spacing: 1 mm was taken.",)
    return StoredImage(values, affine, (path, *data_files(header, path.parent)), notes=notes)


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
