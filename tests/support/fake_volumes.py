"""Volume files byte by byte: NIfTI, NRRD and MetaImage as no library would write them."""

# itk creates its names on first use: type checkers cannot see them.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from pathlib import Path

import itk
import nibabel
import numpy as np

SPACING, ORIGIN = (0.7, 0.9, 2.5), (-12.0, 30.0, -100.0)
NRRD_SPACE = (
    "space: left-posterior-superior",
    "space directions: (0.7,0,0) (0,0.9,0) (0,0,2.5)",
    "space origin: (-12,30,-100)",
)
META_SPACE = (
    "ElementSpacing = 0.7 0.9 2.5",
    "TransformMatrix = 1 0 0 0 1 0 0 0 1",
    "Offset = -12 30 -100",
)


def body(shape: tuple[int, int, int] = (6, 20, 24)) -> np.ndarray:
    """``(Z, H, W)`` int16 HU: a body of noisy soft tissue in air, one block of bone; no two slices alike."""
    y, x = np.mgrid[: shape[1], : shape[2]]
    noise = np.random.default_rng(0).integers(-25, 25, shape)
    inside = (2 * x / shape[2] - 1) ** 2 + (2 * y / shape[1] - 1) ** 2 < 0.8
    hu = np.where(inside, 40, -1000) + noise
    hu[1:3, shape[1] // 3 : shape[1] // 2, shape[2] // 4 : shape[2] // 2] = 700
    return hu.astype(np.int16)


def nrrd(path: Path, *lines: str, data: bytes | None = None, encoding: str = "raw", kind: str = "int16") -> Path:
    """Write an NRRD of `body`, or of other ``data``, with more header lines."""
    z, y, x = body().shape
    head = ["NRRD0005", f"type: {kind}", "dimension: 3", f"sizes: {x} {y} {z}", "endian: little"]
    text = "\n".join([*head, f"encoding: {encoding}", *lines])
    content = body().astype("<i2").tobytes() if data is None else data
    path.write_bytes(f"{text}\n\n".encode() + content)
    return path


def meta(
    path: Path, *lines: str, data: bytes | None = None, kind: str = "MET_SHORT", where: str = "LOCAL", sizes: str = ""
) -> Path:
    """Write a MetaImage of `body`, or of other ``data``, with more header lines."""
    z, y, x = body().shape
    head = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    tail = [f"DimSize = {sizes or f'{x} {y} {z}'}", f"ElementType = {kind}", f"ElementDataFile = {where}"]
    content = body().astype("<i2").tobytes() if data is None else data
    path.write_bytes("\n".join([*head, *lines, *tail, ""]).encode() + content)
    return path


def nifti(path: Path, *, sform: np.ndarray | None = None, qform: np.ndarray | None = None, codes=(1, 1)) -> Path:
    """Write a NIfTI of `body` with these matrices (index to RAS mm) and codes of sform and qform."""
    straight = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    straight[:3, 3] = -ORIGIN[0], -ORIGIN[1], ORIGIN[2]
    image = nibabel.Nifti1Image(body().transpose(2, 1, 0), straight)
    image.set_qform(straight if qform is None else qform, codes[1])
    image.set_sform(straight if sform is None else sform, codes[0])
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


def patch(path: Path, offset: int, value: np.generic) -> Path:
    """Overwrite a number in an uncompressed file."""
    content = bytearray(path.read_bytes())
    content[offset : offset + value.nbytes] = value.tobytes()
    path.write_bytes(content)
    return path


def itk_image(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels ``(K, J, I)`` and affine (index to LPS mm) as ITK reads them."""
    reader = itk.ImageFileReader[itk.Image[itk.F, 3]].New(FileName=str(path))
    reader.Update()
    image = reader.GetOutput()
    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.array(list(image.GetSpacing()))
    affine[:3, 3] = list(image.GetOrigin())
    return itk.array_from_image(image), affine
