"""The boxes in voxels: a label map in the scan's own grid, and prompts for segmenters."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel import orientations

from scripts.data.scans.scan import Scan, read_scan
from scripts.data.scans.volume_files.stored_image import LPS_FROM_RAS
from scripts.inference.outputs.label_map import box_voxels, label_map, prompts
from support.fake_dicom import write_stack
from support.fake_results import results_of
from support.fake_scans import ball_scan, scan_of
from support.fake_truth import BALL, stored_grid, write_nifti_case

SPACING = (0.8, 1.1, 2.5)
BOXES = [(31.0, 10.0, 3.0, 44.0, 21.0, 8.0), (5.0, 6.0, 1.0, 9.0, 12.0, 2.0)]


def stored_scans(folder: Path) -> list[tuple[Scan, Path]]:
    """One scan in all 48 orientations of a file."""
    values = ball_scan(spacing=SPACING).transpose(2, 1, 0)
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = (-20, 35, -310)
    scans = []
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            turn = np.column_stack([axes, flips]).astype(float)
            stored = orientations.apply_orientation(values, turn)
            stored_affine = affine @ orientations.inv_ornt_aff(turn, values.shape)
            path = folder / f"scan{len(scans)}.nii"
            nibabel.save(nibabel.Nifti1Image(stored, LPS_FROM_RAS @ stored_affine), path)
            scans.append((read_scan(path), path))
    return scans


def test_grid_that_a_qform_cannot_hold_is_left_to_the_sform(tmp_path: Path) -> None:
    affine = np.diag([*SPACING, 1.0])
    affine[1, 2] = 0.6
    nibabel.save(nibabel.Nifti1Image(ball_scan().transpose(2, 1, 0), LPS_FROM_RAS @ affine), tmp_path / "scan.nii")
    scan = read_scan(tmp_path / "scan.nii")
    (content,) = label_map(results_of(scan, BOXES, (0.9, 0.4))).values()
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
    np.testing.assert_allclose(image.affine, LPS_FROM_RAS @ affine, atol=1e-5)
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (0, 1)


def test_label_map_lies_on_its_scan_in_every_orientation(tmp_path: Path) -> None:
    truth = np.zeros((56, 40, 12), dtype=np.int16)
    for number, (x1, y1, z1, x2, y2, z2) in enumerate(np.array(BOXES, dtype=int), start=1):
        truth[x1:x2, y1:y2, z1:z2] = number
    for scan, path in stored_scans(tmp_path):
        (name, content) = next(iter(label_map(results_of(scan, BOXES, (0.9, 0.4))).items()))
        (tmp_path / name).write_bytes(content)
        image, source = nibabel.load(tmp_path / name), nibabel.load(path)
        assert name == "lesion_boxes.nii.gz"
        assert image.shape == source.shape
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-4)
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
        assert image.get_data_dtype() == np.int16
        assert b"Not a medical device" in bytes(image.header["descrip"])
        # Back to LPS axes: the same voxels from every file.
        turn = orientations.io_orientation(LPS_FROM_RAS @ image.affine)
        np.testing.assert_array_equal(orientations.apply_orientation(np.asarray(image.dataobj), turn), truth)


def test_a_tilted_gantry_shifts_the_box_from_slice_to_slice(tmp_path: Path) -> None:
    scan = read_scan(write_nifti_case(tmp_path, turn="tilted"))
    (affine, shape), tilt = stored_grid("tilted"), np.radians(15)
    # Around the ball, and at the upper edge of the slices, where the straight stack is larger than some of them.
    middles, half = np.array([BALL.centre, affine[:3, 3] + affine[:3, 2] * 7]), np.array([8.2, 7.3, 9.0])
    places = (middles - scan.affine[:3, 3]) @ np.linalg.inv(scan.affine[:3, :3]).T + 0.5
    sides = half / scan.spacing
    results = results_of(scan, np.column_stack([places - sides, places + sides]).tolist(), (0.9, 0.4))
    labels = np.asarray(
        nibabel.Nifti1Image.from_bytes(gzip.decompress(label_map(results)["lesion_boxes.nii.gz"])).dataobj
    )
    # The slices are upright, one every 2.5 mm cos(15) of height.
    assert scan.spacing[2] == pytest.approx(2.5 * np.cos(tilt))
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    points = index @ affine[:3, :3].T + affine[:3, 3]
    for number, middle in enumerate(middles, start=1):
        np.testing.assert_array_equal(labels == number, (np.abs(points - middle) < half).all(axis=-1))
    for prompt, number in zip(json.loads(prompts(results)["prompts.json"])["prompts"], (1, 2), strict=True):
        voxels = np.argwhere(labels == number)
        assert prompt["bbox_3d"] == [
            list(pair) for pair in zip(voxels.min(axis=0), voxels.max(axis=0) + 1, strict=True)
        ]
        own = voxels[voxels[:, 2] == prompt["key_slice"]]
        assert prompt["bbox_key_slice"] == [
            list(pair) for pair in zip(own.min(axis=0), own.max(axis=0) + 1, strict=True)
        ]


def test_better_score_stays_where_boxes_overlap() -> None:
    scan = scan_of(ball_scan())
    results = results_of(scan, [(10, 10, 3, 20, 20, 6), (15, 15, 4, 30, 30, 8)], (0.9, 0.4))
    labels = nibabel.Nifti1Image.from_bytes(gzip.decompress(label_map(results)["lesion_boxes.nii.gz"]))
    values = np.asarray(labels.dataobj)
    assert (values[10:20, 10:20, 3:6] == 1).all()
    assert (values == 2).sum() == 15 * 15 * 4 - 5 * 5 * 2


def test_voxels_are_those_whose_centres_lie_in_the_box() -> None:
    scan = scan_of(ball_scan())
    boxes = [
        (1.5, 1.51, 1.49, 3.5, 3.51, 3.49),  # the lower face counts, the upper does not
        (4.6, 4.6, 4.6, 5.4, 5.4, 5.4),  # thin, around no centre
        (-3.0, -3.0, -3.0, 0.2, 0.3, 0.4),  # over the border
        (55.9, 39.9, 11.9, 60.0, 60.0, 60.0),
    ]
    wanted = [[1, 2, 1, 3, 4, 3], [5, 5, 5, 6, 6, 6], [0, 0, 0, 1, 1, 1], [55, 39, 11, 56, 40, 12]]
    np.testing.assert_array_equal(box_voxels(scan, np.array(boxes)), wanted)
    assert box_voxels(scan, np.zeros((0, 6))).shape == (0, 6)


def test_same_bytes_for_the_same_result() -> None:
    arguments = results_of(scan_of(ball_scan()), BOXES, (0.9, 0.4))
    assert label_map(arguments) == label_map(arguments)


def test_prompts_take_each_form(tmp_path: Path) -> None:
    for scan, path in stored_scans(tmp_path)[::7]:
        results = results_of(scan, BOXES, (0.9, 0.4))
        content = json.loads(prompts(results)["prompts.json"])
        assert content["notices"] == results.document["notices"]
        assert content["image"]["shape"] == list(nibabel.load(path).shape)
        assert set(content["prompts"][0]) - {"lesion", "score", "key_slice"} <= set(content["frames"])
        for prompt, entry in zip(content["prompts"], results.document["lesions"], strict=True):
            np.testing.assert_allclose(np.array(prompt["bbox_3d"]).T.ravel(), entry["box_voxel"], atol=1e-3)
            axis = scan.slice_axis
            assert prompt["bbox_key_slice"][axis] == [entry["key_slice"], entry["key_slice"] + 1]
            plane = [other for other in range(3) if other != axis]
            first, second = (prompt["bbox_key_slice"][other] for other in plane)
            assert prompt["key_slice_xyxy"] == [first[0], second[0], first[1] - 1, second[1] - 1]
            for index, (low, high) in zip(prompt["center_voxel"], prompt["bbox_3d"], strict=True):
                assert low <= index < high
            other = content["lesionlocator"][str(prompt["lesion"])]
            assert [int(edge) for edge in other["box"]] == [edge for pair in prompt["bbox_3d"][::-1] for edge in pair]
            assert [int(index) for index in other["point"]] == prompt["center_voxel"][::-1]


@pytest.mark.parametrize("write", [label_map, prompts])
def test_no_lesion_is_a_result_too(write) -> None:
    arguments = results_of(scan_of(ball_scan()), [], [])
    (content,) = write(arguments).values()
    if write is label_map:
        assert not np.asarray(nibabel.Nifti1Image.from_bytes(gzip.decompress(content)).dataobj).any()
    else:
        assert json.loads(content)["prompts"] == []


def test_uneven_slices_have_an_even_label_map_and_prompts_of_their_own_slices(tmp_path: Path) -> None:
    heights = [0.0, 4.0, 8.0, 12.0, 19.0, 26.0, 33.0]
    scan = read_scan(write_stack(tmp_path, heights))
    # In canonical edges a place is a millimetre, the slice at 19 mm covers 19 to 20.
    boxes = [(2.0, 2.0, 7.0, 6.0, 6.0, 20.0), (7.0, 3.0, 14.0, 9.0, 5.0, 17.0)]
    results = results_of(scan, boxes, (0.9, 0.4))
    assert box_voxels(scan, np.array(boxes))[:, [2, 5]].tolist() == [[2, 5], [3, 4]]
    content = json.loads(prompts(results)["prompts.json"])
    assert [prompt["bbox_3d"][2] for prompt in content["prompts"]] == [[2, 5], [3, 4]]
    assert content["image"]["slice_places"] == heights
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(label_map(results)["lesion_boxes.nii.gz"]))
    assert image.shape == (12, 10, 34)
    found = np.argwhere(np.asarray(image.dataobj) == 1)
    low, high = found.min(axis=0), found.max(axis=0)
    np.testing.assert_allclose((image.affine @ [*low, 1])[:3], (12 - 2 * 0.7, -30 - 2 * 0.9, -100 + 7), atol=1e-4)
    assert (low.tolist(), high.tolist()) == ([2, 2, 7], [5, 5, 19])
