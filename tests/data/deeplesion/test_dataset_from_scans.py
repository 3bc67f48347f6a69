"""Scans with boxes as a data set: read back by the training's own reader, slices and boxes are where they were."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from scripts.data.deeplesion.dataset_from_scans import key_slices, read_labelled, write_labelled
from scripts.data.deeplesion.splits import load_records
from scripts.data.scans.scan import read_scan
from scripts.data.slabs.slab_reader import SlabReader, resample_z
from scripts.inference.volume_detector import SlabCutter


def same(shape: tuple[int, int], spacing: tuple[float, float]) -> tuple[int, int]:
    return shape


def half(shape: tuple[int, int], spacing: tuple[float, float]) -> tuple[int, int]:
    return shape[0] // 2, shape[1] // 2


def item(folder: Path, name: str, boxes: list[list[float]], *, shape: tuple[int, int, int] = (40, 24, 20),
         interval: float = 2.5) -> dict[str, str]:  # fmt: skip
    """A scan (x, y, z) whose HU say where they are, and boxes ``x1, y1, z1, x2, y2, z2`` in its voxels."""
    x, y, z = np.meshgrid(*map(np.arange, shape), indexing="ij")
    hu = (-900 + 10 * z + 5 * (x % 7) + (y % 5)).astype(np.int16)
    affine = np.diag([-0.8, -0.8, interval, 1.0])
    nibabel.save(nibabel.Nifti1Image(hu, affine), folder / f"{name}.nii.gz")
    markups = []
    for box in np.array(boxes, dtype=float).reshape(-1, 6):
        low, high = box[:3] - 0.5, box[3:] - 0.5
        scale = np.array([0.8, 0.8, interval])
        markups.append({"type": "ROI", "center": ((low + high) / 2 * scale).tolist(),
                        "size": ((high - low) * scale).tolist()})  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps({"markups": markups}))
    return {"image": str(folder / f"{name}.nii.gz"), "label": str(folder / f"{name}.json")}


def test_key_slices_lie_in_the_middle_half(tmp_path: Path) -> None:
    scan = read_scan(item(tmp_path, "a", [])["image"])
    assert key_slices(np.array([[0, 0, 4, 9, 9, 5.0]]), scan) == (4,)
    assert key_slices(np.array([[0, 0, 4, 9, 9, 12.0]]), scan) == (6, 7, 8, 9, 10)
    # Thinner than a slice, and at both ends.
    assert key_slices(np.array([[0, 0, 0, 9, 9, 0.2], [0, 0, 19.9, 9, 9, 20]]), scan) == (0, 19)


def test_close_slices_are_not_all_taken(tmp_path: Path) -> None:
    scan = read_scan(item(tmp_path, "a", [], interval=1.0)["image"])
    assert key_slices(np.array([[0, 0, 2, 9, 9, 18.0]]), scan) == (7, 10, 13)


def test_the_training_reader_finds_slices_and_boxes_where_they_were(tmp_path: Path) -> None:
    boxes = [[3, 4, 5, 13, 10, 6], [20.5, 2, 0, 30, 22.25, 20]]
    scans = read_labelled([item(tmp_path, "a", boxes)], same)
    side = write_labelled(tmp_path / "data", scans, validation=[], reach_mm=10, smooth=False)
    assert side == 40
    records = load_records(tmp_path / "data", "train")
    scan = read_scan(tmp_path / "a.nii.gz")
    # Numbered from the head.
    assert [record["key_slice"] for record in records] == sorted(20 - key for key in scans[0].keys)
    reader, slabs = SlabReader(9), SlabCutter(resample_z, 9, from_last=True)(scan.hu, scan.spacing)
    for record in records:
        key = 20 - record["key_slice"]
        slab = reader(record)
        expected = scan.hu[np.clip(np.arange(key + 4, key - 5, -1), 0, 19)]
        np.testing.assert_allclose(slab, expected)
        # The network is trained on what it sees of the whole scan.
        np.testing.assert_allclose(slabs.batch([key], slabs.volume, torch.nn.Identity())[0], expected)
        due = [[20.5, 2, 30, 22.25]] if key != 5 else [[3, 4, 13, 10], [20.5, 2, 30, 22.25]]
        np.testing.assert_allclose(record["instances"]["boxes"], due, atol=1e-4)
        np.testing.assert_allclose((*record["spacing"], record["slice_interval"]), (0.8, 0.8, 2.5), atol=1e-5)
    # Boxes are grouped by size as they were drawn, not less DeepLesion's padding.
    assert {record["box_padding"] for record in records} == {0.0}
    # One placeholder row replaces the missing validation split.
    assert len(load_records(tmp_path / "data", "validation")) == 1


def test_scans_of_several_sizes_share_a_canvas_at_the_same_scale(tmp_path: Path) -> None:
    items = [item(tmp_path, "a", [[4, 6, 5, 14, 10, 6]]), item(tmp_path, "b", [[0, 0, 5, 8, 8, 6]], shape=(20, 30, 20))]
    scans = read_labelled(items, half)
    assert write_labelled(tmp_path / "data", scans, validation={1}, reach_mm=10, smooth=True) == 20
    (train,) = load_records(tmp_path / "data", "train")
    (validation,) = load_records(tmp_path / "data", "validation")
    np.testing.assert_allclose(train["instances"]["boxes"], [[2, 3, 7, 5]], atol=1e-4)
    np.testing.assert_allclose(train["spacing"], (1.6, 1.6), atol=1e-5)
    slab = SlabReader(1)(validation)
    assert slab.shape == (1, 15, 20)
    assert (slab[0, :, 10:] == -1024).all()
    assert (slab[0, :, :10] > -1000).all()


def test_scans_without_boxes_are_left_out(tmp_path: Path) -> None:
    items = [item(tmp_path, "a", []), item(tmp_path, "b", [[0, 0, 5, 8, 8, 6]])]
    assert [scan.path.name for scan in read_labelled(items, same)] == ["b.nii.gz"]
    for given in ([], items[:1]):
        with pytest.raises(ValueError, match=f"at least one box .* got none in {len(given)} label"):
            read_labelled(given, same)


def test_a_mask_is_no_label(tmp_path: Path) -> None:
    given = item(tmp_path, "a", [])
    with pytest.raises(ValueError, match=r"Slicer markups \(\.json\), got the label a\.nii\.gz"):
        read_labelled([{**given, "label": given["image"]}], same)
