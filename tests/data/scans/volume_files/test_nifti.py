"""NIfTI headers: the choice between two matrices agrees with ITK, and impossible values are rejected."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.data.scans.find_scans import find_scans
from scripts.data.scans.scan import read_scan
from scripts.data.scans.volume_files.stored_image import ReadingRules
from support.fake_volumes import ORIGIN, SPACING, body, itk_image, nifti, patch


def straight(*, move: float = 0.0, degrees: float = 0.0, shear: float = 0.0) -> np.ndarray:
    """Index to RAS mm: moved along x, turned about z, slices shifted along y."""
    matrix = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    matrix[1, 2] = shear
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix = turn @ matrix
    matrix[:3, 3] = move - ORIGIN[0], -ORIGIN[1], ORIGIN[2]
    return matrix


def stored_affine(path: Path) -> np.ndarray:
    scan = read_scan(path)
    return scan.affine @ np.linalg.inv(scan.stored_from_canonical)


@pytest.mark.parametrize("codes", [(0, 1), (1, 0), (2, 0), (1, 1), (2, 1), (1, 2), (4, 4), (2, 2)])
@pytest.mark.parametrize("other", [{}, {"move": 50.0}, {"degrees": 5.0}, {"move": 0.05}, {"degrees": 0.2}])
def test_matrix_is_the_one_that_itk_takes(tmp_path: Path, codes: tuple[int, int], other: dict) -> None:
    path = nifti(tmp_path / "scan.nii", sform=straight(**other), qform=straight(), codes=codes)
    np.testing.assert_allclose(stored_affine(path), itk_image(path)[1], atol=2e-4)


@pytest.mark.parametrize(("code", "taken"), [(1, "sform"), (2, "qform")])
def test_matrices_that_lie_apart_are_noted(tmp_path: Path, code: int, taken: str) -> None:
    path = nifti(tmp_path / "scan.nii", sform=straight(move=50), codes=(code, 1))
    (note,) = read_scan(path).notes
    assert f"sform (code {code}) and qform (code 1) differ by up to 50.0 mm: the {taken} was used" in note


def test_sheared_sform_of_a_tilted_gantry_counts_in_spite_of_the_qform(tmp_path: Path) -> None:
    path = nifti(tmp_path / "scan.nii", sform=straight(shear=0.5), codes=(1, 1))
    scan = read_scan(path)
    assert any("gantry tilt" in note for note in scan.notes)
    assert any("the sform was used, as it is sheared" in note for note in scan.notes)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ straight(shear=0.5)
    np.testing.assert_allclose(scan.affine @ np.linalg.inv(scan.stored_from_canonical), lps, atol=1e-4)


def test_quaternion_rounded_above_one_is_taken(tmp_path: Path) -> None:
    path = nifti(tmp_path / "scan.nii", codes=(0, 1))
    # Half a turn about z, as two digits give it.
    patch(path, 264, np.float32(1.001))
    np.testing.assert_allclose(stored_affine(path), itk_image(path)[1], atol=1e-4)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (40, np.int16(0), "volume of 3 dimensions, got 0"),
        (42, np.int16(-3), "volume of 3 dimensions"),
        (70, np.int16(4096), "code of a data type of NIfTI, got 4096 in"),
        (70, np.int16(32), "one real number per voxel"),
        (72, np.int16(32), r"16 bits a voxel \(int16\), got 32"),
        (80, np.float32("nan"), "three positive voxel spacings"),
        (108, np.float32("inf"), "voxels behind the header"),
        (108, np.float32(12), "voxels behind the header"),
        (108, np.float32(1e30), "voxels behind the header"),
        (112, np.float32("inf"), "finite scl_slope"),
        (116, np.float32("nan"), "finite scl_slope and scl_inter"),
        (252, np.int16(77), "qform_code from 0 to 5, got 77"),
        (256, np.float32(3), "a unit quaternion"),
        (268, np.float32("inf"), "an offset in the qform"),
        (280, np.float32("nan"), "finite numbers in the sform"),
        (292, np.float32(1e30), "within 20000 mm of the origin"),
        (344, np.uint8(0), "no NIfTI header"),
    ],
)
def test_header_with_what_none_can_hold_is_rejected(
    tmp_path: Path, offset: int, value: np.generic, message: str
) -> None:
    path = patch(nifti(tmp_path / "scan.nii"), offset, value)
    with pytest.raises((OSError, ValueError), match=message) as caught:
        read_scan(path)
    assert "scan.nii" in str(caught.value)


@pytest.mark.parametrize(("packed", "name"), [(True, "scan.nii"), (False, "scan.nii.gz")])
def test_content_says_whether_a_file_is_compressed(tmp_path: Path, packed: bool, name: str) -> None:
    path = nifti(tmp_path / ("as.nii.gz" if packed else "as.nii"))
    wanted = read_scan(path).hu
    np.testing.assert_array_equal(read_scan(path.rename(tmp_path / name)).hu, wanted)


def test_slope_that_is_none_means_none(tmp_path: Path) -> None:
    path = patch(nifti(tmp_path / "scan.nii"), 112, np.float32("nan"))
    np.testing.assert_array_equal(read_scan(path).hu, body())


@pytest.mark.parametrize("change", [b"", b"\0\0"])
def test_longer_or_shorter_files_are_rejected(tmp_path: Path, change: bytes) -> None:
    path = nifti(tmp_path / "scan.nii")
    path.write_bytes(path.read_bytes() + change if change else path.read_bytes()[:-2])
    with pytest.raises(OSError, match=r"as the header says|cannot hold them"):
        read_scan(path)


def test_claims_beyond_the_limit_are_rejected_before_memory_is_touched(tmp_path: Path) -> None:
    path = nifti(tmp_path / "scan.nii")
    for axis in range(3):
        patch(path, 42 + 2 * axis, np.int16(32000))
    with pytest.raises(ValueError, match=r"at most 4 GiB of voxels, the header claims 6.1e\+04 GiB"):
        read_scan(path)
    with pytest.raises(OSError, match="cannot hold them"):
        read_scan(path, ReadingRules(max_gigabytes=1e6))


def test_any_geometry_is_taken_where_asked(tmp_path: Path) -> None:
    large = np.diag([-7000.0, -9000, 25000, 1])
    path = nifti(tmp_path / "scan.nii", sform=large, qform=large)
    with pytest.raises(ValueError, match=r"voxels of 0.01 to 50 mm, got 7000 x 9000 x 25000 mm .*any_geometry"):
        read_scan(path)
    assert read_scan(path, ReadingRules(any_geometry=True)).spacing == pytest.approx((7000, 9000, 25000))


def pair(folder: Path, name: str = "scan", *, packed: bool = False) -> Path:
    """Write the same as `nifti` as a pair; its header."""
    folder.mkdir(exist_ok=True)
    plain = nibabel.load(nifti(folder / "plain.nii"))
    nibabel.save(nibabel.Nifti1Pair(np.asarray(plain.dataobj), plain.affine, plain.header), folder / f"{name}.img")
    (folder / "plain.nii").unlink()
    if packed:
        voxels = folder / f"{name}.img"
        (folder / f"{name}.img.gz").write_bytes(gzip.compress(voxels.read_bytes()))
        voxels.unlink()
    return folder / f"{name}.hdr"


@pytest.mark.parametrize("packed", [False, True])
def test_a_pair_is_read_as_the_file(tmp_path: Path, packed: bool) -> None:
    whole = read_scan(nifti(tmp_path / "scan.nii"))
    header = pair(tmp_path / "pair", packed=packed)
    scan = read_scan(header)
    np.testing.assert_array_equal(scan.hu, whole.hu)
    np.testing.assert_array_equal(scan.affine, whole.affine)
    assert [path.name for path in scan.files] == ["scan.hdr", f"scan.img{'.gz' if packed else ''}"]
    (found,) = find_scans(tmp_path / "pair")
    assert found.path == header


def test_a_pair_that_is_not_whole(tmp_path: Path) -> None:
    header = pair(tmp_path / "pair")
    voxels = header.with_suffix(".img")
    content = voxels.read_bytes()
    for damaged in (content[:-1], content + b"x"):
        voxels.write_bytes(damaged)
        with pytest.raises((OSError, ValueError), match=r"scan\.img"):
            read_scan(header)
    voxels.with_suffix(".img.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=r"one file with the voxels of .*scan\.hdr, got scan\.img and scan\.img\.gz"):
        read_scan(header)
    for name in ("scan.img", "scan.img.gz"):
        header.with_name(name).unlink()
    with pytest.raises(FileNotFoundError, match=r"voxels of .*scan\.hdr next to it, .* found none"):
        read_scan(header)


def test_analyze_and_other_headers_are_not_pairs(tmp_path: Path) -> None:
    header = pair(tmp_path / "pair")
    # Analyze has no mark; a NIfTI file has another one than a pair.
    for mark, kind, message in ((b"\0\0\0\0", ValueError, "got one of Analyze"), (b"n+1\0", OSError, "of a pair")):
        content = bytearray(header.read_bytes())
        content[344:348] = mark
        header.write_bytes(content)
        with pytest.raises(kind, match=rf"{message}.*|scan\.hdr.*{message}"):
            read_scan(header)
    header.write_text("ENVI\nsamples = 3\n")
    with pytest.raises(OSError, match=r"scan\.hdr .no NIfTI header of a pair"):
        read_scan(header)
