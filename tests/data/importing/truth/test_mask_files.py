"""Masks that cannot be used are rejected with what is wrong."""

from __future__ import annotations

from pathlib import Path

import itk
import nibabel
import numpy as np
import pytest

from scripts.data.importing.truth.mask_files import read_mask
from scripts.data.scans.scan import Scan, read_scan
from support.fake_truth import BALL, Ball, ball_hu, save_nifti, stored_grid, write_nifti_case


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    return read_scan(write_nifti_case(tmp_path))


def read(path: Path, scan: Scan, frame: str = "mm") -> int:
    return len(read_mask(path, scan, each_value=False, frame=frame).lesions)


def test_an_empty_mask_is_a_scan_without_a_lesion(tmp_path: Path, scan: Scan) -> None:
    write_nifti_case(tmp_path, "empty", ball=None)
    assert read(tmp_path / "masks" / "empty.nii.gz", scan) == 0


@pytest.mark.parametrize(
    ("value", "what"),
    [(0.4, "whole numbers in a mask, got 0.4"), (np.nan, "whole numbers in a mask, got nan"), (-1, "labels from 0 up")],
)
def test_values_that_are_no_labels(tmp_path: Path, scan: Scan, value: float, what: str) -> None:
    affine, shape = stored_grid("plain")
    values = BALL.inside(affine, shape).astype(np.float32) * np.float32(value)
    with pytest.raises(ValueError, match=what):
        read(save_nifti(tmp_path / "m.nii.gz", values, affine), scan)


def test_a_mask_elsewhere(tmp_path: Path, scan: Scan) -> None:
    affine, shape = stored_grid("plain")
    values = BALL.inside(affine, shape).astype(np.uint8)
    affine[2, 3] += 500
    path = save_nifti(tmp_path / "m.nii.gz", values, affine)
    with pytest.raises(ValueError, match=r"a mask inside of its scan .*m\.nii\.gz is outside of it"):
        read(path, scan)
    assert read(path, scan, "voxel") == 1
    with pytest.raises(ValueError, match=r"the voxels of its scan, \(60, 48, 14\), got \(60, 48, 10\)"):
        read(save_nifti(tmp_path / "s.nii.gz", values[..., :10], affine), scan, "voxel")


def test_a_lesion_at_an_edge_of_the_mask_within_the_scan_is_noted(tmp_path: Path, scan: Scan) -> None:
    affine, shape = stored_grid("plain")
    values = BALL.inside(affine, shape).astype(np.uint8)
    filled = [np.flatnonzero(values.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]

    def notes(*, low: tuple[int, ...], high: tuple[int, ...]) -> list[str]:
        part = values[tuple(slice(*edges) for edges in zip(low, high, strict=True))]
        moved = affine.copy()
        moved[:3, 3] += affine[:3, :3] @ low
        truth = read_mask(save_nifti(tmp_path / "m.nii.gz", part, moved), scan, each_value=False, frame="mm")
        return [note for note in truth.notes if "may be cut off" in note]

    first, last = (tuple(int(one[end]) for one in filled) for end in (0, -1))
    assert notes(low=(0, 0, 0), high=shape) == []
    # A margin of one voxel is enough to see that the lesion ends.
    assert notes(low=tuple(one - 1 for one in first), high=tuple(one + 2 for one in last)) == []
    assert len(notes(low=(0, 0, first[2] + 1), high=shape)) == 1
    assert len(notes(low=(0, 0, 0), high=(last[0], *shape[1:]))) == 1


def test_a_lesion_at_the_edge_of_the_scan_is_not_cut_off_by_the_mask(tmp_path: Path, scan: Scan) -> None:
    affine, shape = stored_grid("plain")
    values = np.zeros(shape, dtype=np.uint8)
    values[:4, 20:24, :3] = 1
    truth = read_mask(save_nifti(tmp_path / "m.nii.gz", values, affine), scan, each_value=False, frame="mm")
    assert not [note for note in truth.notes if "cut off" in note]


def test_a_mask_without_a_place_needs_to_be_told_where_it_is(tmp_path: Path, scan: Scan) -> None:
    affine, shape = stored_grid("plain")
    image = nibabel.Nifti1Image(BALL.inside(affine, shape).astype(np.uint8), np.eye(4))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / "m.nii.gz")
    with pytest.raises(ValueError, match=r"a mask with its position.*--mask_frame voxel"):
        read(tmp_path / "m.nii.gz", scan)
    assert read(tmp_path / "m.nii.gz", scan, "voxel") == 1


@pytest.mark.parametrize("name", ["case.nii.gz", "case.nrrd"])
def test_a_mask_saved_without_its_matrix_is_not_taken_to_begin_at_zero(tmp_path: Path, name: str) -> None:
    affine, shape = stored_grid("plain")
    inside = Ball((22.0, 28.0, 18.0))
    # Of this scan a mask with 1 mm voxels from 0 on would lie inside, and in the wrong place.
    affine[:3, 3] = 0.0
    scan = read_scan(save_nifti(tmp_path / "scan.nii.gz", ball_hu(affine, shape, inside), affine))
    values = inside.inside(affine, shape).astype(np.uint8)
    path = tmp_path / name
    if name.endswith(".nrrd"):
        itk.imwrite(itk.image_from_array(np.ascontiguousarray(values.transpose(2, 1, 0))), str(path))
    else:
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    with pytest.raises(ValueError, match=r"begin at 0, 0, 0, unlike its scan: .*--mask_frame voxel"):
        read_mask(path, scan, each_value=False, frame="mm")
    (lesion,) = read_mask(path, scan, each_value=False, frame="voxel").lesions
    assert np.abs(lesion.box_on(lesion.widest) - inside.box(scan, lesion.widest)).max() <= 0.5
