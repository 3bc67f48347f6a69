"""Whole scans: one canonical array, the same millimetres however the scan is stored."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import itk
import nibabel
import numpy as np
import pytest
from nibabel import orientations

from scripts.data.scans.scan import Scan, read_scan
from scripts.data.scans.volume_files.stored_image import LPS_FROM_RAS

SPACING = (0.7, 0.9, 2.0)
ORIGIN = (-12.0, 30.0, -400.5)


def canonical_hu(shape: tuple[int, int, int] = (4, 5, 6)) -> np.ndarray:
    """``(Z, H, W)`` int16 with every voxel different."""
    size = int(np.prod(shape))
    return (np.random.default_rng(0).permutation(size) * 7 - 1000).astype(np.int16).reshape(shape)


def canonical_affine() -> np.ndarray:
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = ORIGIN
    return affine


def all_orientations() -> list[np.ndarray]:
    """nibabel's description of each of the 48 ways to permute and flip three axes."""
    return [
        np.column_stack([axes, flips]).astype(float)
        for axes in itertools.permutations(range(3))
        for flips in itertools.product((1, -1), repeat=3)
    ]


def store(hu: np.ndarray, affine: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A canonical scan as a file with turned axes holds it: values ``(I, J, K)`` and index-to-LPS affine."""
    values = hu.transpose(2, 1, 0)
    return orientations.apply_orientation(values, turn), affine @ orientations.inv_ornt_aff(turn, values.shape)


def save_nifti(path: Path, values: np.ndarray, affine: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, LPS_FROM_RAS @ affine), path)
    return path


def write_nifti(path: Path, hu: np.ndarray | None = None, affine: np.ndarray | None = None) -> Path:
    hu = canonical_hu() if hu is None else hu
    return save_nifti(path, hu.transpose(2, 1, 0), canonical_affine() if affine is None else affine)


def set_pixdim(path: Path, axis: int, value: float) -> None:
    """Overwrite a spacing in a NIfTI-1 header, which no library would write."""
    content = bytearray(path.read_bytes())
    content[76 + 4 * axis : 80 + 4 * axis] = np.float32(value).tobytes()
    path.write_bytes(content)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_of_every_orientation_gives_the_same_scan(tmp_path: Path, suffix: str) -> None:
    box = np.array([[1.0, 2.0, 0.5, 4.0, 5.0, 3.0]])
    for turn in all_orientations():
        values, affine = store(canonical_hu(), canonical_affine(), turn)
        scan = read_scan(save_nifti(tmp_path / f"scan{suffix}", values, affine))
        np.testing.assert_array_equal(scan.hu, canonical_hu())
        assert scan.hu.dtype == np.int16
        np.testing.assert_allclose(scan.affine, canonical_affine(), atol=1e-4)
        np.testing.assert_allclose(scan.spacing, SPACING, rtol=1e-6)
        # x from 1 to 4 in edges is from index 0.5 to 3.5 in voxel centres.
        wanted = np.concatenate(
            [ORIGIN + np.array([0.5, 1.5, 0.0]) * SPACING, ORIGIN + np.array([3.5, 4.5, 2.5]) * SPACING]
        )
        np.testing.assert_allclose(scan.boxes_to_lps(box), wanted[None], atol=1e-4)


def test_stored_box_cuts_the_same_voxels_out_of_the_file(tmp_path: Path) -> None:
    box = np.array([[1, 2, 1, 4, 5, 3]])
    inside = canonical_hu()[1:3, 2:5, 1:4]
    for turn in all_orientations():
        values, affine = store(canonical_hu(), canonical_affine(), turn)
        scan = read_scan(save_nifti(tmp_path / "scan.nii", values, affine))
        i1, j1, k1, i2, j2, k2 = np.rint(scan.boxes_to_stored(box)[0]).astype(int)
        assert sorted(values[i1:i2, j1:j2, k1:k2].ravel()) == sorted(inside.ravel())
        assert scan.stored_shape == values.shape
        assert values.shape[scan.slice_axis] == len(canonical_hu())


def test_boxes_go_to_the_stored_frame_and_back(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    low = generator.uniform(0, 3, (7, 3))
    boxes = np.concatenate([low, low + generator.uniform(0.1, 2, (7, 3))], axis=1)
    for turn in all_orientations()[::5]:
        scan = read_scan(save_nifti(tmp_path / "scan.nii", *store(canonical_hu(), canonical_affine(), turn)))
        np.testing.assert_allclose(scan.boxes_from_stored(scan.boxes_to_stored(boxes)), boxes, atol=1e-9)


def test_no_boxes_stay_no_boxes(tmp_path: Path) -> None:
    scan = read_scan(write_nifti(tmp_path / "scan.nii"))
    for convert in (scan.boxes_to_lps, scan.boxes_to_stored, scan.boxes_from_stored):
        assert convert(np.zeros((0, 6))).shape == (0, 6)


def write_itk(path: Path, values: np.ndarray, affine: np.ndarray) -> Path:
    image = itk.image_from_array(np.ascontiguousarray(values.transpose(2, 1, 0)))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(affine[:3, :3] / spacing)))
    itk.imwrite(image, str(path))
    return path


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_itk_files_give_the_same_scan_as_nifti(tmp_path: Path, suffix: str) -> None:
    for turn in all_orientations()[::7]:
        values, affine = store(canonical_hu(), canonical_affine(), turn)
        scan = read_scan(write_itk(tmp_path / f"scan{suffix}", values, affine))
        same = read_scan(save_nifti(tmp_path / "scan.nii", values, affine))
        np.testing.assert_array_equal(scan.hu, same.hu)
        np.testing.assert_allclose(scan.affine, same.affine, atol=1e-4)
        np.testing.assert_allclose(scan.stored_from_canonical, same.stored_from_canonical, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_values_of_any_type_become_int16_hu(tmp_path: Path, dtype: type) -> None:
    hu = canonical_hu().astype(dtype)
    hu[0, 0, :4] = (-3024, 40000, -40000, 3071)
    image = nibabel.Nifti1Image(hu.transpose(2, 1, 0), LPS_FROM_RAS @ canonical_affine())
    nibabel.save(image, tmp_path / "scan.nii")
    scan = read_scan(tmp_path / "scan.nii")
    assert scan.hu.dtype == np.int16
    np.testing.assert_array_equal(scan.hu, np.clip(hu, -32768, 32767))


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    stored = np.arange(120, dtype=np.uint16).reshape(6, 5, 4) * 17
    image = nibabel.Nifti1Image(stored, LPS_FROM_RAS @ canonical_affine())
    image.header.set_slope_inter(1.5, -1024.0)
    nibabel.save(image, tmp_path / "scan.nii")
    np.testing.assert_array_equal(read_scan(tmp_path / "scan.nii").hu, np.rint(stored * 1.5 - 1024).transpose(2, 1, 0))


def test_one_slice_is_a_scan(tmp_path: Path) -> None:
    scan = read_scan(write_nifti(tmp_path / "one.nii", canonical_hu((1, 5, 6))))
    assert scan.hu.shape == (1, 5, 6)


def test_fourth_axis_of_one_is_accepted(tmp_path: Path) -> None:
    values = canonical_hu().transpose(2, 1, 0)[..., None]
    scan = read_scan(save_nifti(tmp_path / "scan.nii", values, canonical_affine()))
    np.testing.assert_array_equal(scan.hu, canonical_hu())


def test_lengths_in_metres_become_millimetres(tmp_path: Path) -> None:
    affine = canonical_affine()
    affine[:3] /= 1000
    image = nibabel.Nifti1Image(canonical_hu().transpose(2, 1, 0), LPS_FROM_RAS @ affine)
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "scan.nii")
    scan = read_scan(tmp_path / "scan.nii")
    np.testing.assert_allclose(scan.spacing, SPACING, rtol=1e-5)
    assert any("meter" in note for note in scan.notes)


def test_unit_that_there_is_not_is_noted(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(canonical_hu().transpose(2, 1, 0), LPS_FROM_RAS @ canonical_affine())
    image.header["xyzt_units"] = 4
    nibabel.save(image, tmp_path / "scan.nii")
    scan = read_scan(tmp_path / "scan.nii")
    np.testing.assert_allclose(scan.spacing, SPACING, rtol=1e-5)
    assert any("an unknown unit (code 4): read as mm" in note for note in scan.notes)


def test_missing_orientation_is_noted(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(canonical_hu().transpose(2, 1, 0), np.diag([*SPACING, 1.0]))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / "scan.nii")
    assert any("no orientation" in note for note in read_scan(tmp_path / "scan.nii").notes)


def turned(degrees: float) -> np.ndarray:
    """The affine of a volume turned about z."""
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ canonical_affine()


@pytest.mark.parametrize(("degrees", "told"), [(0.5, False), (5.0, True), (30.0, True)])
def test_oblique_volume_keeps_its_slices_and_its_millimetres(tmp_path: Path, degrees: float, told: bool) -> None:
    scan = read_scan(write_nifti(tmp_path / "scan.nii", affine=turned(degrees)))
    np.testing.assert_array_equal(scan.hu, canonical_hu())
    centre = scan.points_to_lps(np.array([[3.0, 2.5, 2.0]]))
    np.testing.assert_allclose(centre[0], (turned(degrees) @ [2.5, 2.0, 1.5, 1.0])[:3], atol=1e-4)
    assert any(f"turned by {degrees:.1f} degrees" in note for note in scan.notes) == told


def test_volume_turned_too_far_is_rejected_with_its_angle(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"turned by 40\.0 degrees \(at most 35 are taken\) in .*scan\.nii"):
        read_scan(write_nifti(tmp_path / "scan.nii", affine=turned(40.0)))


def test_gantry_tilt_of_a_volume_in_any_orientation_is_taken_out(tmp_path: Path) -> None:
    tilt = np.eye(4)
    tilt[1, 2] = np.tan(np.radians(12))
    reference = read_scan(write_nifti(tmp_path / "scan.nii", affine=tilt @ canonical_affine()))
    assert any("sheared by 12.0 degrees (gantry tilt)" in note for note in reference.notes)
    box = np.array([[1.0, 1.0, 0.5, 4.0, 4.0, 3.0]])
    for turn in all_orientations()[::5]:
        values, affine = store(canonical_hu(), tilt @ canonical_affine(), turn)
        scan = read_scan(save_nifti(tmp_path / "scan.nii", values, affine))
        np.testing.assert_array_equal(scan.hu, reference.hu)
        np.testing.assert_allclose(scan.boxes_to_lps(box), reference.boxes_to_lps(box), atol=1e-4)
        assert values.shape[scan.slice_axis] == len(canonical_hu())
        # Stored voxel centres keep their place.
        middle = np.array([[*(size / 2 for size in values.shape)] * 2])
        place = scan.points_to_lps(scan.boxes_from_stored(middle)[:, :3])[0]
        np.testing.assert_allclose(place, (affine @ [*((size - 1) / 2 for size in values.shape), 1])[:3], atol=1e-4)


@pytest.mark.parametrize("value", [0.0, -2.0, float("nan")])
def test_spacing_must_be_positive(tmp_path: Path, value: float) -> None:
    path = write_nifti(tmp_path / "scan.nii")
    set_pixdim(path, 3, value)
    with pytest.raises(ValueError, match=r"three positive voxel spacings .*scan\.nii"):
        read_scan(path)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_spacing_of_an_itk_file_must_be_positive(tmp_path: Path, suffix: str) -> None:
    data = canonical_hu().tobytes()
    headers = {
        ".mha": "ObjectType = Image\nNDims = 3\nBinaryData = True\nElementSpacing = 1 1 0\nDimSize = 6 5 4\n"
        "ElementType = MET_SHORT\nElementDataFile = LOCAL\n",
        ".nrrd": "NRRD0004\ntype: short\ndimension: 3\nsizes: 6 5 4\nencoding: raw\nendian: little\n"
        "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,0)\nspace origin: (0,0,0)\n\n",
    }
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(headers[suffix].encode() + data)
    with pytest.raises(ValueError, match="three positive voxel spacings in mm, got 1 x 1 x 0"):
        read_scan(path)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4, 2)])
def test_two_and_four_dimensions_are_rejected(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save_nifti(tmp_path / "scan.nii", np.full(shape, -1000, dtype=np.int16), canonical_affine())
    with pytest.raises(ValueError, match=rf"volume of 3 dimensions, got {len(shape)} .*scan\.nii"):
        read_scan(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_must_be_finite(tmp_path: Path, bad: float) -> None:
    hu = canonical_hu().astype(np.float32)
    hu[2, 3, 4] = bad
    with pytest.raises(ValueError, match=r"finite voxel values.*scan\.nii"):
        read_scan(write_nifti(tmp_path / "scan.nii", hu))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((4, 5, 6), dtype=np.uint8), "got 8-bit values"),
        (np.arange(120, dtype=np.int16).reshape(4, 5, 6) * 2, "got values from 0 to 238"),
        (np.arange(120, dtype=np.int16).reshape(4, 5, 6) * 20, "an MR"),
        (np.linspace(-1, 1, 120, dtype=np.float32).reshape(4, 5, 6), "normalised already"),
    ],
    ids=["mask", "picture", "mr", "normalised"],
)
def test_values_that_are_no_hounsfield_units_are_rejected(tmp_path: Path, values: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_scan(write_nifti(tmp_path / "scan.nii", values))
    assert "scan.nii" in str(caught.value)


def test_colours_are_rejected(tmp_path: Path) -> None:
    colours = np.zeros((6, 5, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(ValueError, match=r"one real number per voxel.*scan\.nii"):
        read_scan(save_nifti(tmp_path / "scan.nii", colours, canonical_affine()))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_files_cut_short_are_rejected(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"scan{suffix}"
    hu = canonical_hu((8, 20, 20))
    if suffix.startswith(".nii"):
        write_nifti(path, hu)
    else:
        write_itk(path, hu.transpose(2, 1, 0), canonical_affine())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(OSError, match=r"scan\."):
        read_scan(path)


def test_what_is_not_there_or_no_scan_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing is at .*absent"):
        read_scan(tmp_path / "absent.nii.gz")
    (tmp_path / "scan.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"file ending in .*scan\.png"):
        read_scan(tmp_path / "scan.png")
    for name in ("IM0001.dcm", "IM0002", "DICOMDIR"):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
        with pytest.raises(ValueError, match=rf"one DICOM file .*{name}: give its folder"):
            read_scan(tmp_path / name)
    (tmp_path / "junk.mha").write_bytes(b"junk" * 100)
    with pytest.raises(OSError, match=r"junk\.mha"):
        read_scan(tmp_path / "junk.mha")


def check_real(scan: Scan, box: list[int], mask: np.ndarray) -> None:
    """A box in stored voxels, carried to the canonical frame, encloses the canonical mask exactly."""
    stored = np.array([[*box[:3], *(number + 1 for number in box[3:])]], dtype=np.float64)
    x1, y1, z1, x2, y2, z2 = np.rint(scan.boxes_from_stored(stored)[0]).astype(int)
    z, y, x = np.nonzero(mask)
    assert (x.min(), y.min(), z.min(), x.max() + 1, y.max() + 1, z.max() + 1) == (x1, y1, z1, x2, y2, z2)
    inside = mask[z1:z2, y1:y2, x1:x2] > 0
    # A tumour is soft tissue: a box on the wrong side would hold air or bone.
    assert -200 < np.median(scan.hu[z1:z2, y1:y2, x1:x2][inside]) < 120


def test_real_masks_lie_where_their_boxes_say(shared: Path) -> None:
    folder = shared / "data" / "volumes"
    for name, entry in json.loads((folder / "lesion_boxes.json").read_text()).items():
        mask_path = folder / name
        image = mask_path.with_name("CT_image.nii.gz" if "CT_mask" in name else "phantom.nii.gz")
        scan = read_scan(image)
        stored_mask = nibabel.load(mask_path)
        turn = orientations.io_orientation(LPS_FROM_RAS @ stored_mask.affine)
        mask = orientations.apply_orientation(np.asarray(stored_mask.dataobj), turn).transpose(2, 1, 0)
        check_real(scan, entry["box_xyzxyz_voxel_inclusive"], mask)
