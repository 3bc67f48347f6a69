"""Files of results: what is written can be read back, all of it or nothing."""

from __future__ import annotations

import csv
import dataclasses
import errno
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pytest
from nibabel import orientations

from scripts.data.intensity import IntensityWindow
from scripts.data.scans.scan import Scan, read_scan
from scripts.data.scans.volume_files.stored_image import LPS_FROM_RAS
from scripts.data.slabs.slab_reader import resample_z
from scripts.inference.detections import SliceBoxes, link_boxes
from scripts.inference.outputs.result_writer import ResultWriter
from scripts.inference.volume_detector import SlabCutter, VolumeDetector
from support.fake_scans import BlobDetector, ball_scan, scan_of

MODEL = {"name": "demo", "notice": "Synthetic weights.", "path": "/somewhere/demo.pt", "sha256": "0" * 64}
SPACING = (0.8, 1.1, 2.5)


def slice_boxes(box: np.ndarray, shape: tuple[int, int, int]) -> SliceBoxes:
    """A box in every slice from its z1 to its z2 (whole slices, lattice = slices), best in the middle."""
    slices = np.arange(int(box[2]), int(box[5]))
    return SliceBoxes(
        boxes=np.repeat(box[None, [0, 1, 3, 4]], len(slices), axis=0),
        scores=0.9 - 0.1 * np.abs(slices - slices[len(slices) // 2]),
        slices=slices,
        positions=np.arange(shape[0], dtype=float),
        thickness=1.0,
        examined=np.ones(shape[0], dtype=bool),
        shape=shape,
        scale=(1.0, 1.0),
    )


def read(path: Path) -> dict[str, Any]:
    """Strict JSON."""

    def reject(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(path.read_text(), parse_constant=reject)


def found_in(scan: Scan) -> tuple[SliceBoxes, list]:
    detector = VolumeDetector(SlabCutter(resample_z), IntensityWindow(), progress=False)
    found = detector(scan, BlobDetector())
    return found, link_boxes(found)


def test_true_boxes_come_back_from_the_files_in_every_orientation(tmp_path: Path) -> None:
    hu = ball_scan(spacing=SPACING)
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = (-20, 35, -310)
    values = hu.transpose(2, 1, 0)
    truth = np.array([31.25, 10.0, 3.0, 44.5, 21.75, 8.0])
    # Voxel 0 is centred at the origin: its edge is half a voxel before.
    wanted_lps = np.concatenate([(truth[:3] - 0.5) * SPACING, (truth[3:] - 0.5) * SPACING]) + np.tile(
        (-20, 35, -310), 2
    )
    for axes in itertools.permutations(range(3)):
        for flips in ((1, 1, 1), (-1, 1, -1), (-1, -1, -1)):
            turn = np.column_stack([axes, flips]).astype(float)
            stored = orientations.apply_orientation(values, turn)
            stored_affine = affine @ orientations.inv_ornt_aff(turn, values.shape)
            path = tmp_path / "scan.nii"
            nibabel.save(nibabel.Nifti1Image(stored, LPS_FROM_RAS @ stored_affine), path)
            scan = read_scan(path)
            found = slice_boxes(truth, hu.shape)
            (lesion,) = link_boxes(found)
            folder = ResultWriter(tmp_path / "out", MODEL, overlays=0)(scan, found, [lesion])
            written = read(folder / "lesions.json")
            (entry,) = written["lesions"]
            np.testing.assert_allclose(entry["box_lps_mm"], wanted_lps, atol=2e-3)
            np.testing.assert_allclose(scan.boxes_from_stored(np.array([entry["box_voxel"]]))[0], truth, atol=2e-4)
            # The stored box and the written matrix lead to the same millimetres.
            matrix = np.array(written["input"]["index_to_lps_mm"])
            corners = np.array(entry["box_voxel"]).reshape(2, 3) - 0.5
            through = corners @ matrix[:3, :3].T + matrix[:3, 3]
            np.testing.assert_allclose(np.sort(through, axis=0).ravel(), entry["box_lps_mm"], atol=2e-3)
            np.testing.assert_allclose(entry["size_mm"], (truth[3:] - truth[:3]) * SPACING, atol=1e-3)
            sides = sorted((truth[3:5] - truth[:2]) * SPACING[:2])
            estimates = [entry["short_axis_estimate_mm"], entry["long_axis_estimate_mm"]]
            np.testing.assert_allclose(estimates, sides, atol=1e-3)
            # The key slice is slice 5 of 12, from whichever end the file counts.
            axis = written["input"]["slice_axis"]
            assert stored.shape[axis] == 12
            assert entry["key_slice"] == (5 if stored_affine[2, axis] > 0 else 6)
            assert entry["key_point_lps_mm"][2] == pytest.approx(-310 + 5 * 2.5, abs=1e-3)


def test_every_file_says_what_it_is_from(tmp_path: Path) -> None:
    path = tmp_path / "patient" / "scan.nii"
    path.parent.mkdir()
    path.write_bytes(b"the scan")
    scan = scan_of(ball_scan(), path=path)
    found, lesions = found_in(scan)
    writer = ResultWriter(tmp_path / "out", MODEL, {"score_threshold": 0.5}, slice_overlays=True)
    folder = writer(scan, found, lesions, timing={"read": 0.1})
    for name in ("lesions.json", "detections.json"):
        head = read(folder / name)
        assert head["schema_version"] == "1.5"
        assert head["notices"] == ["Not a medical device. For research use only.", "Synthetic weights."]
        assert head["model"] == {
            "name": "demo",
            "weights": "demo.pt",
            "sha256": "0" * 64,
            "no_probability": "The weights have no calibration.",
        }
        assert head["input"]["name"] == "scan.nii"
        assert head["input"]["sha256"] == hashlib.sha256(b"the scan").hexdigest()
        assert head["settings"]["score_threshold"] == 0.5
        assert head["settings"]["examined_slices"] == 12
        assert head["timing_s"] == {"read": 0.1}
        # A folder's name may be a patient's.
        assert "patient" not in (folder / name).read_text().replace("patient's left", "")
    with (folder / "lesions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["notice"] for row in rows] == ["Not a medical device. For research use only. Synthetic weights."]
    # Pictures carry their notices below the slice.
    picture = cv2.imread(str(folder / "overlays" / "lesion_001.png"))
    assert picture.shape[1] == 512
    assert picture.shape[0] > 512 * 40 / 56 + 40


def test_files_agree_with_each_other(tmp_path: Path) -> None:
    scan = scan_of(ball_scan())
    found, lesions = found_in(scan)
    folder = ResultWriter(tmp_path, slice_overlays=True)(scan, found, lesions)
    (lesion,) = read(folder / "lesions.json")["lesions"]
    detections = read(folder / "detections.json")["detections"]
    with (folder / "lesions.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert len(detections) == lesion["num_slices"] == len(found.boxes)
    assert {entry["lesion"] for entry in detections} == {1}
    assert max(entry["score"] for entry in detections) == lesion["score"] == float(row["score"])
    boxes = np.array([entry["box_lps_mm"] for entry in detections])
    best = boxes[int(np.argmax([entry["score"] for entry in detections]))]
    expected = [*best[:2], boxes[:, 2].min(), *best[3:5], boxes[:, 5].max()]
    np.testing.assert_allclose(expected, lesion["box_lps_mm"])
    assert [float(row[name]) for name in ("i1", "j1", "k1", "i2", "j2", "k2")] == lesion["box_voxel"]
    assert [float(row[name]) for name in ("x1_mm", "y1_mm", "z1_mm", "x2_mm", "y2_mm", "z2_mm")] == lesion["box_lps_mm"]
    slices = [entry["slice"] for entry in detections]
    assert slices == sorted(slices)
    assert len(list((folder / "overlays" / "slices").glob("*.png"))) == len(set(slices))


def test_no_lesion_is_a_result_too(tmp_path: Path) -> None:
    scan = scan_of(np.full((3, 20, 20), -1000, dtype=np.int16))
    folder = ResultWriter(tmp_path, MODEL, slice_overlays=True)(scan, *found_in(scan))
    assert read(folder / "lesions.json")["lesions"] == []
    assert read(folder / "detections.json")["detections"] == []
    assert (folder / "lesions.csv").read_text().count("\n") == 1
    assert not list(folder.rglob("*.png"))


CALIBRATED = {"calibration": {"scores": [0, 1], "probabilities": [0, 1]}, "notice": None}


@pytest.mark.parametrize("changes", [{}, CALIBRATED, {**CALIBRATED, "notice": "Finds no real lesions."}])
def test_the_table_has_the_same_columns_with_and_without_lesions(tmp_path: Path, changes: dict[str, object]) -> None:
    headers = set()
    for name, hu in (("none", np.full((3, 20, 20), -1000, dtype=np.int16)), ("one", ball_scan())):
        scan = scan_of(hu)
        folder = ResultWriter(tmp_path, {**MODEL, **changes})(scan, *found_in(scan), name=name)
        headers.add((folder / "lesions.csv").read_text().splitlines()[0])
    (header,) = headers
    assert ("probability" in header) == (changes is CALIBRATED)


def test_pictures_are_limited_and_old_ones_go(tmp_path: Path) -> None:
    hu = ball_scan()
    scan = scan_of(np.concatenate([hu] * 3))
    found, lesions = found_in(scan)
    assert len(lesions) == 3
    folder = ResultWriter(tmp_path)(scan, found, lesions)
    (folder / "overlays" / "mine.png").write_bytes(b"not ours")
    assert len(list((folder / "overlays").glob("lesion_*.png"))) == 3
    ResultWriter(tmp_path, overlays=1)(scan, found, lesions)
    assert {path.name for path in (folder / "overlays").iterdir()} == {"lesion_001.png", "mine.png"}


def test_full_disk_leaves_nothing_new_and_the_old_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = scan_of(ball_scan())
    found, lesions = found_in(scan)
    folder = ResultWriter(tmp_path / "out", {"name": "old"})(scan, found, lesions, name="scan")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write, calls = Path.write_bytes, []

    def full(path: Path, content: bytes) -> int:
        calls.append(path)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"Could not write the results to .*scan: No space left on device\."):
        ResultWriter(tmp_path / "out", {"name": "new"})(scan, found, lesions, name="scan")
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["/tmp/elsewhere", "../elsewhere", "a/../../elsewhere"])
def test_no_name_leads_out_of_the_output_folder(tmp_path: Path, name: str) -> None:
    scan = scan_of(ball_scan())
    with pytest.raises(ValueError, match=r"Expected a folder inside .*out for .*elsewhere'"):
        ResultWriter(tmp_path / "out")(scan, *found_in(scan), name=name)
    assert not list(tmp_path.iterdir())


def test_output_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    scan = scan_of(ball_scan())
    with pytest.raises(OSError, match=r"Could not write the results to .*file"):
        ResultWriter(tmp_path / "file" / "out")(scan, *found_in(scan))


def test_true_boxes_of_real_scans_come_back(tmp_path: Path, shared: Path) -> None:
    folder = shared / "data" / "volumes"
    for name, entry in json.loads((folder / "lesion_boxes.json").read_text()).items():
        image = (folder / name).with_name("CT_image.nii.gz" if "CT_mask" in name else "phantom.nii.gz")
        scan = read_scan(image)
        low, high = np.split(np.array(entry["box_xyzxyz_voxel_inclusive"], dtype=float), 2)
        stored = np.concatenate([low, high + 1])
        found = slice_boxes(np.rint(scan.boxes_from_stored(stored[None])[0]), scan.hu.shape)
        out = ResultWriter(tmp_path / name.split("/")[0], overlays=1)(scan, found, link_boxes(found))
        (lesion,) = read(out / "lesions.json")["lesions"]
        np.testing.assert_allclose(lesion["box_voxel"], stored, atol=1e-3)
        # Millimetres by nibabel's own matrix.
        corners = nibabel.affines.apply_affine(LPS_FROM_RAS @ nibabel.load(image).affine, stored.reshape(2, 3) - 0.5)
        np.testing.assert_allclose(lesion["box_lps_mm"], np.sort(corners, axis=0).ravel(), atol=1e-2)


def test_further_fields_stand_in_json_and_those_of_one_number_in_the_last_columns(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(b"the scan")
    scan = scan_of(ball_scan(), path=path)
    plain = slice_boxes(np.array([24.0, 10, 4, 37, 23, 9]), scan.hu.shape)
    rows = np.arange(len(plain.scores))
    fields = {"age": rows / 3, "noisy": rows == 2, "tags": np.stack([rows, -rows], axis=1) / 4}
    found = dataclasses.replace(plain, fields=fields)
    for name, boxes in (("plain", plain), ("open", found)):
        ResultWriter(tmp_path / name, overlays=0)(scan, boxes, link_boxes(boxes))
    best = int(plain.scores.argmax())
    wanted = {"age": round(best / 3, 6), "noisy": best == 2, "tags": [best / 4, -best / 4]}
    before, after = (read(tmp_path / name / "lesions.json") for name in ("plain", "open"))
    assert after["lesions"][0].pop("fields") == wanted
    assert after == before
    listed = read(tmp_path / "open" / "detections.json")["detections"]
    assert [entry["fields"]["tags"] for entry in listed] == fields["tags"].tolist()
    old, new = (list(csv.reader((tmp_path / name / "lesions.csv").open())) for name in ("plain", "open"))
    assert [row[:-2] for row in new] == old
    assert [row[-2:] for row in new] == [["age", "noisy"], [str(wanted["age"]), str(best == 2)]]
