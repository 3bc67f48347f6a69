"""The masks of real scans, given as detections, come back from every file at the masks' own millimetres and voxels."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from scripts.data.scans.scan import read_scan
from scripts.data.slabs.slab_reader import resample_z
from scripts.inference.detections import SliceBoxes, link_boxes
from scripts.inference.outputs.label_map import label_map
from scripts.inference.outputs.result_writer import ResultWriter
from scripts.inference.outputs.slicer_nodes import slicer_markups
from scripts.inference.volume_detector import SlabCutter
from scripts.storage.result_files import OUTPUTS
from scripts.weights import build_network, save_weights

BUNDLE = Path(__file__).resolve().parents[2] / "mp3d_bundle"
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


def run_all(inputs: list[Path], output: Path, weights: Path) -> None:
    """`run inferring` with every kind of result."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "monai.bundle", "run", "inferring", "--config_file", "configs/inference.json"),
            *("--input", str([str(path) for path in inputs]), "--output_dir", str(output), "--device", "cpu"),
            *("--checkpoint", str(weights), "--score_threshold", "0.02", "--outputs", str(list(OUTPUTS))),
        ],
        cwd=BUNDLE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_full_size_network_does_a_series_and_a_volume(shared: Path, tmp_path: Path) -> None:
    volumes = shared / "data" / "volumes"
    torch.manual_seed(0)
    definition = {"_target_": "scripts.networks.mp3d_fpn"}
    weights = save_weights(tmp_path / "full.pt", build_network(definition), definition, {"name": "untrained"})
    run_all([volumes / "dicom_3slice", volumes / "nnunet_example"], tmp_path / "out", weights)
    (report,) = (tmp_path / "out").rglob("lesions_sr.dcm")
    series = report.parent
    assert {path.name for path in series.iterdir()} >= {"lesions.json", "report.html", "lesions_sr.dcm", "prompts.json"}
    (volume,) = (tmp_path / "out" / "nnunet_example").rglob("lesions.json")
    assert json.loads(volume.read_text())["settings"]["examined_slices"] > 30


@pytest.mark.slow
def test_demo_weights_do_both_png_sub_volumes(shared: Path, tmp_path: Path) -> None:
    images = shared / "data" / "deeplesion" / "Images_png"
    run_all(sorted(images.iterdir()), tmp_path, BUNDLE / "models" / "demo.pt")
    for name, spacing in (("000001_01_01", 0.4883), ("000001_02_01", 0.3145)):
        document = json.loads((tmp_path / name / "lesions.json").read_text())
        assert document["input"]["spacing_mm"] == [spacing, spacing, 5.0]
        assert document["lesions"]
        assert (tmp_path / name / "report.html").stat().st_size > 100_000
