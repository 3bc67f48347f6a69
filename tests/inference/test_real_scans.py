"""The masks of real scans, given as detections, come back from every file at the masks' own millimetres and voxels."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scripts.data.scan import read_scan
from scripts.data.slab import resample_z
from scripts.inference.detections import SliceBoxes
from scripts.inference.label_map import label_map
from scripts.inference.linking import link_boxes
from scripts.inference.slabs import SlabCutter
from scripts.inference.slicer import slicer_markups
from scripts.inference.writers import ResultWriter

MASKS = ("STS_002/CT_mask.nii.gz", "STS_008/CT_mask.nii.gz", "STS_019/CT_mask.nii.gz", "ibsi_lung/mask.nii.gz")


def bounds_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of a mask by nibabel alone: stored voxel edges ``(6,)`` and LPS mm ``(6,)``, low corner first."""
    image = nibabel.load(path)
    voxels = np.argwhere(np.asarray(image.dataobj) > 0)
    low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
    corners = np.array([low, high]) - 0.5
    ras = corners @ image.affine[:3, :3].T + image.affine[:3, 3]
    lps = np.sort(ras * [-1, -1, 1], axis=0)
    return np.concatenate([low, high]).astype(float), lps.ravel()


@pytest.mark.parametrize("name", MASKS)
def test_mask_comes_back_from_every_file(shared: Path, tmp_path: Path, name: str) -> None:
    mask = shared / "data" / "volumes" / name
    stored, lps = bounds_of(mask)
    listed = json.loads((shared / "data" / "volumes" / "lesion_boxes.json").read_text())[name]
    np.testing.assert_array_equal(stored - [0, 0, 0, 1, 1, 1], listed["box_xyzxyz_voxel_inclusive"])
    scan = read_scan(next(path for path in mask.parent.glob("*.nii.gz") if "mask" not in path.name))
    x1, y1, z1, x2, y2, z2 = scan.boxes_from_stored(stored[None])[0]
    slabs = SlabCutter(resample_z)(scan.hu, scan.spacing)
    # Slices of the lattice whose centre the mask covers.
    rows = np.flatnonzero((slabs.positions + 0.5 >= z1) & (slabs.positions + 0.5 < z2))
    assert slabs.examined[rows].all()
    found = SliceBoxes(
        boxes=np.tile([x1, y1, x2, y2], (len(rows), 1)),
        scores=np.full(len(rows), 0.9),
        slices=rows,
        positions=slabs.positions,
        thickness=slabs.thickness,
        examined=slabs.examined,
        shape=slabs.shape,
        scale=slabs.scale,
    )
    (lesion,) = link_boxes(found)
    writer = ResultWriter(tmp_path, extra={"slicer": slicer_markups, "labels": label_map}, outputs=("json",))
    writer(scan, found, [lesion])

    (entry,) = json.loads((tmp_path / "lesions.json").read_text())["lesions"]
    in_plane = [0, 1, 3, 4]
    np.testing.assert_allclose(np.array(entry["box_lps_mm"])[in_plane], lps[in_plane], atol=0.01)
    # Along z as exact as the 2.5 mm lattice is.
    np.testing.assert_allclose(np.array(entry["box_lps_mm"])[[2, 5]], lps[[2, 5]], atol=2.51)
    np.testing.assert_allclose(np.array(entry["box_voxel"])[in_plane], stored[in_plane], atol=0.01)

    (node,) = json.loads((tmp_path / "lesions.mrk.json").read_text())["markups"]
    np.testing.assert_allclose(node["center"], (lps[:3] + lps[3:]) / 2, atol=1.3)
    np.testing.assert_allclose(node["size"][:2], (lps[3:] - lps[:3])[:2], atol=0.02)

    content = gzip.decompress((tmp_path / "lesion_boxes.nii.gz").read_bytes())
    labels = nibabel.Nifti1Image.from_bytes(content)
    np.testing.assert_allclose(labels.affine, nibabel.load(mask).affine, atol=1e-3)
    marked = np.argwhere(np.asarray(labels.dataobj) == 1)
    np.testing.assert_array_equal(marked.min(axis=0)[:2], stored[:2])
    np.testing.assert_array_equal(marked.max(axis=0)[:2] + 1, stored[3:5])
    inside = np.asarray(nibabel.load(mask).dataobj) > 0
    assert (np.asarray(labels.dataobj)[inside] == 1).mean() > 0.95
