"""NIfTI files (``.nii``, ``.nii.gz``) and pairs (``.hdr`` with ``.img``): headers as nibabel reads them, all checked.

If the two matrices of a file (sform and qform) disagree, the one that ITK and so 3D Slicer use is used here too. The
exception is a sheared sform, which ITK cannot represent: it stores a tilted gantry, and it is used.
"""

# nibabel types its headers loosely: type checkers cannot see their fields.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import gzip
import itertools
import math
import zlib
from collections.abc import Iterable
from pathlib import Path

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from ....storage.printable import one_line
from .stored_image import LPS_FROM_RAS, ReadingRules, StoredImage, check_shape, check_spacing
from .voxel_data import GZIP, RAW, Part, read_voxels

# Codes of units of length: name, and millimetres.
_UNITS = {0: ("unknown", 1.0), 1: ("meter", 1000.0), 2: ("mm", 1.0), 3: ("micron", 0.001)}
# By the marks of files and of pairs.
_KINDS = {
    b"n+1": nibabel.Nifti1Header,
    b"n+2": nibabel.Nifti2Header,
    b"ni1": nibabel.Nifti1Header,
    b"ni2": nibabel.Nifti2Header,
}
PAIR_SUFFIX = ".hdr"
_VOXELS = (".img", ".img.gz")
_LARGEST_CODE = 5
_GZIP_MARK = b"\x1f\x8b"
# Header and stored matrix of one NIfTI file may differ by rounding, not by more than this fraction.
_SPACING_AGREES = 0.01
# ITK's limits for equal matrices and for columns at right angles.
_SAME = 1e-4
# Two matrices that place every voxel within this distance, in mm, do not need a note.
_TOLD_FROM = 0.1
# The squares of a quaternion's parts add up to at most 1, apart from rounding.
_LARGEST_SQUARES = 1.01


def read_nifti(path: Path, rules: ReadingRules) -> StoredImage:
    """Read a NIfTI-1 or -2 file, or a pair given by its header, of any orientation and dtype; values are not scaled.

    Raises:
        ValueError: If the file is not three-dimensional (a fourth axis of length 1 is accepted), holds
            colours or complex numbers, or its header has invalid values or is that of Analyze.
        OSError: If the file cannot be read as NIfTI, is damaged, cut short or longer than its header says.
    """
    voxels = nifti_files(path)[-1]
    try:
        # Content counts: compressed files are often called .nii, and plain ones .nii.gz.
        header = _read_header(path, packed=_is_packed(path), pair=voxels != path)
    except (EOFError, OSError, HeaderDataError, WrapStructError, zlib.error) as error:
        raise OSError(f"Expected a complete NIfTI file, could not read {path} ({one_line(error)}).") from error
    try:
        dtype = header.get_data_dtype()
    except KeyError:  # of nibabel's table of codes
        raise ValueError(f"Expected the code of a data type of NIfTI, got {header['datatype']} in {path}.") from None
    if dtype.kind not in "iuf":
        raise ValueError(f"Expected one real number per voxel, got data type {dtype} (a colour image?) in {path}.")
    if int(header["bitpix"]) not in (0, 8 * dtype.itemsize):
        raise ValueError(f"Expected {8 * dtype.itemsize} bits a voxel ({dtype}), got {header['bitpix']} in {path}.")
    used = int(header["dim"][0])
    if not 1 <= used <= 7:
        raise ValueError(f"Expected a volume of 3 dimensions, got {used} in {path}.")
    shape = check_shape(tuple(int(size) for size in header["dim"][1 : used + 1]), path)
    check_spacing(tuple(float(edge) for edge in header["pixdim"][1:4]), path)
    affine, notes = _affine(header, shape, path)
    slope, intercept = _scaling(header, path)
    offset = float(header["vox_offset"])
    if not (header.sizeof_hdr if voxels == path else 0) <= offset < 1 << 40 or offset != int(offset):
        raise ValueError(f"Expected voxels behind the header, the header says from byte {offset:g} on in {path}.")
    part = Part(voxels, 0, int(offset))
    values = read_voxels([part], shape, dtype, GZIP if _is_packed(voxels) else RAW, rules)
    return StoredImage(values, affine, tuple(dict.fromkeys((path, voxels))), slope, intercept, notes)


def nifti_files(path: Path) -> list[Path]:
    """A file; or the header of a pair, and its voxels.

    Raises:
        OSError: If a header has no voxels next to it.
        ValueError: If it has several.
    """
    if not path.name.lower().endswith(PAIR_SUFFIX):
        return [path]
    found = pair_voxels(path, [one.name for one in path.parent.iterdir()])
    if not found:
        raise FileNotFoundError(f"Expected the voxels of {path} next to it, as {path.stem}.img or .img.gz, found none.")
    if len(found) > 1:
        raise ValueError(f"Expected one file with the voxels of {path}, got {' and '.join(sorted(found))}.")
    return [path, path.with_name(found[0])]


def pair_voxels(path: Path, names: Iterable[str]) -> list[str]:
    """The names, of those in its folder, that belong to the header of a pair; upper and lower case are alike."""
    wanted = {f"{path.stem}{suffix}".lower() for suffix in _VOXELS}
    return [name for name in names if name.lower() in wanted and name.startswith(path.stem)]


def is_pair_voxels(path: Path) -> bool:
    """Whether a file has the voxels of a header next to it."""
    name = path.name.lower()
    stem = path.name[: -len(next((one for one in _VOXELS if name.endswith(one)), name))]
    return bool(stem) and any(path.with_name(stem + suffix).is_file() for suffix in (PAIR_SUFFIX, PAIR_SUFFIX.upper()))


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_GZIP_MARK)) == _GZIP_MARK


def _read_header(path: Path, *, packed: bool, pair: bool) -> nibabel.Nifti1Header:
    """The unchanged header: nibabel corrects some values while it loads a file."""
    with gzip.open(path) if packed else path.open("rb") as file:
        start = file.read(nibabel.Nifti2Header.sizeof_hdr)
    for kind in _KINDS.values():
        if kind.may_contain_header(start):
            header = kind(start[: kind.sizeof_hdr], check=False)
            mark = bytes(header["magic"].item()[:3])
            if _KINDS.get(mark) is kind and mark.startswith(b"ni" if pair else b"n+"):
                return header
            break
    else:
        if pair and nibabel.AnalyzeHeader.may_contain_header(start):
            raise ValueError(
                "Expected the header of a NIfTI pair (marked ni1 or ni2), got one of Analyze, which does not say how "
                f"the patient lies, in {path}: convert it to NIfTI with its orientation."
            )
    raise OSError(f"no NIfTI header {'of a pair' if pair else 'followed by voxels'}")


def _scaling(header: nibabel.Nifti1Header, path: Path) -> tuple[float, float]:
    """Slope and intercept; 1 and 0 if the header has none (a slope of 0, or NaN as nibabel writes it)."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):
        return 1.0, 0.0
    if not math.isfinite(slope) or not math.isfinite(intercept):
        raise ValueError(f"Expected finite scl_slope and scl_inter, got {slope:g} and {intercept:g} in {path}.")
    return slope, intercept


def _affine(
    header: nibabel.Nifti1Header, shape: tuple[int, int, int], path: Path
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The affine (index to LPS mm) and notes on how it was found."""
    # The lowest three bits; nibabel stops at a code that it does not know.
    code = int(header["xyzt_units"]) % 8
    unit, millimetres = _UNITS.get(code, ("", 1.0))
    matrix, notes = _choose(header, shape, millimetres, path)
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    check_spacing(tuple(lengths), path)
    zooms = np.array(header["pixdim"][1:4], dtype=np.float64)
    if not np.allclose(lengths, zooms, rtol=_SPACING_AGREES):
        shown = " and ".join(" x ".join(f"{edge:g}" for edge in three) for three in (zooms, lengths))
        notes.append(f"The NIfTI spacings and its matrix disagree ({shown}): the matrix was used.")
    if not unit:
        notes.append(f"The NIfTI header gives lengths in an unknown unit (code {code}): read as mm.")
    elif unit not in ("mm", "unknown"):
        notes.append(f"The NIfTI header gives lengths in {unit}: converted to mm.")
    affine = LPS_FROM_RAS @ matrix
    affine[:3] *= millimetres
    return affine, tuple(notes)


def _choose(
    header: nibabel.Nifti1Header, shape: tuple[int, int, int], millimetres: float, path: Path
) -> tuple[np.ndarray, list[str]]:
    """The matrix (index to RAS in the file's unit) that counts, and notes."""
    codes = int(header["sform_code"]), int(header["qform_code"])
    for name, code in zip(("sform_code", "qform_code"), codes, strict=True):
        if not 0 <= code <= _LARGEST_CODE:
            raise ValueError(f"Expected a {name} from 0 to {_LARGEST_CODE}, got {code} in {path}.")
    if codes == (0, 0):
        note = "The NIfTI header holds no orientation: its axes were assumed to point left, to the front and up."
        return np.asarray(header.get_base_affine(), dtype=np.float64), [note]
    if not codes[1]:
        return _sform(header, path), []
    qform = _qform(header, path)
    if not codes[0]:
        return qform, []
    sform = _sform(header, path)
    corners = np.array([[*corner, 1.0] for corner in itertools.product(*((0, size - 1) for size in shape))])
    apart = float(np.linalg.norm((corners @ (sform - qform).T)[:, :3], axis=1).max()) * millimetres
    sheared = not _right_angled(sform)
    # The sform of a scanner, the same with more digits, and one that a qform cannot express.
    taken = "sform" if sheared or codes[0] == 1 or _alike(sform, qform) else "qform"
    notes = []
    if apart > _TOLD_FROM:
        notes.append(
            f"The NIfTI header's sform (code {codes[0]}) and qform (code {codes[1]}) differ by up to {apart:.1f} mm: "
            f"the {taken} was used, {'as it is sheared' if sheared else 'as in ITK and 3D Slicer'}."
        )
    return (sform if taken == "sform" else qform), notes


def _sform(header: nibabel.Nifti1Header, path: Path) -> np.ndarray:
    rows = [np.asarray(header[name], dtype=np.float64) for name in ("srow_x", "srow_y", "srow_z")]
    matrix = np.vstack([*rows, [0.0, 0.0, 0.0, 1.0]])
    if not np.isfinite(matrix).all():
        raise ValueError(f"Expected finite numbers in the sform, got {rows} in {path}.")
    return matrix


def _qform(header: nibabel.Nifti1Header, path: Path) -> np.ndarray:
    """The matrix of a header's quaternion, which may be rounded above 1."""
    b, c, d = (float(header[name]) for name in ("quatern_b", "quatern_c", "quatern_d"))
    offset = [float(header[name]) for name in ("qoffset_x", "qoffset_y", "qoffset_z")]
    squares = b * b + c * c + d * d
    # NaN fails the comparison.
    if not squares <= _LARGEST_SQUARES or not np.isfinite(offset).all():
        shown = ", ".join(f"{number:g}" for number in (b, c, d, *offset))
        raise ValueError(f"Expected a unit quaternion and an offset in the qform, got {shown} in {path}.")
    if squares > 1:
        b, c, d = (part / math.sqrt(squares) for part in (b, c, d))
    rotation = nibabel.quaternions.quat2mat([math.sqrt(max(0.0, 1 - squares)), b, c, d])
    spacing = np.array(header["pixdim"][1:4], dtype=np.float64)
    if header["pixdim"][0] < 0:
        spacing[2] *= -1
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * spacing
    matrix[:3, 3] = offset
    return matrix


def _right_angled(matrix: np.ndarray) -> bool:
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if not lengths.all():
        return False
    directions = matrix[:3, :3] / lengths
    return bool(np.allclose(directions @ directions.T, np.eye(3), atol=_SAME))


def _alike(first: np.ndarray, second: np.ndarray) -> bool:
    lengths = [np.linalg.norm(matrix[:3, :3], axis=0) for matrix in (first, second)]
    turns = [matrix[:3, :3] / length for matrix, length in zip((first, second), lengths, strict=True)]
    return bool(
        np.allclose(*lengths, atol=_SAME)
        and np.allclose(*turns, atol=_SAME)
        and np.allclose(first[:3, 3], second[:3, 3], atol=_SAME)
    )
