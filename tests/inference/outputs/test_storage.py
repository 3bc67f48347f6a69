"""The same lesions in the same millimetres, however a scan is stored: file, series, archive, axes, order, tilt."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import itk
import nibabel
import numpy as np
import pydicom
import pytest
from nibabel import orientations

from scripts.data.intensity import IntensityWindow
from scripts.data.scans.find_scans import find_scans
from scripts.data.scans.volume_files.stored_image import LPS_FROM_RAS
from scripts.data.slabs.slab_reader import resample_z
from scripts.inference.detections import link_boxes
from scripts.inference.outputs.lesions_document import describe_lesions
from scripts.inference.volume_detector import SlabCutter, VolumeDetector
from support.fake_dicom import write_ct
from support.fake_scans import BALL_HU, BODY_HU, BlobDetector, ball_scan

SPACING, ORIGIN = (0.8, 1.1, 2.5), np.array([-20.0, 35.0, -310.0])
BALL_MM = np.array([30.0, 16.0, 15.0])
AFFINE = np.diag([*SPACING, 1.0])
AFFINE[:3, 3] = ORIGIN
# Canonical order turned in these ways: LPS as it is, RAS (NIfTI's usual), sagittal, coronal, upside down.
TURNS = {
    "lps": [[0, 1], [1, 1], [2, 1]],
    "ras": [[0, -1], [1, -1], [2, 1]],
    "sagittal": [[2, 1], [0, -1], [1, 1]],
    "coronal": [[0, 1], [2, -1], [1, -1]],
    "feet first": [[0, -1], [1, 1], [2, -1]],
}


def lesions_of(path: Path) -> list[dict]:
    """What is found in the only scan at a path."""
    (source,) = find_scans(path)
    detector = VolumeDetector(SlabCutter(resample_z), IntensityWindow(), progress=False)
    with source.open() as scan:
        found = detector(scan, BlobDetector())
        return describe_lesions(scan, found, link_boxes(found))


def turned(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Values ``(I, J, K)`` and index-to-LPS matrix of the scan with turned axes."""
    values, turn = ball_scan(spacing=SPACING).transpose(2, 1, 0), np.array(TURNS[name], dtype=float)
    return orientations.apply_orientation(values, turn), AFFINE @ orientations.inv_ornt_aff(turn, values.shape)


def write_itk(path: Path, name: str) -> Path:
    values, affine = turned(name)
    image = itk.image_from_array(np.ascontiguousarray(values.transpose(2, 1, 0)))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(affine[:3, :3] / spacing)))
    itk.imwrite(image, str(path))
    return path


def write_nifti(path: Path, name: str, dtype: type = np.int16) -> Path:
    values, affine = turned(name)
    nibabel.save(nibabel.Nifti1Image(values.astype(dtype), LPS_FROM_RAS @ affine), path)
    return path


def series(folder: Path) -> Path:
    return write_ct(folder, ball_scan(spacing=SPACING), origin=ORIGIN, spacing=SPACING)


def reversed_series(folder: Path) -> Path:
    """File names and instance numbers run the other way, which must not matter."""
    series(folder)
    files = sorted(folder.iterdir())
    for path, name in zip(files, [path.name for path in reversed(files)], strict=True):
        path.rename(folder / f"x{name}")
    return folder


def sagittal_series(folder: Path) -> Path:
    """The same scan as sagittal slices: rows to the back, columns to the feet."""
    slices = ball_scan(spacing=SPACING).transpose(2, 0, 1)[:, ::-1]
    for index, plane in enumerate(slices):
        place = ORIGIN + np.array([SPACING[0] * index, 0, SPACING[2] * (slices.shape[1] - 1)])
        write_ct(
            folder / f"{index}",
            plane[None],
            origin=place,
            spacing=(SPACING[1], SPACING[2], SPACING[0]),
            orientation=(0, 1, 0, 0, 0, -1),
            InstanceNumber=index,
        )
        next((folder / f"{index}").iterdir()).rename(folder / f"{index}.dcm")
        (folder / f"{index}").rmdir()
    return folder


def zipped(path: Path) -> Path:
    folder = series(path.with_suffix(""))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.iterdir():
            archive.write(file, f"deep/{file.name}")
    return path


FORMS: dict[str, Callable[[Path], Path]] = {
    **{f"nifti {name}": lambda at, name=name: write_nifti(at / "scan.nii.gz", name) for name in TURNS},
    **{f"nrrd {name}": lambda at, name=name: write_itk(at / "scan.nrrd", name) for name in TURNS},
    **{f"mha {name}": lambda at, name=name: write_itk(at / "scan.mha", name) for name in TURNS},
    "float nifti": lambda at: write_nifti(at / "scan.nii", "ras", np.float32),
    "dicom": lambda at: series(at / "series"),
    "dicom reversed": lambda at: reversed_series(at / "series"),
    "dicom sagittal": lambda at: sagittal_series(at / "series"),
    "zip": lambda at: zipped(at / "scan.zip"),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict:
    (lesion,) = lesions_of(write_nifti(tmp_path_factory.mktemp("reference") / "scan.nii", "lps"))
    np.testing.assert_allclose(lesion["center_lps_mm"], ORIGIN + BALL_MM, atol=0.6)
    np.testing.assert_allclose(lesion["size_mm"], 12.0, atol=2.6)
    return lesion


@pytest.mark.parametrize("form", FORMS)
def test_lesion_is_the_same_in_every_form(tmp_path: Path, form: str, reference: dict) -> None:
    (lesion,) = lesions_of(FORMS[form](tmp_path))
    for name in ("box_lps_mm", "center_lps_mm", "key_point_lps_mm", "size_mm", "score", "num_slices"):
        np.testing.assert_allclose(lesion[name], reference[name], atol=1e-3, err_msg=name)


def leaning(shape: tuple[int, int, int], matrix: np.ndarray) -> np.ndarray:
    """A body with the ball at `BALL_MM` from `ORIGIN`, on the voxels of a matrix to LPS."""
    z, y, x = np.meshgrid(*(np.arange(size) for size in shape), indexing="ij")
    places = np.stack([x, y, z, np.ones_like(x)], axis=-1) @ matrix.T
    distance = np.linalg.norm(places[..., :3] - ORIGIN - BALL_MM, axis=-1)
    hu = np.where(distance <= 6.0, BALL_HU, BODY_HU).astype(np.int16)
    hu[:, :2] = -1000
    return hu


@pytest.mark.parametrize("degrees", [-22.0, 12.0, 30.0])
def test_ball_in_a_tilted_scan_lies_where_it_lies(tmp_path: Path, degrees: float) -> None:
    angle, shape = np.radians(degrees), (18, 60, 70)
    along_column = (0.0, float(np.cos(angle)), float(np.sin(angle)))
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = (0.8, 0, 0), 1.1 * np.array(along_column), (0, 0, 2.5)
    # The tilt moves the ball up or down in the stack.
    matrix[:3, 3] = ORIGIN - [0, 10.0, 8.0 + 20 * np.sin(angle)]
    hu = leaning(shape, matrix)
    orientation = (1.0, 0.0, 0.0, *along_column)
    tags = {"GantryDetectorTilt": round(degrees), "SliceThickness": 2.5}
    folder = write_ct(
        tmp_path / "s", hu, origin=matrix[:3, 3], spacing=(0.8, 1.1, 2.5), orientation=orientation, **tags
    )
    volume = nibabel.Nifti1Image(hu.transpose(2, 1, 0), LPS_FROM_RAS @ matrix)
    nibabel.save(volume, tmp_path / "scan.nii")
    lesion = lesions_of(folder)[0]
    np.testing.assert_allclose(lesion["center_lps_mm"], ORIGIN + BALL_MM, atol=1.4)
    np.testing.assert_allclose(lesion["size_mm"], 12.0, atol=2.6)
    # In the stored voxels the ball is inside its box.
    i1, j1, k1, i2, j2, k2 = np.rint(lesion["box_voxel"]).astype(int)
    inside = hu.transpose(2, 1, 0)[max(i1, 0) : i2, max(j1, 0) : j2, max(k1, 0) : k2]
    assert (inside == BALL_HU).sum() >= 0.85 * (hu == BALL_HU).sum()
    same = lesions_of(tmp_path / "scan.nii")[0]
    np.testing.assert_allclose(same["box_lps_mm"], lesion["box_lps_mm"], atol=1e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ball_in_a_turned_scan_lies_where_it_lies(tmp_path: Path, axis: int) -> None:
    angle = np.radians(17.0)
    turn = np.eye(3)
    first, second = [other for other in range(3) if other != axis]
    turn[[first, first, second, second], [first, second, first, second]] = [
        np.cos(angle),
        -np.sin(angle),
        np.sin(angle),
        np.cos(angle),
    ]
    matrix = np.eye(4)
    matrix[:3, :3] = turn * SPACING
    matrix[:3, 3] = ORIGIN + BALL_MM - matrix[:3, :3] @ [35, 30, 8]
    hu = leaning((16, 60, 70), matrix)
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), LPS_FROM_RAS @ matrix), tmp_path / "scan.nii")
    (lesion,) = lesions_of(tmp_path / "scan.nii")
    np.testing.assert_allclose(lesion["center_lps_mm"], ORIGIN + BALL_MM, atol=1.0)
    np.testing.assert_allclose(lesion["size_mm"], 12.0, atol=2.6)


def test_ball_in_uneven_slices_lies_where_it_lies(tmp_path: Path) -> None:
    straight = lesions_of(write_ct(tmp_path / "even", ball_scan(spacing=SPACING), origin=ORIGIN, spacing=SPACING))
    # The same slices but for two above and below the ball, and one within it.
    uneven = write_ct(tmp_path / "uneven", ball_scan(spacing=SPACING), origin=ORIGIN, spacing=SPACING)
    for number in (2, 4, 9, 11):
        (uneven / f"IM{number:04d}.dcm").unlink()
    for number, path in enumerate(sorted(uneven.iterdir()), start=1):
        one = pydicom.dcmread(path)
        one.InstanceNumber = number
        one.save_as(path)
    (source,) = find_scans(uneven)
    with source.open() as scan:
        assert scan.places is not None
        detector = VolumeDetector(SlabCutter(resample_z), IntensityWindow(), progress=False)
        found = detector(scan, BlobDetector())
        (lesion,) = describe_lesions(scan, found, link_boxes(found))
    np.testing.assert_allclose(lesion["box_lps_mm"], straight[0]["box_lps_mm"], atol=2.6)
    np.testing.assert_allclose(lesion["center_lps_mm"], ORIGIN + BALL_MM, atol=2.0)
    # The key slice is the file's own, nearest to the point.
    nearest = min(
        range(len(scan.files)), key=lambda index: abs(heights_of(scan.files)[index] - lesion["key_point_lps_mm"][2])
    )
    assert lesion["key_slice"] == nearest


def heights_of(files: tuple[Path, ...]) -> list[float]:
    return [float(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2]) for path in files]
