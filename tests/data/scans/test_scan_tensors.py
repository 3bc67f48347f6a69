"""Scans as tensors: the way there and back, and images that other readers made."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImaged

from scripts.data.scans.scan import read_scan
from scripts.data.scans.scan_tensors import LoadScand, scan_of, scan_tensor

# RAS affines: as NIfTI's axes point, flipped, and with the axes in another order.
AFFINES = {
    "ras": np.diag([0.7, 0.8, 2.5, 1.0]),
    "lps": np.array([[-0.7, 0, 0, 40], [0, -0.8, 0, 30], [0, 0, 2.5, -100], [0, 0, 0, 1.0]]),
    "slices first": np.array([[0, 0.7, 0, -5], [0, 0, -0.8, 6], [2.5, 0, 0, 7], [0, 0, 0, 1.0]]),
}


@pytest.fixture(params=AFFINES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    hu = np.random.default_rng(0).integers(-1000, 400, (9, 11, 6)).astype(np.int16)
    target = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(hu, AFFINES[request.param]), target)
    return target


def test_there_and_back_is_the_same_scan(path: Path) -> None:
    scan = read_scan(path)
    tensor = scan_tensor(scan)
    assert tensor.shape == (1, *scan.hu.shape[::-1])
    # As MONAI Label hands it on: a batch, copied to a device.
    back = scan_of(tensor[None].to(torch.device("cpu")))
    np.testing.assert_array_equal(back.hu, scan.hu)
    np.testing.assert_allclose(back.affine, scan.affine, atol=1e-12)
    np.testing.assert_array_equal(back.stored_from_canonical, scan.stored_from_canonical)
    assert (back.stored_shape, back.path, back.files, back.notes) == (scan.stored_shape, path, (path,), scan.notes)


def test_an_image_of_monais_own_reader_is_the_same_scan(path: Path) -> None:
    image = LoadImaged("image", ensure_channel_first=True)({"image": str(path)})["image"]
    back, scan = scan_of(image), read_scan(path)
    np.testing.assert_array_equal(back.hu, scan.hu)
    box = np.array([[1, 2, 0, 5, 4, 3.0]])
    np.testing.assert_allclose(back.boxes_to_lps(box), scan.boxes_to_lps(box), atol=1e-4)
    np.testing.assert_allclose(back.boxes_to_stored(box), scan.boxes_to_stored(box))


def test_the_transform_reads_the_path_and_keeps_the_rest(path: Path) -> None:
    data = LoadScand()({"image": str(path), "other": 3})
    assert data["other"] == 3
    np.testing.assert_array_equal(scan_of(data["image"]).hu, read_scan(path).hu)


def test_what_is_no_scan(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing is at .*absent\.nii"):
        LoadScand()({"image": tmp_path / "absent.nii"})
    with pytest.raises(ValueError, match=r"with its affine .*got a Tensor"):
        scan_of(torch.zeros(1, 1, 4, 4, 4))
    for shape in ((4, 4), (2, 4, 4, 4), (1, 1, 1, 4, 4, 4), (1, 4, 0, 4)):
        with pytest.raises(ValueError, match="one volume"):
            scan_of(MetaTensor(torch.zeros(shape), affine=torch.eye(4)))
    with pytest.raises(ValueError, match="Hounsfield"):
        scan_of(MetaTensor(torch.ones(4, 4, 4), affine=torch.eye(4)))
