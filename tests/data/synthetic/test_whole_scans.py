"""Whole scans with their truth."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from scripts.data.synthetic import resolve
from scripts.data.synthetic.whole_scans import LESIONS, SLICES, make_scan


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scans") / "scan_001.nii.gz"
    settings = resolve("small", {"noise_hu": 2, "texture_hu": 0, "tubes": 0})
    make_scan(np.random.default_rng(3), settings, path)
    return path


def truth_of(scan: Path) -> dict[str, list]:
    return json.loads(scan.with_name("scan_001.json").read_text())


def test_the_scan_is_int16_hu_with_the_spacing_in_its_affine(scan: Path) -> None:
    image = nib.Nifti1Image.from_filename(scan)
    assert image.shape == (96, 96, SLICES)
    assert image.get_data_dtype() == np.int16
    assert nib.orientations.aff2axcodes(image.affine) == ("L", "P", "S")
    assert image.header.get_zooms() == pytest.approx((1.6, 1.6, 2.5))
    voxels = np.asarray(image.dataobj)
    assert voxels.min() >= -1024
    assert -1024 <= np.median(voxels[0]) < -980


def test_boxes_in_voxels_and_millimetres_agree_through_the_file_s_affine(scan: Path) -> None:
    image, truth = nib.Nifti1Image.from_filename(scan), truth_of(scan)
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    np.testing.assert_allclose(truth["affine_lps"], to_lps)
    assert len(truth["lesions"]) >= LESIONS - 1
    for lesion in truth["lesions"]:
        box = np.array(lesion["box"])
        corners = [to_lps[:3, :3] @ (corner - 0.5) + to_lps[:3, 3] for corner in (box[:3], box[3:])]
        np.testing.assert_allclose(np.concatenate(corners), lesion["box_lps_mm"], atol=0.01)
        assert (box[3:] > box[:3]).all()
        assert box[2] >= 0
        assert box[5] <= SLICES


def test_the_boxes_lie_on_the_lesions(scan: Path) -> None:
    voxels = np.asarray(nib.Nifti1Image.from_filename(scan).dataobj).astype(float)
    for lesion in truth_of(scan)["lesions"]:
        x1, y1, z1, x2, y2, z2 = lesion["box"]
        x, y, z = int((x1 + x2) / 2), int((y1 + y2) / 2), int((z1 + z2) / 2)
        core = voxels[x - 1 : x + 2, y - 1 : y + 2, z]
        assert core.mean() == pytest.approx(lesion["hu"], abs=15)
        # The lesion ends where its box does: the same place a few slices on looks different.
        beyond = [voxels[x, y, k] for k in (int(z1 - 2), int(z2 + 2)) if 0 <= k < SLICES]
        assert max(abs(value - lesion["hu"]) for value in beyond) > 20
